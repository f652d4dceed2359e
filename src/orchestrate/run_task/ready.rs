//! Waiting until an instance may be used, for callers who asked for that.

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::domain::health::Panic;
use crate::domain::limit::{READY_LOOK_INTERVAL, READY_LOOK_INTERVAL_MAX, READY_WAITING_MAX};
use crate::domain::selection::Fitness;
use crate::fleet::view::View;

/// Where calls wait for the fleet. There is a bounded number of places.
#[derive(Debug)]
pub struct Readiness {
    changes: watch::Receiver<u64>,
    places: Semaphore,
}

/// Why a wait ended without an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotReady {
    /// As many wait already as may.
    NoPlace,
    /// Time is over.
    NoTime,
}

impl Readiness {
    /// `changes` wakes after each change of the fleet.
    #[must_use]
    pub fn new(changes: watch::Receiver<u64>) -> Self {
        Self {
            changes,
            places: Semaphore::new(READY_WAITING_MAX),
        }
    }

    /// Waits until `look` finds something. It is asked again after a change, and not after every one where
    /// they come fast: a large fleet changes many times a second, and many may wait for it. And from time to
    /// time, for what changes with time alone.
    pub(super) async fn wait<T>(
        &self,
        ends: Instant,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, NotReady> {
        let _place = self.places.try_acquire().map_err(|_| NotReady::NoPlace)?;
        let mut changes = self.changes.clone();
        loop {
            // Before looking, so that no change is missed.
            changes.mark_unchanged();
            if let Some(found) = look() {
                return Ok(found);
            }
            let now = Instant::now();
            if ends <= now {
                return Err(NotReady::NoTime);
            }
            let at_least = (now + READY_LOOK_INTERVAL).min(ends);
            // Whether it changed, or the fleet is gone, or time has passed: it is looked at again.
            let _ = timeout_at((now + READY_LOOK_INTERVAL_MAX).min(ends), changes.changed()).await;
            if Instant::now() < at_least {
                sleep_until(at_least).await;
            }
        }
    }
}

/// Whether looking closer is worth while.
pub(super) fn has_usable(fleet: &View) -> bool {
    let now = Instant::now();
    let mut members = fleet.members().iter();
    members.any(|member| member.fitness(Panic::On, now) != Fitness::Unfit)
}
