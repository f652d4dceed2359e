//! One log of a session, counted: what is kept, what is settled, where the next message goes.

use std::collections::VecDeque;

use crate::domain::limit::{
    HELD_BYTES_MAX, HELD_MAX, UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_MAX,
};
use crate::domain::session::gone::Through;
use crate::store::record::{Counters, Taken};
use crate::store::{Bound, Error};

/// A message that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    /// Its sender's number, 0 for a post.
    pub(in crate::store) sender_seq: u64,
    /// Its size.
    pub(in crate::store) bytes: usize,
    /// Whether it was taken.
    pub(in crate::store) taken: Taken,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the new end.
    New,
    /// Nowhere, if its body is that of this message.
    Repeats(u64),
    /// Nowhere: the message that it may repeat is not kept any more.
    Forgotten,
}

/// How much of what is settled is kept; up to twice as much is there for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// One log, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Log {
    counters: Counters,
    /// What is kept: `removed + 1` to `last`.
    entries: VecDeque<Entry>,
    /// Neither acknowledged nor taken.
    pending: usize,
    pending_bytes: usize,
    /// Settled, and still kept.
    settled_bytes: usize,
    bytes: usize,
}

/// Where a log stood, so that an append can be taken back.
pub(super) struct Mark {
    counters: Counters,
    entries: usize,
    pending: usize,
    pending_bytes: usize,
    bytes: usize,
}

