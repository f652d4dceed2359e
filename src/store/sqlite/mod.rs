//! The embedded engine: one SQLite file in a data directory, one thread that writes and one that reads.
//!
//! The writer counts all sessions in memory and decides there; messages are in the file only. Sessions of durability
//! NONE pass the same thread, and their messages stay in memory.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::record::{
    Appended, Created, Direction, Fence, Hash, NewSession, NewToClient, NewToInstance, Old, Owner,
    Post, Query, Session, Slice, ToClient, ToInstance,
};
use super::shelf::Shelf;
use super::world::Room;
use super::{Error, Pending, Readiness, Store};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    HELD_MAX, SESSIONS_MAX, STORE_BATCHES_UNANSWERED_MAX, STORE_BYTES_MAX, STORE_QUEUE_BYTES_MAX,
    STORE_QUEUE_MAX,
};
use crate::domain::session::gone::Gone;
use crate::domain::session::{Durability, Epoch, SessionId};
use crate::tasks::Tasks;

mod desk;
pub mod inspect;
mod lock;
mod reader;
mod rows;
mod schema;
mod space;
#[cfg(test)]
mod tests;
mod writer;

pub use lock::Unavailable;
pub use schema::BadFile;

use desk::{Desk, Halt, Sync};
use writer::{Call, Writer};

/// How much a journal keeps.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes of all sessions, from 1 MiB on.
    pub bytes_max: usize,
    /// Sessions, closed ones included.
    pub sessions_max: usize,
}

