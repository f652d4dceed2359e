//! How many retries there may be: a share of the calls, over all callers, and for each instance that fails.
//!
//! Tokens: every call brings a part of one, every retry takes one. A few come with time alone, so that a
//! quiet server can retry at all. Unless the config says otherwise, retries never exceed `10 + calls / 5 + seconds`.
//! Hedges have a smaller share of their own beside it.

use std::time::Instant;

/// How tokens come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Tokens for each call: what takes them is at most this share of the calls.
    pub per_call: f64,
    /// Tokens at the start, and as many as time alone restores; at most `kept_max`.
    pub floor: f64,
    /// Tokens for each second while there are fewer than `floor`.
    pub per_second: f64,
    /// As many as are kept for later.
    pub kept_max: f64,
}

/// That of retries.
impl Default for Share {
    fn default() -> Self {
        Self {
            per_call: 0.2,
            floor: 10.0,
            per_second: 1.0,
            kept_max: 100.0,
        }
    }
}

/// A budget, of retries unless another share is given.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    share: Share,
    tokens: f64,
    restored: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Share::default())
    }
}

impl Budget {
    /// A budget with the tokens of its start.
    #[must_use]
    pub fn new(share: Share) -> Self {
        Self {
            share,
            tokens: share.floor,
            restored: None,
        }
    }

    /// Another share from now on. Tokens that are there stay, as far as the new share keeps them.
    pub fn change(&mut self, share: Share, now: Instant) {
        self.restore(now);
        self.share = share;
        self.tokens = self.tokens.min(share.kept_max);
    }

    /// Counts one call.
    pub fn call(&mut self) {
        self.tokens = (self.tokens + self.share.per_call).min(self.share.kept_max);
    }

    /// The tokens that are left.
    #[must_use]
    pub fn tokens(&mut self, now: Instant) -> f64 {
        self.restore(now);
        self.tokens
    }

    /// Whether there is a token.
    #[must_use]
    pub fn has(&mut self, now: Instant) -> bool {
        self.restore(now);
        1.0 <= self.tokens
    }

    /// Takes a token; false when there is none.
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
        if self.tokens < self.share.floor {
            self.tokens = (self.tokens + passed * self.share.per_second).min(self.share.floor);
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

    #[test]
    fn a_share_that_changes_brings_no_tokens_and_holds_from_then_on() {
        let now = Instant::now();
        let nothing = Share {
            per_call: 0.0,
            floor: 0.0,
            per_second: 0.0,
            kept_max: 0.0,
        };
        let mut budget = Budget::default();
        budget.change(nothing, now);
        let later = now + Duration::from_secs(3600);
        budget.call();
        assert!(!budget.take(later), "there is to be none");
        budget.change(Share::default(), later);
        assert!(
            !budget.has(later),
            "time that has passed before counts by the share of then"
        );
        assert!(budget.take(later + Duration::from_secs(1)));
        let generous = Share {
            kept_max: 1000.0,
            per_call: 1.0,
            ..Share::default()
        };
        budget.change(generous, later);
        (0..500).for_each(|_| budget.call());
        budget.change(Share::default(), later);
        assert_eq!((0..500).filter(|_| budget.take(later)).count(), 100);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_their_share_at_any_instant(steps in proptest::collection::vec((0_u8..3, 0_u64..500), 1..400)) {
            let start = Instant::now();
            let (mut budget, mut calls, mut taken, mut passed) = (Budget::default(), 0.0, 0.0, 0);
            let Share { per_call, floor, per_second, .. } = Share::default();
            for (step, millis) in steps {
                passed += millis;
                if step == 0 {
                    budget.call();
                    calls += 1.0;
                } else if budget.take(start + Duration::from_millis(passed)) {
                    taken += 1.0;
                }
                let allowed = floor + calls * per_call + passed as f64 / 1000.0 * per_second;
                prop_assert!(taken <= allowed + 1e-6, "{} of {}", taken, allowed);
            }
        }
    }
}
