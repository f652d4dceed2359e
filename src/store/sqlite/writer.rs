//! The thread that writes: it commits whatever has queued in one transaction and has all of it answered then. It waits
//! for nothing else, so that many sessions share one sync and a single one does not wait for others; unless the runtime
//! is so far behind that earlier batches are still to be answered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::desk::{Broken, Desk, Halt, Sync};
use super::lock::Lock;
use super::schema::{self, BadFile};
use super::space::Space;
use crate::domain::limit::STORE_QUEUE_MAX;
use crate::domain::session::SessionId;
use crate::store::record::Session;
use crate::store::shelf::Shelf;
use crate::store::world::Room;
use crate::store::{Error, Readiness};
use crate::telemetry::metric;

/// How long a store that has failed waits until it tries its file again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);

/// The sessions as they were last committed, for those who only look.
pub(super) type Published = Arc<RwLock<BTreeMap<SessionId, Session>>>;

/// What the thread is told.
pub(super) enum Order {
    /// Carry out a call.
    Write(Box<dyn Job>),
    /// Let go of the file.
    Stop(oneshot::Sender<()>),
}

/// A call that waits.
pub(super) trait Job: Send {
    /// What its commit must be.
    fn sync(&self) -> Sync;

    /// Carries it out. An error is that of the batch.
    fn run(&mut self, desk: &mut Desk) -> Result<(), Broken>;

    /// Answers it, now that it is known what became of the batch.
    fn answer(self: Box<Self>, batch: &Result<(), Error>);
}

/// A batch and what became of it.
pub(super) struct Done {
    batch: Vec<Box<dyn Job>>,
    outcome: Result<(), Error>,
}

/// Answers whole batches, as a task of the runtime. Were they answered by the thread that writes, each caller would be
/// woken from outside, one system call for each, and the first would be on its way before the next is told: what
/// follows from one commit would not go through connections together.
pub(super) async fn answer(mut done: mpsc::Receiver<Done>) {
    while let Some(done) = done.recv().await {
        done.answer();
    }
}

impl Done {
    fn answer(self) {
        for job in self.batch {
            job.answer(&self.outcome);
        }
    }
}

/// A call with its answer.
pub(super) struct Call<T, F> {
    pub(super) sync: Sync,
    pub(super) work: Option<F>,
    pub(super) result: Option<Result<T, Error>>,
    pub(super) caller: oneshot::Sender<Result<T, Error>>,
    /// The bytes that it takes of the queue's, until it is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&mut Desk) -> Result<T, Halt> + Send,
{
    fn sync(&self) -> Sync {
        self.sync
    }

    fn run(&mut self, desk: &mut Desk) -> Result<(), Broken> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        self.result = match work(desk) {
            Ok(done) => Some(Ok(done)),
            Err(Halt::Refused(error)) => Some(Err(error)),
            Err(Halt::Broken(broken)) => return Err(broken),
        };
        Ok(())
    }

    fn answer(self: Box<Self>, batch: &Result<(), Error>) {
        let result = match (batch, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(Error::Stopped),
            (Err(error), _) => Err(error.clone()),
        };
        // Whoever has left needs no answer.
        let _ = self.caller.send(result);
    }
}

/// The writer.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) room: Room,
    /// Whether this process has had the file open.
    pub(super) is_opened: bool,
    /// None since a write has failed, or as long as there was no room to open it.
    pub(super) desk: Option<Desk>,
    /// Whether there was no room for the last batch.
    pub(super) had_no_space: bool,
    /// Sessions that survive nothing, while there is no desk.
    pub(super) not_on_disk: Vec<Shelf>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) done: mpsc::Sender<Done>,
    pub(super) published: Published,
    pub(super) readiness: watch::Sender<Readiness>,
    /// Dropped after everything else.
    pub(super) lock: Lock,
}

impl Writer {
    /// Runs until it is told to stop, or nobody can give orders any more.
    pub(super) fn run(mut self) {
        let stopped = loop {
            let more = if self.desk.is_some() {
                self.orders.blocking_recv()
            } else {
                self.wait_and_reopen()
            };
            let Some(order) = more else {
                break None;
            };
            let mut batch = Vec::new();
            let stop = self.gather(order, &mut batch);
            self.carry_out(batch);
            if stop.is_some() {
                break stop;
            }
        };
        self.end();
        if let Some(stopped) = stopped {
            // Whoever has left need not know.
            let _ = stopped.send(());
        }
    }

