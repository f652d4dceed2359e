//! A session and its instance: who should hold it, the stream to whoever does, and its loss.
//!
//! ```text
//! Resting ─ something to do ─→ Absent ─ step ─→ Handing (epoch + 1, durable) ─→ Opening ─→ Held
//!                                ↑                  └──────── refused, or lost ─────┴────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::time::{Instant, timeout};

use super::frame::ServerFrame;
use super::held::{Held, Parting, Said, Wants, asked_for};
use super::owner::Owner;
use super::place::Named;
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::health::{Admin, probed};
use crate::domain::id::InstanceId;
use crate::domain::limit::{SESSION_OPEN_TIMEOUT, SESSION_REATTACH_GRACE};
use crate::domain::session::LossPolicy;
use crate::domain::session::loss::{Absence, Came, Candidate, Fruitless, Loss, Step};
use crate::domain::session::to_instance::Message;
use crate::fleet::view::Member;
use crate::instance::Pending;
use crate::instance::session::{CloseReason, Data, Open, Opened, Received};
use crate::memory::Purpose;
use crate::store::Error;
use crate::store::record::Session;

/// How the session stands with its instance.
pub(super) enum Link {
    /// Nothing is to be said to an instance.
    Resting,
    /// An instance is looked for.
    Absent,
    /// The session goes to this instance once what carries the old epoch is written.
    Wants(InstanceId),
    /// The hand-over is being written.
    Handing,
    /// The instance is asked.
    Opening(Pending<Result<Opened, Failure>>),
    /// The instance takes part.
    Held(Box<Held>),
}

/// What comes from the instance's side.
pub(super) enum FromLink {
    Opened(Result<Opened, Failure>),
    Said(Said),
}

impl Link {
    pub(super) fn is_resting(&self) -> bool {
        matches!(self, Self::Resting)
    }

    /// Whether nothing may be written that carries the epoch.
    pub(super) fn is_changing_hands(&self) -> bool {
        matches!(self, Self::Wants(_) | Self::Handing)
    }

    pub(super) fn said_at(&self) -> Option<Instant> {
        self.held_ref().map(|held| held.said_at)
    }

    pub(super) fn held(&mut self) -> Option<&mut Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Resting | Self::Absent | Self::Wants(_) | Self::Handing | Self::Opening(_) => {
                None
            }
        }
    }

    fn held_ref(&self) -> Option<&Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Resting | Self::Absent | Self::Wants(_) | Self::Handing | Self::Opening(_) => {
                None
            }
        }
    }

    /// Whether a message of the instance waits for room.
    pub(super) fn has_waiting(&self) -> bool {
        self.held_ref().is_some_and(Held::has_waiting)
    }

    /// What has to be written down before the instance gets anything.
    pub(super) fn owes(&self) -> Option<u64> {
        self.held_ref()?.owes
    }

    /// Bytes of the messages that wait with the stream.
    pub(super) fn bytes(&self) -> usize {
        self.held_ref().map_or(0, Held::bytes)
    }

    /// Whether the instance was told that the session goes elsewhere.
    pub(super) fn is_told_moved(&self) -> bool {
        let held = self.held_ref();
        held.is_some_and(|held| matches!(held.parting, Parting::Told(_)))
    }

    /// Until when something is waited for that the instance should do.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.held_ref()?.parting {
            Parting::Stays => None,
            Parting::Finishes(until) | Parting::Told(until) => Some(until),
        }
    }

    /// The instance's messages are safe through here.
    pub(super) fn ack(&mut self, through: u64) {
        if let Some(held) = self.held() {
            held.ack(through);
        }
    }

    pub(super) fn repeat_ack(&mut self, through: u64, now: Instant) {
        if let Some(held) = self.held() {
            held.repeat_ack(through, now);
        }
    }
}

impl Owner {
    fn wants_instance(&self) -> bool {
        let somebody = self.client.is_some() || !self.waiting.is_empty();
        self.life.is_open() && (somebody || 0 < self.to_instance.unacknowledged())
    }

