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
                let noted_through = self.link.held().and_then(|held| held.owes.take());
                self.gone_noted = self.gone_noted.max(noted_through.unwrap_or_default());
                let known = (self.session.gone, self.session.gone_posts);
                (self.session.gone, self.session.gone_posts) = noted;
                if noted.0 != known.0 {
                    self.tell_gone(Direction::ToInstance, noted.0);
                }
                if noted.1 != known.1 {
                    self.tell_gone(Direction::PostedToInstance, noted.1);
                }
            }
            // The instance waits for the rest until there is room.
            Err(Error::Full(_) | Error::NoSpace) => self.storing.park(),
            // An acknowledgement that was late has cut the log since it was read: it is read again.
            Err(Error::Conflict) => self.broke("the log of the session is shorter by now"),
            Err(error) => {
                self.lose_link(&storing::failure(&error));
                self.follow(&error);
            }
        }
    }

    /// Tells of messages that its instance was never given, until the client has acknowledged what came later.
    pub(super) fn tell_what_is_gone(&mut self) {
        self.tell_gone(Direction::ToInstance, self.session.gone);
        self.tell_gone(Direction::PostedToInstance, self.session.gone_posts);
    }

    fn tell_gone(&mut self, direction: Direction, gone: Gone) {
        if let Some((first, last)) = gone.untold(self.to_client.acked()) {
            self.tell(ServerFrame::Lost {
                direction,
                first,
                last,
            });
        }
    }
}
