//! What is noted of a request when it arrives: when, what it is called, and how long its caller will wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::Instant;

use super::caller::Caller;
use super::exchange::Exchange;
use super::failure_table::Protocol;
use crate::chance::Chance;
use crate::domain::deadline::{Deadline, Timeouts, from_grpc_timeout};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{DURATION_MAX, REQUEST_ID_CHARS_MAX};
use crate::domain::session::SessionId;
use crate::domain::task::Names;
use crate::domain::trace::{Carried, Sampled, TraceContext};
use crate::fleet::registration::{Asker, Rank};
use crate::memory::Memory;
use crate::telemetry::trace::Within;

/// The header by which a call is found again.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");

/// What is noted of a request when it arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// How it is to be answered.
    pub protocol: Protocol,
    /// What the call is called.
    pub names: Names,
    /// `grpc-timeout`, and without gRPC `request-timeout`, too.
    pub timeout: Option<Duration>,
    /// Who has called, once its key was checked.
    pub caller: Caller,
    /// The session whose token was shown instead of a key.
    pub session: Option<SessionId>,
    /// What it shares with its answer.
    pub exchange: Arc<Exchange>,
    /// What its key may do beyond its scopes' own calls.
    pub rank: Rank,
}

impl Arrival {
    /// Who asks for a change of the fleet.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker {
            key: self.caller.name().into(),
            rank: self.rank,
        }
    }

    /// When the call ends, given what the request itself asks for.
    #[must_use]
    pub fn deadline(&self, field: Option<Duration>, default: Duration, max: Duration) -> Deadline {
        let timeouts = Timeouts {
            header: self.timeout,
            field,
            default,
            max,
        };
        Deadline::of(self.at.into_std(), timeouts)
    }

    /// The failure of a call without an end of its own, once its caller stops waiting; never when its caller
    /// has not said when that is.
    pub async fn caller_stops_waiting(&self) -> Failure {
        match self.timeout {
            Some(timeout) => tokio::time::sleep_until(self.at + timeout).await,
            None => std::future::pending().await,
        }
        Failure::new(Reason::DeadlineExceeded, "the time of the call is over")
    }
}

/// Notes names and time. A door that begins no exchange counts nothing.
pub fn note<B>(request: &mut Request<B>, chance: &Chance) {
    let begun = request.extensions_mut().remove::<Arc<Exchange>>();
    let exchange = begun.unwrap_or_else(|| Exchange::new(&Memory::new(usize::MAX)));
    let arrival = Arrival {
        at: Instant::now(),
        protocol: Protocol::of(request.headers()),
        names: names(request.headers(), exchange.within(), chance),
        timeout: None,
        caller: Caller::default(),
        session: None,
        exchange,
        rank: Rank::default(),
    };
    request.extensions_mut().insert(arrival);
}

/// Notes how long the caller will wait; refuses a timeout that cannot be read.
pub fn note_timeout<B>(request: &mut Request<B>) -> Result<(), Failure> {
    let mut timeout = one(
        request.headers(),
        &TIMEOUT,
        from_grpc_timeout,
        "grpc-timeout is one value of 1 to 8 digits and one of H M S m u n",
    )?;
    if Protocol::Http == protocol(request) {
        let own = one(
            request.headers(),
            &REQUEST_TIMEOUT,
            from_request_timeout,
            "request-timeout is one number of seconds, or one duration such as 10s or 500ms",
        )?;
        timeout = timeout.into_iter().chain(own).min();
    }
    if let Some(arrival) = request.extensions_mut().get_mut::<Arrival>() {
        arrival.timeout = timeout;
    }
    Ok(())
}

/// How a request is to be answered, as it was noted.
#[must_use]
pub fn protocol<B>(request: &Request<B>) -> Protocol {
    let noted = request.extensions().get::<Arrival>();
    noted.map_or(Protocol::Http, |arrival| arrival.protocol)
}

/// The one value of a header.
fn one(
    headers: &HeaderMap,
    name: &HeaderName,
    read: impl Fn(&[u8]) -> Option<Duration>,
    detail: &'static str,
) -> Result<Option<Duration>, Failure> {
    let mut values = headers.get_all(name).iter();
    let read = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => read(value.as_bytes()),
        (Some(_), Some(_)) => None,
    };
    read.map(|timeout| Some(timeout.min(DURATION_MAX)))
        .ok_or_else(|| Failure::new(Reason::TimeoutInvalid, detail))
}

/// Reads `request-timeout`: seconds, or a duration with its unit.
fn from_request_timeout(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let seconds = |number: &str| {
        let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number = number.parse::<f64>().ok().filter(|_| plain)?;
        Duration::try_from_secs_f64(number).ok()
    };
    seconds(text).or_else(|| humantime::parse_duration(text).ok())
}

