//! A session and its client: attach, messages and acknowledgements both ways, detach.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::closing::Life;
use super::frame::{ClientFrame, Incoming, Ready, ServerFrame};
use super::outbox::{Outbox, Outgoing, Reader, Want, outbox};
use super::owner::{Leave, Owner};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{SESSION_CLOSE_WAIT, SESSION_SILENCE_MAX, SESSION_STALLED_MAX};
use crate::domain::payload::Payload;
use crate::domain::session::read_ahead::ReadAhead;
use crate::domain::session::to_client::NoResume;
use crate::domain::session::to_instance::Refused;
use crate::domain::session::{CloseReason, End};
use crate::memory::Purpose;

/// A client that is attached.
pub(super) struct Client {
    /// What it says; nothing once it has no more to say.
    incoming: Option<Incoming>,
    pub(super) outbox: Outbox,
    /// The last message that it was sent.
    sent: u64,
    /// The last of its own messages that was acknowledged to it.
    acked: u64,
    /// When it was told something last.
    pub(super) said_at: Instant,
    /// What it has sent beyond what the line takes.
    pub(super) ahead: ReadAhead<Waiting>,
}

/// A message that has come and waits for room.
pub(super) struct Waiting {
    seq: u64,
    in_reply_to: u64,
    payload: Payload,
}

/// What comes from the client's side.
pub(super) enum FromClient {
    Frame(Option<Result<ClientFrame, Failure>>),
    Reader(Reader),
}

impl Owner {
    pub(super) fn attach(
        &mut self,
        last_received_seq: Option<u64>,
        incoming: Incoming,
    ) -> Result<Outgoing, Failure> {
        if self.house.is_draining() {
            return Err(super::draining());
        }
        match self.life {
            Life::Open if self.closing.is_some() => {
                return Err(super::closed(End {
                    reason: CloseReason::ByClient,
                    lost: None,
                    lost_posts: None,
                }));
            }
            Life::Open => {}
            Life::Over { .. } if 0 < self.to_client.unacknowledged() => {}
            Life::Ending { end, .. } | Life::Over { end, .. } => return Err(super::closed(end)),
        }
        let from = self.to_client.resume(last_received_seq).map_err(|bad| {
            let reason = match bad {
                NoResume::Truncated { .. } => Reason::SessionTruncated,
                NoResume::NeverSent { .. } => Reason::ArgumentInvalid,
            };
            Failure::new(reason, bad.to_string())
        })?;
        if let Some(older) = self.client.take() {
            let detail = "another stream has attached to the session";
            older
                .outbox
                .end(Err(Failure::new(Reason::SessionSuperseded, detail)));
        }
        let (outbox, outgoing) = outbox();
        outbox.push(ServerFrame::Ready(Ready {
            session: self.entry.terms.id.clone(),
            epoch: self.session.epoch,
            instance: self.session.instance.clone(),
            last_received_seq: self.to_instance.stored_seq(),
            first_seq: from + 1,
            expires: self.lifetime_ends(),
        }));
        self.client = Some(Client {
            incoming: Some(incoming),
            outbox,
            sent: from,
            acked: self.to_instance.stored_seq(),
            said_at: Instant::now(),
            ahead: ReadAhead::new(self.house.settings.bounds),
        });
        self.tell_what_is_gone();
        Ok(outgoing)
    }

    /// The client is not attached any more.
    pub(super) fn detach(&mut self) {
        self.client = None;
        self.touch();
    }

    /// The client's stream ends with a failure; the session goes on.
    pub(super) fn detach_with(&mut self, failure: Failure) {
        if let Some(client) = self.client.take() {
            client.outbox.end(Err(failure));
        }
        self.touch();
    }

