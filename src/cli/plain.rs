//! Values as people read them: text without control characters, durations, ages, the short names of enums.

use std::time::{Duration, SystemTime};

/// Text that cannot steer the terminal or pretend to be another line.
pub(super) fn text(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(harmless).collect()
}

/// Text of at most this many characters, the last of which says that there was more.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().nth(chars_max).is_none() {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    kept + "…"
}

/// `12ms`, `1.50s`, `3m 20s`.
pub(super) fn duration(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        format!("{}us", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else if duration < Duration::from_secs(60) {
        format!("{:.2}s", duration.as_secs_f64())
    } else {
        two_units(duration)
    }
}

/// As `duration`, for one that came over the wire; empty when absent.
pub(super) fn duration_wire(wire: Option<prost_types::Duration>) -> String {
    wire.and_then(|wire| Duration::try_from(wire).ok())
        .map(duration)
        .unwrap_or_default()
}

/// `3m 20s`: how long ago; empty when absent.
pub(super) fn age(since: Option<prost_types::Timestamp>, now: SystemTime) -> String {
    let since = since.and_then(|since| SystemTime::try_from(since).ok());
    // A server whose clock is ahead of ours has changed something just now.
    since
        .map(|since| two_units(now.duration_since(since).unwrap_or_default()))
        .unwrap_or_default()
}

/// `in 20s`, `past`; empty when absent.
pub(super) fn until(then: Option<prost_types::Timestamp>, now: SystemTime) -> String {
    match then.and_then(|then| SystemTime::try_from(then).ok()) {
        Some(then) => match then.duration_since(now) {
            Ok(left) => format!("in {}", two_units(left)),
            Err(_) => "past".to_owned(),
        },
        None => String::new(),
    }
}

fn two_units(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    let units: Vec<&str> = whole.split(' ').take(2).collect();
    units.join(" ")
}

/// `OUTCOME_TIMED_OUT` to `timed_out`; the number itself for one that this program does not know.
pub(super) fn word<E: TryFrom<i32>>(
    number: i32,
    name: fn(&E) -> &'static str,
    prefix: &str,
) -> String {
    match E::try_from(number) {
        Ok(known) => {
            let name = name(&known);
            name.strip_prefix(prefix)
                .unwrap_or(name)
                .to_ascii_lowercase()
        }
        Err(_) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::orchestrator::Outcome;

    #[test]
    fn durations_are_short() {
        let check =
            |micros, expected: &str| assert_eq!(duration(Duration::from_micros(micros)), expected);
        check(0, "0us");
        check(999, "999us");
        check(12_345, "12ms");
        check(1_500_000, "1.50s");
        check(200_000_000, "3m 20s");
        check(90_061_000_000, "1day 1h");
    }

    #[test]
    fn ages_never_run_backwards() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        assert_eq!(age(at(800), now), "3m 20s");
        assert_eq!(age(at(2000), now), "0s");
        assert_eq!(age(None, now), "");
        assert_eq!(until(at(1020), now), "in 20s");
        assert_eq!(until(at(900), now), "past");
    }

    #[test]
    fn enum_values_are_short_words() {
        let check = |number, expected: &str| {
            assert_eq!(
                word::<Outcome>(number, Outcome::as_str_name, "OUTCOME_"),
                expected
            );
        };
        check(3, "timed_out");
        check(99, "99");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }
}
