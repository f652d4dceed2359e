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
            self.code = Cow::Owned(response.status().as_str().to_owned());
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

/// One of a few words, whatever somebody calls.
fn label(path: &str) -> &'static str {
    if let Some((method, _)) = access::METHODS.iter().find(|(method, _)| *method == path) {
        return method;
    }
    if let Some(known) = access::known(access::without_api(path)) {
        return known.form;
    }
    let services = ["/grpc.health.v1.Health", "/grpc.reflection"];
    let service = services.iter().find(|service| path.starts_with(**service));
    service.copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

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