    pub(super) fn poll_client(&mut self, context: &mut Context<'_>) -> Poll<FromClient> {
        let Some(client) = &mut self.client else {
            return Poll::Pending;
        };
        let want = if self.to_client.next(client.sent).is_some() {
            Want::Room
        } else {
            Want::Nothing
        };
        if let Poll::Ready(reader) = client.outbox.poll(want, context) {
            return Poll::Ready(FromClient::Reader(reader));
        }
        // What a client sends is read as long as it keeps to its bounds, room or not, so that its acknowledgements
        // are heard. Beyond them its window closes, and it is slowed.
        if self.closing.is_none()
            && !client.ahead.is_full()
            && let Some(incoming) = &mut client.incoming
        {
            return incoming.poll_next_unpin(context).map(FromClient::Frame);
        }
        Poll::Pending
    }

    pub(super) fn on_client(&mut self, from_client: FromClient) {
        match from_client {
            FromClient::Reader(Reader::HasRoom) => {}
            FromClient::Reader(Reader::Gone) | FromClient::Frame(Some(Err(_))) => self.detach(),
            FromClient::Frame(None) => {
                if let Some(client) = &mut self.client {
                    client.incoming = None;
                }
            }
            FromClient::Frame(Some(Ok(frame))) => {
                self.touch();
                match frame {
                    ClientFrame::Data {
                        seq,
                        in_reply_to,
                        payload,
                    } => {
                        self.on_message(Waiting {
                            seq,
                            in_reply_to,
                            payload,
                        });
                    }
                    ClientFrame::Ack { seq } => self.take_ack(seq),
                    // What was sent before it is kept and handed over first.
                    ClientFrame::Close => self.closing = Some(Instant::now() + SESSION_CLOSE_WAIT),
                }
            }
        }
    }

    fn on_message(&mut self, message: Waiting) {
        // Its acknowledgements have to be heard all the same: they make room.
        if !self.weight.has_room(Purpose::Request) {
            return self.detach_with(super::weight::full());
        }
        let waits = self
            .client
            .as_ref()
            .is_some_and(|client| !client.ahead.is_empty());
        let left = if waits {
            Some(message)
        } else {
            self.accept(message)
        };
        if let (Some(message), Some(client)) = (left, &mut self.client) {
            let bytes = message.payload.encoded().len();
            client.ahead.push(message, bytes);
        }
    }

    /// Takes over what the client has sent, as far as there is room.
    pub(super) fn take_from_client(&mut self) {
        while let Some(client) = &mut self.client
            && let Some(front) = client.ahead.front()
            && self.to_instance.has_room(front.payload.encoded().len())
            && let Some(message) = client.ahead.pop()
        {
            // There is room for it.
            drop(self.accept(message));
        }
    }

    /// Takes over one message; gives it back when there is no room.
    fn accept(&mut self, message: Waiting) -> Option<Waiting> {
        if !self.life.is_open() {
            return None;
        }
        let payload = message.payload.clone();
        match self
            .to_instance
            .stream(message.seq, message.in_reply_to, payload)
        {
            Ok(_) => None,
            Err(Refused::Full) => Some(message),
            Err(bad @ (Refused::Gap { .. } | Refused::Zero | Refused::Changed(_))) => {
                self.detach_with(Failure::new(
                    Reason::ArgumentInvalid,
                    format!("data: {bad}"),
                ));
                None
            }
        }
    }

    fn take_ack(&mut self, seq: u64) {
        let sent = self.client.as_ref().map_or(0, |client| client.sent);
        if let Err(bad) = self.to_client.ack(seq, sent) {
            self.detach_with(Failure::new(Reason::ArgumentInvalid, format!("ack: {bad}")));
        }
    }

    /// The client says by a call of its own what it has received: what its stream has sent it, or, when it is away,
    /// what an earlier one may have. It is told once that is written down.
    pub(super) fn acknowledge(&mut self, seq: u64, done: oneshot::Sender<Result<(), Failure>>) {
        let client = self.client.as_ref();
        let sent = client.map_or(self.sent_before.to_client, |client| client.sent);
        match self.to_client.ack(seq, sent) {
            Ok(_is_news) => self.storing.acknowledging(seq, done),
            Err(bad) => {
                let refused = Failure::new(Reason::ArgumentInvalid, format!("seq: {bad}"));
                // Whoever asked may have left.
                drop(done.send(Err(refused)));
            }
        }
    }