    /// This order and whatever has queued; up to the order to stop.
    fn gather(
        &mut self,
        first: Order,
        batch: &mut Vec<Box<dyn Job>>,
    ) -> Option<oneshot::Sender<()>> {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Write(job) => batch.push(job),
                Order::Stop(stopped) => return Some(stopped),
            }
            if STORE_QUEUE_MAX <= batch.len() {
                return None;
            }
            next = self.orders.try_recv().ok();
        }
        None
    }

    fn carry_out(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if batch.is_empty() {
            return;
        }
        let space = Space::of(&self.path);
        let is_tight = space.is_some_and(Space::is_tight);
        let makes_room = self.had_no_space || space.is_some_and(Space::is_outgrown);
        let commits = self.desk.as_ref().map(Desk::commits);
        let outcome = match &mut self.desk {
            Some(desk) => {
                desk.reserve.is_tight = is_tight;
                let room = if makes_room {
                    give_room_back(desk)
                } else {
                    Ok(())
                };
                room.and_then(|()| commit(desk, &mut batch))
            }
            None => Err(self.not_ready()),
        };
        self.had_no_space = outcome == Err(Error::NoSpace);
        match &outcome {
            Ok(()) => {
                self.publish_changes();
                // As long as clients would be refused there is no room; and what has written nothing has found none.
                let had_none = *self.readiness.borrow() == Readiness::NoSpace;
                let has_written = commits < self.desk.as_ref().map(Desk::commits);
                let has_refused = self.desk.as_mut();
                let has_refused = has_refused.is_some_and(|desk| desk.reserve.take_refused());
                if has_refused || (had_none && (is_tight || !has_written)) {
                    self.turn(Readiness::NoSpace);
                } else {
                    self.turn(Readiness::Ready);
                }
            }
            Err(Error::NoSpace) => self.turn(Readiness::NoSpace),
            Err(_) => {
                if let Some(desk) = self.desk.take() {
                    self.not_on_disk = desk.not_on_disk();
                }
                self.turn(Readiness::Failed);
            }
        }
        if let Err(unsent) = self.done.blocking_send(Done { batch, outcome }) {
            // The runtime has ended, and with it nearly everybody who waits.
            unsent.0.answer();
        }
    }

    fn publish_changes(&mut self) {
        let Some(desk) = &mut self.desk else {
            return;
        };
        let mut changed = desk.world.commit().peekable();
        if changed.peek().is_none() {
            return;
        }
        let mut published = lock(&self.published);
        for id in changed {
            match desk.world.shelf(&id) {
                Ok(shelf) => published.insert(id, shelf.book.session()),
                Err(_) => published.remove(&id),
            };
        }
    }

    fn turn(&self, state: Readiness) {
        self.readiness
            .send_if_modified(|told| std::mem::replace(told, state) != state);
    }

    /// Refuses what has queued and tries the file again, until it is whole or there is nobody left.
    fn wait_and_reopen(&mut self) -> Option<Order> {
        loop {
            match self.reopen() {
                Ok(()) => {
                    tracing::info!("the journal was opened and is whole");
                    self.turn(Readiness::Ready);
                    return self.orders.blocking_recv();
                }
                Err(error) if self.is_opened => {
                    tracing::error!(%error, "the journal cannot be used yet");
                }
                // Said at the start.
                Err(error) => tracing::debug!(%error, "the journal has no room yet"),
            }
            std::thread::sleep(REOPEN_AFTER);
            loop {
                match self.orders.try_recv() {
                    Ok(Order::Write(job)) => job.answer(&Err(self.not_ready())),
                    Ok(stop @ Order::Stop(_)) => return Some(stop),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return None,
                }
            }
        }
    }

    /// Why nothing is done without a desk.
    fn not_ready(&self) -> Error {
        if self.is_opened {
            Error::Failed(NOT_READY.into())
        } else {
            Error::NoSpace
        }
    }

    /// Opens the file anew, makes what is in it durable, and counts it again. That a log is synced is not believed
    /// after a sync of it has failed: what is in it is written into the file proper and synced there, and the log is
    /// begun anew.
    fn reopen(&mut self) -> Result<(), String> {
        if !self.is_opened {
            let first = first_desk(&self.path, self.room).map_err(|bad| bad.to_string())?;
            *lock(&self.published) = sessions(&first);
            (self.desk, self.is_opened) = (Some(first), true);
            return Ok(());
        }
        let file = schema::open_writer(&self.path).map_err(|bad| bad.to_string())?;
        let mut desk = Desk::new(file, self.room).map_err(|bad| bad.to_string())?;
        desk.checkpoint().map_err(|broken| broken.to_string())?;
        for shelf in std::mem::take(&mut self.not_on_disk) {
            desk.world.restore(shelf);
        }
        *lock(&self.published) = sessions(&desk);
        self.desk = Some(desk);
        Ok(())
    }

    /// Leaves the file as a whole, and then the lock.
    fn end(mut self) {
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Write(job) => job.answer(&Err(Error::Stopped)),
                Order::Stop(stopped) => drop(stopped),
            }
        }
        self.turn(Readiness::Stopped);
        let commits = self.desk.as_ref().map(Desk::commits);
        tracing::debug!(commits, "the journal is closed");
        drop(self.desk);
        drop(self.lock);
    }
}

