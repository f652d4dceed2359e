//! Counts a call once its answer is over, however it ends.

use std::borrow::Cow;

use http::{HeaderMap, Method, Request, Response, header};
use tokio::time::Instant;

use super::{access, arrival};
use crate::telemetry::metric;
use crate::telemetry::trace::{Called, Span, Tracer, Within};

/// One call that has not ended. It is counted when this is dropped.
#[derive(Debug)]
pub(super) struct Meter {
    path: &'static str,
    began: Instant,
    code: Cow<'static, str>,
    span: Span,
}

/// The codes of gRPC, by their number (grpc/grpc, doc/statuscodes.md).
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The statuses that the REST door answers with, and in front of it what refuses a call of any door.
const HTTP_STATUSES: [&str; 20] = [
    "200", "204", "400", "401", "403", "404", "405", "406", "409", "410", "413", "415", "429",
    "499", "500", "501", "502", "503", "504", "507",
];
/// Any other, so that there are never more words than these.
const OTHER_STATUS: &str = "other";

/// What a call is that has no end yet: when there never is one, its caller has left.
const LEFT: &str = "CANCELLED";

impl Meter {
    /// A call begins, as others ask for it, with this method, these headers and this path.
    pub(super) fn begin<B>(request: &Request<B>, tracer: &Tracer, scheme: &'static str) -> Self {
        let path = label(request.uri().path());
        let span = if tracer.is_on() {
            let called = called(request.method(), path);
            let parent = arrival::context(request.headers());
            let state = || arrival::state(request.headers());
            let span = tracer.call(parent, state, called);
            if let Called::Http { .. } = called {
                span.within().note_url(scheme, request.uri().path());
            }
            span
        } else {
            Span::default()
        };
        Self {
            path,
            began: Instant::now(),
            code: Cow::Borrowed(LEFT),
            span,
        }
    }

    /// Where what belongs to the call is recorded.
    pub(super) fn within(&self) -> Within {
        self.span.within()
    }

    /// The answer begins. Over REST its status says all; over gRPC the end does, unless it is here already.
    pub(super) fn answer<B>(&mut self, response: &Response<B>) {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            self.end(response.headers());
        } else {
            let status = response.status();
            let known = HTTP_STATUSES
                .iter()
                .find(|known| **known == status.as_str());
            self.code = Cow::Borrowed(known.copied().unwrap_or(OTHER_STATUS));
        }
    }

    /// The end of an answer over gRPC, if these headers are one.
    pub(super) fn end(&mut self, headers: &HeaderMap) {
        let Some(status) = headers.get("grpc-status") else {
            return;
        };
        let number = status.to_str().ok().and_then(|text| text.parse().ok());
        let code = number.and_then(|number: usize| GRPC_CODES.get(number));
        self.code = Cow::Borrowed(code.copied().unwrap_or("UNKNOWN"));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let code = std::mem::take(&mut self.code);
        let span = std::mem::take(&mut self.span);
        if span.context().is_some() {
            span.end(code.clone(), None);
        }
        metric::call_ended(self.path, code, self.began.elapsed());
    }
}

/// How a call of this path is named in a trace.
fn called(method: &Method, path: &'static str) -> Called {
    let rpc = path.strip_prefix('/').filter(|_| is_rpc(path));
    if let Some(rpc) = rpc {
        return Called::Rpc(rpc);
    }
    Called::Http {
        method: known(method),
        route: Some(path).filter(|path| path.starts_with('/')),
    }
}

fn is_rpc(path: &str) -> bool {
    path.starts_with("/openclaw.") || path.starts_with("/grpc.")
}

/// Any other is `_OTHER`, as the conventions of OpenTelemetry have it.
fn known(method: &Method) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"];
    let known = METHODS.iter().find(|known| **known == method.as_str());
    known.copied().unwrap_or("_OTHER")
}

/// Services of others, of which each is one word.
const SERVICES: [&str; 2] = ["/grpc.health.v1.Health", "/grpc.reflection"];
/// Whatever else is called.
const OTHER_PATH: &str = "other";

