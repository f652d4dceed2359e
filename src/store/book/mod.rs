//! What may happen to one session: decides and counts, and keeps no payload. Every engine asks it first and then
//! writes down what it says.

use std::sync::Arc;

use bytes::Bytes;

use super::record::{
    Appended, Counters, Created, Direction, Fence, Hash, NewSession, NewToClient, NewToInstance,
    Origin, Owner, PostKey, ReplyTo, Session, State, Taken,
};
use super::{Bound, Error};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    APPEND_MAX, HELD_BYTES_MAX, HELD_MAX, SETTLED_KEPT, SETTLED_KEPT_BYTES,
};
use crate::domain::session::gone::Gone;
use crate::domain::session::{Durability, Epoch, LossPolicy};

mod log;
mod posts;

pub(super) use log::{Entry, Log};
use log::{Keep, Place};
pub(super) use posts::{First, PostEntry, Posts, ReplyEntry};

/// Looks up the payload of a message that is kept.
pub(super) type Payloads<'a> = &'a mut dyn FnMut(u64) -> Result<Bytes, Error>;

/// One session, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Book {
    /// As it stands, its counters apart.
    session: Session,
    to_instance: Log,
    to_client: Log,
    posts: Posts,
    /// How many acknowledged messages are kept of it where it may be replayed.
    replay_kept: usize,
}

/// A message that is to be written down.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// Its number.
    pub(super) number: u64,
    /// What it answers.
    pub(super) reply_to: ReplyTo,
    /// Whether it is the first reply to a remembered post.
    pub(super) first_reply: First,
    /// What was appended.
    pub(super) message: T,
}

/// What an append comes to.
#[derive(Debug)]
pub(super) struct Decided<T> {
    /// The answer, one for each message.
    pub(super) answers: Vec<Appended>,
    /// What is to be written down.
    pub(super) kept: Vec<Kept<T>>,
}

impl<T> Decided<T> {
    fn new(messages: &[T]) -> Result<Self, Error> {
        if APPEND_MAX < messages.len() {
            return Err(Error::Full(Bound::Append));
        }
        Ok(Self {
            answers: Vec::with_capacity(messages.len()),
            kept: Vec::with_capacity(messages.len()),
        })
    }

    /// A payload that is not written down yet, or else one that is.
    fn payload(
        &self,
        number: u64,
        of: impl Fn(&T) -> &Bytes,
        written: &mut dyn FnMut(u64) -> Result<Bytes, Error>,
    ) -> Result<Bytes, Error> {
        let here = self.kept.iter().find(|kept| kept.number == number);
        here.map_or_else(|| written(number), |kept| Ok(of(&kept.message).clone()))
    }
}

/// What comes under a number that was taken.
fn repeated<B: PartialEq>(number: u64, taken: &B, again: &B) -> Result<Appended, Error> {
    if taken == again {
        Ok(Appended::Repeated(number))
    } else {
        Err(Error::Conflict)
    }
}

impl Book {
    /// A session that was just made.
    pub(super) fn new(new: NewSession) -> Self {
        let session = Session {
            terms: Arc::new(new.terms),
            token: new.token,
            instance: new.instance,
            epoch: Epoch::FIRST,
            owner: new.owner,
            state: State::Open,
            spoken: None,
            gone: Gone::default(),
            gone_posts: Gone::default(),
            to_instance: Counters::default(),
            to_client: Counters::default(),
        };
        Self::restore(session, Log::default(), Log::default(), Posts::default())
    }

    /// A session that was written down.
    pub(super) fn restore(
        session: Session,
        to_instance: Log,
        to_client: Log,
        posts: Posts,
    ) -> Self {
        Self {
            session,
            to_instance,
            to_client,
            posts,
            replay_kept: HELD_MAX / 2,
        }
    }

    /// The session as it stands.
    pub(super) fn session(&self) -> Session {
        Session {
            to_instance: self.to_instance.counters(),
            to_client: self.to_client.counters(),
            ..self.session.clone()
        }
    }

