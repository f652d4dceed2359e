//! Takes spans to a collector, batch by batch, for as long as the program runs. What does not get there is dropped and
//! counted; an outage is told once, and so is its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::queue::Batch;
use super::{Recorder, otlp};
use crate::domain::failure::{Failure, Reason, Status};
use crate::domain::limit::{TRACE_BACKOFF_MAX, TRACE_BATCH_INTERVAL, TRACE_SENDS_MAX};
use crate::telemetry::metric::{self, SpanEnd};

/// The way to take out what was recorded.
pub struct Export {
    recorder: Arc<Recorder>,
    origin: (Vec<u8>, Vec<u8>),
    reached: Reached,
}

/// Whether the last batch has reached the collector, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

/// What a collector has done with a batch that it has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Spans that it did not want.
    pub rejected: u64,
}

/// How long nothing is sent after the first failure; twice as long after each further one.
const BACKOFF: Duration = Duration::from_secs(1);

impl Export {
    pub(super) fn new(recorder: Arc<Recorder>, service: &str) -> Self {
        Self {
            recorder,
            origin: otlp::origin(service),
            reached: Reached::Yes,
        }
    }

    /// Sends what was recorded, an `ExportTraceServiceRequest` at a time, until it is `closing`; then what is left, once.
    pub async fn run<F>(mut self, send: impl Fn(Bytes) -> F, closing: CancellationToken)
    where
        F: Future<Output = Result<Taken, Failure>>,
    {
        let recorder = Arc::clone(&self.recorder);
        while !closing.is_cancelled() {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = recorder.queue.some() => {
                    let ready = Instant::now() + TRACE_BATCH_INTERVAL;
                    tokio::select! {
                        biased;
                        () = closing.cancelled() => {}
                        _ = timeout_at(ready, recorder.queue.enough()) => {}
                    }
                }
            }
            let batch = recorder.queue.take();
            if batch.count != 0 {
                self.deliver(batch, &send, &closing).await;
            }
        }
    }

    async fn deliver<F>(
        &mut self,
        batch: Batch,
        send: &impl Fn(Bytes) -> F,
        closing: &CancellationToken,
    ) where
        F: Future<Output = Result<Taken, Failure>>,
    {
        let count = batch.count;
        let request = Bytes::from(otlp::request(&self.origin, &batch.spans));
        drop(batch);
        let mut wait = BACKOFF;
        for sent in 1..=TRACE_SENDS_MAX {
            let failure = match send(request.clone()).await {
                Ok(taken) => return self.delivered(count, taken),
                Err(failure) => failure,
            };
            self.failed(&failure);
            if !may_pass(&failure) || sent == TRACE_SENDS_MAX || closing.is_cancelled() {
                break;
            }
            tokio::select! {
                biased;
                // What comes next is the last batch: this one has had its chance.
                () = closing.cancelled() => break,
                () = sleep(wait) => wait = TRACE_BACKOFF_MAX.min(wait * 2),
            }
        }
        metric::spans_ended(SpanEnd::NotDelivered, count);
    }

    fn delivered(&mut self, count: u64, taken: Taken) {
        let rejected = taken.rejected.min(count);
        metric::spans_ended(SpanEnd::Delivered, count - rejected);
        if rejected != 0 {
            metric::spans_ended(SpanEnd::Rejected, rejected);
            tracing::debug!(rejected, "the collector did not want all spans");
        }
        if self.reached == Reached::No {
            self.reached = Reached::Yes;
            tracing::info!("spans reach the collector again");
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if self.reached == Reached::No {
            return;
        }
        self.reached = Reached::No;
        let code = failure.reason.name();
        // What a collector says of spans may repeat them.
        let detail = if let Reason::InstanceFailed(status) = failure.reason {
            status.name()
        } else {
            failure.detail.as_ref()
        };
        tracing::warn!(code, detail, "spans do not reach the collector");
    }
}

/// Whether the same batch may be taken later (OTLP 1.x, "OTLP/gRPC Response", failures).
fn may_pass(failure: &Failure) -> bool {
    if let Reason::InstanceFailed(status) = failure.reason {
        return matches!(
            status,
            Status::Cancelled
                | Status::DeadlineExceeded
                | Status::Aborted
                | Status::OutOfRange
                | Status::Unavailable
                | Status::DataLoss
        ) || (status == Status::ResourceExhausted && failure.pushback.is_some());
    }
    matches!(
        failure.reason,
        Reason::InstanceDown | Reason::InstanceLost | Reason::DeadlineExceeded
    )
}
