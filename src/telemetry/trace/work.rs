//! What spans are called and what they tell of how they ended, as the semantic conventions of OpenTelemetry for RPC and
//! HTTP have it. Attributes that begin with `orchestrator.` are our own. None holds a payload, a key or a query.

use std::borrow::Cow;

use opentelemetry::KeyValue;

use super::Called;

/// What goes on in a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Call(Called),
    Leg,
    Attempt,
    Attach,
}

/// What one has come to that went well.
const OK: &str = "OK";

pub(super) fn name(called: Called) -> Cow<'static, str> {
    match called {
        Called::Rpc(method)
        | Called::Http {
            method,
            route: None,
        } => Cow::Borrowed(method),
        Called::Http {
            method,
            route: Some(route),
        } => Cow::Owned(format!("{method} {route}")),
    }
}

/// What is known of a call from its beginning.
pub(super) fn asked(called: Called) -> [Option<KeyValue>; 2] {
    match called {
        Called::Rpc(method) => [
            Some(KeyValue::new("rpc.system.name", "grpc")),
            Some(KeyValue::new("rpc.method", method)),
        ],
        Called::Http { method, route } => [
            Some(KeyValue::new("http.request.method", method)),
            route.map(|route| KeyValue::new("http.route", route)),
        ],
    }
}

impl Work {
    /// Whether that is an error of the one that the span is about: what only its caller is to blame for is none of a
    /// server's, and a try that nobody needed any more is none either.
    pub(super) fn has_failed(self, result: &str) -> bool {
        match self {
            Self::Call(Called::Rpc(_)) => matches!(
                result,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            ),
            Self::Call(Called::Http { .. }) => result.starts_with('5'),
            Self::Leg => !matches!(result, "answered" | "cancelled" | "skipped"),
            Self::Attempt => !matches!(result, OK | "NOT_NEEDED" | "CANCELLED"),
            Self::Attach => result != OK,
        }
    }

    /// How the result is told.
    pub(super) fn result(self, result: Cow<'static, str>) -> Option<KeyValue> {
        let name = match self {
            Self::Call(Called::Rpc(_)) => "rpc.response.status_code",
            // A caller who has left gets none.
            Self::Call(Called::Http { .. }) => {
                let status: i64 = result.parse().ok()?;
                return Some(KeyValue::new("http.response.status_code", status));
            }
            Self::Leg => "orchestrator.outcome",
            Self::Attempt | Self::Attach => "orchestrator.result",
        };
        Some(KeyValue::new(name, result))
    }
}
