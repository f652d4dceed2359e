//! The engine in memory, with a disk that is only told of: it can be slow, full or broken, and a crash takes
//! everything back that was not synced. For tests and for the simulation. It has no thread, so that a run can be
//! repeated exactly.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

mod disk;

use disk::{Answer, Disk, Job, Strength};

use super::record::{
    Appended, Created, Direction, Fence, Hash, NewSession, NewToClient, NewToInstance, Old, Owner,
    Post, Query, Session, Slice, ToClient, ToInstance,
};
use super::shelf::Shelf;
use super::world::{Room, World};
use super::{Error, Pending, Readiness, Store};
use crate::domain::id::InstanceId;
use crate::domain::limit::{HELD_MAX, SESSIONS_MAX};
use crate::domain::session::gone::Gone;
use crate::domain::session::{Epoch, SessionId};

/// How the disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a sync takes. What waits for the disk meanwhile is synced together.
    pub sync_takes: Duration,
    /// Whether the engine keeps its promise. An engine that does not must be found out by tests.
    pub promise: Promise,
    /// Bytes of all sessions.
    pub bytes_max: usize,
    /// Sessions, closed ones included.
    pub sessions_max: usize,
    /// Acknowledged messages that are kept of a session which may be replayed; up to twice as many for a while.
    pub replay_kept: usize,
}

impl Settings {
    fn room(&self) -> Room {
        Room {
            bytes_max: self.bytes_max,
            sessions_max: self.sessions_max,
            replay_kept: self.replay_kept,
        }
    }
}

/// Whether a durable call waits for the sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It does.
    Kept,
    /// It answers before: a batch is synced when the next one comes, which is a lie.
    AckBeforeSync,
}

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// There is no room.
    NoSpace,
    /// Every sync fails.
    SyncFails,
    /// It answers nobody until something else is the matter, or nothing.
    Stalls,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_takes: Duration::ZERO,
            promise: Promise::Kept,
            bytes_max: usize::MAX,
            sessions_max: SESSIONS_MAX,
            replay_kept: HELD_MAX / 2,
        }
    }
}

/// A store that forgets everything with its process, or at a `crash` what a real one could forget.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// Set once this one was stopped, where it is one of several processes over the same store.
    stopped: Option<Arc<AtomicBool>>,
}

struct Shared {
    settings: Settings,
    disk: Mutex<Disk>,
    readiness: watch::Sender<Readiness>,
    fault: watch::Sender<Fault>,
}

