//! What HTTP asks of whoever would try again (RFC 9110, 10.2.3).

use http::{HeaderMap, header};

use crate::domain::retry::Pushback;

/// `Retry-After`, as a number of seconds or as a date. A date is measured against the `Date` of the same answer:
/// the clocks of two machines differ by more than most waits.
pub(super) fn of(headers: &HeaderMap) -> Option<Pushback> {
    let value = headers.get(header::RETRY_AFTER)?;
    Pushback::from_retry_after(value.as_bytes()).or_else(|| {
        let date = |value: &http::HeaderValue| httpdate::parse_http_date(value.to_str().ok()?).ok();
        let (then, now) = (date(value)?, date(headers.get(header::DATE)?)?);
        Some(Pushback::wait(then.duration_since(now).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_is_measured_by_the_clock_that_wrote_it() {
        let check = |retry_after: &str, date: Option<&str>, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, retry_after.parse().unwrap());
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            let expected = expected.map(|seconds| Pushback::Wait(Duration::from_secs(seconds)));
            assert_eq!(of(&headers), expected, "{retry_after} {date:?}");
        };
        let (earlier, later) = (
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wed, 21 Oct 2015 07:28:30 GMT",
        );
        check("7", Some(earlier), Some(7));
        check(later, Some(earlier), Some(30));
        check(earlier, Some(later), Some(0));
        // Without the other clock a date says nothing.
        check(later, None, None);
        check(later, Some("yesterday"), None);
        check("soon", Some(earlier), None);
        check("-1", None, None);
    }
}
