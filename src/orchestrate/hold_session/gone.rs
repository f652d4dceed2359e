//! What an instance that begins anew is never given, because the log of its session has it no more.
//!
//! It is written down before the instance gets anything of what is left, and the client is told until it has
//! acknowledged something that came later. Neither a restart nor a client that is away takes anything from that.

use super::frame::{Direction, ServerFrame};
use super::owner::Owner;
use super::storing;
use crate::domain::session::gone::Gone;
use crate::store::Error;

impl Owner {
    /// An instance begins anew without what the journal has no more; the first message of the client's stream that it
    /// gets out of the journal is this one.
    pub(super) fn note_not_replayed(&mut self, first: Option<u64>) {
        let kept = self.to_instance.seqs_after(self.to_instance.acked());
        let kept = kept.map_or(self.to_instance.stored_seq() + 1, |(first, _)| first);
        let first = first.unwrap_or(kept);
        if self.session.gone.last < first.saturating_sub(1)
            && let Some(held) = self.link.held()
        {
            held.owes = Some(first - 1);
        }
    }

    /// Writes down what the instance will never be given.
    pub(super) fn note_gone(&mut self) {
        if self.storing.gone.is_some() || self.storing.parked_until().is_some() {
            return;
        }
        if let Some(through) = self.link.owes() {
            let (id, store) = (&self.entry.terms.id, &self.house.store);
            self.storing.gone = Some(store.note_gone(id, &self.fence(), through));
        }
    }

    pub(super) fn on_gone_noted(&mut self, answer: Result<Gone, Error>) {
        match answer {
            Ok(gone) => {
                self.session.gone = gone;
                if let Some(held) = self.link.held() {
                    held.owes = held.owes.filter(|through| gone.last < *through);
                }
                self.tell_what_is_gone();
            }
            // The instance waits for the rest until there is room.
            Err(Error::Full(_) | Error::NoSpace) => self.storing.park(),
            Err(error) => {
                self.lose_link(&storing::failure(&error));
                self.follow(&error);
            }
        }
    }

    /// Tells of messages that its instance was never given, until the client has acknowledged what came later.
    pub(super) fn tell_what_is_gone(&mut self) {
        if let Some((first, last)) = self.session.gone.untold(self.to_client.acked()) {
            self.tell(ServerFrame::Lost {
                direction: Direction::ToInstance,
                first,
                last,
            });
        }
    }
}