/// The file as a process finds it that has just begun: what was to survive no restart has ended.
pub(super) fn first_desk(path: &Path, room: Room) -> Result<Desk, BadFile> {
    let file = schema::open_writer(path)?;
    let mut desk = Desk::new(file, room).map_err(|bad| BadFile::Damaged {
        path: path.display().to_string(),
        what: bad.to_string(),
    })?;
    desk.reopen().map_err(|broken| match broken {
        Broken::Sql(error) => BadFile::judge(path, &error),
        Broken::Foreign => BadFile::unusable(path, &broken),
    })?;
    Ok(desk)
}

/// The log may be long and what is in it short. Where there is some room again, it becomes the file's, and the log
/// begins anew; else the log would take it.
fn give_room_back(desk: &Desk) -> Result<(), Error> {
    match desk.checkpoint() {
        Ok(()) => Ok(()),
        // A reader is in its way, or there is still no room: the next one finds out.
        Err(broken) if broken.is_no_space() || broken.is_busy() => Ok(()),
        Err(broken) => {
            tracing::error!(error = %broken, "the journal has failed");
            Err(Error::Failed(broken.to_string().into()))
        }
    }
}

const NOT_READY: &str = "not ready since a write has failed";

/// One batch: everything in it is carried out and committed, or nothing is.
fn commit(desk: &mut Desk, batch: &mut [Box<dyn Job>]) -> Result<(), Error> {
    let is_durable = batch.iter().any(|job| job.sync() == Sync::Full);
    let sync = if is_durable {
        Sync::Full
    } else {
        Sync::Ordered
    };
    let began = Instant::now();
    let done = desk
        .sync(sync)
        .and_then(|()| batch.iter_mut().try_for_each(|job| job.run(desk)))
        .and_then(|()| desk.commit());
    let result = if done.is_ok() { "ok" } else { "failed" };
    metric::journal_committed(result, began.elapsed());
    done.map_err(|broken| {
        desk.roll_back();
        if broken.is_no_space() {
            tracing::warn!("there is no room for the journal");
            return Error::NoSpace;
        }
        tracing::error!(error = %broken, "the journal has failed");
        Error::Failed(broken.to_string().into())
    })
}

/// The sessions, to be published.
pub(super) fn sessions(desk: &Desk) -> BTreeMap<SessionId, Session> {
    let sessions = desk.world.shelves().map(|shelf| shelf.book.session());
    sessions
        .map(|session| (session.id().clone(), session))
        .collect()
}

fn lock(published: &Published) -> std::sync::RwLockWriteGuard<'_, BTreeMap<SessionId, Session>> {
    published.write().unwrap_or_else(PoisonError::into_inner)
}
