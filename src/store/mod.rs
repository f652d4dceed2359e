//! The back door to memory: what of a session outlives a connection, an instance and this process. One trait, one
//! file or folder for each engine, and one list of tests that every engine passes.
//!
//! A session has two logs. Each message gets the next number of its log; numbers are contiguous from 1 over the life
//! of the session. Acknowledgements are cumulative and never go back. What is acknowledged is removed from the old
//! end, a little later: a repeated message is recognised as long as the first one is kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::id::InstanceId;
use crate::domain::session::gone::Gone;
use crate::domain::session::{Epoch, SessionId};

mod book;
#[cfg(test)]
mod conformance;
pub mod memory;
pub mod record;
mod shelf;
pub mod sqlite;
mod world;

use record::{
    Appended, Created, Direction, Fence, Hash, NewSession, NewToClient, NewToInstance, Old, Owner,
    Post, Query, Session, Slice, ToClient, ToInstance,
};

/// A future that owns what it needs.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a session of durability NONE is closed when a store is opened again.
pub const REASON_RESTARTED: &str = "restarted";

/// What keeps sessions. Every engine passes the same tests.
///
/// **What a crash leaves.** There are two promises, and each call says which one it makes.
/// *Durable*: once the call has answered, nothing takes it back, neither a `kill -9` nor a power cut.
/// *Relaxed*: once the call has answered, every later call sees it; a crash may take it back, with everything that
/// came after it, until the next durable call on any session has answered. It is never half there.
/// Of a call that has not answered, or has answered `Failed`, either may be true; it is never half there.
///
/// For a session of durability NONE its messages and acknowledgements are in memory only. When the store is opened
/// again it is closed, with `REASON_RESTARTED`.
///
/// **Fencing.** A call that takes a `Fence` changes nothing unless its epoch and its owner are those of the session;
/// the engine decides that in the transaction that writes.
///
/// **Order.** A call is carried out after every call that has answered before its future was first polled. Who needs
/// an order between two calls awaits the first. Dropping a future does not tell whether its call is carried out.
///
/// All calls but `create` answer `NotFound` for a session that is not there, or has been forgotten.
pub trait Store: Send + Sync {
    /// Makes a session, in epoch 1. *Durable.*
    ///
    /// The same caller, spawn key and request again: the session is there, and if it is open its token is replaced.
    /// `Conflict` for the same spawn key with another request, `AlreadyExists` for an id in use, `Full` when there
    /// are too many sessions.
    fn create(&self, session: NewSession) -> Pending<Result<Created, Error>>;

    /// A session as it stands. It is not asked of a disk.
    fn get(&self, session: &SessionId) -> Pending<Result<Session, Error>>;

    /// Sessions by their ids. It is not asked of a disk.
    fn list(&self, query: Query) -> Pending<Result<Vec<Session>, Error>>;

    /// Takes all open sessions over for a run that has just begun: each has the next epoch and this owner. *Durable.*
    /// They keep their instances and their logs.
    fn recover(&self, owner: &Owner) -> Pending<Result<Vec<Session>, Error>>;

    /// Gives an open session into other hands: the next epoch, this owner and this instance, if its epoch is still
    /// the expected one; else `StaleEpoch`. The numbers of the instance begin with 1 again. *Durable.*
    fn take_over(
        &self,
        session: &SessionId,
        expected: Epoch,
        owner: &Owner,
        instance: &InstanceId,
    ) -> Pending<Result<Session, Error>>;

    /// Replaces the token of an open session. *Durable.*
    fn set_token(&self, session: &SessionId, token: Hash) -> Pending<Result<(), Error>>;

    /// Ends a session. *Durable.* What the instance has not been given is dropped; what the client has not
    /// acknowledged can still be read, acknowledged and taken. `Closed` if it is closed already.
    fn close(
        &self,
        session: &SessionId,
        fence: &Fence,
        reason: &str,
        at_ms: u64,
    ) -> Pending<Result<(), Error>>;

    /// Removes a closed session and everything about it; `Open` if it is not closed. *Durable.*
    fn forget(&self, session: &SessionId) -> Pending<Result<(), Error>>;

    /// Removes what is old enough: closed sessions, and what is remembered of posts. Answers how many sessions.
    /// *Relaxed.*
    fn forget_old(&self, old: Old) -> Pending<Result<usize, Error>>;

    /// Keeps messages of the client: all of them, or none and an error. *Durable.*
    ///
    /// A number or a post key that is there already is answered with the place of its message, if it has the same
    /// payload or body; with another one it is a `Conflict`. `Gap` when a number is left out. `Full` at a bound, and
    /// then nothing is lost: one message always fits where all before it are acknowledged.
    fn append_to_instance(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToInstance>,
    ) -> Pending<Result<Vec<Appended>, Error>>;

    /// Keeps messages of the instance, in the same way. *Durable.* The first reply that names a remembered post is
    /// remembered with it.
    fn append_to_client(
        &self,
        session: &SessionId,
        fence: &Fence,
        messages: Vec<NewToClient>,
    ) -> Pending<Result<Vec<Appended>, Error>>;

