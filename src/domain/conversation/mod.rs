//! What an instance keeps of one session, so that it applies each message once and none of its own is lost.
//!
//! For authors of instances, and for the built-in ones. It decides and does nothing: frames come in as numbers.
//!
//! The orchestrator delivers at least once. With this, the effects of a message happen once, for as long as the
//! instance keeps its `Memory`: an instance that restarts without it gets everything that was not acknowledged
//! again, and `answered_through` tells what has been answered.

use std::collections::VecDeque;

/// What an instance is told when a session is opened: the numbers of `SessionOpen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// When the session was spawned, in milliseconds since 1970.
    pub spawned_ms: u64,
    /// Higher than in every earlier opening of the session.
    pub epoch: u64,
    /// The first message that comes to an instance which knows nothing.
    pub next_seq: u64,
    /// Messages up to this one have been answered.
    pub answered_through: u64,
    /// The last message of an instance that was taken.
    pub received_through: u64,
    /// The epoch in which it came.
    pub received_epoch: u64,
}

/// What has to survive a restart, in one piece with the effects of the messages, for these to happen once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory<M> {
    /// When the session was spawned.
    pub spawned_ms: u64,
    /// The last epoch that was seen; 0 before the first.
    pub epoch: u64,
    /// Messages up to this one are applied.
    pub applied_through: u64,
    /// Messages up to this one are handled: what there was to say to them is said.
    pub handled_through: u64,
    /// The number of the last message that was said.
    pub said_through: u64,
    /// Messages that were said and are not acknowledged.
    pub unacknowledged: VecDeque<Said<M>>,
}

/// A message of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<M> {
    /// Its number.
    pub seq: u64,
    /// The message that it answers.
    pub in_reply_to: Option<u64>,
    /// What it says.
    pub message: M,
}

/// The instance's side of one session.
#[derive(Debug, Clone)]
pub struct Conversation<M> {
    memory: Memory<M>,
    /// Messages up to this one do not come any more, whether they were applied here or not.
    skipped_through: u64,
    answered_through: u64,
    acknowledged: u64,
}

/// How a session goes on. The messages that `unacknowledged` gives are to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// For `SessionOpened`.
    pub received_through: u64,
    /// How many messages another instance has taken that this one never saw, and never will.
    pub missed: u64,
}

/// The opening, or the frame, of an epoch that is over. Refuse it with FAILED_PRECONDITION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the epoch is stale: the last one seen is {seen}")]
pub struct Stale {
    /// The epoch that was seen last.
    pub seen: u64,
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is the next one: apply it now, whatever becomes of the stream, and answer it.
    Apply,
    /// It is the next one and was answered before: apply it, and do not answer.
    ApplyQuietly,
    /// It was applied before: do nothing.
    Duplicate,
    /// It comes from an epoch that is over: end the stream with ABORTED.
    StaleEpoch,
    /// Messages are missing before it: end the stream with DATA_LOSS, it will be opened again.
    Gap {
        /// The one that should have come.
        expected: u64,
    },
}

/// An acknowledgement of what was never said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged through {through}, and {said_through} is the last that was said")]
pub struct OverAck {
    /// What was acknowledged.
    pub through: u64,
    /// What was said.
    pub said_through: u64,
}

impl<M> Default for Memory<M> {
    fn default() -> Self {
        Self {
            spawned_ms: 0,
            epoch: 0,
            applied_through: 0,
            handled_through: 0,
            said_through: 0,
            unacknowledged: VecDeque::new(),
        }
    }
}

impl<M> Default for Conversation<M> {
    fn default() -> Self {
        Self::remembered(Memory::default())
    }
}

impl<M> Conversation<M> {
    /// Goes on after a restart of the instance.
    #[must_use]
    pub fn remembered(memory: Memory<M>) -> Self {
        Self {
            memory,
            skipped_through: 0,
            answered_through: 0,
            acknowledged: 0,
        }
    }

