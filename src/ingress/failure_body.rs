//! A failure as the whole answer of the REST door: an HTTP status and a body of JSON.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::body::Body;

use super::failure_table::codes;
use crate::domain::failure::Failure;
use crate::domain::task::Names;

/// What a caller of the REST door is told when something fails.
pub(super) struct Problem {
    failure: Box<Failure>,
    /// Every try, as JSON.
    attempts: Option<Box<RawValue>>,
    /// What there is in spite of the failure, as JSON.
    results: Option<Box<RawValue>>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Problem {
    pub(super) fn of(failure: Failure) -> Self {
        Self {
            failure: Box::new(failure),
            attempts: None,
            results: None,
            header: None,
        }
    }

    pub(super) fn with_attempts(self, attempts: Box<RawValue>) -> Self {
        Self {
            attempts: Some(attempts),
            ..self
        }
    }

    pub(super) fn with_results(self, results: Box<RawValue>) -> Self {
        Self {
            results: Some(results),
            ..self
        }
    }

    pub(super) fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self {
            header: Some(Box::new((name, value))),
            ..self
        }
    }

    /// `{"error": {…}}`.
    pub(super) fn body(&self, names: Option<&Names>) -> Vec<u8> {
        let failure = &self.failure;
        let told = Told {
            error: Error {
                code: failure.reason.name().to_lowercase(),
                message: &failure.detail,
                instance: failure.instance.as_ref().map(|id| id.as_str()),
                retryable: failure.is_retryable(),
                request_id: names.and_then(|names| std::str::from_utf8(&names.request_id).ok()),
                attempts: self.attempts.as_deref(),
                results: self.results.as_deref(),
            },
        };
        // Texts, flags, and JSON that is made already: nothing in it can fail.
        serde_json::to_vec(&told).unwrap_or_default()
    }

    pub(super) fn answer(self, names: Option<&Names>) -> Response<Body> {
        let status = codes(self.failure.reason).1;
        let mut response = json(status, self.body(names));
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        if let Some(seconds) = retry_after(&self.failure, status) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(header) = self.header {
            headers.insert(header.0, header.1);
        }
        response
    }
}

/// Seconds to wait when nobody has said how many.
const RETRY_AFTER_SECONDS_DEFAULT: u64 = 1;

/// What the instance asked for, or a second where the answer is "too many".
fn retry_after(failure: &Failure, status: StatusCode) -> Option<u64> {
    let default = (status == StatusCode::TOO_MANY_REQUESTS).then_some(RETRY_AFTER_SECONDS_DEFAULT);
    match failure.pushback {
        Some(pushback) => pushback.to_retry_after().map(|seconds| seconds.max(1)),
        None => default,
    }
}

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[derive(Serialize)]
struct Told<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Error<'a> {
    code: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::failure::{Reason, Status};
    use crate::domain::retry::Pushback;

    #[test]
    fn how_long_to_wait_is_told_in_whole_seconds_and_never_too_short() {
        let check = |status: Status, pushback: Option<Pushback>, expected: &str| {
            let failure = Failure {
                pushback,
                ..Failure::new(Reason::InstanceFailed(status), "")
            };
            let response = Problem::of(failure).answer(None);
            let told = response.headers().get(header::RETRY_AFTER);
            let told = told.map_or("", |value| value.to_str().unwrap());
            assert_eq!(told, expected, "{status:?} {pushback:?}");
        };
        let wait = |millis| Some(Pushback::Wait(Duration::from_millis(millis)));
        check(Status::ResourceExhausted, None, "1");
        check(Status::ResourceExhausted, wait(0), "1");
        check(Status::ResourceExhausted, wait(2000), "2");
        check(Status::Unavailable, wait(2001), "3");
        check(Status::Unavailable, None, "");
        check(Status::ResourceExhausted, Some(Pushback::Stop), "");
    }
}
