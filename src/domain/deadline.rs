//! One deadline for a whole call: how it is found, what is kept back, and its form on the wire.
//!
//! A *deadline* is an instant, a *budget* what is left of it, a *timeout* a setting.

use std::time::{Duration, Instant};

/// Longest reserve.
const RESERVE_MAX: Duration = Duration::from_millis(250);
/// Shortest reserve.
const RESERVE_MIN: Duration = Duration::from_millis(5);
/// `TimeoutValue` in the gRPC protocol has at most eight digits.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// When a call ends at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When the caller gives up.
    ends: Instant,
    /// When the work ends, so that the answer leaves before the caller gives up.
    work_ends: Instant,
}

/// The timeouts that bear on one call.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From `grpc-timeout`.
    pub header: Option<Duration>,
    /// From the request itself.
    pub field: Option<Duration>,
    /// Of the method, when neither is given.
    pub default: Duration,
    /// Of the server.
    pub max: Duration,
}

impl Deadline {
    /// The least of all that was asked, counted from the arrival of the call.
    #[must_use]
    pub fn of(arrived: Instant, timeouts: Timeouts) -> Self {
        let asked = match (timeouts.header, timeouts.field) {
            (Some(header), Some(field)) => header.min(field),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => timeouts.default,
        };
        let total = asked.min(timeouts.max);
        let reserve = (total / 20).clamp(RESERVE_MIN, RESERVE_MAX);
        Self {
            ends: arrived + total,
            work_ends: arrived + total.saturating_sub(reserve),
        }
    }

    /// When the caller gives up.
    #[must_use]
    pub fn ends(self) -> Instant {
        self.ends
    }

    /// When instances must have answered.
    #[must_use]
    pub fn work_ends(self) -> Instant {
        self.work_ends
    }

    /// What an instance that is asked now may take; nothing when it is too late to ask.
    #[must_use]
    pub fn budget(self, now: Instant) -> Option<Duration> {
        self.work_ends
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }
}

/// Reads `grpc-timeout` (gRPC over HTTP/2, "Timeout"): one to eight digits and a unit.
#[must_use]
pub fn from_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty()
        || TIMEOUT_DIGITS_MAX < digits.len()
        || !digits.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let count = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Writes `grpc-timeout` in the finest unit that fits eight digits, rounded down: a child never has more time.
#[must_use]
pub fn to_grpc_timeout(budget: Duration) -> String {
    const FITS: u128 = 99_999_999;
    let (count, unit) = if budget.as_micros() <= FITS {
        (budget.as_micros(), 'u')
    } else if budget.as_millis() <= FITS {
        (budget.as_millis(), 'm')
    } else {
        (u128::from(budget.as_secs()).min(FITS), 'S')
    };
    format!("{count}{unit}")
}

/// Writes `Request-Timeout`: seconds with three decimals, rounded down.
#[must_use]
pub fn to_request_timeout(budget: Duration) -> String {
    format!("{}.{:03}", budget.as_secs(), budget.subsec_millis())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(header: Option<u64>, field: Option<u64>, ends_ms: u64, work_ends_ms: u64) {
        let ms = Duration::from_millis;
        let arrived = Instant::now();
        let deadline = Deadline::of(
            arrived,
            Timeouts {
                header: header.map(ms),
                field: field.map(ms),
                default: ms(15_000),
                max: ms(600_000),
            },
        );
        assert_eq!(deadline.ends() - arrived, ms(ends_ms));
        assert_eq!(deadline.work_ends() - arrived, ms(work_ends_ms));
    }

    #[test]
    fn the_least_timeout_counts_and_a_reserve_is_kept() {
        check(None, None, 15_000, 14_750);
        check(Some(1000), None, 1000, 950);
        check(None, Some(1000), 1000, 950);
        check(Some(1000), Some(100), 100, 95);
        check(Some(20), Some(100), 20, 15);
        check(Some(3), None, 3, 0);
        check(Some(3_600_000), None, 600_000, 599_750);
    }

    #[test]
    fn no_budget_is_left_once_work_must_have_ended() {
        let arrived = Instant::now();
        let second = Duration::from_secs(1);
        let deadline = Deadline::of(
            arrived,
            Timeouts {
                header: Some(second),
                field: None,
                default: second,
                max: second,
            },
        );
        assert_eq!(deadline.budget(arrived), Some(Duration::from_millis(950)));
        assert_eq!(deadline.budget(arrived + Duration::from_millis(950)), None);
        assert_eq!(deadline.budget(arrived + second * 2), None);
    }

    #[test]
    fn grpc_timeouts_are_read_by_the_letter_of_the_protocol() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(from_grpc_timeout(text.as_bytes()), expected, "{text}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("4m", Some(Duration::from_millis(4)));
        check("5u", Some(Duration::from_micros(5)));
        check("6n", Some(Duration::from_nanos(6)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "123456789m",
            "1 S",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_never_longer(nanos in 0_u64..10_000_000_000_000_000) {
            let budget = Duration::from_nanos(nanos);
            let read = from_grpc_timeout(to_grpc_timeout(budget).as_bytes());
            prop_assert!(read.is_some_and(|read| read <= budget));
            let seconds: f64 = to_request_timeout(budget).parse().unwrap();
            let lost = budget.as_secs_f64() - seconds;
            prop_assert!((-1e-6..0.001_001).contains(&lost), "{budget:?} {seconds}");
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = from_grpc_timeout(&bytes);
        }
    }
}
