//! Spans as they travel: the protobuf of OpenTelemetry (opentelemetry/proto/trace/v1/trace.proto), field by field.
//!
//! Attributes follow the semantic conventions of OpenTelemetry for RPC and HTTP; those that begin with `orchestrator.`
//! are our own. None holds a payload, a key or a query.

use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::time::Instant;

use super::{Called, OK, Open, Work};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// Span.kind.
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
/// Status.code.
const ERROR: u64 = 2;
/// SpanFlags: beside the flags of W3C, whether it is known that the parent is another process's, and whether it is.
const IS_REMOTE_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The key of `ScopeSpans.spans`.
pub(super) const SPANS: u8 = 2 << 3 | LENGTH_DELIMITED;

/// Writes a `Span`.
pub(super) fn span(to: &mut Vec<u8>, open: &Open, ended: Instant) {
    bytes(to, 1, &open.context.trace);
    bytes(to, 2, &open.context.span);
    if let Some(state) = open.place.state.get() {
        bytes(to, 3, state.as_bytes());
    }
    if let Some(parent) = &open.parent {
        bytes(to, 4, parent);
    }
    let is_call = matches!(open.work, Work::Call(..));
    let is_remote = if is_call && open.parent.is_some() {
        IS_REMOTE
    } else {
        0
    };
    let clock = &open.place.clock;
    number(to, 6, kind(&open.work));
    fixed64(to, 7, clock.at(open.began));
    fixed64(to, 8, clock.at(ended));
    let flags = u32::from(open.context.flags) | IS_REMOTE_KNOWN | is_remote;
    // Field 16: its key has two bytes.
    encode_varint(16 << 3 | u64::from(FIXED32), to);
    to.extend_from_slice(&flags.to_le_bytes());
    let failed = match &open.work {
        Work::Call(called, place) => {
            let id = place.request_id.get();
            if let Some(url) = place.url.get() {
                text(to, "url.scheme", url.scheme);
                text(to, "url.path", &url.path);
            }
            call(to, *called, id.map(AsRef::as_ref), &open.result)
        }
        Work::Leg(instance) => {
            name(to, &["leg"]);
            text(to, "orchestrator.instance", instance.as_str());
            text(to, "orchestrator.outcome", &open.result);
            open.result != "answered" && open.result != "cancelled" && open.result != "skipped"
        }
        Work::Attempt {
            instance,
            kind,
            number,
        } => {
            name(to, &["attempt"]);
            text(to, "orchestrator.instance", instance.as_str());
            text(to, "orchestrator.attempt.kind", kind);
            int(to, "orchestrator.attempt.number", u64::from(*number));
            text(to, "orchestrator.result", &open.result);
            // Nobody needed it any more: that is no error.
            open.result != OK && open.result != "NOT_NEEDED" && open.result != "CANCELLED"
        }
        Work::Attach(session) => {
            name(to, &["attach"]);
            text(to, "orchestrator.session", session.as_str());
            text(to, "orchestrator.result", &open.result);
            open.result != OK
        }
    };
    if let Some(status) = open.status {
        text(to, "orchestrator.instance.status", status);
    }
    if failed {
        text(to, "error.type", &open.result);
        // Status { code }.
        to.extend_from_slice(&[15 << 3 | LENGTH_DELIMITED, 2, 3 << 3 | VARINT, ERROR as u8]);
    }
}

fn kind(work: &Work) -> u64 {
    match work {
        Work::Call(..) => SERVER,
        Work::Attempt { .. } => CLIENT,
        Work::Leg(_) | Work::Attach(_) => INTERNAL,
    }
}

/// Whether it has failed as the conventions see it: what only its caller is to blame for is no error of a server.
fn call(to: &mut Vec<u8>, called: Called, id: Option<&[u8]>, result: &str) -> bool {
    let failed = match called {
        Called::Rpc(method) => {
            name(to, &[method]);
            text(to, "rpc.system.name", "grpc");
            text(to, "rpc.method", method);
            text(to, "rpc.response.status_code", result);
            matches!(
                result,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            )
        }
        Called::Http { method, route } => {
            match route {
                Some(route) => name(to, &[method, " ", route]),
                None => name(to, &[method]),
            }
            text(to, "http.request.method", method);
            if let Some(route) = route {
                text(to, "http.route", route);
            }
            // A caller who has left gets none.
            if let Ok(status) = result.parse() {
                int(to, "http.response.status_code", status);
            }
            result.starts_with('5')
        }
    };
    if let Some(id) = id.and_then(|id| str::from_utf8(id).ok()) {
        text(to, "orchestrator.request_id", id);
    }
    failed
}

