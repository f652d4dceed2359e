//! What goes to the client: one line of messages, numbered by the instances that sent them.
//!
//! ```text
//! trimmed ≤ stored ≤ last      seqs;  acked ≤ stored
//!     └ kept ────────┘
//! ```
//!
//! A message is kept until the client has acknowledged it, or until a call that waited for it was handed it
//! (it is *taken*). Only a prefix is ever trimmed, and what was acknowledged is told apart from what was taken.

use std::collections::VecDeque;

use super::Bounds;
use crate::domain::payload::Payload;
use crate::domain::session::to_instance::AckedTooMuch;

/// A message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number, from 1.
    pub seq: u64,
    /// What it replies to.
    pub reply: Option<Reply>,
    /// Whether a call that waited for it was handed it.
    pub taken: bool,
    /// What it carries.
    pub payload: Payload,
}

/// What a message replies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The message of the client's stream with this seq.
    Streamed(u64),
    /// The message that was posted and stands at this position.
    Posted(u64),
}

/// What becomes of a message of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is new.
    New,
    /// It has come before.
    Before,
}

/// An instance has left out a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the instance has sent seq {seq} where {expected} is next")]
pub struct Gap {
    /// What it has sent.
    pub seq: u64,
    /// What was next.
    pub expected: u64,
}

/// Why a client cannot go on from where it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoResume {
    /// It has acknowledged more than it says that it has.
    #[error("last_received_seq {has}: messages through {acked} were acknowledged and are gone")]
    Truncated {
        /// What it says.
        has: u64,
        /// What was acknowledged.
        acked: u64,
    },
    /// It says that it has what was never sent.
    #[error("last_received_seq {has}: only messages through {last} were ever sent")]
    NeverSent {
        /// What it says.
        has: u64,
        /// What there is.
        last: u64,
    },
}

/// The line to the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToClient {
    bounds: Bounds,
    kept: VecDeque<Message>,
    bytes: usize,
    released: u64,
    trimmed: u64,
    acked: u64,
    stored: u64,
    last: u64,
}

/// What is known of a line that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The last seq that the client has acknowledged.
    pub acked: u64,
    /// The last seq.
    pub last: u64,
}

impl ToClient {
    /// The line as it was stored.
    #[must_use]
    pub fn recovered(
        bounds: Bounds,
        counters: Counters,
        kept: impl IntoIterator<Item = Message>,
    ) -> Self {
        let kept: VecDeque<_> = kept
            .into_iter()
            .filter(|message| counters.acked < message.seq)
            .collect();
        let trimmed = kept.front().map_or(counters.last, |first| first.seq - 1);
        let mut line = Self {
            bounds,
            bytes: kept.iter().map(size).sum(),
            released: 0,
            kept,
            trimmed,
            acked: counters.acked,
            stored: counters.last,
            last: counters.last,
        };
        line.trim();
        line
    }

    /// Whether a message of so many bytes is taken now. One always is when nothing is kept.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.kept.is_empty()
            || (self.kept.len() < self.bounds.messages && self.bytes + bytes <= self.bounds.bytes)
    }

    /// Accepts a message of the instance.
    pub fn accept(
        &mut self,
        seq: u64,
        reply: Option<Reply>,
        payload: Payload,
    ) -> Result<Accepted, Gap> {
        if seq <= self.last && seq != 0 {
            return Ok(Accepted::Before);
        }
        let expected = self.last + 1;
        if seq != expected {
            return Err(Gap { seq, expected });
        }
        self.last = seq;
        let message = Message {
            seq,
            reply,
            taken: false,
            payload: payload.kept(),
        };
        self.bytes += size(&message);
        self.kept.push_back(message);
        Ok(Accepted::New)
    }

    /// The messages after `seq`, in order, also those that are not stored.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Message> {
        let from = self.kept.partition_point(|message| message.seq <= seq);
        self.kept.range(from..)
    }

    /// The messages that are not stored yet.
    pub fn unstored(&self) -> impl Iterator<Item = &Message> {
        self.after(self.stored)
    }

    /// Everything up to `seq` is stored.
    pub fn store(&mut self, seq: u64) {
        self.stored = self.stored.max(seq.min(self.last));
        self.trim();
    }

    /// Storing has failed: what is not stored was never accepted.
    pub fn forget_unstored(&mut self) {
        let keep = self
            .kept
            .partition_point(|message| message.seq <= self.stored);
        for message in self.kept.drain(keep..) {
            self.bytes -= size(&message);
        }
        self.last = self.stored;
    }

    /// The message that a client gets which has everything up to `sent`; only what is stored is delivered.
    #[must_use]
    pub fn next(&self, sent: u64) -> Option<&Message> {
        self.after(sent)
            .next()
            .filter(|message| message.seq <= self.stored)
    }

    /// Where a client goes on that says what it has: everything up to the answer counts as sent.
    pub fn resume(&mut self, has: Option<u64>) -> Result<u64, NoResume> {
        let has = has.unwrap_or(self.acked);
        if has < self.acked {
            return Err(NoResume::Truncated {
                has,
                acked: self.acked,
            });
        }
        if self.stored < has {
            return Err(NoResume::NeverSent {
                has,
                last: self.stored,
            });
        }
        self.acked = has;
        self.trim();
        Ok(self.trimmed.max(has))
    }

    /// The client has acknowledged everything up to `seq`, of which it was sent everything up to `sent`. Tells
    /// whether that is news.
    pub fn ack(&mut self, seq: u64, sent: u64) -> Result<bool, AckedTooMuch> {
        if sent < seq {
            return Err(AckedTooMuch { acked: seq, sent });
        }
        if seq <= self.acked {
            return Ok(false);
        }
        self.acked = seq;
        self.trim();
        Ok(true)
    }

    /// A call that waited for the message was handed it.
    pub fn take(&mut self, seq: u64) {
        if let Ok(at) = self.kept.binary_search_by_key(&seq, |message| message.seq) {
            self.kept[at].taken = true;
        }
        self.trim();
    }

    /// Drops the longest prefix that nobody needs any more.
    fn trim(&mut self) {
        while let Some(first) = self.kept.front() {
            let done = first.taken || first.seq <= self.acked;
            if !done || self.stored < first.seq {
                break;
            }
            self.bytes -= size(first);
            self.released += size(first) as u64;
            self.trimmed = first.seq;
            self.kept.pop_front();
        }
    }

    /// Through which seq the client has acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes of all messages that were kept here and need not be any more.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Bytes of the messages that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Through which seq everything is stored: what is acknowledged to the instance.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The last seq, stored or not.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many messages are kept for the client.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.kept.len()
    }

    /// The kept message that replies to what was posted at `position`.
    #[must_use]
    pub fn reply_to_post(&self, position: u64) -> Option<&Message> {
        self.kept
            .iter()
            .find(|message| message.reply == Some(Reply::Posted(position)))
    }
}

fn size(message: &Message) -> usize {
    message.payload.encoded().len()
}
