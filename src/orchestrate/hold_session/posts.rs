//! Messages that come to a session by themselves, and those who wait for the replies.

use tokio::sync::oneshot;

use super::closing::Life;
use super::entry::Replied;
use super::owner::Owner;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{SESSION_POSTS_KNOWN_MAX, SESSION_POSTS_WAITING_MAX};
use crate::domain::payload::Payload;
use crate::memory::Purpose;
use crate::store::record::PostKey;

/// Somebody who waits for what was posted.
pub(super) struct Waiting {
    position: u64,
    /// To be told that it is safe.
    stored: Option<oneshot::Sender<Result<u64, Failure>>>,
    /// To be told the reply.
    replied: Option<oneshot::Sender<Result<Replied, Failure>>>,
}

/// A post whose key is known here, so that one that comes again at once is recognised before it is stored.
pub(super) struct KnownPost {
    key: PostKey,
    position: u64,
}

impl Waiting {
    fn is_over(&self) -> bool {
        let left = |gone: Option<bool>| gone.unwrap_or(true);
        left(self.stored.as_ref().map(oneshot::Sender::is_closed))
            && left(self.replied.as_ref().map(oneshot::Sender::is_closed))
    }
}

impl Owner {
    pub(super) fn post(
        &mut self,
        key: Option<PostKey>,
        in_reply_to: u64,
        payload: Payload,
        stored: oneshot::Sender<Result<u64, Failure>>,
        replied: Option<oneshot::Sender<Result<Replied, Failure>>>,
    ) {
        let position = self.accept_post(key, in_reply_to, payload);
        match position {
            Ok(position) => {
                self.waiting.push(Waiting {
                    position,
                    stored: Some(stored),
                    replied,
                });
                // It may be one that has come before, and is safe.
                self.posts_are_safe();
                self.reply_if_there(position);
            }
            // Whoever asked may have left.
            Err(failure) => drop(stored.send(Err(failure))),
        }
    }

    /// Whether one more may wait; not once the session is over.
    fn may_wait(&mut self) -> Result<(), Failure> {
        match self.life {
            Life::Open => {}
            Life::Ending { end, .. } | Life::Over { end, .. } => return Err(super::closed(end)),
        }
        self.waiting.retain(|waiting| !waiting.is_over());
        if SESSION_POSTS_WAITING_MAX <= self.waiting.len() {
            let detail = format!("{SESSION_POSTS_WAITING_MAX} posts wait for their replies");
            return Err(Failure::new(Reason::TooMany, detail));
        }
        Ok(())
    }

    fn accept_post(
        &mut self,
        key: Option<PostKey>,
        in_reply_to: u64,
        payload: Payload,
    ) -> Result<u64, Failure> {
        self.may_wait()?;
        if let Some(key) = &key
            && let Some(known) = self
                .known_posts
                .iter()
                .find(|known| known.key.key == key.key)
        {
            return if known.key.body == key.body {
                Ok(known.position)
            } else {
                Err(super::key_used_otherwise())
            };
        }
        if !self.weight.has_room(Purpose::Request) {
            return Err(super::weight::full());
        }
        let position = self
            .to_instance
            .post(in_reply_to, payload)
            .map_err(|full| Failure::new(Reason::SessionFull, full.to_string()))?;
        if let Some(key) = key {
            // One that is not stored yet is known here only, and is stored with its key.
            let stored = self.to_instance.stored();
            while SESSION_POSTS_KNOWN_MAX <= self.known_posts.len()
                && self
                    .known_posts
                    .front()
                    .is_some_and(|known| known.position <= stored)
            {
                self.known_posts.pop_front();
            }
            self.known_posts.push_back(KnownPost { key, position });
        }
        Ok(position)
    }

    pub(super) fn await_reply(
        &mut self,
        position: u64,
        replied: oneshot::Sender<Result<Replied, Failure>>,
    ) {
        if let Err(refused) = self.may_wait() {
            drop(replied.send(Err(refused)));
            return;
        }
        self.waiting.push(Waiting {
            position,
            stored: None,
            replied: Some(replied),
        });
        self.reply_if_there(position);
    }

    fn reply_if_there(&mut self, position: u64) {
        let stored = self.to_client.stored();
        let found = self.to_client.reply_to_post(position);
        let Some(found) = found.filter(|found| found.seq <= stored) else {
            return;
        };
        let (seq, payload) = (found.seq, found.payload.clone());
        self.give_reply(position, seq, &payload);
    }

    /// The key under which the message at this position was posted.
    pub(super) fn key_of_post(&self, position: u64) -> Option<PostKey> {
        let known = self
            .known_posts
            .iter()
            .find(|known| known.position == position);
        known.map(|known| known.key.clone())
    }

    /// Tells those who wait for it that what they have posted is safe.
    pub(super) fn posts_are_safe(&mut self) {
        let through = self.to_instance.stored();
        for waiting in &mut self.waiting {
            if waiting.position <= through
                && let Some(stored) = waiting.stored.take()
            {
                // Whoever asked may have left: the message is kept all the same.
                drop(stored.send(Ok(waiting.position)));
            }
        }
        self.waiting.retain(|waiting| !waiting.is_over());
    }

    /// What is not stored will not be.
    pub(super) fn refuse_posts(&mut self, failure: &Failure) {
        let through = self.to_instance.stored();
        self.known_posts.retain(|known| known.position <= through);
        for waiting in &mut self.waiting {
            if through < waiting.position
                && let Some(stored) = waiting.stored.take()
            {
                drop(stored.send(Err(failure.clone())));
                waiting.replied = None;
            }
        }
        self.waiting.retain(|waiting| !waiting.is_over());
    }

    /// Nobody waits any longer.
    pub(super) fn fail_posts(&mut self, failure: &Failure) {
        for waiting in self.waiting.drain(..) {
            if let Some(stored) = waiting.stored {
                drop(stored.send(Err(failure.clone())));
            }
            if let Some(replied) = waiting.replied {
                drop(replied.send(Err(failure.clone())));
            }
        }
    }

    pub(super) fn is_awaited(&self, position: u64) -> bool {
        self.waiting
            .iter()
            .any(|waiting| waiting.position == position && waiting.replied.is_some())
    }

    /// Hands a reply to those who wait for it. When somebody took it, the client need not acknowledge it.
    pub(super) fn give_reply(&mut self, position: u64, seq: u64, payload: &Payload) {
        let mut is_taken = false;
        for waiting in &mut self.waiting {
            if waiting.position == position
                && let Some(replied) = waiting.replied.take()
            {
                let payload = payload.clone();
                is_taken |= replied.send(Ok(Replied { seq, payload })).is_ok();
            }
        }
        self.waiting.retain(|waiting| !waiting.is_over());
        if is_taken {
            self.to_client.take(seq);
            self.storing.takes.push(seq);
        }
    }
}
