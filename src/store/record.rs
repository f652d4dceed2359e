//! What the store keeps: sessions, the messages of their two logs, and the posts that are remembered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::id::InstanceId;
use crate::domain::selection::Policy;
use crate::domain::session::gone::Gone;
use crate::domain::session::{Durability, Epoch, LossPolicy, SessionId};

/// Names one run of one orchestrator. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner with this name; no other run may have the same one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who writes. A call with an older one changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The epoch that the writer holds.
    pub epoch: Epoch,
    /// The run that the writer belongs to.
    pub owner: Owner,
}

/// SHA-256 of a secret or of a request. Never printed: it could be compared with guesses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// What a session was spawned with, and keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Its name.
    pub id: SessionId,
    /// The name of the key that it was spawned with.
    pub caller: String,
    /// The caller's idempotency key, if it gave one.
    pub spawn: Option<SpawnKey>,
    /// The target expressions that it was placed with; empty means the whole fleet.
    pub targets: Vec<String>,
    /// How its instance is chosen out of them.
    pub selection: Policy,
    /// What becomes of it when its instance is lost.
    pub loss_policy: LossPolicy,
    /// What its messages survive.
    pub durability: Durability,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// How long it may be silent.
    pub idle_ttl: Duration,
    /// How long it may live at all.
    pub lifetime: Option<Duration>,
    /// When it was made; milliseconds since 1970 by the wall clock.
    pub created_ms: u64,
}

/// The idempotency key of a spawn; it counts within one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnKey {
    /// The caller's word.
    pub key: String,
    /// What was asked for under it.
    pub request: Hash,
}

/// A session that is to be made.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// What it keeps.
    pub terms: Terms,
    /// The hash of its token.
    pub token: Hash,
    /// The instance that it is pinned to.
    pub instance: InstanceId,
    /// The run that makes it.
    pub owner: Owner,
}

/// A session as it stands. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it was spawned with.
    pub terms: Arc<Terms>,
    /// The hash of its token.
    pub token: Hash,
    /// The instance that it is pinned to.
    pub instance: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The run that owns it.
    pub owner: Owner,
    /// Whether it is over.
    pub state: State,
    /// The epoch in which the newest message to the client came; none when there was none.
    pub spoken: Option<Epoch>,
    /// What the log has no more and its instance was never given.
    pub gone: Gone,
    /// The same of what was posted, by positions.
    pub gone_posts: Gone,
    /// The messages of the client.
    pub to_instance: Counters,
    /// The messages of the instance.
    pub to_client: Counters,
}

impl Session {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.terms.id
    }

    /// The counters of one of its logs.
    #[must_use]
    pub fn counters(&self, direction: Direction) -> Counters {
        match direction {
            Direction::ToInstance => self.to_instance,
            Direction::ToClient => self.to_client,
        }
    }
}

/// Whether a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is not.
    Open,
    /// It is, and is remembered so that its client learns why.
    Closed {
        /// A word for why, as `close` was given it.
        reason: Arc<str>,
        /// When; milliseconds since 1970 by the wall clock.
        at_ms: u64,
    },
}

/// One of the two logs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the client sends and posts.
    ToInstance,
    /// What the instance says.
    ToClient,
}

/// How far one log has come. All numbers but the sender's are those of the log itself, contiguous from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The newest message; 0 when there was none.
    pub last: u64,
    /// What the receiver has acknowledged, cumulative.
    pub acked: u64,
    /// The newest message before which, itself included, all are acknowledged or taken. Never less than `acked`.
    pub settled: u64,
    /// The newest message that is not kept any more; all before it are gone too. Never more than `settled`.
    pub removed: u64,
    /// The newest of those that are not kept any more and came by themselves; 0 for none. The instance posts nothing.
    pub removed_post: u64,
    /// The sender's own number of its newest message: the client's over the life of the session, or the instance's
    /// within this epoch.
    pub sender_seq: u64,
}

/// Where a message to the instance came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The client's stream, where it has this number, contiguous from 1.
    Stream {
        /// The client's own number.
        seq: u64,
    },
    /// A post, which has no number.
    Post {
        /// Its idempotency key, if it has one.
        key: Option<PostKey>,
        /// When it was posted; milliseconds since 1970 by the wall clock. It says when it may be forgotten.
        at_ms: u64,
    },
}

/// The idempotency key of a post; it counts within its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostKey {
    /// The caller's word.
    pub key: String,
    /// What was posted under it.
    pub body: Hash,
}

