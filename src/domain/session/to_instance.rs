//! What goes to the instance: one line of messages, streamed and posted ones together.
//!
//! ```text
//! acked ≤ stored ≤ last        positions
//!    └ kept ────────┘          what the instance has not acknowledged
//! ```
//!
//! A message is accepted, then stored, then delivered, then acknowledged by the instance, in this order and never
//! another. Nothing is delivered or acknowledged to the client before it is stored.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};

use super::Bounds;
use crate::domain::limit::SETTLED_KEPT;
use crate::domain::payload::Payload;

/// A message for the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the line, from 1: the number by which the instance knows it.
    pub position: u64,
    /// How it came.
    pub source: Source,
    /// The seq of the message for the client that it replies to; 0 for none.
    pub in_reply_to: u64,
    /// What it carries.
    pub payload: Payload,
}

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Over the stream of a client.
    Streamed {
        /// The client's own number of it, from 1.
        seq: u64,
    },
    /// By itself.
    Posted,
}

/// What becomes of a message of a client's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is new, and stands here.
    New(u64),
    /// It has come before.
    Before,
}

/// Why a message is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// One before it is missing.
    #[error("seq {seq} leaves a gap: {expected} is next")]
    Gap {
        /// The number that it has.
        seq: u64,
        /// The number that is next.
        expected: u64,
    },
    /// Numbers begin at 1.
    #[error("seq 0: messages are numbered from 1")]
    Zero,
    /// Another message has this number.
    #[error("seq {0} has come before with another payload")]
    Changed(u64),
    /// Too much is unacknowledged.
    #[error("the instance has too much of the session unacknowledged: no more is taken")]
    Full,
}

/// An acknowledgement of what was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{acked} is acknowledged and only {sent} was sent")]
pub struct AckedTooMuch {
    /// What was acknowledged.
    pub acked: u64,
    /// What was sent.
    pub sent: u64,
}

/// The line to the instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToInstance {
    bounds: Bounds,
    kept: VecDeque<Message>,
    bytes: usize,
    released: u64,
    acked: u64,
    stored: u64,
    last: u64,
    stored_seq: u64,
    last_seq: u64,
    /// What was acknowledged last: an instance may reply to it, and a client may send it again.
    settled: VecDeque<Settled>,
}

/// What is remembered of a message that the instance has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    position: u64,
    /// The client's own number; 0 when it was posted.
    seq: u64,
    /// Tells another payload from the same one; only ever compared with others of this process.
    fingerprint: u64,
}

/// What is known of a line that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The last position that the instance has acknowledged.
    pub acked: u64,
    /// The last position.
    pub last: u64,
    /// The client's last seq.
    pub last_seq: u64,
}

impl ToInstance {
    /// The line as it was stored: `kept` is everything after `counters.acked`.
    #[must_use]
    pub fn recovered(
        bounds: Bounds,
        counters: Counters,
        kept: impl IntoIterator<Item = Message>,
    ) -> Self {
        let kept: VecDeque<_> = kept
            .into_iter()
            .filter(|message| counters.acked < message.position)
            .collect();
        Self {
            bounds,
            bytes: kept.iter().map(size).sum(),
            released: 0,
            kept,
            acked: counters.acked,
            stored: counters.last,
            last: counters.last,
            stored_seq: counters.last_seq,
            last_seq: counters.last_seq,
            settled: VecDeque::new(),
        }
    }

