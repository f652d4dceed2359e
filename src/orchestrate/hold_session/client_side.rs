//! A session and its client: attach, messages and acknowledgements both ways, detach.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::closing::Life;
use super::frame::{ClientFrame, Incoming, Ready, ServerFrame};
use super::outbox::{Outbox, Outgoing, Reader, Want, outbox};
use super::owner::{Leave, Owner};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::SESSION_SILENCE_MAX;
use crate::domain::payload::Payload;
use crate::domain::session::CloseReason;
use crate::domain::session::to_client::NoResume;
use crate::domain::session::to_instance::Refused;

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
    /// A message that came and has to wait for room.
    stash: Option<Stashed>,
}

/// A message that came and has to wait for room.
struct Stashed {
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
            Life::Open => {}
            Life::Over { .. } if 0 < self.to_client.unacknowledged() => {}
            Life::Ending { reason, .. } | Life::Over { reason, .. } => {
                return Err(super::closed(reason));
            }
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
            stash: None,
        });
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
        // What a client sends is not read while it could not be kept: its window closes, and it is slowed.
        let takes = self.to_instance.has_room(1);
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
        if takes
            && client.stash.is_none()
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
                    } => self.take_message(Stashed {
                        seq,
                        in_reply_to,
                        payload,
                    }),
                    ClientFrame::Ack { seq } => self.take_ack(seq),
                    ClientFrame::Close => self.end(CloseReason::ByClient),
                }
            }
        }
    }

    fn take_message(&mut self, message: Stashed) {
        if !self.life.is_open() {
            return;
        }
        let Stashed {
            seq,
            in_reply_to,
            payload,
        } = message;
        match self.to_instance.stream(seq, in_reply_to, payload.clone()) {
            Ok(_) => {}
            Err(Refused::Full) => {
                if let Some(client) = &mut self.client {
                    client.stash = Some(Stashed {
                        seq,
                        in_reply_to,
                        payload,
                    });
                }
            }
            Err(bad @ (Refused::Gap { .. } | Refused::Zero | Refused::Changed(_))) => {
                self.detach_with(Failure::new(
                    Reason::ArgumentInvalid,
                    format!("data: {bad}"),
                ));
            }
        }
    }

    fn take_ack(&mut self, seq: u64) {
        let sent = self.client.as_ref().map_or(0, |client| client.sent);
        if let Err(bad) = self.to_client.ack(seq, sent) {
            self.detach_with(Failure::new(Reason::ArgumentInvalid, format!("ack: {bad}")));
        }
    }

    /// Whatever the client can be told now.
    pub(super) fn speak_to_client(&mut self) {
        let stashed = self.client.as_mut().and_then(|client| client.stash.take());
        if let Some(stashed) = stashed {
            self.take_message(stashed);
        }
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
            && client.stash.is_none()
            && self.to_instance.unstored().next().is_none()
            && self.to_client.next(sent).is_none();
        if is_done && self.life.is_open() {
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
