//! A doubt about a connection, until it is dispelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A connection on which an answer is waited for. When nobody waits any longer before it has come, whoever comes next
/// gets another connection: this one may be dead without having said so.
pub(super) struct Doubt {
    gone: Option<Arc<AtomicBool>>,
    /// Who gives up before says nothing about the connection.
    founded_at: Instant,
}

impl Doubt {
    /// Once an answer has been waited for so long, the connection is one that is `gone`.
    pub(super) fn of(gone: &Arc<AtomicBool>, patience: Duration) -> Self {
        Self {
            gone: Some(Arc::clone(gone)),
            founded_at: Instant::now() + patience,
        }
    }

    /// The answer has come.
    pub(super) fn dispel(mut self) {
        self.gone = None;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        if let Some(gone) = self
            .gone
            .as_ref()
            .filter(|_| self.founded_at <= Instant::now())
        {
            gone.store(true, Ordering::Release);
        }
    }
}
