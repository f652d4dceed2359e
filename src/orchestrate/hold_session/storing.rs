//! What a session writes to its log. One append of each direction is under way at a time, and takes along whatever
//! has come in the meantime; only when it has answered is anything acknowledged or delivered.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_side::Client;
use super::closing::Life;
use super::instance_side::Link;
use super::owner::{Leave, Owner};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{
    APPEND_MAX, SESSION_PARKED_MAX, SESSION_PARKED_MIN, SESSION_POSTS_WAITING_MAX,
    UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_MAX,
};
use crate::domain::session::gone::Gone;
use crate::domain::session::to_client::{Reply, ToClient};
use crate::domain::session::to_instance::{Source, ToInstance};
use crate::store::record::{Appended, Direction, NewToClient, NewToInstance, Origin, Session};
use crate::store::{Error, Pending};

/// Calls to the store that are under way.
#[derive(Default)]
pub(super) struct Storing {
    to_instance: Option<Append>,
    to_client: Option<Append>,
    note: Option<Pending<Result<(), Error>>>,
    pub(super) gone: Option<Pending<Result<(Gone, Gone), Error>>>,
    close: Option<Pending<Result<(), Error>>>,
    take_over: Option<Pending<Result<Session, Error>>>,
    /// What the store was told of acknowledgements.
    noted: Noted,
    /// What it has said that it knows of them.
    confirmed: Noted,
    /// Calls that have acknowledged everything up to a message for the client, and wait until that is written down.
    acknowledging: Vec<(u64, oneshot::Sender<Result<(), Failure>>)>,
    /// Replies that were handed to posts, and of which the store was not told yet.
    pub(super) takes: Vec<u64>,
    /// The one of them of which the store is being told.
    taking: Option<u64>,
    /// The store had no room for what the instance has said, or for acknowledgements: until then nothing is tried. What
    /// waits keeps its place in the line, so that the instance is slowed and loses nothing.
    parked_until: Option<Instant>,
    /// How long the last wait was; zero once there was room.
    parked_for: Duration,
    /// What is written at once is so many times halved: where there is room for little, little is tried.
    halved: u32,
}

struct Append {
    first: u64,
    last: u64,
    answer: Pending<Result<Vec<Appended>, Error>>,
}

/// Acknowledgements, and the bytes that they have set free since this task holds the session.
#[derive(Default, Clone, Copy)]
struct Noted {
    to_instance: u64,
    to_client: u64,
    to_instance_released: u64,
    to_client_released: u64,
}

/// What the store has answered.
pub(super) enum Stored {
    ToInstance(Result<u64, Error>),
    ToClient(Result<u64, Error>),
    Noted(Result<(), Error>),
    GoneNoted(Result<(Gone, Gone), Error>),
    Closed(Result<(), Error>),
    TakenOver(Result<Box<Session>, Error>),
}

impl Storing {
    pub(super) fn new(to_instance: &ToInstance, to_client: &ToClient) -> Self {
        let noted = Noted {
            to_instance: to_instance.acked(),
            to_client: to_client.acked(),
            ..Noted::default()
        };
        Self {
            noted,
            confirmed: noted,
            ..Self::default()
        }
    }

    /// A call waits until it is written down that the client has everything up to `seq`.
    pub(super) fn acknowledging(&mut self, seq: u64, done: oneshot::Sender<Result<(), Failure>>) {
        self.acknowledging.retain(|(_, done)| !done.is_closed());
        if SESSION_POSTS_WAITING_MAX <= self.acknowledging.len() {
            let detail = format!("{SESSION_POSTS_WAITING_MAX} calls that acknowledge are waiting");
            // Whoever asked may have left, here and below.
            drop(done.send(Err(Failure::new(Reason::TooMany, detail))));
            return;
        }
        self.acknowledging.push((seq, done));
        self.tell_acknowledging();
    }

    /// Tells those whose acknowledgement is written down.
    fn tell_acknowledging(&mut self) {
        let through = self.confirmed.to_client;
        for (_, done) in self
            .acknowledging
            .extract_if(.., |(seq, _)| *seq <= through)
        {
            drop(done.send(Ok(())));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.has_no_writes() && self.close.is_none() && self.take_over.is_none()
    }

    /// When what had no room is tried again.
    pub(super) fn parked_until(&self) -> Option<Instant> {
        self.parked_until
    }

    /// Its time may have come.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.parked_until = self.parked_until.filter(|until| now < *until);
    }

