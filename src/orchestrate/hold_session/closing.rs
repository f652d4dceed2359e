//! The end of a session: both sides learn why, and what was for the client can still be fetched.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_side::ClientHas;
use super::frame::{Direction, ServerFrame};
use super::instance_side::Link;
use super::last_words::last_word;
use super::owner::Owner;
use crate::domain::failure::Failure;
use crate::domain::limit::SESSION_CLOSE_WAIT;
use crate::domain::session::{CloseReason, End};
use crate::store::Error;

/// Whether the session goes on.
pub(super) enum Life {
    /// It does.
    Open,
    /// Its end is being written down.
    Ending {
        end: End,
        /// To be told.
        closed: Vec<oneshot::Sender<Result<(), Failure>>>,
    },
    /// It does not. The client may still fetch what there is for it.
    Over {
        end: End,
        /// Until when an attached client may take to acknowledge.
        until: Option<Instant>,
    },
}

impl Life {
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over { .. })
    }

    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self {
            Self::Over { until, .. } => *until,
            Self::Open | Self::Ending { .. } => None,
        }
    }
}

impl Owner {
    /// Ends the session.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if !self.life.is_open() {
            return;
        }
        // What was sent to an instance that is lost may have been applied or not: it is told as lost too.
        let delivered = match reason {
            CloseReason::ByClient => self.handed_over(),
            CloseReason::ByInstance
            | CloseReason::InstanceLost
            | CloseReason::Expired
            | CloseReason::Restarted => self.to_instance.acked(),
        };
        let end = End {
            reason,
            lost: self.to_instance.seqs_after(delivered),
            lost_posts: self.to_instance.posts_after(delivered),
        };
        self.fail_posts(&super::closed(end));
        self.say_farewell(last_word(reason));
        self.link = Link::Resting;
        self.look_at = None;
        self.waits_no_more();
        self.life = Life::Ending {
            end,
            closed: Vec::new(),
        };
    }

    /// Ends the session for its client, once what was sent before is safe and handed over, or has had its time.
    pub(super) fn end_for_client(&mut self) {
        let Some(until) = self.closing else { return };
        let ahead = self
            .client
            .as_ref()
            .is_some_and(|client| !client.ahead.is_empty());
        let is_safe = !ahead && self.to_instance.unstored().next().is_none();
        let is_handed_over = is_safe && self.to_instance.last() <= self.handed_over();
        if is_handed_over || until <= Instant::now() {
            self.closing = None;
            self.end(CloseReason::ByClient);
        }
    }

    /// Ends the session for somebody who waits for that.
    pub(super) fn close_for(&mut self, closed: oneshot::Sender<Result<(), Failure>>) {
        self.end(CloseReason::ByClient);
        match &mut self.life {
            Life::Ending { closed: told, .. } => told.push(closed),
            // It is over already, which is what was wanted.
            Life::Open | Life::Over { .. } => drop(closed.send(Ok(()))),
        }
    }

    pub(super) fn go_on_closing(&mut self) {
        match &self.life {
            Life::Open => {}
            Life::Ending { end, .. } => {
                // What came before is written first: its sender may still be told so.
                let is_written = self.to_instance.unstored().next().is_none()
                    && self.to_client.unstored().next().is_none();
                if is_written && self.storing.is_idle() {
                    let answer = self.house.store.close(
                        &self.entry.terms.id,
                        &self.fence(),
                        &end.words(),
                        self.house.now_ms(),
                    );
                    self.storing.close(answer);
                }
            }
            Life::Over { .. } => self.dismiss_client(),
        }
    }

    pub(super) fn on_closed(&mut self, answer: Result<(), Error>) {
        let Life::Ending { end, closed } = std::mem::replace(&mut self.life, Life::Open) else {
            return;
        };
        let is_closed = matches!(answer, Ok(()) | Err(Error::Closed { .. }));
        for told in closed {
            let answer = match &answer {
                Err(error) if !is_closed => Err(super::storing::failure(error)),
                Ok(()) | Err(_) => Ok(()),
            };
            // Whoever asked may have left.
            drop(told.send(answer));
        }
        if let Err(error) = answer
            && !is_closed
        {
            // It goes on, and will be ended again by whatever ended it now.
            self.detach_with(super::storing::failure(&error));
            return self.follow(&error);
        }
        let id = &self.entry.terms.id;
        tracing::info!(session = %id, reason = end.reason.word(), "session closed");
        self.entry.closed.store(true, Ordering::Relaxed);
        self.house.count(&self.entry, None);
        self.tell_instance_of_before(end.reason);
        let forgotten = Instant::now() + self.entry.terms.idle_ttl;
        self.entry.set_expires(Some(forgotten));
        self.life = Life::Over {
            end,
            until: Some(Instant::now() + SESSION_CLOSE_WAIT),
        };
    }

    /// A client that has all there is, and has said so or taken too long over it, is told that it is over.
    fn dismiss_client(&mut self) {
        let Life::Over { end, until } = &mut self.life else {
            return;
        };
        let End {
            reason,
            lost,
            lost_posts,
        } = *end;
        let is_late = match until {
            None => {
                *until = Some(Instant::now() + SESSION_CLOSE_WAIT);
                false
            }
            Some(until) => *until <= Instant::now(),
        };
        let dismissed = match self.client_has_all() {
            ClientHas::Left => {
                self.clear_wait();
                return;
            }
            ClientHas::Less => {
                self.clear_wait();
                false
            }
            ClientHas::All => is_late,
            ClientHas::Acknowledged => true,
        };
        if !dismissed {
            return;
        }
        let lost = [
            (Direction::ToInstance, lost),
            (Direction::PostedToInstance, lost_posts),
        ];
        for (direction, lost) in lost {
            if let Some((first, last)) = lost {
                self.tell(ServerFrame::Lost {
                    direction,
                    first,
                    last,
                });
            }
        }
        self.tell(ServerFrame::Closed { reason });
        self.clear_wait();
        self.detach();
    }

    fn clear_wait(&mut self) {
        if let Life::Over { until, .. } = &mut self.life {
            *until = None;
        }
    }
}
