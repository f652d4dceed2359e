//! A session leaves an instance that is drained, in good order and for another one.
//!
//! The instance gets nothing new and finishes what it has; then it is told, and what it still says is kept. Only after
//! that does the session have another epoch. Nothing is done twice by that, unless the instance takes too long.

use tokio::time::Instant;

use super::Sessions;
use super::entry::Signal;
use super::held::{FAREWELL_MAX, Parting};
use super::instance_side::Link;
use super::owner::Owner;
use super::place::Named;
use crate::domain::health::Admin;
use crate::domain::id::InstanceId;
use crate::domain::limit::SESSION_MOVE_WAIT;
use crate::domain::session::LossPolicy;

impl Sessions {
    /// The sessions of these instances go to others, as far as their loss policy lets them and there are any. Asking
    /// again is no harm.
    pub fn move_away(&self, from: &[InstanceId]) {
        let house = &self.0;
        if house.check_room().is_err() {
            return;
        }
        for entry in from.iter().flat_map(|id| house.places.sessions_at(id)) {
            match entry.terms.loss_policy {
                LossPolicy::Fail => {}
                LossPolicy::Reassign | LossPolicy::Replay => house.call(&entry, Signal::Move),
            }
        }
    }

    /// Open sessions of an instance.
    #[must_use]
    pub fn open_at(&self, instance: &InstanceId) -> u32 {
        self.0.places.of(instance)
    }
}

impl Owner {
    /// Goes on leaving the instance, if that is what the session does.
    pub(super) fn move_away(&mut self) {
        if !self.moves {
            return;
        }
        let is_told = self.link.is_told_moved();
        if !is_told && (!self.life.is_open() || self.closing.is_some() || !self.is_sent_away()) {
            return self.stay();
        }
        match &self.link {
            // What it comes to is seen then.
            Link::Wants(_) | Link::Handing | Link::Opening(_) => {}
            Link::Resting | Link::Absent => self.go_elsewhere(),
            Link::Held(_) => self.part(),
        }
    }

    fn is_sent_away(&self) -> bool {
        let fleet = (self.house.fleet_now)();
        let member = fleet.find(&self.session.instance);
        let is_drained = member.is_some_and(|member| match member.health.admin {
            Admin::Draining | Admin::Disabled => true,
            Admin::Active => false,
        });
        is_drained && self.elsewhere().is_some()
    }

    fn elsewhere(&self) -> Option<InstanceId> {
        let fleet = (self.house.fleet_now)();
        let terms = &self.entry.terms;
        let except = Some(&self.session.instance);
        let place = self.house.place(
            &fleet,
            Named::Present(&terms.targets),
            &terms.selection,
            except,
        );
        place.ok().map(|member| member.id().clone())
    }

    fn stay(&mut self) {
        self.moves = false;
        if let Some(held) = self.link.held() {
            held.parting = Parting::Stays;
        }
    }

    fn part(&mut self) {
        let now = Instant::now();
        let acked = self.to_instance.acked();
        let Some(held) = self.link.held() else { return };
        match held.parting {
            Parting::Stays => held.parting = Parting::Finishes(now + SESSION_MOVE_WAIT),
            Parting::Finishes(until) => {
                let has_finished = held.sent <= acked && !held.has_waiting();
                if has_finished || until <= now {
                    held.tell_moved(now + FAREWELL_MAX);
                }
            }
            Parting::Told(until) if until <= now => self.parted(),
            Parting::Told(_) => {}
        }
    }

    /// The instance has nothing more to say.
    pub(super) fn parted(&mut self) {
        self.link = Link::Absent;
        self.go_elsewhere();
    }

    fn go_elsewhere(&mut self) {
        let is_stored = self.to_client.unstored().next().is_none();
        if !is_stored || !self.storing.has_no_writes() {
            return;
        }
        self.moves = false;
        if let Some(instance) = self.elsewhere() {
            self.absence = None;
            self.look_at = None;
            self.link = Link::Wants(instance);
        }
    }
}