    pub(super) fn park(&mut self) {
        self.parked_for = (self.parked_for * 2).clamp(SESSION_PARKED_MIN, SESSION_PARKED_MAX);
        self.parked_until = Some(Instant::now() + self.parked_for);
        self.halved = (self.halved + 2).min(APPEND_MAX.ilog2());
    }

    fn has_found_room(&mut self) {
        (self.parked_until, self.parked_for) = (None, Duration::ZERO);
        self.halved = self.halved.saturating_sub(1);
    }

    /// Whether nothing is under way that carries the epoch.
    pub(super) fn has_no_writes(&self) -> bool {
        self.to_instance.is_none()
            && self.to_client.is_none()
            && self.note.is_none()
            && self.gone.is_none()
    }

    pub(super) fn take_over(&mut self, answer: Pending<Result<Session, Error>>) {
        self.take_over = Some(answer);
    }

    /// Whether the session is being handed over.
    pub(super) fn is_taking_over(&self) -> bool {
        self.take_over.is_some()
    }

    pub(super) fn close(&mut self, answer: Pending<Result<(), Error>>) {
        self.close = Some(answer);
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Stored> {
        // Before everything that was written after it: the client hears of it first.
        if let Poll::Ready(answer) = poll_once(&mut self.gone, context) {
            return Poll::Ready(Stored::GoneNoted(answer));
        }
        if let Poll::Ready(answer) = poll_append(&mut self.to_instance, context) {
            return Poll::Ready(Stored::ToInstance(answer));
        }
        if let Poll::Ready(answer) = poll_append(&mut self.to_client, context) {
            return Poll::Ready(Stored::ToClient(answer));
        }
        if let Poll::Ready(answer) = poll_once(&mut self.note, context) {
            return Poll::Ready(Stored::Noted(answer));
        }
        if let Poll::Ready(answer) = poll_once(&mut self.close, context) {
            return Poll::Ready(Stored::Closed(answer));
        }
        poll_once(&mut self.take_over, context)
            .map(|answer| Stored::TakenOver(answer.map(Box::new)))
    }
}

fn poll_once<T>(pending: &mut Option<Pending<T>>, context: &mut Context<'_>) -> Poll<T> {
    let Some(answer) = pending else {
        return Poll::Pending;
    };
    let answer = answer.as_mut().poll(context);
    if answer.is_ready() {
        *pending = None;
    }
    answer
}

fn poll_append(append: &mut Option<Append>, context: &mut Context<'_>) -> Poll<Result<u64, Error>> {
    let Some(under_way) = append else {
        return Poll::Pending;
    };
    let Poll::Ready(answer) = under_way.answer.as_mut().poll(context) else {
        return Poll::Pending;
    };
    let (first, last) = (under_way.first, under_way.last);
    *append = None;
    Poll::Ready(answer.and_then(|appended| {
        // The log and this task count alike, or something has gone wrong that only reading again can mend.
        let expected = (first..=last).map(Appended::New);
        if appended.iter().copied().eq(expected) {
            Ok(last)
        } else {
            Err(Error::Conflict)
        }
    }))
}

impl Owner {
    /// Starts what can be written now. Nothing is while the session changes hands: it would carry an epoch that is
    /// about to be over. What came before the end of the session is still written, and nothing beside the end itself.
    pub(super) fn store_what_came(&mut self) {
        if self.link.is_changing_hands() || self.storing.is_taking_over() {
            return;
        }
        match self.life {
            Life::Open => {
                self.note_acks();
                self.note_gone();
            }
            Life::Ending { .. } if self.storing.close.is_none() => self.note_acks(),
            Life::Ending { .. } => return,
            Life::Over { .. } => return self.note_acks(),
        }
        self.append_to_instance();
        self.append_to_client();
    }

    /// Whether the store has room for what the line holds. It has its own count, which falls when it has heard of
    /// acknowledgements: what is appended before would be refused.
    fn store_has_room(&self, direction: Direction) -> bool {
        let (storing, known) = (&self.storing, &self.storing.confirmed);
        let (last, bytes, released, acked, noted) = match direction {
            Direction::ToInstance => (
                self.to_instance.last() - known.to_instance,
                self.to_instance.bytes(),
                self.to_instance.released() - known.to_instance_released,
                self.to_instance.acked(),
                storing.noted.to_instance,
            ),
            Direction::ToClient => (
                self.to_client.last() - known.to_client,
                self.to_client.bytes(),
                self.to_client.released() - known.to_client_released,
                self.to_client.acked(),
                storing.noted.to_client,
            ),
        };
        let is_told_all = storing.note.is_none() && storing.takes.is_empty() && acked <= noted;
        is_told_all
            || (last <= UNACKNOWLEDGED_MAX as u64
                && bytes as u64 + released <= UNACKNOWLEDGED_BYTES_MAX as u64)
    }