    /// Notes that the receiver has everything up to this number. Less than before changes nothing; `OverAck` for what
    /// was never sent. *Relaxed.*
    fn acknowledge(
        &self,
        session: &SessionId,
        fence: &Fence,
        direction: Direction,
        through: u64,
    ) -> Pending<Result<(), Error>>;

    /// Notes that a message to the client was given as the answer of a post. *Relaxed.* Nothing changes if it is
    /// settled already; `OverAck` if it never was there.
    fn take(&self, session: &SessionId, fence: &Fence, seq: u64) -> Pending<Result<(), Error>>;

    /// Notes that the messages of the client through this position are gone, and that the instance which goes on was
    /// not given them. *Durable.* Answers what the client is to be told of: messages of its stream, and posts, each of
    /// which ends with one that was; nothing changes if it was noted before. `OverAck` for what never was sent,
    /// `Conflict` where later ones are not kept any more either.
    fn note_gone(
        &self,
        session: &SessionId,
        fence: &Fence,
        position: u64,
    ) -> Pending<Result<(Gone, Gone), Error>>;

    /// Messages to the instance after a position, in order: as many as fit into so many bytes, and at least one if
    /// there is one. Only what is durable, where that was asked for.
    fn read_to_instance(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToInstance>, Error>>;

    /// Messages to the client after a number, in the same way. Those that were taken are among them.
    fn read_to_client(
        &self,
        session: &SessionId,
        after: u64,
        bytes_max: usize,
    ) -> Pending<Result<Slice<ToClient>, Error>>;

    /// The post with this idempotency key, as long as it is remembered.
    fn find_post(&self, session: &SessionId, key: &str) -> Pending<Result<Option<Post>, Error>>;

    /// Writes a little that means nothing, so that it is known whether there is room again. *Durable.*
    fn try_room(&self) -> Pending<Result<(), Error>>;

    /// Whether the store takes what it is given, now and whenever that changes. A call that wrote nothing says nothing
    /// about the room that there is.
    fn readiness(&self) -> watch::Receiver<Readiness>;

    /// Finishes what it was given before, and lets go of its files. Every later call answers `Stopped`.
    fn stop(&self) -> Pending<()>;
}

/// Whether a store takes what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// There was no room for the last write. The next one is tried as usual.
    NoSpace,
    /// A write or a sync has failed. Nothing is taken until the file was opened again and found whole.
    Failed,
    /// It was stopped.
    Stopped,
}

impl Readiness {
    /// Why nothing is taken; none when it is.
    #[must_use]
    pub fn complaint(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::NoSpace => Some("the disk of the journal is full"),
            Self::Failed => Some("the journal has failed"),
            Self::Stopped => Some("the journal is closed"),
        }
    }
}

/// Why a call to the store did nothing, `Failed` apart, after which nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such session.
    #[error("there is no such session")]
    NotFound,
    /// The id of a new session is in use.
    #[error("a session of this id is there already")]
    AlreadyExists,
    /// The session is over.
    #[error("the session is closed: {reason}")]
    Closed {
        /// The word it was closed with.
        reason: Arc<str>,
    },
    /// The session is not over.
    #[error("the session is open")]
    Open,
    /// Somebody else holds the session now.
    #[error("the session is in epoch {current} and another holds it")]
    StaleEpoch {
        /// The epoch of the session.
        current: Epoch,
    },
    /// The same number or key, with another body.
    #[error("the same number or key was used with another body")]
    Conflict,
    /// A number was left out.
    #[error("number {expected} is missing")]
    Gap {
        /// The number that should have come.
        expected: u64,
    },
    /// More was acknowledged than was ever sent.
    #[error("number {last} is the newest, and more was acknowledged")]
    OverAck {
        /// The newest number.
        last: u64,
    },
    /// A bound is reached.
    #[error("{0}")]
    Full(Bound),
    /// The disk is full. It was not kept, and may be tried again when there is room.
    #[error("the disk is full")]
    NoSpace,
    /// The disk has failed, or the store is not ready since then. It may have been kept or not.
    #[error("the store has failed: {0}")]
    Failed(Arc<str>),
    /// The store was stopped.
    #[error("the store is stopped")]
    Stopped,
}

/// A bound of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bound {
    /// Messages of one session and direction that are not acknowledged.
    #[error("too many messages of the session are not acknowledged")]
    Messages,
    /// Bytes of these messages.
    #[error("too many bytes of the session are not acknowledged")]
    Bytes,
    /// Replies that wait for an older message to be acknowledged.
    #[error("too many replies wait for an older message of the session to be acknowledged")]
    Held,
    /// Messages of one call.
    #[error("too many messages at once")]
    Append,
    /// Bytes of all sessions.
    #[error("too many bytes of all sessions are kept")]
    StoreBytes,
    /// Sessions.
    #[error("there are too many sessions")]
    Sessions,
}