/// A message to the instance that is to be kept.
#[derive(Debug, Clone)]
pub struct NewToInstance {
    /// Where it came from.
    pub origin: Origin,
    /// The number in the log to the client that it answers, 0 for none. Passed on and not looked into.
    pub in_reply_to: u64,
    /// What it says.
    pub payload: Bytes,
}

/// A message to the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToInstance {
    /// Its number, which the instance sees.
    pub position: u64,
    /// The client's own number; 0 for a post.
    pub client_seq: u64,
    /// The number in the log to the client that it answers, 0 for none.
    pub in_reply_to: u64,
    /// What it says.
    pub payload: Bytes,
}

/// A message to the client that is to be kept.
#[derive(Debug, Clone)]
pub struct NewToClient {
    /// The instance's own number, contiguous from 1 within the epoch.
    pub instance_seq: u64,
    /// The position that it answers, 0 for none.
    pub in_reply_to: u64,
    /// What it says.
    pub payload: Bytes,
}

/// What a message to the client answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// Nothing.
    Nothing,
    /// A message of the client's stream.
    Stream {
        /// Its position.
        position: u64,
        /// The client's own number.
        seq: u64,
    },
    /// A post that is remembered.
    Post {
        /// Its position.
        position: u64,
    },
    /// A message older than a post that was forgotten, or one that never was: nobody knows any more which it is.
    Unknown {
        /// The position, as the instance said it.
        position: u64,
    },
}

/// A message to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToClient {
    /// Its number, which the client sees.
    pub seq: u64,
    /// The epoch in which it came.
    pub epoch: Epoch,
    /// The instance's own number within that epoch.
    pub instance_seq: u64,
    /// What it answers.
    pub reply_to: ReplyTo,
    /// Whether it was given as the answer of a post, which counts as acknowledged.
    pub taken: Taken,
    /// What it says.
    pub payload: Bytes,
}

/// Whether a message was given as the answer of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was.
    Yes,
    /// It was not.
    No,
}

/// What became of one appended message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is kept, with this number.
    New(u64),
    /// It was there already, with this number and this body.
    Repeated(u64),
    /// Its sender's number was taken long ago, by a message that is not kept any more.
    Forgotten,
}

/// What became of a spawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The session was made.
    New(Session),
    /// The same request made it before. If it is still open, it has the new token now.
    Repeated(Session),
}

/// Messages of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice<T> {
    /// The newest message that was not kept any more when these were read: what was asked for up to here is gone.
    pub removed: u64,
    /// The messages, in order and without a hole.
    pub messages: Vec<T>,
}

/// A post that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Its position in the log to the instance.
    pub position: u64,
    /// What was posted.
    pub body: Hash,
    /// The reply that named it, if there is one.
    pub reply: Option<Reply>,
}

/// The reply to a post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its number in the log to the client.
    pub seq: u64,
    /// What it says.
    pub payload: Bytes,
}

/// Which sessions are asked for. What is `None` or empty selects nothing out.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only ids after this one, in the order of their bytes.
    pub after: Option<SessionId>,
    /// Only sessions in this state.
    pub state: Option<StateFilter>,
    /// Only sessions pinned to this instance.
    pub instance: Option<InstanceId>,
    /// Only sessions with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only sessions of this caller.
    pub caller: Option<String>,
    /// As many at most.
    pub limit: usize,
}

/// A state to select by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// Open sessions.
    Open,
    /// Closed sessions.
    Closed,
}

impl Query {
    /// Whether a session is asked for, its id apart.
    #[must_use]
    pub fn selects(&self, session: &Session) -> bool {
        let state = match (self.state, &session.state) {
            (None, _)
            | (Some(StateFilter::Open), State::Open)
            | (Some(StateFilter::Closed), State::Closed { .. }) => true,
            (Some(StateFilter::Open), State::Closed { .. })
            | (Some(StateFilter::Closed), State::Open) => false,
        };
        let terms = &session.terms;
        state
            && self
                .instance
                .as_ref()
                .is_none_or(|id| *id == session.instance)
            && self.caller.as_ref().is_none_or(|by| *by == terms.caller)
            && self
                .labels
                .iter()
                .all(|(name, value)| terms.labels.get(name) == Some(value))
    }
}

/// What is old enough to be forgotten; milliseconds since 1970 by the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Old {
    /// Sessions that were closed before this.
    pub closed_before_ms: u64,
    /// Posts that were posted before this.
    pub posted_before_ms: u64,
}