    /// So many acknowledged messages are kept of it where it may be replayed.
    pub(super) fn keep_for_replay(&mut self, messages: usize) {
        self.replay_kept = messages;
    }

    /// The newest post that is not remembered any more.
    pub(super) fn posts_forgotten(&self) -> u64 {
        self.posts.forgotten()
    }

    /// What its messages survive.
    pub(super) fn durability(&self) -> Durability {
        self.session.terms.durability
    }

    /// The bytes that are kept of it because somebody may still want them.
    pub(super) fn bytes(&self) -> usize {
        let to_instance = match self.session.terms.loss_policy {
            LossPolicy::Replay => self.to_instance.bytes(),
            LossPolicy::Fail | LossPolicy::Reassign => self.to_instance.bytes_not_settled(),
        };
        to_instance + self.to_client.bytes_not_settled() + self.posts.bytes()
    }

    /// Whether the same spawn made it, given that the spawn key is the same; then it takes the new token.
    pub(super) fn spawn_again(&mut self, new: &NewSession) -> Result<Created, Error> {
        if self.session.terms.spawn != new.terms.spawn {
            return Err(Error::Conflict);
        }
        if self.session.state == State::Open {
            self.session.token = new.token;
        }
        Ok(Created::Repeated(self.session()))
    }

    fn open(&self) -> Result<(), Error> {
        match &self.session.state {
            State::Open => Ok(()),
            State::Closed { reason, .. } => Err(Error::Closed {
                reason: Arc::clone(reason),
            }),
        }
    }

    fn held_by(&self, fence: &Fence) -> Result<(), Error> {
        let current = self.session.epoch;
        if fence.epoch == current && fence.owner == self.session.owner {
            Ok(())
        } else {
            Err(Error::StaleEpoch { current })
        }
    }

    /// The next epoch, with this owner, and this instance if another one is named.
    pub(super) fn take_over(
        &mut self,
        expected: Epoch,
        owner: &Owner,
        instance: Option<&InstanceId>,
    ) -> Result<(), Error> {
        self.open()?;
        let current = self.session.epoch;
        if expected != current {
            return Err(Error::StaleEpoch { current });
        }
        self.session.epoch = current.next();
        self.session.owner = owner.clone();
        if let Some(instance) = instance {
            self.session.instance = instance.clone();
        }
        self.to_client.change_sender();
        Ok(())
    }

    /// As `recover` takes it over; nothing when it is closed.
    pub(super) fn recover(&mut self, owner: &Owner) -> Option<Session> {
        self.take_over(self.session.epoch, owner, None).ok()?;
        Some(self.session())
    }

    pub(super) fn set_token(&mut self, token: Hash) -> Result<(), Error> {
        self.open()?;
        self.session.token = token;
        Ok(())
    }

    pub(super) fn close(&mut self, fence: &Fence, reason: &str, at_ms: u64) -> Result<(), Error> {
        self.held_by(fence)?;
        self.open()?;
        self.end(reason, at_ms);
        Ok(())
    }

    /// Ends it, whoever holds it.
    pub(super) fn end(&mut self, reason: &str, at_ms: u64) {
        let reason = reason.into();
        self.session.state = State::Closed { reason, at_ms };
        self.to_instance.clear();
    }

    /// As it is written down where neither its messages are nor what is gone of them.
    pub(super) fn without_messages(&self) -> Self {
        let (mut session, empty) = (self.session.clone(), Log::default());
        (session.gone, session.gone_posts) = Default::default();
        Self::restore(session, empty.clone(), empty, Posts::default())
    }

    /// Whether it ends with its process.
    pub(super) fn ends_with_its_process(&self) -> bool {
        match self.session.terms.durability {
            Durability::None => self.session.state == State::Open,
            Durability::Durable => false,
        }
    }