impl Settings {
    fn room(&self) -> Room {
        Room {
            bytes_max: self.bytes_max,
            sessions_max: self.sessions_max,
            replay_kept: HELD_MAX / 2,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bytes_max: STORE_BYTES_MAX,
            sessions_max: SESSIONS_MAX,
        }
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be had.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The file cannot be used.
    #[error(transparent)]
    BadFile(#[from] BadFile),
    /// A thread cannot be started.
    #[error("a thread for the journal cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A journal that is open. It is let go of by `stop`, or when the last clone is dropped.
#[derive(Clone)]
pub struct SqliteStore {
    writer: mpsc::Sender<writer::Order>,
    reader: mpsc::Sender<reader::Order>,
    /// Bytes of the calls that wait.
    room: Arc<Semaphore>,
    sessions: writer::Published,
    readiness: watch::Receiver<Readiness>,
}

impl SqliteStore {
    /// Opens the journal of a data directory, or makes one. It blocks: a journal is checked and counted first. To be
    /// called within a runtime, in which its calls are answered.
    pub fn open(directory: &Path, settings: Settings, tasks: &Tasks) -> Result<Self, OpenError> {
        let lock = lock::Lock::take(directory)?;
        let path = lock::journal(directory);
        let desk = match writer::first_desk(&path, settings.room()) {
            Ok(desk) => Some(desk),
            // Whoever serves tasks need not wait for that. The writer tries it again.
            Err(no_room @ BadFile::NoRoom { .. }) => {
                tracing::error!(error = %no_room, "the journal cannot be used yet");
                None
            }
            Err(bad) => return Err(bad.into()),
        };
        let (there, ready) = match &desk {
            Some(desk) => (writer::sessions(desk), Readiness::Ready),
            None => (BTreeMap::new(), Readiness::NoSpace),
        };
        let sessions = Arc::new(RwLock::new(there));
        let (orders, writer_orders) = mpsc::channel(STORE_QUEUE_MAX);
        let (state, readiness) = watch::channel(ready);
        let (done, to_answer) = mpsc::channel(STORE_BATCHES_UNANSWERED_MAX);
        tasks.spawn(writer::answer(to_answer));
        let writer = Writer {
            path: path.clone(),
            room: settings.room(),
            is_opened: desk.is_some(),
            desk,
            had_no_space: false,
            not_on_disk: Vec::new(),
            orders: writer_orders,
            done,
            published: Arc::clone(&sessions),
            readiness: state,
            lock,
        };
        tasks.spawn_thread("journal-writer", move || writer.run())?;
        let (reader, reader_orders) = mpsc::channel(STORE_QUEUE_MAX);
        tasks.spawn_thread("journal-reader", move || reader::run(path, reader_orders))?;
        Ok(Self {
            writer: orders,
            reader,
            room: Arc::new(Semaphore::new(STORE_QUEUE_BYTES_MAX)),
            sessions,
            readiness,
        })
    }

    /// Where the journal of a data directory is.
    #[must_use]
    pub fn path(directory: &Path) -> PathBuf {
        lock::journal(directory)
    }

    fn write<T: Send + 'static>(
        &self,
        sync: Sync,
        bytes: usize,
        work: impl FnOnce(&mut Desk) -> Result<T, Halt> + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let (queue, room) = (self.writer.clone(), Arc::clone(&self.room));
        Box::pin(async move {
            let bytes = u32::try_from(bytes.clamp(1, STORE_QUEUE_BYTES_MAX)).unwrap_or(1);
            let room = room.acquire_many_owned(bytes).await;
            let (caller, answer) = oneshot::channel();
            let job = Call {
                sync,
                work: Some(work),
                result: None,
                caller,
                _room: room.map_err(|_| Error::Stopped)?,
            };
            let order = writer::Order::Write(Box::new(job));
            queue.send(order).await.map_err(|_| Error::Stopped)?;
            answer.await.unwrap_or(Err(Error::Stopped))
        })
    }

    /// Changes one session where nothing but its row is written.
    fn change<T: Send + 'static>(
        &self,
        sync: Sync,
        id: &SessionId,
        change: impl FnOnce(&mut Shelf) -> Result<T, Error> + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let id = id.clone();
        self.write(sync, 0, move |desk| {
            desk.world
                .change(&id, |shelf, _| change(shelf).map_err(Halt::from))
        })
    }

    /// Reads of a session: in the file, or where its messages are in memory.
    fn read<T: Send + 'static>(
        &self,
        id: &SessionId,
        in_file: impl FnOnce(&rusqlite::Connection, &SessionId) -> rusqlite::Result<Result<T, Error>>
        + Send
        + 'static,
        in_memory: impl FnOnce(&Shelf) -> T + Send + 'static,
    ) -> Pending<Result<T, Error>> {
        let id = id.clone();
        let durability = self
            .sessions()
            .get(&id)
            .map(|session| session.terms.durability);
        match durability {
            None => {
                let stopped = self.writer.is_closed();
                Box::pin(async move {
                    Err(if stopped {
                        Error::Stopped
                    } else {
                        Error::NotFound
                    })
                })
            }
            Some(Durability::None) => self.write(Sync::Ordered, 0, move |desk| {
                Ok(in_memory(desk.world.shelf(&id)?))
            }),
            Some(Durability::Durable) => {
                let reader = self.reader.clone();
                Box::pin(async move {
                    let (caller, answer) = oneshot::channel();
                    let read = move |reader: &mut reader::Reader| {
                        // Whoever has left needs no answer.
                        let _ = caller.send(reader.read(|file| in_file(file, &id)));
                    };
                    let order = reader::Order::Read(Box::new(read));
                    reader.send(order).await.map_err(|_| Error::Stopped)?;
                    answer.await.unwrap_or(Err(Error::Stopped))
                })
            }
        }
    }

    fn sessions(&self) -> RwLockReadGuard<'_, BTreeMap<SessionId, Session>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be looked up in memory; not after a stop.
    fn look<T: Send + 'static>(&self, found: Result<T, Error>) -> Pending<Result<T, Error>> {
        let stopped = self.writer.is_closed();
        Box::pin(async move { if stopped { Err(Error::Stopped) } else { found } })
    }
}

impl Store for SqliteStore {
    fn create(&self, session: NewSession) -> Pending<Result<Created, Error>> {
        self.write(Sync::Full, 0, |desk| desk.create(session))
    }

    fn get(&self, session: &SessionId) -> Pending<Result<Session, Error>> {
        let found = self.sessions().get(session).cloned();
        self.look(found.ok_or(Error::NotFound))
    }

    fn list(&self, query: Query) -> Pending<Result<Vec<Session>, Error>> {
        let after = query.after.as_ref().map_or(Unbounded, Excluded);
        let sessions = self.sessions();
        let later = sessions.range((after, Unbounded)).map(|(_, found)| found);
        let selected = later.filter(|session| query.selects(session));
        let page = selected.take(query.limit).cloned().collect();
        drop(sessions);
        self.look(Ok(page))
    }

