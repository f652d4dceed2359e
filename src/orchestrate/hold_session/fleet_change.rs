//! What a change of the fleet means for sessions: only those that it concerns are woken, however many others there are.
//!
//! It concerns the sessions of an instance that comes, goes, is replaced, or that its probes or its operator see
//! otherwise than before; and, where there is somebody to go to, those that wait for that. Whoever is forgotten by this
//! looks again by himself, later. The grace of an instance counts from when the fleet has lost it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::House;
use super::entry::{Entry, Signal};
use super::instance_side::is_reachable;
use super::owner::Owner;
use super::place::takes_sessions;
use crate::domain::health::Panic;
use crate::domain::id::InstanceId;
use crate::domain::limit::SESSION_REATTACH_GRACE;
use crate::domain::selection::Fitness;
use crate::domain::session::SessionId;
use crate::domain::session::loss::{Absence, Loss};
use crate::fleet::view::{Member, View};

/// Sessions, in an order of their own.
pub(super) type Concerned = BTreeMap<SessionId, Arc<Entry>>;

impl House {
    /// Tells whom it concerns when the fleet has changed, as long as there is one.
    pub(super) async fn follow(&self, mut fleet_changes: watch::Receiver<u64>) {
        // What changed before anybody looked is told too.
        let mut before = Arc::new(View::default());
        loop {
            let now = (self.fleet_now)();
            for entry in self.concerned(&before, &now).values() {
                entry.signal(Signal::Look);
            }
            before = now;
            if fleet_changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The sessions that have something to do because of a change. Notes since when instances are gone.
    pub(super) fn concerned(&self, before: &View, after: &View) -> Concerned {
        let now = Instant::now();
        let mut concerned = Concerned::new();
        let mut is_somebody_fit = false;
        for member in after.members().iter() {
            let old = before.find(member.id());
            if old.is_some_and(|old| Arc::ptr_eq(old, member)) {
                continue;
            }
            is_somebody_fit |=
                takes_sessions(member) && member.fitness(Panic::Off, now) != Fitness::Unfit;
            if old.is_none_or(|old| is_another(old, member)) {
                self.add_sessions_at(member.id(), &mut concerned);
            }
            if is_reachable(member) {
                self.come_back(member.id());
            }
        }
        // Few instances have sessions, or most are there.
        for id in self.places.instances() {
            let member = after.find(&id);
            if member.is_none_or(|member| !is_reachable(member)) {
                self.places.miss(&id, now);
            }
            if member.is_none() && before.find(&id).is_some() {
                self.add_sessions_at(&id, &mut concerned);
            }
        }
        if is_somebody_fit {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = waiting.iter();
            concerned.extend(waiting.map(|(id, entry)| (id.clone(), Arc::clone(entry))));
        }
        concerned
    }

    fn add_sessions_at(&self, instance: &InstanceId, concerned: &mut Concerned) {
        let sessions = self.places.sessions_at(instance).into_iter();
        concerned.extend(sessions.map(|entry| (entry.terms.id.clone(), entry)));
    }

    /// An instance that was gone is there: what its sessions remember of that is over.
    fn come_back(&self, instance: &InstanceId) {
        if self.places.is_back(instance) {
            for entry in self.places.sessions_at(instance) {
                entry.take_absence();
            }
        }
    }

    /// Notes whether a session waits for an instance.
    pub(super) fn note_waiting(&self, entry: &Arc<Entry>, waits: Waiting) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let id = &entry.terms.id;
        match waits {
            Waiting::Yes => drop(waiting.insert(id.clone(), Arc::clone(entry))),
            // Another one may have its name by now.
            Waiting::No if waiting.get(id).is_some_and(|at| Arc::ptr_eq(at, entry)) => {
                drop(waiting.remove(id));
            }
            Waiting::No => {}
        }
    }
}

impl Owner {
    /// Nobody has looked for the instance since it was lost: that was before, where it cannot be reached.
    pub(super) fn begin_absence(
        &self,
        member: Option<&Arc<Member>>,
        now: std::time::Instant,
    ) -> Absence {
        let gone_since = || {
            let since = self.house.places.missed_since(&self.session.instance);
            since.map_or(now, Instant::into_std)
        };
        let (since, grace) = match member {
            Some(member) if is_reachable(member) => (now, SESSION_REATTACH_GRACE),
            // One that is in the fleet has no need to register again.
            Some(_) => (gone_since(), SESSION_REATTACH_GRACE),
            None => (gone_since(), self.house.grace(gone_since())),
        };
        Absence::begin(Loss::Broken, since, grace).after(self.fruitless)
    }
}

/// Whether a session waits for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Yes,
    No,
}

/// Whether the sessions of an instance have to know that it is as it is now.
fn is_another(old: &Member, new: &Member) -> bool {
    let seen = |member: &Member| (member.serial, member.health.probed, member.health.admin);
    seen(old) != seen(new)
}
