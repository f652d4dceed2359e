//! What is asked of a session from outside: attach, post, show, list, close.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Command, Entry, Replied, Sent};
use super::frame::Incoming;
use super::outbox::Outgoing;
use super::spawn::Deduplicated;
use super::{Sessions, draining, key_used_otherwise, storing, unknown};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::SESSION_COMMANDS_QUEUED_MAX;
use crate::domain::payload::Payload;
use crate::domain::session::{SessionId, token};
use crate::store::record::{self, Hash, PostKey, Query, Session};

/// A session as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What the store knows.
    pub session: Session,
    /// Whether a client is attached.
    pub attached: bool,
    /// When it expires if nothing more is said.
    pub expires: Option<SystemTime>,
    /// What keeps it from its instance, in words; empty when nothing does.
    pub detail: String,
}

impl Shown {
    pub(super) fn of(session: Session, entry: &Entry, now: SystemTime) -> Self {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        Self {
            session,
            attached: entry.attached.load(Ordering::Relaxed),
            expires: entry.expires().map(|at| now + left(at)),
            detail: entry.detail(),
        }
    }
}

/// Somebody who has shown the token of a session.
#[derive(Debug, Clone)]
pub struct TokenHolder {
    /// The session that it is good for.
    pub session: SessionId,
    /// The name of the key that has spawned it.
    pub caller: String,
    /// Fires when the token is good for nothing any more.
    pub void: CancellationToken,
}

/// A part of a listing.
#[derive(Debug, Clone)]
pub struct Page {
    /// The sessions, in order of id.
    pub sessions: Vec<Shown>,
    /// Ask for those after this one; none when there are no more.
    pub next: Option<SessionId>,
}

/// One message that comes by itself.
#[derive(Debug, Clone)]
pub struct Post {
    /// For this session.
    pub session: SessionId,
    /// The number of the instance's message that it replies to; 0 for none.
    pub in_reply_to: u64,
    /// What it carries.
    pub payload: Payload,
    /// The caller's own key for it, and what was posted under it.
    pub idempotency: Option<(String, [u8; 32])>,
    /// Whether the reply is waited for.
    pub wait: Wait,
}

/// Whether the reply to a message is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until the message is safe.
    Stored,
    /// Until the instance has replied.
    Replied,
}

/// What became of a message.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Where it stands among the messages for the instance.
    pub position: u64,
    /// The reply: its number among the messages for the client, and what it carries.
    pub reply: Option<(u64, Payload)>,
    /// Whether it had been accepted before.
    pub deduplicated: Deduplicated,
}

impl Sessions {
    /// What a token is good for.
    #[must_use]
    pub fn find_by_token(&self, hash: &token::Hash) -> Option<TokenHolder> {
        let registry = self
            .0
            .registry
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let (entry, void) = registry.find_by_token(hash)?;
        Some(TokenHolder {
            session: entry.terms.id.clone(),
            caller: entry.terms.caller.clone(),
            void,
        })
    }

    /// Fails unless there is such a session.
    pub fn check(&self, id: &SessionId) -> Result<(), Failure> {
        self.0.find(id).map(|_| ())
    }

    /// Attaches a client. What comes back is what it reads, with `Ready` first.
    pub async fn attach(
        &self,
        id: &SessionId,
        last_received_seq: Option<u64>,
        incoming: Incoming,
    ) -> Result<Outgoing, Failure> {
        let (reply, attached) = oneshot::channel();
        self.send(
            id,
            Command::Attach {
                last_received_seq,
                incoming,
                reply,
            },
        )?;
        attached.await.unwrap_or_else(|_| Err(self.no_answer(id)))
    }

    /// Accepts a message that comes by itself, and waits for what was asked for. What was accepted stays accepted when
    /// the caller leaves.
    pub async fn post(&self, post: Post) -> Result<Posted, Failure> {
        let id = &post.session;
        let key = post.idempotency.map(|(key, body)| PostKey {
            key,
            body: Hash(body),
        });
        if let Some(key) = &key
            && let Some(before) = self.posted_before(id, key).await?
        {
            return self.wait_on(id, before, key, post.wait).await;
        }
        let (stored, is_stored) = oneshot::channel();
        let (replied, reply) = match post.wait {
            Wait::Stored => (None, None),
            Wait::Replied => {
                let (replied, reply) = oneshot::channel();
                (Some(replied), Some(reply))
            }
        };
        self.send(
            id,
            Command::Post {
                key,
                in_reply_to: post.in_reply_to,
                payload: post.payload,
                stored,
                replied,
            },
        )?;
        let position = is_stored
            .await
            .unwrap_or_else(|_| Err(self.no_answer(id)))?;
        let reply = match reply {
            None => None,
            Some(reply) => Some(reply.await.unwrap_or_else(|_| Err(self.no_answer(id)))?),
        };
        Ok(Posted {
            position,
            reply: reply.map(|Replied { seq, payload }| (seq, payload)),
            deduplicated: Deduplicated::No,
        })
    }