    fn recover(&self, owner: &Owner) -> Pending<Result<Vec<Session>, Error>> {
        let owner = owner.clone();
        self.write(Sync::Full, 0, move |desk| Ok(desk.world.recover(&owner)))
    }

    fn take_over(
        &self,
        session: &SessionId,
        expected: Epoch,
        owner: &Owner,
        instance: &InstanceId,
    ) -> Pending<Result<Session, Error>> {
        let (owner, instance) = (owner.clone(), instance.clone());
        self.change(Sync::Full, session, move |shelf| {
            shelf.book.take_over(expected, &owner, Some(&instance))?;
            Ok(shelf.book.session())
        })
    }

    fn set_token(&self, session: &SessionId, token: Hash) -> Pending<Result<(), Error>> {
        self.change(Sync::Full, session, move |shelf| {
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
        self.change(Sync::Full, session, move |shelf| {
            shelf.book.close(&fence, &reason, at_ms)
        })
    }

    fn forget(&self, session: &SessionId) -> Pending<Result<(), Error>> {
        let id = session.clone();
        self.write(Sync::Full, 0, move |desk| Ok(desk.world.forget(&id)?))
    }

    fn try_room(&self) -> Pending<Result<(), Error>> {
        self.write(Sync::Full, 0, |desk| Ok(desk.try_room()?))
    }

    fn forget_old(&self, old: Old) -> Pending<Result<usize, Error>> {
        self.write(Sync::Ordered, 0, move |desk| Ok(desk.world.forget_old(old)))
    }

    fn append_to_instance(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToInstance>,
    ) -> Pending<Result<Vec<Appended>, Error>> {
        let (id, fence) = (session.clone(), fence.clone());
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        self.write(Sync::Full, bytes, move |desk| {
            desk.append_to_instance(&id, &fence, messages)
        })
    }

    fn append_to_client(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToClient>,
    ) -> Pending<Result<Vec<Appended>, Error>> {
        let (id, fence) = (session.clone(), fence.clone());
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        self.write(Sync::Full, bytes, move |desk| {
            desk.append_to_client(&id, &fence, messages)
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
        self.change(Sync::Ordered, session, move |shelf| {
            shelf.book.acknowledge(&fence, direction, through)
        })
    }

    fn take(&self, session: &SessionId, fence: &Fence, seq: u64) -> Pending<Result<(), Error>> {
        let (id, fence) = (session.clone(), fence.clone());
        self.write(Sync::Ordered, 0, move |desk| desk.take(&id, &fence, seq))
    }

    fn note_gone(
        &self,
        session: &SessionId,
        fence: &Fence,
        position: u64,
    ) -> Pending<Result<(Gone, Gone), Error>> {
        let fence = fence.clone();
        self.change(Sync::Full, session, move |shelf| {
            shelf.book.note_gone(&fence, position)
        })
    }

    fn read_to_instance(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToInstance>, Error>> {
        self.read(
            session,
            move |file, id| reader::to_instance(file, id, after, bytes_max),
            move |shelf| shelf.read_to_instance(after, bytes_max),
        )
    }

    fn read_to_client(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToClient>, Error>> {
        self.read(
            session,
            move |file, id| reader::to_client(file, id, after, bytes_max),
            move |shelf| shelf.read_to_client(after, bytes_max),
        )
    }

    fn find_post(&self, session: &SessionId, key: &str) -> Pending<Result<Option<Post>, Error>> {
        let (in_file, in_memory) = (key.to_owned(), key.to_owned());
        self.read(
            session,
            move |file, id| reader::post(file, id, &in_file),
            move |shelf| shelf.find_post(&in_memory),
        )
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    fn stop(&self) -> Pending<()> {
        let (writer, reader) = (self.writer.clone(), self.reader.clone());
        Box::pin(async move {
            // The reader first, so that the writer is the last to let go and leaves one whole file.
            let (told, stopped) = oneshot::channel();
            if reader.send(reader::Order::Stop(told)).await.is_ok() {
                let _ = stopped.await;
            }
            let (told, stopped) = oneshot::channel();
            if writer.send(writer::Order::Stop(told)).await.is_ok() {
                let _ = stopped.await;
            }
        })
    }
}
