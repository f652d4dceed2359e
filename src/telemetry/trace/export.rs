//! How spans leave: in batches of the SDK, from a thread of its own, and counted by what becomes of them. No call waits
//! for a collector: beyond a bound spans are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanLimits, SpanProcessor,
};
use tokio_util::sync::DropGuard;
use tracing::instrument::WithSubscriber as _;
use tracing::{Dispatch, dispatcher};

use super::Reach;
use super::recorder::Ids;
use super::rejected::Rejected;
use crate::domain::limit::{
    TRACE_BATCH_INTERVAL, TRACE_BATCH_SPANS, TRACE_FLUSH_MAX, TRACE_SPANS_QUEUED_MAX,
};
use crate::telemetry::metric::{self, SpanEnd};

/// The way to end what records. Once this is dropped nothing is sent any more.
pub struct Export {
    /// Goes first: a provider that goes waits for what is being sent.
    _given_up: DropGuard,
    provider: SdkTracerProvider,
    reach: Reach,
}

/// Whether the last spans had their chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// They had.
    Sent,
    /// There was no time for it.
    Cut,
}

impl Export {
    /// Sends what was recorded until now, and records nothing more. Blocks, for `TRACE_FLUSH_MAX` at most, and not for
    /// a collector that is away.
    #[must_use]
    pub fn finish(&self) -> Last {
        self.reach.end();
        // The SDK would log for itself that it took too long.
        let over = dispatcher::with_default(&Dispatch::none(), || {
            self.provider.shutdown_with_timeout(TRACE_FLUSH_MAX)
        });
        self.reach.given_up().cancel();
        if over.is_ok() { Last::Sent } else { Last::Cut }
    }

    #[cfg(test)]
    pub(super) fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }
}

/// Who makes spans of this service, and sends them by `exporter`.
pub(super) fn provider(
    service: &str,
    exporter: impl SpanExporter + 'static,
    reach: Reach,
) -> (SdkTracerProvider, Export) {
    let queued = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        exporter,
        queued: Arc::clone(&queued),
        reach: reach.clone(),
        rejected: Rejected::default(),
    };
    // All that could come from the environment is said.
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(TRACE_SPANS_QUEUED_MAX)
        .with_max_export_batch_size(TRACE_BATCH_SPANS)
        .with_scheduled_delay(TRACE_BATCH_INTERVAL);
    let batch = BatchSpanProcessor::new(counted, batches.build());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder_empty()
        .with_service_name(service.to_owned())
        .with_attribute(version);
    let provider = SdkTracerProvider::builder()
        .with_span_limits(SpanLimits::default())
        // Whether a call is recorded was decided before.
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(Ids::default())
        .with_resource(resource.build())
        .with_span_processor(Bounded { batch, queued })
        .build();
    let export = Export {
        _given_up: reach.given_up().clone().drop_guard(),
        provider: provider.clone(),
        reach,
    };
    (provider, export)
}

/// Lets no more spans wait than may, and counts those that may not: the SDK has such a bound, and only logs it.
#[derive(Debug)]
struct Bounded {
    batch: BatchSpanProcessor,
    /// Those on their way among them.
    queued: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.batch.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if TRACE_SPANS_QUEUED_MAX <= self.queued.fetch_add(1, Ordering::Relaxed) {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            metric::spans_ended(SpanEnd::QueueFull, 1);
            return;
        }
        self.batch.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batch.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batch.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batch.set_resource(resource);
    }
}

/// Counts what becomes of batches, and tells in our own words when they no longer arrive.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    queued: Arc<AtomicUsize>,
    reach: Reach,
    rejected: Rejected,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let given_up = self.reach.begin();
        let export = self.exporter.export(batch);
        let sent = tokio::select! {
            biased;
            () = given_up.cancelled() => None,
            sent = export.with_subscriber(self.rejected.listening()) => Some(sent),
        };
        self.queued.fetch_sub(count, Ordering::Relaxed);
        let (count, rejected) = (count as u64, self.rejected.take().min(count as u64));
        match sent {
            Some(Ok(())) => {
                self.reach.find();
                metric::spans_ended(SpanEnd::Delivered, count - rejected);
                if rejected != 0 {
                    metric::spans_ended(SpanEnd::Rejected, rejected);
                    tracing::debug!(rejected, "the collector did not want all spans");
                }
            }
            Some(Err(error)) => {
                metric::spans_ended(SpanEnd::NotDelivered, count);
                self.reach.lose(&error);
            }
            None => {
                metric::spans_ended(SpanEnd::NotDelivered, count);
                // Or this one alone, which has told why.
                if self.reach.given_up().is_cancelled() {
                    self.reach.lose(&"there was no more time for it");
                }
            }
        }
        // It is told and counted: the SDK would log it once more, each time.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
