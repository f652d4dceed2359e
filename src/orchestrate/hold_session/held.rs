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
use crate::domain::session::loss::Came;
use crate::domain::session::read_ahead::ReadAhead;
use crate::domain::session::to_client::{Accepted, Reply};
use crate::domain::session::{Bounds, SessionId};
use crate::instance::session::{CloseReason, Data, Frame, Gone, Opened, Receiver, Sender};
use crate::store::record::{Slice, ToInstance};
use crate::store::{Error, Pending, Store};

/// How long the last word to an instance may take.
pub(super) const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// A stream to an instance.
pub(super) struct Held {
    sender: Sender,
    receiver: Receiver,
    /// The last message that was sent in this epoch, or that the instance had from before.
    pub(super) sent: u64,
    pub(super) said_at: Instant,
    pub(super) opened_at: Instant,
    /// Whether the instance has acknowledged anything new.
    pub(super) came: Came,
    /// Old messages, read from the log for an instance that begins anew.
    replay: Option<Replay>,
    /// What the instance has sent beyond what the line takes.
    ahead: ReadAhead<Data>,
    /// The instance has ended it; what it said before is taken first.
    closed: Option<CloseReason>,
    /// An acknowledgement that was not said yet. The latest says all that those before it did, so that no more than
    /// one waits for an instance that does not read.
    ack: Option<u64>,
    /// Whether it is left for another instance.
    pub(super) parting: Parting,
    /// Messages of the client through this position are gone, and it has to be told so. That is written down before
    /// the instance gets anything of what is left: later nobody would know it.
    pub(super) owes: Option<u64>,
}

/// Whether an instance is left for another one, in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// It is not.
    Stays,
    /// It gets nothing new, and is given until then to acknowledge what it has.
    Finishes(Instant),
    /// It was told that the session goes elsewhere, and what it still says is taken until then.
    Told(Instant),
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

/// What a stream is polled for.
pub(super) struct Wants {
    /// To deliver: there is a message for the instance.
    pub(super) next: bool,
    /// To hear what the instance says: there is room for it.
    pub(super) reads: bool,
}

/// The number of the message that is replied to, as the journal has it: 0 for none.
pub(super) fn asked_for(in_reply_to: u64) -> Option<u64> {
    Some(in_reply_to).filter(|seq| *seq != 0)
}