    fn append_to_instance(&mut self) {
        if self.storing.to_instance.is_some() || !self.store_has_room(Direction::ToInstance) {
            return;
        }
        let now_ms = self.house.now_ms();
        let mut bytes = 0;
        let mut messages = Vec::new();
        for message in self.to_instance.unstored().take(APPEND_MAX) {
            bytes += message.payload.encoded().len();
            if UNACKNOWLEDGED_BYTES_MAX < bytes && !messages.is_empty() {
                break;
            }
            let origin = match message.source {
                Source::Streamed { seq } => Origin::Stream { seq },
                Source::Posted => Origin::Post {
                    key: self.key_of_post(message.position),
                    at_ms: now_ms,
                },
            };
            messages.push(NewToInstance {
                origin,
                in_reply_to: message.in_reply_to,
                payload: message.payload.encoded().clone(),
            });
        }
        if messages.is_empty() {
            return;
        }
        let first = self.to_instance.stored() + 1;
        let last = self.to_instance.stored() + messages.len() as u64;
        let (id, store) = (&self.entry.terms.id, &self.house.store);
        let answer = store.append_to_instance(id, &self.fence(), messages);
        self.storing.to_instance = Some(Append {
            first,
            last,
            answer,
        });
    }

    fn append_to_client(&mut self) {
        if self.storing.to_client.is_some()
            || self.storing.parked_until.is_some()
            || !self.store_has_room(Direction::ToClient)
        {
            return;
        }
        let base = self.base;
        let mut bytes = 0;
        let mut messages = Vec::new();
        let halved = self.storing.halved;
        for message in self.to_client.unstored().take(APPEND_MAX >> halved) {
            bytes += message.payload.encoded().len();
            if UNACKNOWLEDGED_BYTES_MAX >> halved < bytes && !messages.is_empty() {
                break;
            }
            messages.push(NewToClient {
                instance_seq: message.seq - base,
                in_reply_to: position_answered(&self.answers, message.seq),
                payload: message.payload.encoded().clone(),
            });
        }
        if messages.is_empty() {
            return;
        }
        let first = self.to_client.stored() + 1;
        let last = self.to_client.stored() + messages.len() as u64;
        let (id, store) = (&self.entry.terms.id, &self.house.store);
        let answer = store.append_to_client(id, &self.fence(), messages);
        self.storing.to_client = Some(Append {
            first,
            last,
            answer,
        });
    }

    /// Tells the store of acknowledgements, one after another: a later one says what an earlier one did.
    fn note_acks(&mut self) {
        if self.storing.note.is_some() || self.storing.parked_until.is_some() {
            return;
        }
        let (id, store, fence) = (&self.entry.terms.id, &self.house.store, self.fence());
        let (by_instance, by_client) = (self.to_instance.acked(), self.to_client.acked());
        let storing = &mut self.storing;
        if storing.noted.to_instance < by_instance && !self.life.is_over() {
            storing.noted.to_instance = by_instance;
            storing.noted.to_instance_released = self.to_instance.released();
            storing.note = Some(store.acknowledge(id, &fence, Direction::ToInstance, by_instance));
        } else if storing.noted.to_client < by_client {
            storing.noted.to_client = by_client;
            storing.noted.to_client_released = self.to_client.released();
            storing.note = Some(store.acknowledge(id, &fence, Direction::ToClient, by_client));
        } else if let Some(seq) = storing.takes.pop() {
            storing.taking = Some(seq);
            storing.note = Some(store.take(id, &fence, seq));
        }
    }

