//! What was recorded and not taken yet: bytes in a row, up to a bound. Beyond it spans are dropped and counted: nobody
//! waits for a collector.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::encoding::encode_varint;
use tokio::sync::Notify;

use super::otlp;
use crate::domain::limit::{TRACE_BATCH_BYTES, TRACE_BYTES_QUEUED_MAX};
use crate::telemetry::metric::{self, SpanEnd};

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Batch>,
    /// There is something, where there was nothing.
    some: Notify,
    /// There is enough for a batch.
    enough: Notify,
}

/// Spans as `ScopeSpans` has them, one after the other.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) spans: Vec<u8>,
    pub(super) count: u64,
    /// The span that is being written: its length stands before it.
    scratch: Vec<u8>,
}

impl Queue {
    /// Adds the span that `write` writes.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.waiting();
        let Batch {
            spans,
            count,
            scratch,
        } = &mut *waiting;
        scratch.clear();
        write(scratch);
        let before = spans.len();
        if TRACE_BYTES_QUEUED_MAX < before + scratch.len() {
            drop(waiting);
            metric::spans_ended(SpanEnd::QueueFull, 1);
            return;
        }
        spans.push(otlp::SPANS);
        encode_varint(scratch.len() as u64, spans);
        spans.extend_from_slice(scratch);
        *count += 1;
        let after = spans.len();
        drop(waiting);
        if before == 0 {
            self.some.notify_one();
        }
        if before < TRACE_BATCH_BYTES && TRACE_BATCH_BYTES <= after {
            self.enough.notify_one();
        }
    }

    /// Waits until there is something.
    pub(super) async fn some(&self) {
        self.some.notified().await;
    }

    /// Waits until there is so much that it need not wait for more.
    pub(super) async fn enough(&self) {
        self.enough.notified().await;
    }

    /// Takes all of it.
    pub(super) fn take(&self) -> Batch {
        let mut waiting = self.waiting();
        let scratch = std::mem::take(&mut waiting.scratch);
        std::mem::replace(
            &mut *waiting,
            Batch {
                scratch,
                ..Batch::default()
            },
        )
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
