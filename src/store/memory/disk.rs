//! The disk that the engine in memory is told of: what everybody sees, what a crash leaves, and what waits.

use std::collections::{BTreeSet, VecDeque};

use super::super::world::World;
use super::super::{Error, Readiness};
use crate::domain::session::SessionId;

pub(super) struct Disk {
    /// What everybody sees.
    pub(super) now: World,
    /// What a crash leaves.
    pub(super) durable: World,
    /// What has changed since the last sync.
    pub(super) unsynced: BTreeSet<SessionId>,
    pub(super) queue: VecDeque<Job>,
    pub(super) state: Readiness,
}

/// What a call promises once it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    Durable,
    Relaxed,
}

pub(super) struct Job {
    pub(super) strength: Strength,
    /// Carries the call out, and gives back what answers it.
    pub(super) run: Box<dyn FnOnce(&mut World) -> Answer + Send>,
}

/// Answers a call, with its own result or with what has happened to its batch.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl Disk {
    pub(super) fn usable(&self) -> Result<(), Error> {
        match self.state {
            Readiness::Ready | Readiness::NoSpace => Ok(()),
            Readiness::Failed => Err(Error::Failed("not ready since a sync has failed".into())),
            Readiness::Stopped => Err(Error::Stopped),
        }
    }

    pub(super) fn enqueue(&mut self, job: Job) -> Result<(), Error> {
        self.usable()?;
        self.queue.push_back(job);
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        let ids = std::mem::take(&mut self.unsynced);
        self.durable.copy(&self.now, ids);
    }
}