fn key(to: &mut Vec<u8>, field: u8, form: u8) {
    to.push(field << 3 | form);
}

fn number(to: &mut Vec<u8>, field: u8, value: u64) {
    key(to, field, VARINT);
    encode_varint(value, to);
}

fn fixed64(to: &mut Vec<u8>, field: u8, value: u64) {
    key(to, field, FIXED64);
    to.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn bytes(to: &mut Vec<u8>, field: u8, value: &[u8]) {
    key(to, field, LENGTH_DELIMITED);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

/// `Span.name`, in pieces.
fn name(to: &mut Vec<u8>, pieces: &[&str]) {
    key(to, 5, LENGTH_DELIMITED);
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    encode_varint(length as u64, to);
    for piece in pieces {
        to.extend_from_slice(piece.as_bytes());
    }
}

/// `Span.attributes`: a name with a text.
fn text(to: &mut Vec<u8>, name: &str, value: &str) {
    attribute(to, 9, name, |to| bytes(to, 1, value.as_bytes()), {
        1 + encoded_len_varint(value.len() as u64) + value.len()
    });
}

/// `Span.attributes`: a name with a number.
fn int(to: &mut Vec<u8>, name: &str, value: u64) {
    attribute(to, 9, name, |to| number(to, 3, value), {
        1 + encoded_len_varint(value)
    });
}

/// A `KeyValue`, whose value has so many bytes.
fn attribute(
    to: &mut Vec<u8>,
    field: u8,
    name: &str,
    value: impl FnOnce(&mut Vec<u8>),
    length: usize,
) {
    let own = 1 + encoded_len_varint(name.len() as u64) + name.len();
    let whole = own + 1 + encoded_len_varint(length as u64) + length;
    key(to, field, LENGTH_DELIMITED);
    encode_varint(whole as u64, to);
    bytes(to, 1, name.as_bytes());
    key(to, 2, LENGTH_DELIMITED);
    encode_varint(length as u64, to);
    value(to);
}

/// What stands before the spans of every request: whose they are (`ResourceSpans.resource`), and, apart, what has
/// written them (`ScopeSpans.scope`).
pub(super) fn origin(service: &str) -> (Vec<u8>, Vec<u8>) {
    let mut resource = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    for (name, value) in [("service.name", service), ("service.version", version)] {
        let length = 1 + encoded_len_varint(value.len() as u64) + value.len();
        let value = |to: &mut Vec<u8>| bytes(to, 1, value.as_bytes());
        attribute(&mut resource, 1, name, value, length);
    }
    let mut scope = Vec::new();
    bytes(&mut scope, 1, env!("CARGO_PKG_NAME").as_bytes());
    bytes(&mut scope, 2, version.as_bytes());
    let (mut of_resource, mut of_scope) = (Vec::new(), Vec::new());
    bytes(&mut of_resource, 1, &resource);
    bytes(&mut of_scope, 1, &scope);
    (of_resource, of_scope)
}

/// An `ExportTraceServiceRequest` with these spans.
pub(super) fn request((resource, scope): &(Vec<u8>, Vec<u8>), spans: &[u8]) -> Vec<u8> {
    let scope_spans = scope.len() + spans.len();
    let nested = 1 + encoded_len_varint(scope_spans as u64) + scope_spans;
    let resource_spans = resource.len() + nested;
    let mut request = Vec::with_capacity(resource_spans + 16);
    key(&mut request, 1, LENGTH_DELIMITED);
    encode_varint(resource_spans as u64, &mut request);
    request.extend_from_slice(resource);
    key(&mut request, 2, LENGTH_DELIMITED);
    encode_varint(scope_spans as u64, &mut request);
    request.extend_from_slice(scope);
    request.extend_from_slice(spans);
    request
}
