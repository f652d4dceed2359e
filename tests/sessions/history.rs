//! The history of one session: what its client and the instances that held it have seen, in order.

use std::fmt;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The client was attached.
    Ready(Ready),
    /// The client sent a message of its stream, perhaps not for the first time.
    Sent { seq: u64, text: String },
    /// The client learned that its messages up to here are safe.
    Acked(u64),
    /// The client got a message over its stream.
    Received {
        seq: u64,
        reply: Option<Answers>,
        text: String,
    },
    /// The client sends a message by itself, perhaps not for the first time.
    Posting(String),
    /// That message was accepted, and perhaps answered: the number and the words of the reply.
    Posted {
        text: String,
        position: u64,
        reply: Option<(u64, String)>,
    },
    /// The client was told that another instance goes on.
    Moved { epoch: u64 },
    /// The client was told that its own messages from here to there are lost.
    Lost { first: u64, last: u64 },
    /// The client was told that what was posted to these positions is lost.
    LostPosts { first: u64, last: u64 },
    /// The last frame: the session has ended, for this reason.
    Closed(String),
    /// The client was refused, because the session has ended or is not there any more.
    Over(String),
    /// An instance takes part.
    Opened(Opened),
    /// An instance applied a message.
    Applied {
        mind: String,
        epoch: u64,
        position: u64,
        text: String,
    },
    /// The call in which an instance took part is over: with these last words, or with none.
    Parted {
        mind: String,
        last_words: Option<String>,
    },
    /// The orchestrator has begun anew.
    Restarted,
}

/// What the client was told when it was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) epoch: u64,
    /// How far its messages have come.
    pub(crate) last_received: u64,
    /// The next message that it gets.
    pub(crate) first: u64,
}

/// An instance as it takes part. What it remembers is its mind: one that forgets everything has a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) mind: String,
    pub(crate) epoch: u64,
    /// The first message that comes to a mind that knows nothing.
    pub(crate) next_seq: u64,
}

/// What a message of an instance answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// A message of the client's stream, by the client's own number.
    Streamed(u64),
    /// A message that was posted, by its position.
    Posted(u64),
}

/// The words of an answer: `m7@A.1#3` is the answer to `m7` that the mind A.1 gave in epoch 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) to: String,
    pub(crate) mind: String,
    pub(crate) epoch: u64,
}

impl Answer {
    /// Reads one.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (to, by) = text.split_once('@')?;
        let (mind, epoch) = by.split_once('#')?;
        Some(Self {
            to: to.to_owned(),
            mind: mind.to_owned(),
            epoch: epoch.parse().ok()?,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.to, self.mind, self.epoch)
    }
}

/// The words of the client's message with this number; longer with padding.
pub(crate) fn streamed(seq: u64, padding: usize) -> String {
    format!("m{seq}{}", ".".repeat(padding))
}

/// The number in the words of a message of a client's stream.
pub(crate) fn seq_of(text: &str) -> Option<u64> {
    text.strip_prefix('m')?.trim_end_matches('.').parse().ok()
}
