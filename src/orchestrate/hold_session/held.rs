//! The stream to the instance that takes part in a session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::owner::Owner;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::limit::{
    ANSWER_PASSED_ON_BYTES_MAX, SESSION_REPLAY_READ_BYTES, SESSION_SILENCE_MAX,
};
use crate::domain::payload::Payload;
use crate::domain::session::SessionId;
use crate::domain::session::to_client::{Accepted, Reply};
use crate::instance::session::{CloseReason, Data, Frame, Gone, Opened, Receiver, Sender};
use crate::store::record::{Slice, ToInstance};
use crate::store::{Error, Pending, Store};

/// How long the last word to an instance may take.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// A stream to an instance.
pub(super) struct Held {
    sender: Sender,
    receiver: Receiver,
    /// The last message that was sent in this epoch, or that the instance had from before.
    pub(super) sent: u64,
    pub(super) said_at: Instant,
    /// Old messages, read from the log for an instance that begins anew.
    replay: Option<Replay>,
    /// A message that came and has to wait for room.
    stash: Option<Data>,
}

struct Replay {
    store: Arc<dyn Store>,
    session: SessionId,
    /// The last one that is read from the log; those after it are at hand.
    through: u64,
    read: VecDeque<ToInstance>,
    reading: Option<Pending<Result<Slice<ToInstance>, Error>>>,
}

/// What happens on the stream.
pub(super) enum Said {
    /// The instance says something; nothing once it has ended the stream.
    Frame(Option<Result<Frame, Failure>>),
    /// There is room for one more message.
    Ready,
    /// The instance takes no more.
    Gone,
    /// Old messages were read.
    Read(Result<Slice<ToInstance>, Error>),
}

impl Held {
    pub(super) fn new(opened: Opened, sent: u64) -> Self {
        Self {
            sender: opened.sender,
            receiver: opened.receiver,
            sent,
            said_at: Instant::now(),
            replay: None,
            stash: None,
        }
    }

    /// What lies between what was sent and `through` is read from the log.
    pub(super) fn read_journal(
        &mut self,
        store: &Arc<dyn Store>,
        session: &SessionId,
        through: u64,
    ) {
        self.replay = Some(Replay {
            store: Arc::clone(store),
            session: session.clone(),
            through,
            read: VecDeque::new(),
            reading: None,
        });
        self.read_on();
    }

    fn read_on(&mut self) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        if replay.through <= self.sent {
            self.replay = None;
        } else if replay.read.is_empty() && replay.reading.is_none() {
            let (store, session) = (&replay.store, &replay.session);
            let reading = store.read_to_instance(session, self.sent, SESSION_REPLAY_READ_BYTES);
            replay.reading = Some(reading);
        }
    }

    /// How much room the message needs that came last, or the least that one can need.
    pub(super) fn next_bytes(&self) -> usize {
        let waiting = self.stash.as_ref();
        waiting.map_or(1, |data| data.payload.encoded().len())
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        has_next: bool,
        takes: bool,
    ) -> Poll<Said> {
        if takes {
            if let Some(stashed) = self.stash.take() {
                return Poll::Ready(Said::Frame(Some(Ok(Frame::Data(stashed)))));
            }
            if let Poll::Ready(frame) = self.receiver.poll_receive(context) {
                return Poll::Ready(Said::Frame(frame));
            }
        }
        let has_next = match &mut self.replay {
            None => has_next,
            Some(replay) => {
                if let Some(reading) = &mut replay.reading
                    && let Poll::Ready(read) = reading.as_mut().poll(context)
                {
                    replay.reading = None;
                    return Poll::Ready(Said::Read(read));
                }
                !replay.read.is_empty()
            }
        };
        if has_next && let Poll::Ready(ready) = self.sender.poll_ready(context) {
            return Poll::Ready(match ready {
                Ok(()) => Said::Ready,
                Err(Gone) => Said::Gone,
            });
        }
        Poll::Pending
    }

    pub(super) fn deliver(
        &mut self,
        position: u64,
        in_reply_to: u64,
        redelivered: bool,
        payload: Payload,
    ) {
        self.sent = position;
        self.say(Frame::Data(Data {
            seq: position,
            in_reply_to: Some(in_reply_to).filter(|seq| *seq != 0),
            redelivered,
            payload,
        }));
    }

    pub(super) fn ack(&mut self, through: u64) {
        self.say(Frame::Ack { through });
    }

    pub(super) fn repeat_ack(&mut self, through: u64, now: Instant) {
        if self.said_at + SESSION_SILENCE_MAX <= now {
            self.ack(through);
        }
    }

    fn say(&mut self, frame: Frame) {
        self.said_at = Instant::now();
        // When it takes no more, the receiver says why.
        let _ = self.sender.send(frame);
    }

    /// Says why it ends, and waits until the instance has ended it too.
    pub(super) async fn farewell(mut self: Box<Self>, reason: CloseReason) {
        let detail = Arc::from("");
        if self.sender.send(Frame::Close { reason, detail }).is_ok() {
            let ended = async { while let Some(Ok(_)) = self.receiver.receive().await {} };
            // One that does not end it is cut.
            drop(timeout(FAREWELL_MAX, ended).await);
        }
    }
}

