//! What an instance that begins anew is never given, because the log of its session has it no more.
//!
//! It is written down before the instance gets anything of what is left, and the client is told until it has
//! acknowledged something that came later. Neither a restart nor a client that is away takes anything from that.

use super::frame::{Direction, ServerFrame};
use super::owner::Owner;
use super::storing;
use crate::domain::session::gone::{Gone, Through};
use crate::store::Error;

/// The first message that is left in the journal for an instance that begins anew; what is not known of it is as it is
/// after what was acknowledged.
#[derive(Default)]
pub(super) struct First {
    pub(super) position: Option<u64>,
    /// The client's own number of the first one of its stream.
    pub(super) seq: Option<u64>,
}

impl Owner {
    /// An instance begins anew without what the journal has no more; this is the first that it gets out of it.
    pub(super) fn note_not_replayed(&mut self, first: First) {
        let acked = self.to_instance.acked();
        let kept = self.to_instance.seqs_after(acked);
        let kept = kept.map_or(self.to_instance.stored_seq() + 1, |(first, _)| first);
        let through = Through::before(
            first.position.unwrap_or(acked + 1),
            first.seq.unwrap_or(kept),
        );
        if self.is_news(through)
            && let Some(held) = self.link.held()
        {
            held.owes = Some(through);
        }
    }

    /// Whether more is gone than was noted.
    fn is_news(&self, through: Through) -> bool {
        let session = &self.session;
        session.gone.last < through.seq || session.gone_posts.last < through.post
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

    pub(super) fn on_gone_noted(&mut self, answer: Result<(Gone, Gone), Error>) {
        match answer {
            Ok(noted) => {
                (self.session.gone, self.session.gone_posts) = noted;
                let owes = self.link.owes().filter(|through| self.is_news(*through));
                if let Some(held) = self.link.held() {
                    held.owes = owes;
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
        let gone = [
            (Direction::ToInstance, self.session.gone),
            (Direction::PostedToInstance, self.session.gone_posts),
        ];
        for (direction, gone) in gone {
            if let Some((first, last)) = gone.untold(self.to_client.acked()) {
                self.tell(ServerFrame::Lost {
                    direction,
                    first,
                    last,
                });
            }
        }
    }
}
