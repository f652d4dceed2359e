//! Whether the collector can be reached: told when it no longer can, once, and when it can again.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reach(Arc<State>);

#[derive(Debug, Default)]
struct State {
    lost: AtomicBool,
    ending: AtomicBool,
    given_up: CancellationToken,
    /// Fires when the batch that is being sent is to be given up.
    batch: Mutex<CancellationToken>,
    /// Whether that one has failed already, and waits for its next time.
    has_failed: AtomicBool,
}

impl Reach {
    /// It cannot be reached. `why` repeats nothing that a collector has said, for that may repeat spans.
    pub fn lose(&self, why: &dyn Display) {
        if !self.0.lost.swap(true, Ordering::SeqCst) {
            tracing::warn!(detail = %why, "spans do not reach the collector");
        }
        self.0.has_failed.store(true, Ordering::SeqCst);
        if self.0.ending.load(Ordering::SeqCst) {
            self.0.given_up.cancel();
        }
    }

    /// A batch is being sent, for the first time; there is one at a time. What is returned fires when it is given up.
    pub(super) fn begin(&self) -> CancellationToken {
        let given_up = self.0.given_up.child_token();
        let mut batch = self.0.batch.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.has_failed.store(false, Ordering::SeqCst);
        *batch = given_up.clone();
        given_up
    }

    /// It has taken a batch.
    pub(super) fn find(&self) {
        if self.0.lost.swap(false, Ordering::SeqCst) {
            tracing::info!("spans reach the collector again");
        }
    }

    /// What has failed before is waited for no longer. Each batch that is left has its one chance, for the collector may
    /// be there again, until one fails.
    pub(super) fn end(&self) {
        self.0.ending.store(true, Ordering::SeqCst);
        let batch = self.0.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.has_failed.load(Ordering::SeqCst) {
            batch.cancel();
        }
    }

    /// Fires when nothing is to be sent any more.
    pub(super) fn given_up(&self) -> &CancellationToken {
        &self.0.given_up
    }
}
