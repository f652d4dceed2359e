//! What instances went on without in a session that they should have whole, as it happens: that was to be written down
//! before.

use std::collections::BTreeMap;

use crate::sessions::history::{Event, Opened, seq_of};

/// How far the instances of one session are.
#[derive(Default)]
pub(super) struct Beginnings {
    /// The client's own number of each position.
    seqs: BTreeMap<u64, u64>,
    /// Through which position each mind has applied, or was not given.
    minds: BTreeMap<String, u64>,
    /// The last message of the client that each mind was not given when it was opened.
    left_out: BTreeMap<String, u64>,
}

impl Beginnings {
    /// The last message of the client that an instance goes on without from this event on.
    pub(super) fn hear(&mut self, event: &Event) -> Option<u64> {
        match event {
            Event::Opened(Opened { mind, next_seq, .. }) => {
                let through = self.minds.entry(mind.clone()).or_default();
                let left_out = self.seqs.range(*through + 1..(*next_seq).max(*through + 1));
                if let Some((_, seq)) = left_out.last() {
                    self.left_out.insert(mind.clone(), *seq);
                }
                *through = (*through).max(next_seq.saturating_sub(1));
                None
            }
            Event::Applied {
                mind,
                position,
                text,
                ..
            } => {
                self.minds.insert(mind.clone(), *position);
                self.seqs.extend(seq_of(text).map(|seq| (*position, seq)));
                self.left_out.remove(mind)
            }
            _ => None,
        }
    }
}
