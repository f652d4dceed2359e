//! Opens spans of `tracing` in a world of their own, where `tracing-opentelemetry` takes them.

use std::cell::Cell;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanId, TraceId, TracerProvider as _};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider};
use tracing::{Dispatch, Level, dispatcher, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use super::work::Work;
use crate::domain::trace::{Ratio, Sampled};

pub(super) struct Recorder {
    ratio: Ratio,
    ids: RandomIdGenerator,
    dispatch: Dispatch,
}

/// The target of our spans, and of nothing else.
pub(super) const TARGET: &str = "openclaw_orchestrator_span";

impl Recorder {
    pub(super) fn new(ratio: Ratio, provider: &SdkTracerProvider) -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"));
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer_with_scope(scope.build()))
            // What it would add by itself is of no use to who reads a trace, and the last two are paid for by entering.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        // So that no line of anybody else, at whatever level, is looked at any longer than before.
        let own = Targets::new().with_target(TARGET, Level::INFO);
        Self {
            ratio,
            ids: RandomIdGenerator::default(),
            dispatch: Dispatch::new(Registry::default().with(layer).with(own)),
        }
    }

    /// Whether a call that has no trace yet is recorded. If so, the next span without a parent that this thread opens
    /// begins its trace.
    pub(super) fn begin_trace(&self) -> Sampled {
        let trace = self.ids.new_trace_id();
        let sampled = self.ratio.sampled(trace.to_bytes());
        if sampled == Sampled::Yes {
            DECIDED.set(Some(trace));
        }
        sampled
    }

    pub(super) fn open(&self, work: Work) -> tracing::Span {
        dispatcher::with_default(&self.dispatch, || match work {
            Work::Call(_) => {
                info_span!(target: TARGET, parent: None, "call", otel.kind = "server")
            }
            Work::Leg => info_span!(target: TARGET, parent: None, "leg"),
            Work::Attempt => {
                info_span!(target: TARGET, parent: None, "attempt", otel.kind = "client")
            }
            Work::Attach => info_span!(target: TARGET, parent: None, "attach"),
        })
    }

    #[cfg(test)]
    pub(super) fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }
}

thread_local! {
    /// The trace for which it was decided that it is recorded.
    static DECIDED: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The SDK's own ids, but for those by which it was decided already: it would draw others.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        DECIDED.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}
