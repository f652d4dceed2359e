//! What an instance is doing for us now. Shared by all views and written by every call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Gate;
use crate::domain::admission::{Bucket, Rate};
use crate::domain::budget::{Budget, Share};
use crate::domain::latency::PeakEwma;
use crate::domain::selection;

/// The load of one instance.
#[derive(Debug)]
pub struct Load {
    outstanding: AtomicU32,
    weight: AtomicU32,
    outstanding_max: AtomicU32,
    /// Calls a second and their burst; 0 where there is no limit.
    rate: AtomicU64,
    /// Of the rate; not touched where there is none.
    bucket: Mutex<Bucket>,
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
        Self::behind(
            Gate::default(),
            weight,
            outstanding_max,
            None,
            Share::default(),
        )
    }

    /// The same, of one to which calls may come only so fast.
    #[cfg(test)]
    pub(crate) fn at_a_rate(rate: Rate) -> Self {
        Self::behind(Gate::default(), 1, u32::MAX, Some(rate), Share::default())
    }

    /// Its calls have failed, for tests.
    #[cfg(test)]
    pub(crate) fn eject(&self, now: Instant) {
        let cause = crate::domain::health::observed::Cause::InARow(5);
        self.gate.eject(cause, now);
    }

    pub(super) fn behind(
        gate: Gate,
        weight: u32,
        outstanding_max: u32,
        rate: Option<Rate>,
        retries: Share,
    ) -> Self {
        Self {
            rate: AtomicU64::new(packed(rate)),
            bucket: Mutex::default(),
            gate,
            outstanding: AtomicU32::new(0),
            weight: AtomicU32::new(weight.max(1)),
            outstanding_max: AtomicU32::new(outstanding_max),
            latency: Mutex::default(),
            retries: Mutex::new(Budget::new(retries)),
            probe_latency: AtomicU64::new(0),
        }
    }

    /// Counts one more call, unless the instance has as many as it may have.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Outstanding> {
        let max = self.outstanding_max();
        let one_more = |now: u32| (now < max).then_some(now + 1);
        let begun = self
            .outstanding
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        begun.ok().map(|_| Outstanding(Arc::clone(self)))
    }

    /// Takes a token of the rate for a call that is about to leave; nothing where calls come too fast.
    pub(super) fn take_token(&self, now: Instant) -> Option<()> {
        let Some(rate) = self.rate() else {
            return Some(());
        };
        let mut bucket = self.bucket();
        let comes_in_time = bucket.wait(Some(rate), now.into_std()).is_none();
        comes_in_time.then(|| bucket.take(Some(rate)))
    }

    /// Calls that may be with the instance at once.
    #[must_use]
    pub fn outstanding_max(&self) -> u32 {
        self.outstanding_max.load(Ordering::Relaxed)
    }

    /// Another share and other limits from the next call on.
    pub(super) fn change(&self, weight: u32, outstanding_max: u32, rate: Option<Rate>) {
        self.rate.store(packed(rate), Ordering::Relaxed);
        self.weight.store(weight.max(1), Ordering::Relaxed);
        self.outstanding_max
            .store(outstanding_max, Ordering::Relaxed);
    }

    /// Calls a second that may come to the instance.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        let packed = self.rate.load(Ordering::Relaxed);
        (packed != 0).then_some(Rate {
            per_second: (packed >> 32) as u32,
            burst: packed as u32,
        })
    }

    /// Whether one more call would be too many for the instance now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let has_many = self.outstanding_max() <= self.outstanding();
        has_many || self.rate().is_some() && self.is_too_fast()
    }

    fn is_too_fast(&self) -> bool {
        let now = Instant::now().into_std();
        self.bucket().wait(self.rate(), now).is_some()
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn compared(&self, now: Instant) -> selection::Load {
        let latency_ns = self
            .latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .nanos(now.into_std());
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

/// Never 0 for a rate: there is at least one call a second.
fn packed(rate: Option<Rate>) -> u64 {
    rate.map_or(0, |rate| {
        u64::from(rate.per_second.max(1)) << 32 | u64::from(rate.burst)
    })
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if self.0.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.gate.drained();
        }
    }
}