fn names(headers: &HeaderMap, within: &Within, chance: &Chance) -> Names {
    let request_id = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
    let request_id = request_id.filter(|id| is_request_id(id));
    let context = context(headers);
    let request_id = request_id.map_or_else(|| made_request_id(chance), Bytes::copy_from_slice);
    within.note_request_id(&request_id);
    // That of the call itself where it is recorded, and otherwise the caller's.
    let own = within.context().or(context);
    Names {
        request_id,
        traceparent: traceparent(own.unwrap_or_else(|| made_context(chance))),
        carried: carried(headers, context),
    }
}

/// The caller's place in a trace. Two are none (W3C Trace Context, 3.2).
pub(super) fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    TraceContext::parse(value.as_bytes())
}

/// The state of the caller's trace, as it is handed on.
pub(super) fn state(headers: &HeaderMap) -> Option<String> {
    carried(headers, context(headers)).tracestate()
}

/// What is handed on to instances.
fn carried(headers: &HeaderMap, context: Option<TraceContext>) -> Carried {
    let all = headers.iter();
    let all = all.map(|(name, value)| (name.as_str(), value.as_bytes()));
    Carried::of(all, context)
}

fn traceparent(context: TraceContext) -> Bytes {
    Bytes::copy_from_slice(&context.to_header())
}

fn made_request_id(chance: &Chance) -> Bytes {
    let mut made = [0; 32];
    // Fails only where there are not two digits for each byte.
    let _ = hex::encode_to_slice(chance.draw::<[u8; 16]>(), &mut made);
    Bytes::copy_from_slice(&made)
}

/// Not sampled: nobody has asked for a trace.
fn made_context(chance: &Chance) -> TraceContext {
    TraceContext::root(chance.draw(), chance.draw(), Sampled::No)
}

fn is_request_id(value: &[u8]) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// The request id as a header value.
#[must_use]
pub fn request_id(names: &Names) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(names.request_id.clone()).ok()?;
    // It never comes again: it should not drive others out of the connection's compression tables.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(name: &'static str, values: &[&str]) -> Result<Arrival, Failure> {
        let mut request = Request::new(());
        for value in values {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        note(&mut request, &Chance::default());
        note_timeout(&mut request)?;
        Ok(request.extensions().get::<Arrival>().unwrap().clone())
    }

    #[test]
    fn a_timeout_that_cannot_be_read_is_refused() {
        assert_eq!(noted("grpc-timeout", &[]).unwrap().timeout, None);
        assert_eq!(
            noted("grpc-timeout", &["100m"]).unwrap().timeout,
            Some(Duration::from_millis(100))
        );
        for bad in [&["soon"][..], &[""], &["1S", "1S"]] {
            assert_eq!(
                noted("grpc-timeout", bad).unwrap_err().reason,
                Reason::TimeoutInvalid
            );
        }
    }

    #[test]
    fn without_grpc_a_timeout_may_be_seconds() {
        let millis = |values: &[&str]| {
            let noted = noted("request-timeout", values);
            let timeout = noted.map(|arrival| arrival.timeout.unwrap().as_millis());
            timeout.map_err(|failure| failure.reason)
        };
        assert_eq!(millis(&["5"]), Ok(5000));
        assert_eq!(millis(&["0.25"]), Ok(250));
        assert_eq!(millis(&["10s"]), Ok(10_000));
        assert_eq!(millis(&["500ms"]), Ok(500));
        // As with grpc-timeout: nobody waits.
        assert_eq!(millis(&["0"]), Ok(0));
        // Longer than the clock: it may be added to an instant all the same.
        let longest = DURATION_MAX.as_millis();
        assert_eq!(millis(&["10000000000000000000"]), Ok(longest));
        for bad in [&["soon"][..], &[""], &["-1"], &["1e3"], &["1", "1"]] {
            assert_eq!(millis(bad), Err(Reason::TimeoutInvalid), "{bad:?}");
        }
    }

    #[test]
    fn names_are_taken_over_when_good_and_made_otherwise() {
        let id = |value: &str| noted("x-request-id", &[value]).unwrap().names.request_id;
        assert_eq!(&id("abc-1")[..], b"abc-1");
        assert_eq!(id("has space").len(), 32);
        assert_eq!(id(&"x".repeat(129)).len(), 32);
        let trace = |value: &str| noted("traceparent", &[value]).unwrap().names.traceparent;
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(&trace(good)[..], good.as_bytes());
        assert_ne!(
            noted("traceparent", &[good, good])
                .unwrap()
                .names
                .traceparent,
            good
        );
        for bad in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "01-x",
            "",
        ] {
            let made = trace(bad);
            assert!(TraceContext::parse(&made).is_some(), "{made:?}");
            assert_ne!(&made[..], bad.as_bytes());
        }
    }
}
