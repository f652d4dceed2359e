//! Whether the collector can be reached: told when it no longer can, once, and when it can again.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reach(Arc<State>);

#[derive(Debug, Default)]
struct State {
    lost: AtomicBool,
    ending: AtomicBool,
    given_up: CancellationToken,
}

impl Reach {
    /// It cannot be reached. `why` repeats nothing that a collector has said, for that may repeat spans.
    pub fn lose(&self, why: &dyn Display) {
        if !self.0.lost.swap(true, Ordering::SeqCst) {
            tracing::warn!(detail = %why, "spans do not reach the collector");
        }
        if self.0.ending.load(Ordering::SeqCst) {
            self.0.given_up.cancel();
        }
    }

    /// It has taken a batch.
    pub(super) fn find(&self) {
        if self.0.lost.swap(false, Ordering::SeqCst) {
            tracing::info!("spans reach the collector again");
        }
    }

    /// Who is away is waited for no longer, from now on.
    pub(super) fn end(&self) {
        self.0.ending.store(true, Ordering::SeqCst);
        if self.0.lost.load(Ordering::SeqCst) {
            self.0.given_up.cancel();
        }
    }

    /// Fires when nothing is to be sent any more.
    pub(super) fn given_up(&self) -> &CancellationToken {
        &self.0.given_up
    }
}