    /// Whether a message of so many bytes is taken now. One always is when nothing is kept.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.kept.is_empty()
            || (self.kept.len() < self.bounds.messages && self.bytes + bytes <= self.bounds.bytes)
    }

    /// Accepts a message of the client's stream.
    pub fn stream(
        &mut self,
        seq: u64,
        in_reply_to: u64,
        payload: Payload,
    ) -> Result<Accepted, Refused> {
        if seq == 0 {
            return Err(Refused::Zero);
        }
        if seq <= self.last_seq {
            return if self.is_changed(seq, &payload) {
                Err(Refused::Changed(seq))
            } else {
                Ok(Accepted::Before)
            };
        }
        let expected = self.last_seq + 1;
        if expected < seq {
            return Err(Refused::Gap { seq, expected });
        }
        let position = self.push(Source::Streamed { seq }, in_reply_to, payload)?;
        self.last_seq = seq;
        Ok(Accepted::New(position))
    }

    /// Whether what is remembered of the message with this number says that it was another one.
    fn is_changed(&self, seq: u64, payload: &Payload) -> bool {
        let same_seq = |message: &&Message| message.source == Source::Streamed { seq };
        if let Some(first) = self.kept.iter().find(same_seq) {
            return first.payload != *payload;
        }
        let settled = self.settled.iter().find(|settled| settled.seq == seq);
        settled.is_some_and(|settled| settled.fingerprint != fingerprint(payload))
    }

    /// Accepts a message that came by itself; tells its position.
    pub fn post(&mut self, in_reply_to: u64, payload: Payload) -> Result<u64, Refused> {
        self.push(Source::Posted, in_reply_to, payload)
    }

    fn push(&mut self, source: Source, in_reply_to: u64, payload: Payload) -> Result<u64, Refused> {
        if !self.has_room(payload.encoded().len()) {
            return Err(Refused::Full);
        }
        self.last += 1;
        let message = Message {
            position: self.last,
            source,
            in_reply_to,
            payload: payload.kept(),
        };
        self.bytes += size(&message);
        self.kept.push_back(message);
        Ok(self.last)
    }

    /// The messages after `position`, in order, also those that are not stored.
    pub fn after(&self, position: u64) -> impl Iterator<Item = &Message> {
        let from = self
            .kept
            .partition_point(|message| message.position <= position);
        self.kept.range(from..)
    }

    /// The messages that are not stored yet.
    pub fn unstored(&self) -> impl Iterator<Item = &Message> {
        self.after(self.stored)
    }

    /// Everything up to `position` is stored.
    pub fn store(&mut self, position: u64) {
        let position = position.min(self.last);
        if position <= self.stored {
            return;
        }
        let seqs = self
            .after(self.stored)
            .take_while(|message| message.position <= position)
            .filter_map(|message| match message.source {
                Source::Streamed { seq } => Some(seq),
                Source::Posted => None,
            });
        self.stored_seq = seqs.max().unwrap_or(self.stored_seq);
        self.stored = position;
    }

    /// Storing has failed: what is not stored was never accepted.
    pub fn forget_unstored(&mut self) {
        let keep = self
            .kept
            .partition_point(|message| message.position <= self.stored);
        for message in self.kept.drain(keep..) {
            self.bytes -= size(&message);
        }
        self.last = self.stored;
        self.last_seq = self.stored_seq;
    }

    /// The message that an instance gets which has everything up to `sent`; only what is stored is delivered.
    #[must_use]
    pub fn next(&self, sent: u64) -> Option<&Message> {
        self.after(sent)
            .next()
            .filter(|message| message.position <= self.stored)
    }

    /// The instance has acknowledged everything up to `position`, of which it was sent everything up to `sent`.
    /// Tells whether that is news.
    pub fn ack(&mut self, position: u64, sent: u64) -> Result<bool, AckedTooMuch> {
        let sent = sent.min(self.stored);
        if sent < position {
            return Err(AckedTooMuch {
                acked: position,
                sent,
            });
        }
        if position <= self.acked {
            return Ok(false);
        }
        while let Some(first) = self.kept.front().filter(|first| first.position <= position) {
            self.bytes -= size(first);
            self.released += size(first) as u64;
            let seq = match first.source {
                Source::Streamed { seq } => seq,
                Source::Posted => 0,
            };
            self.settled.push_back(Settled {
                position: first.position,
                seq,
                fingerprint: fingerprint(&first.payload),
            });
            self.kept.pop_front();
        }
        let superfluous = self.settled.len().saturating_sub(SETTLED_KEPT);
        self.settled.drain(..superfluous);
        self.acked = position;
        Ok(true)
    }

    /// The client's seq of the message at `position`: 0 when it was posted, `None` when that is not known any more.
    #[must_use]
    pub fn seq_at(&self, position: u64) -> Option<u64> {
        if position == 0 || self.stored < position {
            return None;
        }
        // Without posts both count the same.
        if self.stored == self.stored_seq {
            return Some(position);
        }
        let kept = self.after(position - 1).next();
        let kept = kept.filter(|message| message.position == position);
        match kept.map(|message| &message.source) {
            Some(Source::Streamed { seq }) => Some(*seq),
            Some(Source::Posted) => Some(0),
            None => {
                let settled = &self.settled;
                let at = settled.binary_search_by_key(&position, |settled| settled.position);
                Some(settled[at.ok()?].seq)
            }
        }
    }

    /// Through which position the instance has acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Through which position everything is stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Through which of the client's own numbers everything is stored: what is acknowledged to it.
    #[must_use]
    pub fn stored_seq(&self) -> u64 {
        self.stored_seq
    }

    /// How many messages the instance has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.kept.len()
    }

    /// The last position, stored or not.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
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

    /// The first and the last of the client's own numbers among the kept messages after `position`.
    #[must_use]
    pub fn seqs_after(&self, position: u64) -> Option<(u64, u64)> {
        let mut seqs = self
            .after(position)
            .filter_map(|message| match message.source {
                Source::Streamed { seq } => Some(seq),
                Source::Posted => None,
            });
        let first = seqs.next()?;
        Some((first, seqs.last().unwrap_or(first)))
    }

    /// The positions of the first and the last of the kept messages after `position` that came by themselves.
    #[must_use]
    pub fn posts_after(&self, position: u64) -> Option<(u64, u64)> {
        let mut posts = self
            .after(position)
            .filter(|message| message.source == Source::Posted)
            .map(|message| message.position);
        let first = posts.next()?;
        Some((first, posts.last().unwrap_or(first)))
    }
}

fn fingerprint(payload: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload.encoded());
    hasher.finish()
}

fn size(message: &Message) -> usize {
    message.payload.encoded().len()
}