    /// Looks for the instance that should hold the session, when none does and one should.
    pub(super) fn seek_instance(&mut self) {
        match &self.link {
            // It is about to go elsewhere.
            Link::Resting | Link::Absent if self.moves => {}
            Link::Resting | Link::Absent => {
                if !self.wants_instance() {
                    if let Link::Absent = self.link {
                        self.waits_no_more();
                        self.absence = self.absence.map(Absence::rested);
                    }
                    self.link = Link::Resting;
                    self.look_at = None;
                } else if self.look_at.is_none() {
                    self.look();
                }
            }
            Link::Wants(_) => self.hand_over(),
            Link::Handing | Link::Opening(_) | Link::Held(_) => {}
        }
    }

    fn look(&mut self) {
        self.link = Link::Absent;
        let now = Instant::now().into_std();
        let fleet = (self.house.fleet_now)();
        let same = match fleet.find(&self.session.instance) {
            Some(member) if is_reachable(member) => Candidate::Fit,
            Some(_) | None => Candidate::Unfit,
        };
        let terms = &self.entry.terms;
        let absence = match self.absence {
            Some(absence) => absence,
            None => self.begin_absence(fleet.find(&self.session.instance), now),
        };
        self.absence = Some(absence);
        let elsewhere = self.house.place(
            &fleet,
            Named::Present(&terms.targets),
            &terms.selection,
            Some(&self.session.instance),
        );
        let other = match elsewhere {
            Ok(_) => Candidate::Fit,
            Err(_) => Candidate::Unfit,
        };
        let step = absence.step(terms.loss_policy, now, same, other);
        self.show_wait(step);
        match step {
            Step::Reopen => self.go_to(self.session.instance.clone()),
            Step::Move => match elsewhere {
                Ok(member) => self.go_to(member.id().clone()),
                Err(_) => self.look_at = Some(Instant::from_std(now) + SESSION_OPEN_TIMEOUT),
            },
            Step::Wait(until) => {
                // It is known by now that it waits: what changes later is told, and what has changed is seen here.
                let is_as_seen = Arc::ptr_eq(&fleet, &(self.house.fleet_now)());
                self.look_at = Some(Instant::from_std(if is_as_seen { until } else { now }));
            }
            Step::End => self.end(crate::domain::session::CloseReason::InstanceLost),
        }
    }

    fn go_to(&mut self, instance: InstanceId) {
        let is_fresh = self.entry.epoch_is_fresh.load(Ordering::Relaxed);
        if is_fresh && instance == self.session.instance {
            self.open();
        } else {
            self.link = Link::Wants(instance);
            self.hand_over();
        }
    }

    /// The next epoch is written down before anybody hears of it.
    fn hand_over(&mut self) {
        if !self.storing.has_no_writes() {
            return;
        }
        let Link::Wants(instance) = &self.link else {
            return;
        };
        let instance = instance.clone();
        let answer = self.house.store.take_over(
            &self.entry.terms.id,
            self.session.epoch,
            &self.house.owner,
            &instance,
        );
        self.storing.take_over(answer);
        self.link = Link::Handing;
    }

    pub(super) fn on_taken_over(&mut self, answer: Result<Box<Session>, Error>) {
        let session = match answer {
            Ok(session) => *session,
            Err(error) => {
                self.link = Link::Absent;
                // That nothing can be written says nothing of the instance, which has all its time to come back.
                self.absence = None;
                self.note_failed_open(Loss::Broken);
                return self.follow(&error);
            }
        };
        let previous = std::mem::replace(&mut self.session, session).instance;
        if previous != self.session.instance {
            self.fruitless = Fruitless::default();
            self.entry.known_from_before.store(false, Ordering::Relaxed);
        }
        self.journal_removed = self.session.to_instance.removed;
        self.entry.epoch_is_fresh.store(true, Ordering::Relaxed);
        self.base = self.to_client.stored();
        self.house.count(&self.entry, Some(&self.session.instance));
        let (instance, epoch) = (self.session.instance.clone(), self.session.epoch);
        tracing::info!(session = %self.entry.terms.id, %previous, %instance, %epoch, "session changed hands");
        self.tell(ServerFrame::Moved {
            previous,
            instance,
            epoch,
        });
        // What is not stored came from the instance before: it will be said again, or never was.
        self.to_client.forget_unstored();
        self.answers.clear();
        if self.wants_instance() {
            self.open();
        } else {
            self.rest();
        }
    }

