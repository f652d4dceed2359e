//! Whether the collector can be reached: told when it no longer can, once, and when it can again.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reach(Arc<AtomicBool>);

impl Reach {
    /// It cannot be reached. `why` repeats nothing that a collector has said, for that may repeat spans.
    pub fn lose(&self, why: &dyn Display) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(detail = %why, "spans do not reach the collector");
        }
    }

    /// It has taken a batch.
    pub(super) fn find(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("spans reach the collector again");
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