    /// Whether it may be forgotten.
    pub(super) fn closed(&self) -> Result<u64, Error> {
        match &self.session.state {
            State::Open => Err(Error::Open),
            State::Closed { at_ms, .. } => Ok(*at_ms),
        }
    }

    /// Whether `forget_posts` would forget anything. Most sessions are not touched by a sweep.
    pub(super) fn has_posts_before(&self, before_ms: u64) -> bool {
        self.posts.is_older_than(before_ms)
    }

    /// Forgets posts of before an instant.
    pub(super) fn forget_posts(&mut self, before_ms: u64) {
        self.posts.forget_before(before_ms);
    }

    pub(super) fn acknowledge(
        &mut self,
        fence: &Fence,
        direction: Direction,
        through: u64,
    ) -> Result<(), Error> {
        self.held_by(fence)?;
        let keep = self.keep(direction);
        let log = match direction {
            Direction::ToInstance => {
                self.open()?;
                &mut self.to_instance
            }
            Direction::ToClient => &mut self.to_client,
        };
        log.acknowledge(through)?;
        log.trim(keep);
        Ok(())
    }

    pub(super) fn take(&mut self, fence: &Fence, seq: u64) -> Result<(), Error> {
        self.held_by(fence)?;
        self.to_client.take(seq)?;
        self.to_client.trim(self.keep(Direction::ToClient));
        Ok(())
    }

    /// Notes that messages of the client are gone before its instance had them.
    pub(super) fn note_gone(
        &mut self,
        fence: &Fence,
        position: u64,
    ) -> Result<(Gone, Gone), Error> {
        self.held_by(fence)?;
        self.open()?;
        let through = self.to_instance.through(position)?;
        let told = self.to_client.counters();
        let session = &mut self.session;
        session.gone.note(through.seq, told.acked, told.last);
        session.gone_posts.note(through.post, told.acked, told.last);
        Ok((session.gone, session.gone_posts))
    }

    fn keep(&self, direction: Direction) -> Keep {
        let few = Keep {
            messages: SETTLED_KEPT,
            bytes: SETTLED_KEPT_BYTES,
        };
        match (direction, self.session.terms.loss_policy) {
            (Direction::ToInstance, LossPolicy::Replay) => Keep {
                messages: self.replay_kept,
                bytes: HELD_BYTES_MAX / 2,
            },
            (Direction::ToInstance, LossPolicy::Fail | LossPolicy::Reassign)
            | (Direction::ToClient, _) => few,
        }
    }

    /// Decides an append of the client, all of it or nothing. `free` is what the store has room for.
    pub(super) fn append_to_instance(
        &mut self,
        fence: &Fence,
        messages: Vec<NewToInstance>,
        free: usize,
        written: Payloads<'_>,
    ) -> Result<Decided<NewToInstance>, Error> {
        self.held_by(fence)?;
        self.open()?;
        let (mark, posts) = (self.to_instance.mark(), self.posts.len());
        let decided = self.place_to_instance(messages, free, written);
        if decided.is_err() {
            self.to_instance.return_to(&mark);
            self.posts.truncate(posts);
        }
        self.posts.trim();
        decided
    }

