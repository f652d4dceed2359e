//! When a task is sent to a second instance while the first still works on it, and how often that may be.
//!
//! It fires when an answer takes longer than nearly all others have taken. What it costs is bounded by a ratio
//! of its own beside the one of retries: unless the config says otherwise, hedges are at most a twentieth of the
//! calls that were answered, and a few at the start.

use std::time::{Duration, Instant};

use super::budget::{Budget, Share};
use super::limit::{HEDGE_SAMPLES_ASKED_MAX, HEDGE_SAMPLES_MIN};

/// How often tasks are hedged, whatever their callers say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Hedges are at most this share of the calls that were answered.
    pub share: Share,
    /// Answers that must have come before the usual delay is known; at most `HEDGE_SAMPLES_ASKED_MAX`.
    pub samples_min: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            share: Share {
                per_call: 0.05,
                floor: 5.0,
                per_second: 0.0,
                kept_max: 50.0,
            },
            samples_min: HEDGE_SAMPLES_MIN,
        }
    }
}

/// When a caller wants a task to be hedged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Never.
    #[default]
    Off,
    /// Once it takes longer than 95 % of the answers of late have taken.
    Usual,
    /// Once it takes longer than this.
    After(Duration),
}

/// Hedges over all callers, and what tells when the next one is due.
#[derive(Debug, Clone)]
pub struct Hedges {
    latencies: Latencies,
    budget: Budget,
    samples_min: u32,
}

impl Default for Hedges {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Hedges {
    /// Nothing was answered yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            latencies: Latencies::default(),
            budget: Budget::new(settings.share),
            samples_min: settings.samples_min,
        }
    }

    /// Other settings from now on; how long answers took stays known.
    pub fn change(&mut self, settings: Settings, now: Instant) {
        self.budget.change(settings.share, now);
        self.samples_min = settings.samples_min;
    }

    /// Counts an answered call and how long its answer took.
    pub fn answered(&mut self, latency: Duration) {
        self.latencies.observe(latency);
        self.budget.call();
    }

    /// How long a try may take before it is hedged; `None` while that is not known, or not wanted.
    #[must_use]
    pub fn delay(&self, policy: Policy) -> Option<Duration> {
        match policy {
            Policy::Off => None,
            Policy::After(delay) => Some(delay),
            Policy::Usual => self.latencies.p95(self.samples_min),
        }
    }

    /// As many as there may be now.
    #[must_use]
    pub fn tokens(&mut self, now: Instant) -> f64 {
        self.budget.tokens(now)
    }

    /// Whether one more is within the share.
    #[must_use]
    pub fn has(&mut self, now: Instant) -> bool {
        self.budget.has(now)
    }

    /// Takes one; false when there is none.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.budget.take(now)
    }
}

/// Parts of each doubling: what is read is at most an eighth too long.
const PARTS: u32 = 8;
/// Doublings from a microsecond on: more than any deadline.
const DOUBLINGS: u32 = 30;
/// Once as many are counted all counts are halved, so that what was long ago is forgotten.
const COUNTED_MAX: u32 = 2000;
// Halving loses at most one of each bucket, and must not make forgotten what was known.
const _: () = assert!(HEDGE_SAMPLES_ASKED_MAX <= COUNTED_MAX / 2 - PARTS * DOUBLINGS);

/// How long answers took of late, as counts in buckets that grow with what they hold.
#[derive(Debug, Clone)]
struct Latencies {
    counts: [u16; (PARTS * DOUBLINGS) as usize],
    counted: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: [0; (PARTS * DOUBLINGS) as usize],
            counted: 0,
        }
    }
}