/// Every word for what was called.
#[cfg(test)]
pub(crate) fn labels() -> Vec<&'static str> {
    let methods = access::METHODS.iter().map(|(method, _)| *method);
    let paths = access::PATHS.iter().map(|(path, _)| *path);
    let others = SERVICES.into_iter().chain([OTHER_PATH]);
    methods.chain(paths).chain(others).collect()
}

/// Every word for how a call has ended.
#[cfg(test)]
pub(crate) fn codes() -> Vec<&'static str> {
    let statuses = HTTP_STATUSES.into_iter().chain([OTHER_STATUS]);
    GRPC_CODES.into_iter().chain(statuses).collect()
}

/// One of a few words, whatever somebody calls.
fn label(path: &str) -> &'static str {
    if let Some((method, _)) = access::METHODS.iter().find(|(method, _)| *method == path) {
        return method;
    }
    if let Some(known) = access::known(access::without_api(path)) {
        return known.form;
    }
    let service = SERVICES.iter().find(|service| path.starts_with(**service));
    service.copied().unwrap_or(OTHER_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::{Reason, Status};
    use crate::ingress::failure_table;

    #[test]
    fn whatever_is_called_has_one_of_a_few_words() {
        for (path, expected) in [
            ("/openclaw.orchestrator.v1.OrchestratorService/Route", None),
            ("/api/orchestrator/route", Some("/orchestrator/route")),
            (
                "/orchestrator/sessions/one",
                Some("/orchestrator/sessions/{id}"),
            ),
            (
                "/grpc.health.v1.Health/Check",
                Some("/grpc.health.v1.Health"),
            ),
            (
                "/grpc.reflection.v1.ServerReflection/Info",
                Some("/grpc.reflection"),
            ),
            (
                "/openclaw.orchestrator.v1.OrchestratorService/Made-up",
                Some("other"),
            ),
            ("/../../etc/passwd", Some("other")),
        ] {
            assert_eq!(label(path), expected.unwrap_or(path));
        }
    }

    #[test]
    fn every_failure_has_a_status_of_its_own_word_and_any_other_has_one_for_all() {
        let code = |status: http::StatusCode| {
            let mut meter = Meter::begin(&Request::new(()), &Tracer::off(), "http");
            meter.answer(&Response::builder().status(status).body(()).unwrap());
            meter.code.clone()
        };
        for reason in Reason::ALL {
            let (_, status) = failure_table::codes(reason);
            assert_eq!(code(status), status.as_str(), "{reason:?}");
        }
        for status in (1..=16).filter_map(Status::from_number) {
            let (_, status) = failure_table::codes(Reason::InstanceFailed(status));
            assert_eq!(code(status), status.as_str());
        }
        assert_eq!(code(http::StatusCode::IM_A_TEAPOT), "other");
    }

    #[test]
    fn the_end_of_an_answer_decides_and_no_end_is_a_caller_who_has_left() {
        let code = |act: &dyn Fn(&mut Meter)| {
            let mut meter = Meter::begin(&Request::new(()), &Tracer::off(), "http");
            act(&mut meter);
            meter.code.clone()
        };
        let grpc = || Response::builder().header("content-type", "application/grpc");
        let status = |number: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", number.parse().unwrap());
            headers
        };
        assert_eq!(code(&|_| {}), "CANCELLED");
        assert_eq!(
            code(&|meter| meter.answer(&grpc().body(()).unwrap())),
            "CANCELLED"
        );
        let refused = grpc().header("grpc-status", "16").body(()).unwrap();
        assert_eq!(code(&|meter| meter.answer(&refused)), "UNAUTHENTICATED");
        assert_eq!(code(&|meter| meter.end(&status("0"))), "OK");
        assert_eq!(code(&|meter| meter.end(&status("99"))), "UNKNOWN");
        let rest = Response::builder().status(503).body(()).unwrap();
        assert_eq!(code(&|meter| meter.answer(&rest)), "503");
    }
}
