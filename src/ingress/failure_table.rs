//! The one translation from failures to the wire: gRPC code, HTTP status, details.

use std::collections::HashMap;

use http::{HeaderValue, Response, StatusCode, header};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::domain::failure::{self, Failure, Reason};
use crate::domain::retry::{Pushback, Stop};

/// `ErrorInfo.domain`.
pub const DOMAIN: &str = "orchestrator.openclaw";

/// What a failure is called over gRPC and over HTTP.
#[must_use]
pub fn codes(reason: Reason) -> (Code, StatusCode) {
    match reason {
        Reason::KeyMissing | Reason::KeyInvalid => {
            (Code::Unauthenticated, StatusCode::UNAUTHORIZED)
        }
        Reason::ScopeMissing | Reason::AddressNotAllowed | Reason::SessionTokenForeign => {
            (Code::PermissionDenied, StatusCode::FORBIDDEN)
        }
        Reason::MethodUnknown => (Code::Unimplemented, StatusCode::NOT_FOUND),
        Reason::MethodNotAllowed => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED),
        Reason::MediaTypeUnsupported => (Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        Reason::NotAcceptable => (Code::InvalidArgument, StatusCode::NOT_ACCEPTABLE),
        Reason::ArgumentInvalid
        | Reason::TargetInvalid
        | Reason::PayloadInvalid
        | Reason::IdempotencyConflict
        | Reason::TimeoutInvalid
        | Reason::RequestMalformed => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
        Reason::TargetUnknown | Reason::RegistrationUnknown | Reason::SessionUnknown => {
            (Code::NotFound, StatusCode::NOT_FOUND)
        }
        Reason::MessageTooLarge => (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE),
        Reason::AnswerTooLarge | Reason::AggregateTooLarge => {
            (Code::ResourceExhausted, StatusCode::BAD_GATEWAY)
        }
        Reason::SlowConsumer | Reason::TooMany | Reason::FleetFull | Reason::CallerLimit => {
            (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS)
        }
        Reason::Overloaded | Reason::InstanceBusy | Reason::MemoryFull => {
            (Code::ResourceExhausted, StatusCode::SERVICE_UNAVAILABLE)
        }
        Reason::DeadlineExceeded | Reason::CompletionLate => {
            (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT)
        }
        // 499 is what proxies log for a caller who has left; nobody reads it.
        Reason::CallerGone | Reason::NotNeeded => (
            Code::Cancelled,
            StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ),
        Reason::InstanceDown
        | Reason::InstanceDraining
        | Reason::NoInstance
        | Reason::InstanceLost
        | Reason::CompletionUnmet
        | Reason::Draining => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        Reason::InstanceFailed(status) => instance_codes(status),
        Reason::AnswerMalformed => (Code::Internal, StatusCode::BAD_GATEWAY),
        Reason::InstanceConfigured => (Code::AlreadyExists, StatusCode::CONFLICT),
        Reason::IncarnationStale => (Code::FailedPrecondition, StatusCode::CONFLICT),
        Reason::SessionExists => (Code::AlreadyExists, StatusCode::CONFLICT),
        Reason::SessionClosed | Reason::SessionStale | Reason::SessionUnsupported => {
            (Code::FailedPrecondition, StatusCode::CONFLICT)
        }
        Reason::SessionSuperseded => (Code::Aborted, StatusCode::CONFLICT),
        Reason::SessionTruncated => (Code::OutOfRange, StatusCode::GONE),
        Reason::SessionFull => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
        Reason::JournalFull => (Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE),
        Reason::JournalFailed => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        Reason::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An instance's own status is passed on, but for two that would be read as being about the caller.
fn instance_codes(status: failure::Status) -> (Code, StatusCode) {
    use failure::Status as S;
    match status {
        // The instance refused the orchestrator's credential, not the caller's.
        S::Unauthenticated => (Code::Internal, StatusCode::BAD_GATEWAY),
        // The caller has cancelled nothing.
        S::Cancelled => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        S::InvalidArgument | S::OutOfRange => (code(status), StatusCode::BAD_REQUEST),
        S::FailedPrecondition => (code(status), StatusCode::BAD_REQUEST),
        S::NotFound => (code(status), StatusCode::NOT_FOUND),
        S::AlreadyExists | S::Aborted => (code(status), StatusCode::CONFLICT),
        S::PermissionDenied => (code(status), StatusCode::FORBIDDEN),
        S::ResourceExhausted => (code(status), StatusCode::TOO_MANY_REQUESTS),
        S::Unimplemented => (code(status), StatusCode::NOT_IMPLEMENTED),
        S::Unavailable => (code(status), StatusCode::SERVICE_UNAVAILABLE),
        S::DeadlineExceeded => (code(status), StatusCode::GATEWAY_TIMEOUT),
        S::Unknown | S::Internal | S::DataLoss => (code(status), StatusCode::BAD_GATEWAY),
    }
}

fn code(status: failure::Status) -> Code {
    Code::from_i32(status.number().into())
}

/// A failure as a gRPC status, with `google.rpc.ErrorInfo`, and with when to come again where that is known.
#[must_use]
pub fn status(failure: &Failure) -> Status {
    let details = vec![any("google.rpc.ErrorInfo", &info(failure))];
    with_details(failure, failure.pushback, details)
}

/// The status of a Route that failed: with every try, and with word for outer layers whether they should try.
#[must_use]
pub fn unanswered(failure: &Failure, stop: Option<Stop>, attempts: prost_types::Any) -> Status {
    let details = vec![any("google.rpc.ErrorInfo", &info(failure)), attempts];
    let pushback = match stop {
        // A caller's retries neither multiply ours nor repeat what may not be repeated.
        Some(Stop::Exhausted | Stop::NotRepeatable) => Some(Pushback::Stop),
        Some(Stop::NoTime) | None => failure.pushback,
    };
    with_details(failure, pushback, details)
}

fn info(failure: &Failure) -> pb::ErrorInfo {
    let mut metadata =
        HashMap::from([("retryable".to_owned(), failure.is_retryable().to_string())]);
    if let Some(instance) = &failure.instance {
        metadata.insert("instance".to_owned(), instance.to_string());
    }
    pb::ErrorInfo {
        reason: failure.reason.name().to_owned(),
        domain: DOMAIN.to_owned(),
        metadata,
    }
}

/// A message as a detail of a status.
pub(super) fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// What is asked of whoever would try again is said in the form of gRPC (gRFC A6: negative means do not) and,
/// when it is a time, as `google.rpc.RetryInfo`.
fn with_details(
    failure: &Failure,
    pushback: Option<Pushback>,
    mut details: Vec<prost_types::Any>,
) -> Status {
    let code = codes(failure.reason).0;
    let message = match &failure.instance {
        Some(instance) => format!("instance {instance}: {}", failure.detail),
        None => failure.detail.to_string(),
    };
    if let Some(Pushback::Wait(wait)) = pushback {
        let retry_delay = prost_types::Duration::try_from(wait).ok();
        let info = pb::RetryInfo { retry_delay };
        details.push(any("google.rpc.RetryInfo", &info));
    }
    let status = pb::Status {
        code: code.into(),
        message: message.clone(),
        details,
    };
    let details = prost::Message::encode_to_vec(&status).into();
    let mut status = Status::with_details(code, message, details);
    if let Some(value) = pushback.and_then(|pushback| pushback.to_grpc().parse().ok()) {
        let name = "grpc-retry-pushback-ms";
        status.metadata_mut().insert(name, value);
    }
    status
}

/// Why no more of a client's stream comes, as the framework says it.
#[must_use]
pub(super) fn cut_off(status: &Status) -> Failure {
    let code = status.code();
    // The framework's own refusals: a message that is too large, or is none.
    let reason = match code {
        Code::OutOfRange | Code::ResourceExhausted => Reason::MessageTooLarge,
        Code::Internal | Code::InvalidArgument => Reason::RequestMalformed,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Reason::CallerGone,
    };
    Failure::new(
        reason,
        format!("the stream was cut off: {}", too_large(status.message())),
    )
}

/// How a caller wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Status in trailers.
    Grpc,
    /// Status line and a JSON body.
    Http,
}

impl Protocol {
    /// By the content type of the request (gRPC over HTTP/2, "Content-Type").
    #[must_use]
    pub fn of(headers: &http::HeaderMap) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

/// Gives the framework's own refusals, which come without details, a name and the code that callers expect.
#[must_use]
pub fn name_framework_refusal(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let Some(number) = headers.get("grpc-status") else {
        return response;
    };
    if number.as_bytes() == b"0" || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let message = Status::from_header_map(headers)
        .map(|status| status.message().to_owned())
        .unwrap_or_default();
    let failure = match number.as_bytes() {
        // A compression that is not supported: the answer says which ones are.
        b"12" if !message.is_empty() => return response,
        b"12" => Failure::new(Reason::MethodUnknown, "no such method"),
        b"11" | b"8" => Failure::new(Reason::MessageTooLarge, too_large(&message)),
        b"3" | b"13" => Failure::new(Reason::RequestMalformed, message),
        _ => return response,
    };
    status(&failure).into_http()
}

/// The framework's sentence about a message, which holds two numbers, as one of ours.
fn too_large(message: &str) -> String {
    let numbers = message.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<&str> = numbers.filter(|digits| !digits.is_empty()).collect();
    match numbers[..] {
        [found, limit] => format!("the message has {found} bytes: at most {limit} are taken"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn every_failure_has_its_codes() {
        let statuses = (1..=16).filter_map(failure::Status::from_number);
        let of_instances = statuses.map(Reason::InstanceFailed);
        let own = |reason: &Reason| !matches!(reason, Reason::InstanceFailed(_));
        let reasons = Reason::ALL.into_iter().filter(own).chain(of_instances);
        let table: Vec<_> = reasons
            .map(|reason| {
                let (code, http) = codes(reason);
                let of = if let Reason::InstanceFailed(status) = reason {
                    format!("  {}", status.name())
                } else {
                    String::new()
                };
                format!(
                    "{:<22} {:<18} {}{of}",
                    reason.name(),
                    format!("{code:?}"),
                    http.as_u16()
                )
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn when_to_come_again_is_said_in_every_form() {
        let wait = std::time::Duration::from_millis(1500);
        let failure = Failure {
            pushback: Some(Pushback::Wait(wait)),
            ..Failure::new(Reason::TooMany, "too many")
        };
        let pushback = |status: &Status| {
            let header = status.metadata().get("grpc-retry-pushback-ms");
            let header = header.map(|value| value.to_str().unwrap().to_owned());
            let info = status.get_error_details().retry_info().cloned();
            (header, info.and_then(|info| info.retry_delay))
        };
        let said = (Some("1500".to_owned()), Some(wait));
        assert_eq!(pushback(&status(&failure)), said);
        let of_route = |stop| pushback(&unanswered(&failure, stop, prost_types::Any::default()));
        assert_eq!(of_route(None), said);
        assert_eq!(of_route(Some(Stop::NoTime)), said);
        assert_eq!(
            of_route(Some(Stop::Exhausted)),
            (Some("-1".to_owned()), None)
        );
        let plain = Failure::new(Reason::TooMany, "too many");
        assert_eq!(pushback(&status(&plain)), (None, None));
    }

    #[test]
    fn the_framework_s_refusals_get_a_name() {
        let check = |made: Status, expected: (Code, &str)| {
            let response = name_framework_refusal(made.into_http());
            let status = Status::from_header_map(response.headers()).unwrap();
            let info = status
                .get_error_details()
                .error_info()
                .unwrap()
                .reason
                .clone();
            assert_eq!((status.code(), info.as_str()), expected);
        };
        check(
            Status::unimplemented(""),
            (Code::Unimplemented, "METHOD_UNKNOWN"),
        );
        check(
            Status::out_of_range("too large"),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        );
        check(
            Status::internal("failed to decode"),
            (Code::InvalidArgument, "REQUEST_MALFORMED"),
        );
        let ours = status(&Failure::new(Reason::Internal, "a bug"));
        check(ours, (Code::Internal, "INTERNAL"));
    }
}