impl MemoryStore {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::over(settings, World::new(settings.room()), Fault::None)
    }

    fn over(settings: Settings, durable: World, fault: Fault) -> Self {
        let mut durable = durable;
        durable.reopen();
        durable.commit().for_each(drop);
        let mut now = World::new(settings.room());
        now.copy(&durable, durable.ids());
        let disk = Disk {
            now,
            durable,
            unsynced: BTreeSet::new(),
            queue: VecDeque::new(),
            state: Readiness::Ready,
        };
        let shared = Shared {
            settings,
            disk: Mutex::new(disk),
            readiness: watch::Sender::new(Readiness::Ready),
            fault: watch::Sender::new(fault),
        };
        Self {
            shared: Arc::new(shared),
            stopped: None,
        }
    }

    /// The same store, as another process has it: a stop of that one stops nobody else.
    #[must_use]
    pub fn for_another_process(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            stopped: Some(Arc::default()),
        }
    }

    fn is_stopped(&self) -> bool {
        let stopped = self.stopped.as_ref();
        stopped.is_some_and(|stopped| stopped.load(Ordering::Relaxed))
    }

    /// The process is killed and the power is cut. This store has failed from now on, whoever holds it; the one that
    /// is given back has what was synced.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut disk = self.shared.lock();
        let durable = std::mem::replace(&mut disk.durable, World::new(Room::default()));
        disk.queue.clear();
        let fault = self.shared.fault();
        self.shared.turn(&mut disk, Readiness::Failed);
        drop(disk);
        Self::over(self.shared.settings, durable, fault)
    }

    /// A session as a crash would leave it now; none if a crash would leave nothing of it.
    #[must_use]
    pub fn after_a_crash(&self, session: &SessionId) -> Option<Session> {
        let disk = self.shared.lock();
        let shelf = disk.durable.shelf(session).ok()?;
        Some(shelf.book.session())
    }

    /// Something is wrong with the disk from now on, or nothing any more.
    pub fn set_fault(&self, fault: Fault) {
        let mut disk = self.shared.lock();
        self.shared.fault.send_replace(fault);
        if fault == Fault::None && disk.state == Readiness::Failed {
            self.shared.turn(&mut disk, Readiness::Ready);
        }
    }

    /// Carries out a call in its turn.
    fn call<T: Send + 'static>(
        &self,
        strength: Strength,
        call: impl FnOnce(&mut World) -> Result<T, Error> + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let this = self.clone();
        Box::pin(async move {
            if this.is_stopped() {
                return Err(Error::Stopped);
            }
            let shared = this.shared;
            let (sender, mut answered) = oneshot::channel();
            let run = Box::new(move |world: &mut World| -> Answer {
                let result = call(world);
                Box::new(move |batch: Result<(), Error>| {
                    // Whoever has left needs no answer.
                    let _ = sender.send(batch.and(result));
                })
            });
            shared.lock().enqueue(Job { strength, run })?;
            if !shared.settings.sync_takes.is_zero() {
                tokio::time::sleep(shared.settings.sync_takes).await;
            }
            shared.answers().await;
            shared.commit();
            let gone = || Error::Failed("the process has crashed".into());
            answered.try_recv().map_err(|_| gone())?
        })
    }

    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&World) -> Result<T, Error> + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let this = self.clone();
        Box::pin(async move {
            if this.is_stopped() {
                return Err(Error::Stopped);
            }
            this.shared.answers().await;
            let disk = this.shared.lock();
            disk.usable()?;
            look(&disk.now)
        })
    }

    fn change<T: Send + 'static>(
        &self,
        strength: Strength,
        id: &SessionId,
        change: impl FnOnce(&mut Shelf, usize) -> Result<T, Error> + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let id = id.clone();
        self.call(strength, move |world| world.change(&id, change))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    /// Waits as long as the disk stalls.
    async fn answers(&self) {
        // Only then: whoever waits for a change draws lots with all others that do.
        if self.fault() == Fault::Stalls {
            let mut fault = self.fault.subscribe();
            // It ends with whoever waits.
            let _ = fault.wait_for(|fault| *fault != Fault::Stalls).await;
        }
    }

    fn turn(&self, disk: &mut Disk, state: Readiness) {
        disk.state = state;
        self.readiness
            .send_if_modified(|told| std::mem::replace(told, state) != state);
    }

    /// Carries out whatever has queued, in one batch.
    fn commit(&self) {
        let mut disk = self.lock();
        if self.settings.promise == Promise::AckBeforeSync {
            disk.sync();
        }
        let mut answers = Vec::new();
        let mut strength = Strength::Relaxed;
        while let Some(job) = disk.queue.pop_front() {
            if job.strength == Strength::Durable {
                strength = Strength::Durable;
            }
            answers.push((job.run)(&mut disk.now));
        }
        if answers.is_empty() {
            return;
        }
        let batch = match self.fault() {
            Fault::None | Fault::Stalls => Ok(()),
            Fault::NoSpace => Err((Error::NoSpace, Readiness::NoSpace)),
            Fault::SyncFails => Err((Error::Failed("a sync has failed".into()), Readiness::Failed)),
        };
        match &batch {
            Ok(()) => {
                let changed = disk.now.commit();
                disk.unsynced.extend(changed);
                if strength == Strength::Durable && self.settings.promise == Promise::Kept {
                    disk.sync();
                }
                self.turn(&mut disk, Readiness::Ready);
            }
            Err((_, state)) => {
                disk.now.roll_back();
                self.turn(&mut disk, *state);
            }
        }
        for answer in answers {
            answer(batch.clone().map_err(|(error, _)| error));
        }
    }
}

impl Store for MemoryStore {
    fn create(&self, session: NewSession) -> Pending<Result<Created, Error>> {
        self.call(Strength::Durable, |world| world.create(session))
    }

    fn get(&self, session: &SessionId) -> Pending<Result<Session, Error>> {
        let id = session.clone();
        self.look(move |world| Ok(world.shelf(&id)?.book.session()))
    }

    fn list(&self, query: Query) -> Pending<Result<Vec<Session>, Error>> {
        self.look(move |world| Ok(world.list(&query)))
    }

