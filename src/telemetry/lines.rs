//! How often a line may be written that others can bring about: nobody fills the log by failing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many lines in each interval.
#[derive(Debug)]
pub struct Lines {
    most: u32,
    interval: Duration,
    written: Mutex<Written>,
}

/// What was written of late.
#[derive(Debug)]
struct Written {
    since: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Lines {
    /// Lets so many lines pass in each interval.
    #[must_use]
    pub const fn new(most: u32, interval: Duration) -> Self {
        let written = Written {
            since: None,
            lines: 0,
            untold: 0,
        };
        Self {
            most,
            interval,
            written: Mutex::new(written),
        }
    }

    /// Whether another line may be written, and how many were not since the last one.
    pub fn next(&self, now: Instant) -> Option<u64> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| self.interval <= now.saturating_duration_since(since);
        if written.since.is_none_or(is_over) {
            written.since = Some(now);
            written.lines = 0;
        }
        if self.most <= written.lines {
            written.untold += 1;
            return None;
        }
        written.lines += 1;
        Some(std::mem::take(&mut written.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_failures_is_a_few_lines_and_a_count() {
        let interval = Duration::from_secs(10);
        let lines = Lines::new(3, interval);
        let told: Vec<_> = (0..8).map(|_| lines.next(Instant::now())).collect();
        assert!(told[..3].iter().all(|told| *told == Some(0)));
        assert!(told[3..].iter().all(Option::is_none));
        tokio::time::advance(interval).await;
        assert_eq!(lines.next(Instant::now()), Some(5));
        assert_eq!(lines.next(Instant::now()), Some(0));
    }
}
