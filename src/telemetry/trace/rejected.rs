//! How many spans a collector did not want. `opentelemetry-otlp` takes such an answer for a success and tells the number
//! in its log alone (`partial_success` of OTLP), so that is where it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry;

/// The name of the crate: the target of what it logs.
const EXPORTER: &str = "opentelemetry-otlp";
const FIELD: &str = "rejected_spans";

/// A log that is read instead of written.
#[derive(Debug)]
pub(super) struct Rejected {
    count: Arc<AtomicU64>,
    log: Dispatch,
}

impl Default for Rejected {
    fn default() -> Self {
        let count = Arc::default();
        let read = Read(Arc::clone(&count));
        let only = Targets::new().with_target(EXPORTER, Level::WARN);
        let log = Dispatch::new(registry().with(read).with(only));
        Self { count, log }
    }
}

impl Rejected {
    /// Where the exporter is to log. What else it says there is said by who counts.
    pub(super) fn listening(&self) -> Dispatch {
        self.log.clone()
    }

    /// How many there were since this was asked last.
    pub(super) fn take(&self) -> u64 {
        self.count.swap(0, Ordering::Relaxed)
    }
}

struct Read(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for Read {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Found(&self.0));
    }
}

struct Found<'a>(&'a AtomicU64);

impl Visit for Found<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == FIELD {
            let rejected = u64::try_from(value).unwrap_or_default();
            self.0.fetch_add(rejected, Ordering::Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