    /// Whatever the client can be told now.
    pub(super) fn speak_to_client(&mut self) {
        let stored_seq = self.to_instance.stored_seq();
        let Some(client) = &mut self.client else {
            return;
        };
        if client.acked < stored_seq {
            client.acked = stored_seq;
            client.said_at = Instant::now();
            client.outbox.push(ServerFrame::Ack { seq: stored_seq });
        }
        while client.outbox.has_room()
            && let Some(message) = self.to_client.next(client.sent)
        {
            client.sent = message.seq;
            client.said_at = Instant::now();
            client.outbox.push(ServerFrame::Data {
                seq: message.seq,
                reply: message.reply,
                redelivered: message.seq <= self.sent_before.to_client,
                payload: message.payload.clone(),
            });
        }
        let sent = client.sent;
        // It has no more to say, and has heard that all of it is safe.
        let is_done = client.incoming.is_none()
            && client.ahead.is_empty()
            && self.to_instance.unstored().next().is_none()
            && self.to_client.next(sent).is_none();
        if is_done && self.life.is_open() && self.closing.is_none() {
            self.detach();
        }
        self.sent_before.to_client = self.sent_before.to_client.max(sent);
    }

    /// Whether the client has, or has acknowledged, all there is for it.
    pub(super) fn client_has_all(&self) -> ClientHas {
        match &self.client {
            None => ClientHas::Left,
            Some(client) if self.to_client.next(client.sent).is_some() => ClientHas::Less,
            Some(_) if 0 < self.to_client.unacknowledged() => ClientHas::All,
            Some(_) => ClientHas::Acknowledged,
        }
    }

    /// After a long silence the last acknowledgement is said again: proxies cut streams on which nothing moves.
    pub(super) fn repeat_acks(&mut self) {
        let now = Instant::now();
        let seq = self.to_instance.stored_seq();
        if let Some(client) = &mut self.client
            && client.said_at + SESSION_SILENCE_MAX <= now
        {
            client.said_at = now;
            client.outbox.push(ServerFrame::Ack { seq });
        }
        self.link.repeat_ack(self.to_client.stored(), now);
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
        }
        self.weight.look_again(now);
        self.storing.look_again(now);
    }

    /// A message of the instance waits for the client to acknowledge some, and the client has more on its way than
    /// its bounds allow, so that it is not read: only a new attachment tells what it has. It is given time, since the
    /// instance may take some of it.
    pub(super) fn break_stall(&mut self) {
        let is_full = self
            .client
            .as_ref()
            .is_some_and(|client| client.ahead.is_full());
        if !is_full || !self.link.has_waiting() {
            self.stalled_until = None;
            return;
        }
        let now = Instant::now();
        let until = *self.stalled_until.get_or_insert(now + SESSION_STALLED_MAX);
        if until <= now {
            let detail = "the session stands still: the client has more unacknowledged than it may, and has not \
                          acknowledged what it was sent";
            self.detach_with(Failure::new(Reason::SlowConsumer, detail));
        }
    }

    /// The orchestrator is about to stop: the client attaches again later, elsewhere or here.
    pub(super) fn go_away(&mut self) {
        self.tell(ServerFrame::GoAway {
            delay: Duration::from_secs(1),
        });
        self.detach_with(super::draining());
        self.suspend();
        self.ends = Some(Leave::Stop);
    }
}

/// How much of what there is a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientHas {
    /// There is none.
    Left,
    /// Not everything was sent.
    Less,
    /// Everything was sent.
    All,
    /// Everything was acknowledged.
    Acknowledged,
}
