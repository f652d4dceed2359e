//! Spans: every one with its meaning, and where they begin and end.
//!
//! They are spans of `tracing`, which `tracing-opentelemetry` makes spans of OpenTelemetry. Both know nothing else of
//! the program, and it nothing of them: a tracer is a value with a dispatcher of its own, in which no log line and no
//! other span is. Whether a call is recorded is decided before: what is not costs a look at an empty pointer.
//!
//! | span | kind | begins and ends with |
//! |---|---|---|
//! | the method, or `POST /route/{template}` | server | a call, to the end of its answer |
//! | `leg` | internal | one target of a fan-out, until its outcome |
//! | `attempt` | client | one try at an instance |
//! | `attach` | internal | the attaching of a client to its session, of which the call itself goes on for hours |

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SpanExporter;
use tokio::time::Instant;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::domain::id::InstanceId;
use crate::domain::limit::SPAN_PATH_BYTES_MAX;
use crate::domain::session::SessionId;
use crate::domain::trace::{Ratio, Sampled, TraceContext};

mod export;
mod reach;
mod recorder;
mod rejected;
#[cfg(test)]
mod tests;
mod work;

pub use export::{Export, Last};
pub use reach::Reach;
use recorder::Recorder;
use work::Work;

/// Records spans, or does not. Clones are the same.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

/// What traces are recorded, and whose.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Of the calls whose caller has no trace.
    pub ratio: Ratio,
    /// `service.name`.
    pub service: String,
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// A method, as `package.Service/Method`.
    Rpc(&'static str),
    /// A path with its parameters open, where it is a known one.
    Http {
        /// GET, POST and so on.
        method: &'static str,
        /// `/orchestrator/sessions/{id}`.
        route: Option<&'static str>,
    },
}

impl Tracer {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Records calls from now on, and the way to end that. What was recorded leaves by `exporter`, batch by batch.
    #[must_use]
    pub fn new(
        settings: &Settings,
        exporter: impl SpanExporter + 'static,
        reach: Reach,
    ) -> (Self, Export) {
        let (provider, export) = export::provider(&settings.service, exporter, reach);
        let recorder = Recorder::new(settings.ratio, &provider);
        (Self(Some(Arc::new(recorder))), export)
    }

    /// Whether anything may be recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A call begins, within the trace of its caller or one of its own. It is recorded when its caller's trace is,
    /// each of its spans then with the `state` of that (`tracestate`); where there is none, the ratio decides.
    #[must_use]
    pub fn call(
        &self,
        parent: Option<TraceContext>,
        state: impl FnOnce() -> Option<String>,
        called: Called,
    ) -> Span {
        let Some(recorder) = &self.0 else {
            return Span(None);
        };
        let parent = match parent {
            Some(parent) if !parent.is_sampled() => return Span(None),
            Some(parent) => Context::new().with_remote_span_context(remote(parent, state())),
            None => match recorder.begin_trace() {
                Sampled::No => return Span(None),
                Sampled::Yes => Context::new(),
            },
        };
        let asked = work::asked(called).into_iter().flatten();
        let span = Span::begin(recorder, parent, Work::Call(called), asked);
        if let Some(open) = &span.0 {
            open.at.cx.span().update_name(work::name(called));
        }
        span
    }
}

/// What another process has said of its span.
fn remote(parent: TraceContext, state: Option<String>) -> SpanContext {
    // One that is none is as good as absent (W3C Trace Context, 3.3.1.5).
    let state = state.and_then(|state| state.parse().ok());
    SpanContext::new(
        TraceId::from_bytes(parent.trace),
        SpanId::from_bytes(parent.span),
        TraceFlags::new(parent.flags),
        true,
        state.unwrap_or_default(),
    )
}

/// Where spans begin: within one that is recorded, or nowhere. Clones are the same place.
#[derive(Clone, Default)]
pub struct Within(Option<Arc<Place>>);

struct Place {
    recorder: Arc<Recorder>,
    /// The span.
    cx: Context,
    /// The same in our own words.
    context: TraceContext,
}

