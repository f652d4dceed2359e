//! How long a session lasts.

use std::time::{Duration, Instant};

/// How long a session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// While no client is attached and nothing is said.
    pub idle_ttl: Duration,
    /// At most.
    pub ends: Option<Instant>,
}

/// Whether a client is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// One is.
    Attached,
    /// None is.
    Away,
}

impl Lifetime {
    /// When the session expires if nothing is said after `last_said`; never when a client is attached to one
    /// without an end.
    #[must_use]
    pub fn expires(&self, last_said: Instant, presence: Presence) -> Option<Instant> {
        let idle_ends = match presence {
            Presence::Attached => None,
            Presence::Away => Some(last_said + self.idle_ttl),
        };
        match (idle_ends, self.ends) {
            (Some(idle_ends), Some(ends)) => Some(idle_ends.min(ends)),
            (one, None) | (None, one) => one,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_a_session_without_a_client_and_its_lifetime_ends_any() {
        let start = Instant::now();
        let seconds = |count| start + Duration::from_secs(count);
        let check = |ends: Option<u64>, presence, expected: Option<u64>| {
            let lifetime = Lifetime {
                idle_ttl: Duration::from_secs(300),
                ends: ends.map(seconds),
            };
            let found = lifetime.expires(seconds(10), presence);
            assert_eq!(found, expected.map(seconds), "{ends:?} {presence:?}");
        };
        check(None, Presence::Away, Some(310));
        check(None, Presence::Attached, None);
        check(Some(100), Presence::Away, Some(100));
        check(Some(1000), Presence::Away, Some(310));
        check(Some(1000), Presence::Attached, Some(1000));
    }
}