impl Held {
    pub(super) fn new(opened: Opened, sent: u64, bounds: Bounds) -> Self {
        Self {
            sender: opened.sender,
            receiver: opened.receiver,
            sent,
            said_at: Instant::now(),
            opened_at: Instant::now(),
            came: Came::Nothing,
            replay: None,
            ahead: ReadAhead::new(bounds),
            closed: None,
            ack: None,
            parting: Parting::Stays,
            owes: None,
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

    /// Whether a message of the instance waits for room.
    pub(super) fn has_waiting(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Bytes of the messages that wait here.
    pub(super) fn bytes(&self) -> usize {
        let replay = self.replay.iter().flat_map(|replay| &replay.read);
        let replay: usize = replay.map(|old| old.payload.len()).sum();
        self.ahead.bytes() + replay
    }

    /// Whether what the instance says is read: as long as it keeps to its bounds, room or not, so that its
    /// acknowledgements are heard.
    pub(super) fn reads(&self) -> bool {
        self.closed.is_none() && !self.ahead.is_full()
    }

    /// Whether it gets new messages now.
    fn delivers(&self) -> bool {
        self.parting == Parting::Stays && self.owes.is_none()
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        Wants { next, reads }: Wants,
    ) -> Poll<Said> {
        if reads && let Poll::Ready(frame) = self.receiver.poll_receive(context) {
            return Poll::Ready(Said::Frame(frame));
        }
        let has_next = match &mut self.replay {
            None => next,
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
        let has_next = has_next && self.delivers();
        if (has_next || self.ack.is_some())
            && let Poll::Ready(ready) = self.sender.poll_ready(context)
        {
            return Poll::Ready(match ready {
                Ok(()) => Said::Ready,
                Err(Gone) => Said::Gone,
            });
        }
        Poll::Pending
    }

    pub(super) fn deliver(&mut self, message: Data) {
        self.sent = message.seq;
        self.say(Frame::Data(message));
    }

    /// Acknowledges, once the instance has room for it.
    pub(super) fn ack(&mut self, through: u64) {
        if !matches!(self.parting, Parting::Told(_)) {
            self.ack = Some(through);
        }
    }

    pub(super) fn repeat_ack(&mut self, through: u64, now: Instant) {
        if self.said_at + SESSION_SILENCE_MAX <= now {
            self.said_at = now;
            self.ack(through);
        }
    }

    fn say_ack(&mut self) {
        if let Some(through) = self.ack.take() {
            self.say(Frame::Ack { through });
        }
    }

    /// Says that the session goes elsewhere; what the instance still has to say is read.
    pub(super) fn tell_moved(&mut self, until: Instant) {
        self.say_ack();
        self.parting = Parting::Told(until);
        let (reason, detail) = (CloseReason::Moved, Arc::from(""));
        self.say(Frame::Close { reason, detail });
    }

    fn say(&mut self, frame: Frame) {
        self.said_at = Instant::now();
        // When it takes no more, the receiver says why.
        let _ = self.sender.send(frame);
    }

    /// Says why it ends, and waits until the instance has ended it too.
    pub(super) async fn farewell(mut self: Box<Self>, reason: CloseReason) {
        self.say_ack();
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
            // It was told that the session goes elsewhere, and has said all that it had to say.
            Said::Frame(None | Some(Err(_))) if self.link.is_told_moved() => {
                if let Some(held) = self.link.held() {
                    held.closed = Some(CloseReason::Moved);
                }
            }
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

    pub(super) fn broke(&mut self, detail: &'static str) {
        let id = &self.session.instance;
        let failure = Failure::at(id, Reason::InstanceLost, Progress::MayHaveBegun, detail);
        self.lose_link(&failure);
    }

    fn send_next(&mut self) {
        let Some(held) = self.link.held() else { return };
        held.say_ack();
        if !held.delivers() {
            return;
        }
        let Some(replay) = &mut held.replay else {
            return self.deliver_next();
        };
        // What comes after has to wait until all that is old was read.
        if let Some(old) = replay.read.pop_front() {
            let payload = Payload::looked_over_before(old.payload);
            held.deliver(Data {
                seq: old.position,
                in_reply_to: asked_for(old.in_reply_to),
                redelivered: true,
                payload,
            });
            held.read_on();
        }
    }

    fn on_read(&mut self, slice: Slice<ToInstance>) {
        let Some(held) = self.link.held() else { return };
        let Some(replay) = &mut held.replay else {
            return;
        };
        let through = replay.through;
        let wanted = slice.messages.into_iter();
        replay.read = wanted.take_while(|old| old.position <= through).collect();
        if replay.read.is_empty() {
            // Nothing is left of it in the log.
            held.replay = None;
        }
        if held.sent.max(self.gone_noted) < slice.removed {
            held.owes = Some(slice.removed);
        }
        if held.replay.is_none() {
            held.sent = held.sent.max(through);
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Data(data) => self.on_data(data),
            Frame::Ack { through } => {
                let sent = self.link.held().map_or(0, |held| held.sent);
                match self.to_instance.ack(through, sent) {
                    Ok(true) => self.come_on(),
                    Ok(false) => {}
                    Err(_) => self.malformed("the instance acknowledges what it was not sent"),
                }
            }
            Frame::Close { reason, .. } => {
                if let Some(held) = self.link.held() {
                    held.closed = Some(reason);
                }
            }
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
        let Some(held) = self.link.held() else { return };
        if held.has_waiting() || !self.to_client.has_room(bytes) {
            held.ahead.push(data, bytes);
        } else {
            self.take(data);
        }
    }

    /// Takes over what the instance has said, as far as there is room, and then its end.
    pub(super) fn take_from_instance(&mut self) {
        while let Some(held) = self.link.held() {
            let Some(data) = held.ahead.front() else {
                if let Some(reason) = held.closed.take() {
                    self.on_close(reason);
                }
                return;
            };
            if !self.to_client.has_room(data.payload.encoded().len()) {
                return;
            }
            if let Some(data) = held.ahead.pop() {
                self.take(data);
            }
        }
    }

    fn on_close(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::Done => self.end(crate::domain::session::CloseReason::ByInstance),
            CloseReason::Suspended | CloseReason::Expired | CloseReason::Moved => {
                self.broke("the instance leaves the session");
            }
        }
    }

    fn take(&mut self, data: Data) {
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