impl Within {
    /// The place that others may be told of.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|place| place.context)
    }

    /// The call has this id. To be told once.
    pub fn note_request_id(&self, id: &Bytes) {
        if let Some(place) = &self.0 {
            let id = String::from_utf8_lossy(id).into_owned();
            let id = KeyValue::new("orchestrator.request_id", id);
            place.cx.span().set_attribute(id);
        }
    }

    /// The call has asked for this path, of which the beginning is told. To be told once.
    pub fn note_url(&self, scheme: &'static str, path: &str) {
        if let Some(place) = &self.0 {
            let ends = (0..=SPAN_PATH_BYTES_MAX.min(path.len())).rev();
            let end = { ends }.find(|end| path.is_char_boundary(*end));
            let path = path[..end.unwrap_or_default()].to_owned();
            place.cx.span().set_attributes([
                KeyValue::new("url.scheme", scheme),
                KeyValue::new("url.path", path),
            ]);
        }
    }

    /// A try at an instance begins.
    #[must_use]
    pub fn attempt(&self, instance: &InstanceId, kind: &'static str, number: u32) -> Span {
        self.begin(Work::Attempt, || {
            [
                KeyValue::new("orchestrator.instance", instance.as_str().to_owned()),
                KeyValue::new("orchestrator.attempt.kind", kind),
                KeyValue::new("orchestrator.attempt.number", i64::from(number)),
            ]
        })
    }

    /// A target of a fan-out begins.
    #[must_use]
    pub fn leg(&self, instance: &InstanceId) -> Span {
        self.begin(Work::Leg, || {
            let instance = instance.as_str().to_owned();
            [KeyValue::new("orchestrator.instance", instance)]
        })
    }

    /// A client is being attached to its session.
    #[must_use]
    pub fn attach(&self, session: &SessionId) -> Span {
        self.begin(Work::Attach, || {
            let session = session.as_str().to_owned();
            [KeyValue::new("orchestrator.session", session)]
        })
    }

    fn begin<const COUNT: usize>(
        &self,
        work: Work,
        attributes: impl FnOnce() -> [KeyValue; COUNT],
    ) -> Span {
        let Some(place) = &self.0 else {
            return Span(None);
        };
        Span::begin(&place.recorder, place.cx.clone(), work, attributes())
    }
}

impl std::fmt::Debug for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Within").field(&self.context()).finish()
    }
}

/// Something that is recorded, or is not. It is over when this is dropped.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

struct Open {
    at: Arc<Place>,
    /// Held so that it stays open.
    _span: tracing::Span,
    work: Work,
    began: Instant,
    began_wall: SystemTime,
    result: Cow<'static, str>,
    status: Option<&'static str>,
}

/// What a span has come to that nobody has ended: whoever waited for it has left.
const LEFT: &str = "CANCELLED";

impl Span {
    fn begin(
        recorder: &Arc<Recorder>,
        parent: Context,
        work: Work,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Self {
        let span = recorder.open(work);
        let (began, began_wall) = (Instant::now(), SystemTime::now());
        // Fails only for a span that was begun already.
        let _ = span.set_parent(parent);
        let cx = span.context();
        let context = cx.span().span_context().clone();
        if !context.is_valid() {
            // The last batch has left.
            return Self(None);
        }
        cx.span().set_attributes(attributes);
        let context = TraceContext {
            trace: context.trace_id().to_bytes(),
            span: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8(),
        };
        let recorder = Arc::clone(recorder);
        Self(Some(Box::new(Open {
            at: Arc::new(Place {
                recorder,
                cx,
                context,
            }),
            _span: span,
            work,
            began,
            began_wall,
            result: Cow::Borrowed(LEFT),
            status: None,
        })))
    }

    /// Its place in the trace, for whoever is told of it; `None` when it is not recorded.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|open| open.at.context)
    }

    /// Where spans begin that belong to it.
    #[must_use]
    pub fn within(&self) -> Within {
        Within(self.0.as_ref().map(|open| Arc::clone(&open.at)))
    }

    /// It is over and has come to this: `OK`, a code or the name of a failure, and of a failed try the status that
    /// its instance gave.
    pub fn end(mut self, result: impl Into<Cow<'static, str>>, status: Option<&'static str>) {
        if let Some(open) = &mut self.0 {
            open.result = result.into();
            open.status = status;
        }
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Span").field(&self.context()).finish()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let span = self.at.cx.span();
        let result = std::mem::take(&mut self.result);
        if self.work.has_failed(&result) {
            span.set_status(Status::error(""));
            span.set_attribute(KeyValue::new("error.type", result.clone()));
        }
        if let Some(status) = self.status {
            span.set_attribute(KeyValue::new("orchestrator.instance.status", status));
        }
        if let Some(result) = self.work.result(result) {
            span.set_attribute(result);
        }
        // By the clock that does not jump: nothing ends before it has begun. And now, though others may hold its place.
        let ended = self.began_wall.checked_add(self.began.elapsed());
        span.end_with_timestamp(ended.unwrap_or(self.began_wall));
    }
}