    pub(super) fn on_stored(&mut self, stored: Stored) {
        match stored {
            Stored::ToInstance(Ok(through)) => {
                self.to_instance.store(through);
                self.posts_are_safe();
            }
            Stored::ToInstance(Err(error)) => {
                let failure = failure(&error);
                self.to_instance.forget_unstored();
                self.refuse_posts(&failure);
                if let Some(Client { .. }) = self.client {
                    self.detach_with(failure);
                }
                self.follow(&error);
            }
            Stored::ToClient(Ok(through)) => {
                self.storing.has_found_room();
                self.to_client.store(through);
                self.replies_are_safe(through);
                self.link.ack(self.to_client.stored());
            }
            // The instance has said it once and is not asked to say it again: it waits in the line, which takes no more
            // than its bounds, and the instance is slowed. At the end of a session nobody waits for room.
            Stored::ToClient(Err(Error::Full(_) | Error::NoSpace)) if self.life.is_open() => {
                self.storing.park();
            }
            Stored::ToClient(Err(error)) => {
                // The instance keeps what was not acknowledged, and says it again.
                self.to_client.forget_unstored();
                self.lose_link(&failure(&error));
                self.follow(&error);
            }
            Stored::Noted(Ok(())) => {
                self.storing.confirmed = self.storing.noted;
                self.storing.taking = None;
                // It may have made room.
                self.storing.has_found_room();
                self.storing.tell_acknowledging();
            }
            Stored::Noted(Err(error)) => {
                for (_, done) in self.storing.acknowledging.drain(..) {
                    drop(done.send(Err(failure(&error))));
                }
                // It is told again.
                self.storing.noted = self.storing.confirmed;
                self.storing.takes.extend(self.storing.taking.take());
                self.storing.park();
                self.follow(&error);
            }
            Stored::GoneNoted(answer) => self.on_gone_noted(answer),
            Stored::Closed(answer) => self.on_closed(answer),
            Stored::TakenOver(answer) => self.on_taken_over(answer),
        }
    }

    /// What else follows when the store has refused.
    pub(super) fn follow(&mut self, error: &Error) {
        match error {
            // Nothing was kept, and it may go on when there is room.
            Error::Full(_) | Error::NoSpace => {}
            Error::StaleEpoch { .. } | Error::NotFound => {
                self.detach_with(failure(error));
                self.ends = Some(Leave::Lost);
            }
            Error::Closed { .. }
            | Error::AlreadyExists
            | Error::Open
            | Error::Conflict
            | Error::Gap { .. }
            | Error::OverAck { .. }
            | Error::Failed(_) => {
                tracing::warn!(session = %self.entry.terms.id, %error, "session is read again from its log");
                self.detach_with(failure(error));
                self.ends = Some(Leave::Reload);
            }
            Error::Stopped => {
                self.detach_with(failure(error));
                self.ends = Some(Leave::Stop);
            }
        }
        if self.ends.is_some() {
            self.link = Link::Resting;
        }
    }

    /// What replies are in the line, for whoever waits for one.
    fn replies_are_safe(&mut self, through: u64) {
        let acked = self.to_instance.acked();
        while let Some((seq, position)) = self.answers.front().copied()
            && seq <= through
        {
            self.answers.pop_front();
            if acked < position {
                self.replied.insert(position);
            }
            self.hand_reply(seq, position);
        }
    }

    fn hand_reply(&mut self, seq: u64, position: u64) {
        let message = self.to_client.after(seq - 1).next();
        let Some(message) =
            message.filter(|message| message.reply == Some(Reply::Posted(position)))
        else {
            return;
        };
        let payload = message.payload.clone();
        self.give_reply(position, seq, &payload);
    }
}

/// The position that the message with this seq answers; 0 for none.
fn position_answered(answers: &VecDeque<(u64, u64)>, seq: u64) -> u64 {
    let answer = answers.iter().find(|(answering, _)| *answering == seq);
    answer.map_or(0, |(_, position)| *position)
}

/// What a refusal of the store is called outside.
pub(super) fn failure(error: &Error) -> Failure {
    let reason = match error {
        Error::NotFound => Reason::SessionUnknown,
        Error::AlreadyExists => Reason::SessionExists,
        Error::Closed { .. } => Reason::SessionClosed,
        Error::StaleEpoch { .. } => Reason::SessionStale,
        Error::Conflict => Reason::ArgumentInvalid,
        Error::Full(_) => Reason::SessionFull,
        Error::NoSpace => Reason::JournalFull,
        Error::Failed(_) => Reason::JournalFailed,
        Error::Stopped => Reason::Draining,
        Error::Open | Error::Gap { .. } | Error::OverAck { .. } => Reason::Internal,
    };
    Failure::new(reason, error.to_string())
}
