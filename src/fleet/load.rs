//! What an instance is doing for us now. Shared by all views and written by every call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Gate;
use crate::domain::budget::Budget;
use crate::domain::selection::{self, PeakEwma};

/// The load of one instance.
#[derive(Debug)]
pub struct Load {
    outstanding: AtomicU32,
    weight: AtomicU32,
    outstanding_max: AtomicU32,
    latency: Mutex<PeakEwma>,
    /// Retries of calls that failed here, so that one bad instance cannot spend what all have.
    retries: Mutex<Budget>,
    /// Nanoseconds; 0 before the first answered probe.
    probe_latency: AtomicU64,
    pub(super) gate: Gate,
}

/// One call that is with the instance; it ends when this is dropped.
#[derive(Debug)]
pub struct Outstanding(Arc<Load>);

impl Load {
    /// The load of an instance that belongs to no fleet, for tests: nobody can eject or drain it.
    #[cfg(test)]
    pub(crate) fn new(weight: u32) -> Self {
        Self::limited(weight, u32::MAX)
    }

    /// The same, of one that may have only so many calls.
    #[cfg(test)]
    pub(crate) fn limited(weight: u32, outstanding_max: u32) -> Self {
        Self::behind(Gate::default(), weight, outstanding_max)
    }

    pub(super) fn behind(gate: Gate, weight: u32, outstanding_max: u32) -> Self {
        Self {
            gate,
            outstanding: AtomicU32::new(0),
            weight: AtomicU32::new(weight.max(1)),
            outstanding_max: AtomicU32::new(outstanding_max),
            latency: Mutex::default(),
            retries: Mutex::default(),
            probe_latency: AtomicU64::new(0),
        }
    }

    /// Begins a call, unless the instance has as many as it may have.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Option<Outstanding> {
        let max = self.outstanding_max();
        let one_more = |now: u32| (now < max).then_some(now + 1);
        let begun = self
            .outstanding
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        begun.is_ok().then(|| Outstanding(Arc::clone(self)))
    }

    /// Calls that may be with the instance at once.
    #[must_use]
    pub fn outstanding_max(&self) -> u32 {
        self.outstanding_max.load(Ordering::Relaxed)
    }

    /// Another share and another limit from the next call on.
    pub(super) fn change(&self, weight: u32, outstanding_max: u32) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
        self.outstanding_max
            .store(outstanding_max, Ordering::Relaxed);
    }

    /// Whether the instance has as many calls as it may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outstanding_max() <= self.outstanding()
    }

    /// The budget of retries of calls that failed here.
    pub fn retries(&self) -> MutexGuard<'_, Budget> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that are with the instance now.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::SeqCst)
    }

    /// Takes the latency of one call into account.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let mut average = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        average.observe(latency, now.into_std());
    }

    /// What BALANCED compares.
    #[must_use]
    pub fn compared(&self) -> selection::Load {
        let latency_ns = self
            .latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .nanos();
        selection::Load {
            outstanding: self.outstanding(),
            weight: self.weight.load(Ordering::Relaxed),
            latency_ns,
            warmth: 1.0,
        }
    }

    pub(super) fn note_probe(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.probe_latency.store(nanos, Ordering::Relaxed);
    }

    /// How long the last answered probe took.
    #[must_use]
    pub fn probe_latency(&self) -> Option<Duration> {
        match self.probe_latency.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if self.0.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.gate.drained();
        }
    }
}