impl Latencies {
    fn observe(&mut self, latency: Duration) {
        if COUNTED_MAX <= self.counted {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.counted = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        self.counts[bucket(latency)] += 1;
        self.counted += 1;
    }

    /// The end of the bucket in which the 95th of a hundred lies.
    fn p95(&self, samples_min: u32) -> Option<Duration> {
        if self.counted < samples_min.max(1) {
            return None;
        }
        let wanted = (self.counted * 19).div_ceil(20);
        let mut passed = 0;
        let at = self.counts.iter().position(|count| {
            passed += u32::from(*count);
            wanted <= passed
        });
        at.map(|at| end(at as u32))
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let doubling = micros.ilog2();
    if DOUBLINGS <= doubling {
        return (PARTS * DOUBLINGS - 1) as usize;
    }
    let part = ((micros - (1 << doubling)) * u64::from(PARTS)) >> doubling;
    (doubling * PARTS) as usize + part as usize
}

fn end(bucket: u32) -> Duration {
    let (doubling, part) = (bucket / PARTS, bucket % PARTS);
    let nanos = (1000_u64 << doubling) / u64::from(PARTS);
    Duration::from_nanos(nanos * u64::from(PARTS + part + 1))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_usual_delay_is_known_after_a_hundred_answers_and_follows_what_changes() {
        let mut hedges = Hedges::default();
        for _ in 0..99 {
            hedges.answered(ms(10));
        }
        assert_eq!(hedges.delay(Policy::Usual), None);
        assert_eq!(hedges.delay(Policy::After(ms(3))), Some(ms(3)));
        hedges.answered(ms(10));
        let delay = hedges.delay(Policy::Usual).unwrap();
        assert!((ms(10)..ms(12)).contains(&delay), "{delay:?}");
        assert_eq!(hedges.delay(Policy::Off), None);
        for _ in 0..20_000 {
            hedges.answered(ms(100));
        }
        let delay = hedges.delay(Policy::Usual).unwrap();
        assert!((ms(100)..ms(115)).contains(&delay), "{delay:?}");
    }

    #[test]
    fn the_usual_delay_stays_known_with_as_many_samples_as_may_be_asked_for() {
        let settings = Settings {
            samples_min: HEDGE_SAMPLES_ASKED_MAX,
            ..Settings::default()
        };
        let mut hedges = Hedges::new(settings);
        for answers in 1..=10_000 {
            // All buckets have some.
            hedges.answered(Duration::from_micros(1 << (answers % 30)));
            let is_known = hedges.delay(Policy::Usual).is_some();
            assert_eq!(is_known, HEDGE_SAMPLES_ASKED_MAX <= answers, "{answers}");
        }
        hedges.change(
            Settings {
                samples_min: 1,
                ..settings
            },
            Instant::now(),
        );
        assert!(hedges.delay(Policy::Usual).is_some());
    }

    #[test]
    fn hedges_are_a_twentieth_of_the_calls_and_a_few() {
        let (mut hedges, now) = (Hedges::default(), Instant::now());
        assert_eq!((0..20).filter(|_| hedges.take(now)).count(), 5);
        assert!(
            !hedges.has(now + Duration::from_secs(3600)),
            "time alone brings none"
        );
        let taken = (0..1000).filter(|_| {
            hedges.answered(ms(1));
            hedges.take(now)
        });
        assert!((49..=50).contains(&taken.count()));
    }

    proptest! {
        #[test]
        fn the_delay_is_longer_than_95_of_100_and_hardly_longer(micros in proptest::collection::vec(1_u64..100_000_000, 100..400)) {
            let mut hedges = Hedges::default();
            for &latency in &micros {
                hedges.answered(Duration::from_micros(latency));
            }
            let mut sorted = micros;
            sorted.sort_unstable();
            let exact = Duration::from_micros(sorted[(sorted.len() * 19).div_ceil(20) - 1]);
            let delay = hedges.delay(Policy::Usual).unwrap();
            prop_assert!(exact <= delay, "{exact:?} {delay:?}");
            prop_assert!(delay <= exact + exact / 7 + Duration::from_micros(1), "{exact:?} {delay:?}");
        }

        #[test]
        fn any_latency_has_a_bucket(nanos in any::<u64>()) {
            let latency = Duration::from_nanos(nanos);
            let at = bucket(latency);
            prop_assert!(at < (PARTS * DOUBLINGS) as usize);
        }
    }
}