    fn place_to_instance(
        &mut self,
        messages: Vec<NewToInstance>,
        free: usize,
        written: Payloads<'_>,
    ) -> Result<Decided<NewToInstance>, Error> {
        let mut decided = Decided::new(&messages)?;
        let before = self.bytes();
        for message in messages {
            let (seq, post) = match &message.origin {
                Origin::Stream { seq } => (Some(*seq), None),
                Origin::Post { key, at_ms } => (None, Some((key.clone(), *at_ms))),
            };
            if let Some(known) = self.known_post(post.as_ref().and_then(|(key, _)| key.as_ref())) {
                decided.answers.push(known?);
                continue;
            }
            let bytes = message.payload.len();
            let answer = match self.to_instance.place(seq, bytes)? {
                Place::Forgotten => Appended::Forgotten,
                Place::Repeats(number) => {
                    let there = decided.payload(number, |kept| &kept.payload, written)?;
                    repeated(number, &there, &message.payload)?
                }
                Place::New => {
                    self.to_instance.push(Entry {
                        sender_seq: seq.unwrap_or(0),
                        bytes,
                        taken: Taken::No,
                    });
                    let position = self.to_instance.counters().last;
                    if let Some((key, at_ms)) = post {
                        self.posts.push(PostEntry {
                            position,
                            key: key.map(Arc::new),
                            at_ms,
                            reply: None,
                        });
                    }
                    self.room(before, free)?;
                    decided.kept.push(Kept {
                        number: position,
                        reply_to: ReplyTo::Nothing,
                        first_reply: First::No,
                        message,
                    });
                    Appended::New(position)
                }
            };
            decided.answers.push(answer);
        }
        Ok(decided)
    }

    fn known_post(&self, key: Option<&PostKey>) -> Option<Result<Appended, Error>> {
        let key = key?;
        let (entry, body) = self.posts.find(&key.key)?;
        Some(repeated(entry.position, &body, &key.body))
    }

    /// The remembered post with this key: its position, its body and its reply.
    pub(super) fn post(&self, key: &str) -> Option<(u64, Hash, Option<ReplyEntry>)> {
        let (entry, body) = self.posts.find(key)?;
        Some((entry.position, body, entry.reply))
    }

    fn room(&self, before: usize, free: usize) -> Result<(), Error> {
        if free < self.bytes().saturating_sub(before) {
            return Err(Error::Full(Bound::StoreBytes));
        }
        Ok(())
    }

    /// Decides an append of the instance, all of it or nothing. `free` is what the store has room for.
    pub(super) fn append_to_client(
        &mut self,
        fence: &Fence,
        messages: Vec<NewToClient>,
        free: usize,
        written: Payloads<'_>,
    ) -> Result<Decided<NewToClient>, Error> {
        self.held_by(fence)?;
        self.open()?;
        let mark = self.to_client.mark();
        let mut replied = Vec::new();
        let decided = self.place_to_client(messages, free, written, &mut replied);
        match &decided {
            Ok(decided) if decided.kept.is_empty() => {}
            Ok(_) => self.session.spoken = Some(fence.epoch),
            Err(_) => {
                self.to_client.return_to(&mark);
                for position in replied {
                    self.posts.unreply(position);
                }
            }
        }
        self.posts.trim();
        decided
    }

    fn place_to_client(
        &mut self,
        messages: Vec<NewToClient>,
        free: usize,
        written: Payloads<'_>,
        replied: &mut Vec<u64>,
    ) -> Result<Decided<NewToClient>, Error> {
        let mut decided = Decided::new(&messages)?;
        let before = self.bytes();
        let asked = self.to_instance.counters();
        for message in messages {
            let bytes = message.payload.len();
            let answer = match self.to_client.place(Some(message.instance_seq), bytes)? {
                Place::Forgotten => Appended::Forgotten,
                Place::Repeats(number) => {
                    let there = decided.payload(number, |kept| &kept.payload, written)?;
                    repeated(number, &there, &message.payload)?
                }
                Place::New => {
                    self.to_client.push(Entry {
                        sender_seq: message.instance_seq,
                        bytes,
                        taken: Taken::No,
                    });
                    let seq = self.to_client.counters().last;
                    let position = message.in_reply_to;
                    let first_reply = self.posts.reply(position, ReplyEntry { seq, bytes });
                    if first_reply == First::Yes {
                        replied.push(position);
                    }
                    self.room(before, free)?;
                    decided.kept.push(Kept {
                        number: seq,
                        reply_to: self.posts.what(position, asked.last, asked.sender_seq),
                        first_reply,
                        message,
                    });
                    Appended::New(seq)
                }
            };
            decided.answers.push(answer);
        }
        Ok(decided)
    }
}
