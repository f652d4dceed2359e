//! What a session and its client say to each other, whichever door it comes by.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio_stream::Stream;

use crate::domain::failure::Failure;
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::session::to_client::Reply;
use crate::domain::session::{CloseReason, Epoch, SessionId};

/// What a client says once it is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// A message for the instance.
    Data {
        /// The client's own number.
        seq: u64,
        /// The seq of a message of the server that it replies to; 0 for none.
        in_reply_to: u64,
        /// What it carries.
        payload: Payload,
    },
    /// Everything up to this seq has arrived.
    Ack {
        /// The last one.
        seq: u64,
    },
    /// The session is to end.
    Close,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    /// It is attached.
    Ready(Ready),
    /// A message of the instance.
    Data {
        /// Its number.
        seq: u64,
        /// What it replies to.
        reply: Option<Reply>,
        /// Whether it may have been sent before.
        redelivered: bool,
        /// What it carries.
        payload: Payload,
    },
    /// Messages of the client are safe.
    Ack {
        /// The client's own number of the last one.
        seq: u64,
    },
    /// The session was handed to an instance.
    Moved {
        /// Who held it.
        previous: InstanceId,
        /// Who holds it now.
        instance: InstanceId,
        /// Since this epoch.
        epoch: Epoch,
    },
    /// Messages are lost.
    Lost {
        /// Which, and how they are numbered.
        direction: Direction,
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// The stream is about to end: attach again.
    GoAway {
        /// After this long.
        delay: Duration,
    },
    /// The session has ended. The last frame.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// The first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The session.
    pub session: SessionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who holds it.
    pub instance: InstanceId,
    /// The client's last message that is safe.
    pub last_received_seq: u64,
    /// The first message that will be sent.
    pub first_seq: u64,
    /// When its lifetime is over.
    pub expires: Option<SystemTime>,
}

/// Messages of a session: where they were to go, and by whose numbers they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client's stream to the instance, by the client's own numbers.
    ToInstance,
    /// Posted, to the instance, by their positions.
    PostedToInstance,
    /// From the instance to the client, by the instance's numbers.
    ToClient,
}

/// What a client sends, as it comes. Its end means that the client has no more to say.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<ClientFrame, Failure>> + Send>>;
