//! One session as it is held with an instance: what is said both ways, and the two halves of the stream.
//!
//! Nothing is numbered, kept or repeated here: that is for whoever holds the session.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::domain::failure::Failure;
use crate::domain::payload::Payload;
use crate::domain::task::Names;

/// What an instance is told when a session is handed to it.
#[derive(Debug, Clone)]
pub struct Open {
    /// Id of the session.
    pub session: Arc<str>,
    /// When it was spawned, in milliseconds since 1970: tells two sessions of one id apart.
    pub spawned_ms: u64,
    /// Higher than in every earlier `Open` of this session.
    pub epoch: u64,
    /// The first message that an instance gets which knows nothing of the session.
    pub next_seq: u64,
    /// Messages up to this one have been answered; 0 when none has.
    pub answered_through: u64,
    /// The last message of an instance that was taken; the instance goes on numbering after it.
    pub received: Received,
    /// Free words about the session.
    pub labels: Arc<BTreeMap<String, String>>,
    /// For tracing only; absent when no call stands behind it.
    pub names: Option<Names>,
}

/// How far the messages of instances were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Seq of the last one; 0 when there is none.
    pub through: u64,
    /// The epoch in which it came; 0 when there is none.
    pub epoch: u64,
}

/// An instance that takes part in a session. Dropping both halves resets the stream.
pub struct Opened {
    /// The instance has everything up to this seq from before: it is sent what comes after. No acknowledgement.
    pub received_through: u64,
    /// What goes to the instance.
    pub sender: Sender,
    /// What comes from it.
    pub receiver: Receiver,
}

/// One message, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Its number in its direction, from 1.
    pub seq: u64,
    /// The seq of the message of the other direction that it answers.
    pub in_reply_to: Option<u64>,
    /// Whether it may have been delivered before. Of no meaning in what comes from an instance.
    pub redelivered: bool,
    /// What it carries.
    pub payload: Payload,
}

/// One frame, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Data(Data),
    /// Every message of the other direction up to this seq is taken.
    Ack {
        /// The last one that is.
        through: u64,
    },
    /// Nothing comes after it.
    Close {
        /// Why.
        reason: CloseReason,
        /// More about it, for people.
        detail: Arc<str>,
    },
}

/// Why a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The session is over.
    Done,
    /// Its time is over. Said to an instance only.
    Expired,
    /// It goes on at another instance. Said to an instance only.
    Moved,
    /// Whoever says so is about to stop, or rests: the session will be opened again.
    Suspended,
}

/// The stream takes no more. Why, the receiver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the instance takes no more of the session")]
pub struct Gone;

/// The way to send over one kind of connection.
pub trait SendFrames: Send {
    /// Waits until the other side has taken what was sent before and has room for more.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>>;
    /// Sends one frame. Without being ready it is kept until there is room.
    fn send(&mut self, frame: Frame) -> Result<(), Gone>;
}

/// The way to receive over one kind of connection.
pub trait ReceiveFrames: Send {
    /// Waits for a frame; `None` once the instance has ended the stream with OK. A failure is the last.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>>;
}

/// What goes to the instance.
pub struct Sender(Box<dyn SendFrames>);

/// What comes from the instance.
pub struct Receiver(Box<dyn ReceiveFrames>);

impl Sender {
    /// A sender over a connection.
    pub fn new(way: impl SendFrames + 'static) -> Self {
        Self(Box::new(way))
    }

    /// Waits until one more frame may be sent: until then the instance does not keep up. May be dropped and
    /// asked again at any time.
    pub async fn ready(&mut self) -> Result<(), Gone> {
        poll_fn(|context| self.0.poll_ready(context)).await
    }

    /// As `ready`, for whoever polls.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.0.poll_ready(context)
    }

    /// Sends one frame, at once; ask `ready` before, or frames gather without bound. After `Close` the stream is
    /// half-closed.
    pub fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        self.0.send(frame)
    }
}

impl Receiver {
    /// A receiver over a connection.
    pub fn new(way: impl ReceiveFrames + 'static) -> Self {
        Self(Box::new(way))
    }

    /// The next frame; `None` once the instance has ended the stream with OK. Nothing comes after a failure.
    /// Nothing is read ahead beyond the window of the stream. May be dropped and asked again at any time.
    pub async fn receive(&mut self) -> Option<Result<Frame, Failure>> {
        poll_fn(|context| self.0.poll_receive(context)).await
    }

    /// As `receive`, for whoever polls.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, Failure>>> {
        self.0.poll_receive(context)
    }
}