impl Log {
    /// The log that was written down. Of its counters all but `last` and `settled` are used.
    pub(in crate::store) fn restore(
        written: Counters,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Self {
        let mut log = Self::default();
        log.counters.last = written.removed;
        log.counters.settled = written.removed;
        log.counters.removed = written.removed;
        log.counters.removed_post = written.removed_post;
        for entry in entries {
            log.push(entry);
        }
        log.counters.acked = written.acked;
        log.counters.sender_seq = written.sender_seq;
        log.settle();
        log
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of what somebody still waits for.
    pub(super) fn bytes_not_settled(&self) -> usize {
        self.bytes - self.settled_bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.counters.last += 1;
        if entry.sender_seq != 0 {
            self.counters.sender_seq = entry.sender_seq;
        }
        if entry.taken == Taken::No {
            self.pending += 1;
            self.pending_bytes += entry.bytes;
        }
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
    }

    fn entry(&self, number: u64) -> Option<Entry> {
        let at = number.checked_sub(self.counters.removed + 1)?;
        self.entries.get(usize::try_from(at).ok()?).copied()
    }

    /// Where a message of this sender's number (none for a post) and this size goes.
    pub(super) fn place(&self, sender_seq: Option<u64>, bytes: usize) -> Result<Place, Error> {
        if let Some(seq) = sender_seq {
            let newest = self.counters.sender_seq;
            let expected = newest.saturating_add(1);
            if seq == 0 || expected < seq {
                return Err(Error::Gap { expected });
            }
            if seq <= newest {
                return Ok(self.find(seq).map_or(Place::Forgotten, Place::Repeats));
            }
        }
        self.room_for(bytes)?;
        Ok(Place::New)
    }

    /// The kept message with this number of its sender, which is not above the newest. From the new end: the
    /// messages of this epoch come before those of older ones, and without a hole.
    fn find(&self, sender_seq: u64) -> Option<u64> {
        let is_it = |entry: &Entry| entry.sender_seq == sender_seq;
        let at = self.entries.iter().rposition(is_it)?;
        Some(self.counters.removed + 1 + at as u64)
    }

    fn room_for(&self, bytes: usize) -> Result<(), Error> {
        if UNACKNOWLEDGED_MAX <= self.pending {
            return Err(Error::Full(Bound::Messages));
        }
        if 0 < self.pending && UNACKNOWLEDGED_BYTES_MAX < self.pending_bytes + bytes {
            return Err(Error::Full(Bound::Bytes));
        }
        let held = self.counters.last - self.counters.settled;
        let held_bytes = self.bytes_not_settled();
        if 0 < held && (HELD_MAX as u64 <= held || HELD_BYTES_MAX < held_bytes + bytes) {
            return Err(Error::Full(Bound::Held));
        }
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, through: u64) -> Result<(), Error> {
        let last = self.counters.last;
        if last < through {
            return Err(Error::OverAck { last });
        }
        self.counters.acked = self.counters.acked.max(through);
        self.settle();
        Ok(())
    }

    pub(super) fn take(&mut self, number: u64) -> Result<(), Error> {
        let last = self.counters.last;
        if number == 0 || last < number {
            return Err(Error::OverAck { last });
        }
        if self.counters.settled < number {
            let at = number - self.counters.removed - 1;
            let entry = usize::try_from(at)
                .ok()
                .and_then(|at| self.entries.get_mut(at));
            if let Some(entry) = entry.filter(|entry| entry.taken == Taken::No) {
                entry.taken = Taken::Yes;
                self.pending -= 1;
                self.pending_bytes -= entry.bytes;
            }
            self.settle();
        }
        Ok(())
    }

    /// Moves `settled` over what is acknowledged or taken.
    fn settle(&mut self) {
        while let Some(entry) = self.entry(self.counters.settled + 1) {
            let is_acked = self.counters.settled < self.counters.acked;
            match entry.taken {
                Taken::Yes => {}
                Taken::No if is_acked => {
                    self.pending -= 1;
                    self.pending_bytes -= entry.bytes;
                }
                Taken::No => break,
            }
            self.counters.settled += 1;
            self.settled_bytes += entry.bytes;
        }
    }

    /// Removes settled messages from the old end, once there are twice as many as are kept.
    pub(super) fn trim(&mut self, keep: Keep) {
        let settled = |log: &Self| log.counters.settled - log.counters.removed;
        if settled(self) <= 2 * keep.messages as u64 && self.settled_bytes <= 2 * keep.bytes {
            return;
        }
        while (keep.messages as u64) < settled(self) || keep.bytes < self.settled_bytes {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.counters.removed += 1;
            if entry.sender_seq == 0 {
                self.counters.removed_post = self.counters.removed;
            }
            self.settled_bytes -= entry.bytes;
            self.bytes -= entry.bytes;
        }
    }

    /// What the messages through a position were: the last one of the client's stream, and the last one that was
    /// posted. Where later ones are removed already, nobody knows that any more.
    pub(super) fn through(&self, position: u64) -> Result<Through, Error> {
        let Counters {
            last,
            removed,
            removed_post,
            sender_seq,
            ..
        } = self.counters;
        if last < position {
            return Err(Error::OverAck { last });
        }
        let kept = position.checked_sub(removed).ok_or(Error::Conflict)?;
        // Its numbers have no hole.
        let seqs = self.entries.iter().map(|entry| entry.sender_seq);
        let first_kept = seqs.clone().find(|seq| *seq != 0);
        let mut through = Through {
            seq: first_kept.map_or(sender_seq, |seq| seq - 1),
            post: removed_post,
        };
        for (seq, at) in seqs.zip(removed + 1..=removed + kept) {
            if seq == 0 {
                through.post = at;
            } else {
                through.seq = seq;
            }
        }
        Ok(through)
    }

    /// Drops everything that is kept. What was not acknowledged stays counted as such.
    pub(super) fn clear(&mut self) {
        let counters = Counters {
            removed: self.counters.last,
            settled: self.counters.last,
            ..self.counters
        };
        *self = Self {
            counters,
            ..Self::default()
        };
    }

    /// Its sender begins with 1 again.
    pub(super) fn change_sender(&mut self) {
        self.counters.sender_seq = 0;
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            counters: self.counters,
            entries: self.entries.len(),
            pending: self.pending,
            pending_bytes: self.pending_bytes,
            bytes: self.bytes,
        }
    }

    /// Takes back what was pushed since the mark.
    pub(super) fn return_to(&mut self, mark: &Mark) {
        self.counters = mark.counters;
        self.entries.truncate(mark.entries);
        self.pending = mark.pending;
        self.pending_bytes = mark.pending_bytes;
        self.bytes = mark.bytes;
    }
}