    /// Nothing is to be said to an instance.
    pub(super) fn rest(&mut self) {
        self.link = Link::Resting;
        self.look_at = None;
        self.absence = None;
        self.waits_no_more();
    }

    fn open(&mut self) {
        let fleet = (self.house.fleet_now)();
        let Some(member) = fleet.find(&self.session.instance) else {
            self.note_failed_open(Loss::Broken);
            return;
        };
        self.entry.epoch_is_fresh.store(false, Ordering::Relaxed);
        self.entry.known_from_before.store(false, Ordering::Relaxed);
        let id = member.id().clone();
        let client = Arc::clone(&member.client);
        let opening = timeout(SESSION_OPEN_TIMEOUT, client.open_session(self.opening()));
        self.link = Link::Opening(Box::pin(async move {
            opening.await.unwrap_or_else(|_elapsed| {
                let detail = "the instance did not take the session in time";
                Err(Failure::at(
                    &id,
                    Reason::InstanceLost,
                    Progress::MayHaveBegun,
                    detail,
                ))
            })
        }));
    }

    /// What an instance is told of the session first.
    pub(super) fn opening(&mut self) -> Open {
        let terms = &self.entry.terms;
        let acked = self.to_instance.acked();
        let next_seq = match terms.loss_policy {
            LossPolicy::Fail | LossPolicy::Reassign => acked + 1,
            LossPolicy::Replay => self.journal_removed + 1,
        };
        Open {
            session: terms.id.as_str().into(),
            spawned_ms: terms.created_ms,
            epoch: self.session.epoch.number(),
            next_seq,
            answered_through: self.answered_through(),
            received: Received {
                through: self.to_client.stored(),
                epoch: self.session.spoken.map_or(0, |epoch| epoch.number()),
            },
            labels: Arc::clone(&self.entry.labels),
            names: None,
        }
    }

    /// Through which position every message was acknowledged, or its reply is safe.
    fn answered_through(&mut self) -> u64 {
        let acked = self.to_instance.acked();
        self.replied = self.replied.split_off(&(acked + 1));
        let run = self.replied.iter().zip(acked + 1..);
        run.take_while(|(replied, expected)| **replied == *expected)
            .last()
            .map_or(acked, |(_, through)| through)
    }

    fn note_failed_open(&mut self, loss: Loss) {
        let now = Instant::now().into_std();
        let (grace, fruitless) = (SESSION_REATTACH_GRACE, self.fruitless);
        self.absence
            .get_or_insert_with(|| Absence::begin(loss, now, grace).after(fruitless))
            .failed(fruitless.judge(loss), now);
        self.link = Link::Absent;
        self.look_at = None;
    }

    /// The stream to the instance is over, and the session is not.
    pub(super) fn lose_link(&mut self, why: &Failure) {
        if self.link.is_told_moved() {
            return self.parted();
        }
        let loss = if is_hopeless(why.reason) {
            Loss::Hopeless
        } else {
            Loss::Broken
        };
        if let Link::Held(held) = &self.link {
            self.fruitless.ended(held.came, held.opened_at.elapsed());
        }
        let code = why.reason.name();
        self.lost_by = Some(code);
        let fruitless = self.fruitless.times();
        let (session, instance) = (&self.entry.terms.id, &self.session.instance);
        tracing::warn!(%session, %instance, code, fruitless, "session lost its instance");
        self.note_failed_open(loss);
    }

    /// The instance has acknowledged something new: whatever has killed it before, it got over that.
    pub(super) fn come_on(&mut self) {
        self.fruitless = Fruitless::default();
        if let Some(held) = self.link.held() {
            held.came = Came::Progress;
        }
    }

    /// The fleet has changed.
    pub(super) fn look_again(&mut self) {
        self.look_at = None;
        let Link::Held(_) = self.link else { return };
        let fleet = (self.house.fleet_now)();
        // One that has left the fleet keeps what it has, for as long as its stream lasts.
        let is_down = |member: &Arc<Member>| !is_reachable(member);
        if fleet.find(&self.session.instance).is_some_and(is_down) {
            let detail = "the instance fails its probes";
            let id = &self.session.instance;
            let failure = Failure::at(id, Reason::InstanceDown, Progress::MayHaveBegun, detail);
            self.lose_link(&failure);
        }
    }

