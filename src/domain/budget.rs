//! How many retries there may be: a share of the calls, over all callers, and for each instance that fails.
//!
//! Tokens: every call brings a fifth of one, every retry takes one. A few come with time alone, so that a
//! quiet server can retry at all. Retries never exceed `FLOOR + calls / 5 + seconds`.

use std::time::Instant;

/// Tokens for each call: retries are at most this share of the calls.
const PER_CALL: f64 = 0.2;
/// Tokens at the start, and as many as time alone restores.
const FLOOR: f64 = 10.0;
/// Tokens for each second while there are fewer than `FLOOR`.
const PER_SECOND: f64 = 1.0;
/// As many as are kept for later.
const KEPT_MAX: f64 = 100.0;

/// A budget of retries.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    tokens: f64,
    restored: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            tokens: FLOOR,
            restored: None,
        }
    }
}

impl Budget {
    /// Counts one call.
    pub fn call(&mut self) {
        self.tokens = (self.tokens + PER_CALL).min(KEPT_MAX);
    }

    /// Whether there is a token.
    #[must_use]
    pub fn has(&mut self, now: Instant) -> bool {
        self.restore(now);
        1.0 <= self.tokens
    }

    /// Takes a token for one retry; false when there is none.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    fn restore(&mut self, now: Instant) {
        let passed = self.restored.map_or(0.0, |then| {
            now.saturating_duration_since(then).as_secs_f64()
        });
        self.restored = Some(now);
        if self.tokens < FLOOR {
            self.tokens = (self.tokens + passed * PER_SECOND).min(FLOOR);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quiet_server_can_retry_and_a_storm_is_cut_to_a_fifth() {
        let now = Instant::now();
        let mut budget = Budget::default();
        assert_eq!((0..20).filter(|_| budget.take(now)).count(), 10);
        assert!(!budget.take(now));
        assert!(budget.take(now + Duration::from_secs(2)));
        let taken = (0..1000)
            .filter(|_| {
                budget.call();
                budget.take(now + Duration::from_secs(2))
            })
            .count();
        assert!((199..=202).contains(&taken), "{taken}");
    }

    proptest! {
        #[test]
        fn retries_never_exceed_their_share_at_any_instant(steps in proptest::collection::vec((0_u8..3, 0_u64..500), 1..400)) {
            let start = Instant::now();
            let (mut budget, mut calls, mut taken, mut passed) = (Budget::default(), 0.0, 0.0, 0);
            for (step, millis) in steps {
                passed += millis;
                if step == 0 {
                    budget.call();
                    calls += 1.0;
                } else if budget.take(start + Duration::from_millis(passed)) {
                    taken += 1.0;
                }
                let allowed = FLOOR + calls * PER_CALL + passed as f64 / 1000.0 * PER_SECOND;
                prop_assert!(taken <= allowed + 1e-6, "{} of {}", taken, allowed);
            }
        }
    }
}