    async fn posted_before(
        &self,
        id: &SessionId,
        key: &PostKey,
    ) -> Result<Option<record::Post>, Failure> {
        let found = self.0.store.find_post(id, &key.key).await;
        let found = found.map_err(|error| {
            if error == crate::store::Error::NotFound {
                unknown(id)
            } else {
                storing::failure(&error)
            }
        })?;
        match found {
            Some(post) if post.body != key.body => Err(key_used_otherwise()),
            found => Ok(found),
        }
    }

    /// Waits for the reply to what was posted before.
    async fn wait_on(
        &self,
        id: &SessionId,
        before: record::Post,
        key: &PostKey,
        wait: Wait,
    ) -> Result<Posted, Failure> {
        let position = before.position;
        let posted = |reply| Posted {
            position,
            reply,
            deduplicated: Deduplicated::Yes,
        };
        let stored = |reply: record::Reply| {
            let payload = Payload::looked_over_before(reply.payload);
            posted(Some((reply.seq, payload)))
        };
        match (wait, before.reply) {
            (Wait::Stored, _) => return Ok(posted(None)),
            (Wait::Replied, Some(reply)) => return Ok(stored(reply)),
            (Wait::Replied, None) => {}
        }
        let (replied, reply) = oneshot::channel();
        self.send(id, Command::Await { position, replied })?;
        // It may have come before anybody waited for it.
        if let Some(record::Post {
            reply: Some(reply), ..
        }) = self.posted_before(id, key).await?
        {
            return Ok(stored(reply));
        }
        let Replied { seq, payload } = reply.await.unwrap_or_else(|_| Err(self.no_answer(id)))?;
        Ok(posted(Some((seq, payload))))
    }

    /// A session as it is.
    pub async fn get(&self, id: &SessionId) -> Result<Shown, Failure> {
        let entry = self.0.find(id)?;
        let session = self.0.store.get(id).await;
        let session = session.map_err(|error| storing::failure(&error))?;
        Ok(Shown::of(session, &entry, (self.0.wall_clock)()))
    }

    /// Sessions as they are, in order of id: so many of the query at most.
    pub async fn list(&self, query: Query) -> Result<Page, Failure> {
        let size = query.limit;
        // One more tells whether there is a next page.
        let limit = size.saturating_add(1);
        let found = self.0.store.list(Query { limit, ..query }).await;
        let found = found.map_err(|error| storing::failure(&error))?;
        // Also when it is left out below: those after it are still to come.
        let last = size.checked_sub(1).and_then(|last| found.get(last));
        let next = last.filter(|_| size < found.len());
        let next = next.map(|session| session.id().clone());
        let shown = |session: Session| {
            let entry = self.0.find(session.id()).ok()?;
            Some(Shown::of(session, &entry, (self.0.wall_clock)()))
        };
        let sessions = found.into_iter().take(size).filter_map(shown).collect();
        Ok(Page { sessions, next })
    }

    /// The client has received everything up to `seq`: it is not sent again. Nobody need be attached.
    pub async fn acknowledge(&self, id: &SessionId, seq: u64) -> Result<Shown, Failure> {
        let (done, is_done) = oneshot::channel();
        self.send(id, Command::Acknowledge { seq, done })?;
        is_done.await.unwrap_or_else(|_| Err(self.no_answer(id)))?;
        self.get(id).await
    }

    /// Ends a session for both sides; no error when it had ended.
    pub async fn close(&self, id: &SessionId) -> Result<Shown, Failure> {
        let (closed, is_closed) = oneshot::channel();
        self.send(id, Command::Close { closed })?;
        is_closed
            .await
            .unwrap_or_else(|_| Err(self.no_answer(id)))?;
        self.get(id).await
    }

    fn send(&self, id: &SessionId, command: Command) -> Result<(), Failure> {
        let house = &self.0;
        if house.is_draining() {
            return Err(draining());
        }
        let entry = house.find(id)?;
        house.check_room()?;
        match entry.send(command) {
            Sent::Queued => Ok(()),
            Sent::Wakes => {
                house.start(&entry);
                Ok(())
            }
            Sent::Full => {
                let detail = format!("{SESSION_COMMANDS_QUEUED_MAX} calls wait for the session");
                Err(Failure::new(Reason::TooMany, detail))
            }
            Sent::Gone => Err(self.no_answer(id)),
        }
    }

    /// Why a session does not answer any more.
    fn no_answer(&self, id: &SessionId) -> Failure {
        if self.0.is_draining() {
            return draining();
        }
        match self.0.find(id) {
            Err(unknown) => unknown,
            Ok(_) => Failure::new(
                Reason::SessionStale,
                "the session has changed hands: try again",
            ),
        }
    }
}