impl Owner {
    pub(super) fn on_said(&mut self, said: Said) {
        match said {
            Said::Frame(None) => self.broke("the instance has ended the stream of the session"),
            Said::Frame(Some(Err(failure))) => self.lose_link(&failure),
            Said::Frame(Some(Ok(frame))) => {
                self.touch();
                self.on_frame(frame);
            }
            // Why, the receiver says; and when it says nothing, this is all there is.
            Said::Gone => self.broke("the instance takes no more of the session"),
            Said::Ready => self.send_next(),
            Said::Read(Ok(slice)) => self.on_read(slice),
            Said::Read(Err(error)) => self.follow(&error),
        }
    }

    fn broke(&mut self, detail: &'static str) {
        let id = &self.session.instance;
        let failure = Failure::at(id, Reason::InstanceLost, Progress::MayHaveBegun, detail);
        self.lose_link(&failure);
    }

    fn held(&mut self) -> Option<&mut Held> {
        match &mut self.link {
            super::instance_side::Link::Held(held) => Some(held),
            super::instance_side::Link::Resting
            | super::instance_side::Link::Absent
            | super::instance_side::Link::Wants(_)
            | super::instance_side::Link::Handing
            | super::instance_side::Link::Opening(_) => None,
        }
    }

    fn send_next(&mut self) {
        let Some(held) = self.held() else { return };
        let old = held
            .replay
            .as_mut()
            .and_then(|replay| replay.read.pop_front());
        match old {
            None => self.deliver_next(),
            Some(old) => {
                let payload = Payload::looked_over_before(old.payload);
                held.deliver(old.position, old.in_reply_to, true, payload);
                held.read_on();
            }
        }
    }

    fn on_read(&mut self, slice: Slice<ToInstance>) {
        let Some(held) = self.held() else { return };
        let Some(replay) = &mut held.replay else {
            return;
        };
        let through = replay.through;
        let wanted = slice.messages.into_iter();
        replay.read = wanted.take_while(|old| old.position <= through).collect();
        if replay.read.is_empty() {
            // Nothing is left of it in the log.
            held.sent = held.sent.max(through);
            held.replay = None;
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Data(data) => self.on_data(data),
            Frame::Ack { through } => {
                let sent = self.held().map_or(0, |held| held.sent);
                if self.to_instance.ack(through, sent).is_err() {
                    self.malformed("the instance acknowledges what it was not sent");
                }
            }
            Frame::Close { reason, .. } => match reason {
                CloseReason::Done => self.end(crate::domain::session::CloseReason::ByInstance),
                CloseReason::Suspended | CloseReason::Expired | CloseReason::Moved => {
                    self.broke("the instance leaves the session");
                }
            },
        }
    }

    fn on_data(&mut self, data: Data) {
        let bytes = data.payload.encoded().len();
        if ANSWER_PASSED_ON_BYTES_MAX < bytes {
            let id = &self.session.instance;
            let detail = format!("a message of the session has {bytes} bytes");
            let reason = Reason::AnswerTooLarge;
            let failure = Failure::at(id, reason, Progress::MayHaveBegun, detail);
            return self.lose_link(&failure);
        }
        if !self.to_client.has_room(bytes) {
            if let Some(held) = self.held() {
                held.stash = Some(data);
            }
            return;
        }
        let reply = match data.in_reply_to {
            None => None,
            Some(position) if self.to_instance.stored() < position => {
                return self.malformed("the instance replies to what it was not sent");
            }
            Some(position) => match self.to_instance.seq_at(position) {
                Some(0) => Some(Reply::Posted(position)),
                Some(seq) => Some(Reply::Streamed(seq)),
                None if self.is_awaited(position) => Some(Reply::Posted(position)),
                None => None,
            },
        };
        match self.to_client.accept(data.seq, reply, data.payload) {
            Ok(Accepted::New) => {
                if let Some(position) = data.in_reply_to {
                    self.answers.push_back((data.seq, position));
                }
            }
            Ok(Accepted::Before) | Err(_) => {
                self.malformed("the instance does not number its messages one after another");
            }
        }
    }

    fn malformed(&mut self, detail: &'static str) {
        let id = &self.session.instance;
        let failure = Failure::at(id, Reason::AnswerMalformed, Progress::MayHaveBegun, detail);
        self.lose_link(&failure);
    }
}