    fn recover(&self, owner: &Owner) -> Pending<Result<Vec<Session>, Error>> {
        let owner = owner.clone();
        self.call(Strength::Durable, move |world| Ok(world.recover(&owner)))
    }

    fn take_over(
        &self,
        session: &SessionId,
        expected: Epoch,
        owner: &Owner,
        instance: &InstanceId,
    ) -> Pending<Result<Session, Error>> {
        let (owner, instance) = (owner.clone(), instance.clone());
        self.change(Strength::Durable, session, move |shelf, _| {
            shelf.book.take_over(expected, &owner, Some(&instance))?;
            Ok(shelf.book.session())
        })
    }

    fn set_token(&self, session: &SessionId, token: Hash) -> Pending<Result<(), Error>> {
        self.change(Strength::Durable, session, move |shelf, _| {
            shelf.book.set_token(token)
        })
    }

    fn close(
        &self,
        session: &SessionId,
        fence: &Fence,
        reason: &str,
        at_ms: u64,
    ) -> Pending<Result<(), Error>> {
        let (fence, reason) = (fence.clone(), reason.to_owned());
        self.change(Strength::Durable, session, move |shelf, _| {
            shelf.book.close(&fence, &reason, at_ms)
        })
    }

    fn forget(&self, session: &SessionId) -> Pending<Result<(), Error>> {
        let id = session.clone();
        self.call(Strength::Durable, move |world| world.forget(&id))
    }

    fn try_room(&self) -> Pending<Result<(), Error>> {
        self.call(Strength::Durable, |_| Ok(()))
    }

    fn forget_old(&self, old: Old) -> Pending<Result<usize, Error>> {
        self.call(Strength::Relaxed, move |world| Ok(world.forget_old(old)))
    }

    fn append_to_instance(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToInstance>,
    ) -> Pending<Result<Vec<Appended>, Error>> {
        let (id, fence) = (session.clone(), fence.clone());
        self.call(Strength::Durable, move |world| {
            world.change_for_client(&id, |shelf, free| {
                shelf.append_to_instance(&fence, messages, free)
            })
        })
    }

    fn append_to_client(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToClient>,
    ) -> Pending<Result<Vec<Appended>, Error>> {
        let fence = fence.clone();
        self.change(Strength::Durable, session, move |shelf, free| {
            shelf.append_to_client(&fence, messages, free)
        })
    }

    fn acknowledge(
        &self,
        session: &SessionId,
        fence: &Fence,
        direction: Direction,
        through: u64,
    ) -> Pending<Result<(), Error>> {
        let fence = fence.clone();
        self.change(Strength::Relaxed, session, move |shelf, _| {
            shelf.book.acknowledge(&fence, direction, through)
        })
    }

    fn take(&self, session: &SessionId, fence: &Fence, seq: u64) -> Pending<Result<(), Error>> {
        let fence = fence.clone();
        self.change(Strength::Relaxed, session, move |shelf, _| {
            shelf.take(&fence, seq)
        })
    }

    fn note_gone(
        &self,
        session: &SessionId,
        fence: &Fence,
        position: u64,
    ) -> Pending<Result<(Gone, Gone), Error>> {
        let fence = fence.clone();
        self.change(Strength::Durable, session, move |shelf, _| {
            shelf.book.note_gone(&fence, position)
        })
    }

    fn read_to_instance(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToInstance>, Error>> {
        let id = session.clone();
        self.look(move |world| Ok(world.shelf(&id)?.read_to_instance(after, bytes_max)))
    }

    fn read_to_client(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToClient>, Error>> {
        let id = session.clone();
        self.look(move |world| Ok(world.shelf(&id)?.read_to_client(after, bytes_max)))
    }

    fn find_post(&self, session: &SessionId, key: &str) -> Pending<Result<Option<Post>, Error>> {
        let (id, key) = (session.clone(), key.to_owned());
        self.look(move |world| Ok(world.shelf(&id)?.find_post(&key)))
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.readiness.subscribe()
    }

    fn stop(&self) -> Pending<()> {
        let Self { shared, stopped } = self.clone();
        Box::pin(async move {
            shared.commit();
            if let Some(stopped) = stopped {
                stopped.store(true, Ordering::Relaxed);
                return;
            }
            let mut disk = shared.lock();
            disk.sync();
            shared.turn(&mut disk, Readiness::Stopped);
        })
    }
}