    pub(super) fn poll_link(&mut self, context: &mut Context<'_>) -> Poll<FromLink> {
        match &mut self.link {
            Link::Resting | Link::Absent | Link::Wants(_) | Link::Handing => Poll::Pending,
            Link::Opening(opening) => opening.as_mut().poll(context).map(FromLink::Opened),
            Link::Held(held) => {
                let reads = held.reads() && self.weight.has_room(Purpose::Answer);
                let next = self.to_instance.next(held.sent).is_some();
                held.poll(context, Wants { next, reads })
                    .map(FromLink::Said)
            }
        }
    }

    pub(super) fn on_link(&mut self, from_link: FromLink) {
        match from_link {
            FromLink::Opened(Ok(opened)) => self.on_opened(opened),
            FromLink::Opened(Err(failure)) => {
                if failure.progress == Progress::NeverSent {
                    self.entry.epoch_is_fresh.store(true, Ordering::Relaxed);
                }
                self.lose_link(&failure);
            }
            FromLink::Said(said) => self.on_said(said),
        }
    }

    fn on_opened(&mut self, opened: Opened) {
        let id = &self.session.instance;
        if self.to_instance.stored() < opened.received_through {
            let detail = "the instance says that it has what was never sent";
            let reason = Reason::AnswerMalformed;
            let failure = Failure::at(id, reason, Progress::MayHaveBegun, detail);
            return self.lose_link(&failure);
        }
        let acked = self.to_instance.acked();
        let known = opened.received_through;
        let sent = match self.entry.terms.loss_policy {
            LossPolicy::Fail | LossPolicy::Reassign => acked.max(known),
            LossPolicy::Replay => known,
        };
        (self.absence, self.lost_by) = (None, None);
        self.waits_no_more();
        let mut held = Held::new(opened, sent, self.house.settings.bounds);
        if sent < acked {
            held.read_journal(&self.house.store, &self.entry.terms.id, acked);
        }
        self.link = Link::Held(Box::new(held));
        self.touch();
        // What the fleet has learnt of it while it was being opened was told to nobody.
        self.look_again();
    }

    /// Through which position messages were handed to the instance, or need not be.
    pub(super) fn handed_over(&self) -> u64 {
        let sent = self.link.held_ref().map_or(0, |held| held.sent);
        sent.max(self.to_instance.acked())
    }

    /// One message that is kept here goes out.
    pub(super) fn deliver_next(&mut self) {
        let before = self.sent_before.to_instance;
        let Link::Held(held) = &mut self.link else {
            return;
        };
        if let Some(message) = self.to_instance.next(held.sent) {
            let Message {
                position,
                in_reply_to,
                ref payload,
                ..
            } = *message;
            held.deliver(Data {
                seq: position,
                in_reply_to: asked_for(in_reply_to),
                redelivered: position <= before,
                payload: payload.clone(),
            });
            self.sent_before.to_instance = before.max(position);
        }
    }

    /// The orchestrator is about to stop: the instance keeps what it has.
    pub(super) fn suspend(&mut self) {
        self.say_farewell(CloseReason::Suspended);
    }

    /// Ends the stream to the instance, and sees to it that the last word arrives.
    pub(super) fn say_farewell(&mut self, reason: CloseReason) {
        if let Link::Held(held) = std::mem::replace(&mut self.link, Link::Resting) {
            self.house.tasks.spawn(held.farewell(reason));
        }
    }
}

/// Whether an instance that has a session may have it on: one that is drained keeps what it has.
pub(super) fn is_reachable(member: &Member) -> bool {
    member.health.probed != probed::State::Down && member.health.admin != Admin::Disabled
}

/// Whether it would happen again, and again.
fn is_hopeless(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AnswerTooLarge
            | Reason::AnswerMalformed
            | Reason::InstanceFailed(
                Status::Unimplemented
                    | Status::PermissionDenied
                    | Status::Unauthenticated
                    | Status::InvalidArgument
            )
    )
}
