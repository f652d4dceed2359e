//! What the parts of one request and its answer share while they pass the door: how much its bytes weigh, how
//! far its reader has come, and what ends it before its time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::caller::Revoked;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::MEMORY_PUSHBACK;
use crate::domain::retry::Pushback;
use crate::memory::{self, Charge, Full, Memory, Purpose};
use crate::telemetry::trace::Within;

/// One request and its answer.
#[derive(Debug)]
pub struct Exchange {
    /// What the bytes of the request weigh.
    request: Charge,
    /// Rises when a piece of the answer is handed out, and again when the next one is asked for: odd while one
    /// waits for its reader.
    pieces: AtomicU32,
    /// Why the request did not arrive whole.
    broken: OnceLock<Failure>,
    /// Tells when the key of the caller is no longer accepted.
    key: OnceLock<Revoked>,
    /// Where what belongs to the call is recorded.
    within: Within,
}

impl Exchange {
    /// One that has just begun, and is not recorded.
    #[must_use]
    pub fn new(memory: &Memory) -> Arc<Self> {
        Self::recorded(memory, Within::default())
    }

    /// One that has just begun.
    pub(super) fn recorded(memory: &Memory, within: Within) -> Arc<Self> {
        Arc::new(Self {
            request: memory.charge(),
            pieces: AtomicU32::new(0),
            broken: OnceLock::new(),
            key: OnceLock::new(),
            within,
        })
    }

    /// Where what belongs to the call is recorded.
    pub(super) fn within(&self) -> &Within {
        &self.within
    }

    /// Takes in so many bytes of the request.
    pub(super) fn weigh(&self, bytes: usize) -> Result<(), Failure> {
        self.request
            .grow(bytes, Purpose::Request)
            .map_err(memory_full)
    }

    /// What was taken in of the request is not held any more, or somebody else answers for it.
    pub(super) fn weigh_nothing(&self) {
        self.request.settle(0);
    }

    /// Bytes of the request that are kept beyond it: with them its weight is.
    #[must_use]
    pub fn keep(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        memory::kept(bytes, Arc::clone(self))
    }

    pub(super) fn break_off(&self, failure: Failure) {
        // The first reason counts.
        let _ = self.broken.set(failure);
    }

    pub(super) fn broken(&self) -> Option<&Failure> {
        self.broken.get()
    }

    pub(super) fn note_key(&self, revoked: Revoked) {
        let _ = self.key.set(revoked);
    }

    pub(super) fn key(&self) -> Option<&Revoked> {
        self.key.get()
    }

    pub(super) fn hand_out(&self) {
        self.pieces.fetch_or(1, Ordering::Release);
    }

    pub(super) fn ask(&self) {
        let pieces = self.pieces.load(Ordering::Acquire);
        self.pieces.store(pieces + (pieces & 1), Ordering::Release);
    }

    /// Which piece waits for its reader; `None` when none does.
    pub(super) fn waiting(&self) -> Option<u32> {
        let pieces = self.pieces.load(Ordering::Acquire);
        (pieces & 1 == 1).then_some(pieces)
    }
}

/// The failure of what would not fit.
pub(super) fn memory_full(full: Full) -> Failure {
    Failure {
        pushback: Some(Pushback::Wait(MEMORY_PUSHBACK)),
        ..Failure::new(Reason::MemoryFull, full.to_string())
    }
}