    /// What has to be kept for the time after a restart.
    #[must_use]
    pub fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// Begins an epoch; the one before it is over.
    pub fn open(&mut self, opening: &Opening) -> Result<Resumed, Stale> {
        let memory = &mut self.memory;
        if (opening.spawned_ms, opening.epoch) <= (memory.spawned_ms, memory.epoch) {
            return Err(Stale { seen: memory.epoch });
        }
        if memory.spawned_ms < opening.spawned_ms {
            // Another session under the same id.
            *memory = Memory {
                spawned_ms: opening.spawned_ms,
                ..Memory::default()
            };
            self.skipped_through = 0;
        }
        let received_through = memory.applied_through;
        let is_new = memory.epoch == 0;
        let before = opening.next_seq.saturating_sub(1);
        let known = memory.applied_through.max(self.skipped_through);
        let missed = before.saturating_sub(known);
        if memory.epoch < opening.received_epoch {
            memory.unacknowledged.clear();
        }
        let taken = opening.received_through;
        memory.unacknowledged.retain(|said| taken < said.seq);
        memory.said_through = taken;
        for said in &mut memory.unacknowledged {
            memory.said_through += 1;
            said.seq = memory.said_through;
        }
        memory.epoch = opening.epoch;
        // What it was never given does not count as applied, also not when the session is opened once more.
        self.skipped_through = before;
        self.answered_through = opening.answered_through;
        self.acknowledged = 0;
        Ok(Resumed {
            received_through,
            missed: if is_new { 0 } else { missed },
        })
    }

    /// Judges a message that came under an epoch. What is to be applied counts as applied from here on.
    #[must_use]
    pub fn receive(&mut self, epoch: u64, seq: u64) -> Receipt {
        if epoch != self.memory.epoch {
            return Receipt::StaleEpoch;
        }
        let expected = self.memory.applied_through.max(self.skipped_through) + 1;
        if seq < expected {
            return Receipt::Duplicate;
        }
        if expected < seq {
            return Receipt::Gap { expected };
        }
        self.memory.applied_through = seq;
        if seq <= self.answered_through {
            Receipt::ApplyQuietly
        } else {
            Receipt::Apply
        }
    }

    /// Gives a message its number and keeps it until it is acknowledged. Ask `due` for what to acknowledge only
    /// after the answers to a message were said and it is `handled`.
    pub fn say(&mut self, in_reply_to: Option<u64>, message: M) -> &Said<M> {
        self.memory.said_through += 1;
        let said = Said {
            seq: self.memory.said_through,
            in_reply_to,
            message,
        };
        let kept = &mut self.memory.unacknowledged;
        kept.push_back(said);
        &kept[kept.len() - 1]
    }

    /// Everything up to this message is handled: what there was to say to it is said.
    pub fn handled(&mut self, through: u64) {
        let applied = through.min(self.memory.applied_through);
        self.memory.handled_through = self.memory.handled_through.max(applied);
    }

    /// The messages to send again after an opening, in order.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &Said<M>> {
        self.memory.unacknowledged.iter()
    }

    /// The orchestrator has taken messages.
    pub fn taken(&mut self, through: u64) -> Result<(), OverAck> {
        let said_through = self.memory.said_through;
        if said_through < through {
            return Err(OverAck {
                through,
                said_through,
            });
        }
        let kept = &mut self.memory.unacknowledged;
        while kept.front().is_some_and(|said| said.seq <= through) {
            kept.pop_front();
        }
        Ok(())
    }

    /// What to acknowledge now, when there is something new: what was handled, up to the first message whose
    /// answer has not arrived. Never goes back.
    pub fn due(&mut self) -> Option<u64> {
        let kept = self.memory.unacknowledged.iter();
        let unanswered = kept.filter_map(|said| said.in_reply_to).min();
        let before = unanswered.map_or(u64::MAX, |seq| seq.saturating_sub(1));
        let through = self.memory.handled_through.min(before);
        if through <= self.acknowledged {
            return None;
        }
        self.acknowledged = through;
        Some(through)
    }
}

#[cfg(test)]
mod tests;
