//! How long calls have taken of late.

use std::time::{Duration, Instant};

/// A moving average that jumps up at once and comes down slowly, so that a stall is seen when it happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct PeakEwma {
    nanos: f64,
    at: Option<Instant>,
}

/// Time after which an old observation counts for 1/e.
const LATENCY_MEMORY: Duration = Duration::from_secs(10);

impl PeakEwma {
    /// Takes one latency into account.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_nanos() as f64;
        let keep = self.keep(now);
        self.nanos = latency.max(self.nanos * keep + latency * (1.0 - keep));
        self.at = Some(now);
    }

    /// The average in nanoseconds; 0 before the first observation. Without new ones it comes down to 0: who was slow
    /// once is asked again, and not left alone for good because nobody asks.
    #[must_use]
    pub fn nanos(&self, now: Instant) -> f64 {
        self.nanos * self.keep(now)
    }

    /// What the observations so far count for.
    fn keep(&self, now: Instant) -> f64 {
        let age = self
            .at
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        (-age.as_secs_f64() / LATENCY_MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    #[test]
    fn a_latency_peak_is_taken_at_once_and_forgotten_slowly() {
        let start = Instant::now();
        let mut ewma = PeakEwma::default();
        ewma.observe(Duration::from_nanos(100), start);
        ewma.observe(Duration::from_nanos(1000), start);
        assert_eq!(ewma.nanos(start), 1000.0);
        ewma.observe(Duration::from_nanos(100), start);
        assert_eq!(ewma.nanos(start), 1000.0);
        let later = start + LATENCY_MEMORY;
        ewma.observe(Duration::from_nanos(100), later);
        assert!((300.0..500.0).contains(&ewma.nanos(later)));
    }

    #[test]
    fn a_latency_peak_is_forgotten_also_where_nobody_calls_any_longer() {
        let start = Instant::now();
        let mut ewma = PeakEwma::default();
        assert_eq!(ewma.nanos(start), 0.0);
        ewma.observe(Duration::from_secs(1), start);
        let after = |seconds| ewma.nanos(start + Duration::from_secs(seconds)) / 1e9;
        assert!((0.35..0.38).contains(&after(10)), "{}", after(10));
        assert!(after(100) < 0.000_1, "{}", after(100));
    }
}
