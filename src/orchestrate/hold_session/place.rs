//! Which instance a session is given to, and how many sessions each has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::entry::Entry;
use crate::chance::Chance;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::health::Panic;
use crate::domain::id::InstanceId;
use crate::domain::limit::FLEET_MAX;
use crate::domain::selection::{self, Fitness, Load, Policy};
use crate::domain::session::SessionId;
use crate::fleet::view::{Member, View};
use crate::instance::SessionSupport;

/// The open sessions of each instance, as long as it has some.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<InstanceId, Place>>);

#[derive(Default)]
struct Place {
    // In an order of their own, so that a run can be repeated exactly.
    sessions: BTreeMap<SessionId, Arc<Entry>>,
    /// Since when the instance cannot be reached.
    gone_since: Option<Instant>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, instance: &InstanceId, entry: &Arc<Entry>) {
        let mut places = self.lock();
        let place = places.entry(instance.clone()).or_default();
        place
            .sessions
            .insert(entry.terms.id.clone(), Arc::clone(entry));
    }

    pub(super) fn remove(&self, instance: &InstanceId, entry: &Arc<Entry>) {
        let (mut places, id) = (self.lock(), &entry.terms.id);
        if let Some(place) = places.get_mut(instance)
            // Another one may have its name by now.
            && place.sessions.get(id).is_some_and(|at| Arc::ptr_eq(at, entry))
        {
            place.sessions.remove(id);
            if place.sessions.is_empty() {
                places.remove(instance);
            }
        }
    }

    /// How many there are.
    pub(super) fn of(&self, instance: &InstanceId) -> u32 {
        let places = self.lock();
        let count = places.get(instance).map(|place| place.sessions.len());
        count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0)
    }

    pub(super) fn sessions_at(&self, instance: &InstanceId) -> Vec<Arc<Entry>> {
        let places = self.lock();
        let place = places.get(instance);
        place.map_or_else(Vec::new, |place| place.sessions.values().cloned().collect())
    }

    /// The instances that have sessions, in order.
    pub(super) fn instances(&self) -> BTreeSet<InstanceId> {
        self.lock().keys().cloned().collect()
    }

    /// The instance cannot be reached, and could until now unless that is known already.
    pub(super) fn miss(&self, instance: &InstanceId, now: Instant) {
        if let Some(place) = self.lock().get_mut(instance) {
            place.gone_since.get_or_insert(now);
        }
    }

    /// Since when an instance cannot be reached that cannot now.
    pub(super) fn missed_since(&self, instance: &InstanceId) -> Option<Instant> {
        self.lock().get(instance)?.gone_since
    }

    /// The instance can be reached; tells whether it could not before.
    pub(super) fn is_back(&self, instance: &InstanceId) -> bool {
        let mut places = self.lock();
        let place = places.get_mut(instance);
        place.is_some_and(|place| place.gone_since.take().is_some())
    }
}

/// What the expressions of a session's targets must select.
#[derive(Clone, Copy)]
pub(super) enum Named<'a> {
    /// Each an instance of the fleet: the session begins, and whoever asks should hear of a mistake.
    All(&'a [String]),
    /// Whoever is left: the session is there, and some may have left the fleet since.
    Present(&'a [String]),
}

/// The instance out of those that are named, or of the whole fleet, that should have one more session, other than
/// `except`.
pub(super) fn place(
    fleet: &View,
    named: Named<'_>,
    selection: &Policy,
    except: Option<&InstanceId>,
    places: &Places,
    chance: &Chance,
) -> Result<Arc<Member>, Failure> {
    let members = match named {
        Named::All([]) | Named::Present([]) => Ok(Arc::clone(fleet.members())),
        Named::All(targets) => fleet.resolve(targets, FLEET_MAX),
        Named::Present(targets) => {
            let found = fleet.resolve_present(targets, FLEET_MAX);
            let member = |at: usize| Arc::clone(&fleet.members()[at]);
            found.map(|(places, _absent)| places.into_iter().map(member).collect())
        }
    };
    let members = members.map_err(|bad| {
        let reason = if bad.is_missing() {
            Reason::TargetUnknown
        } else {
            Reason::TargetInvalid
        };
        Failure::new(reason, bad.to_string())
    })?;
    let now = Instant::now();
    let fitness = |at: usize| {
        let member: &Member = &members[at];
        if except == Some(member.id()) || !takes_sessions(member) {
            Fitness::Unfit
        } else {
            member.fitness(Panic::Off, now)
        }
    };
    let load = |at: usize| Load {
        outstanding: places.of(members[at].id()),
        weight: members[at].spec.weight,
        latency_ns: 0.0,
        warmth: 1.0,
    };
    let name = |at: usize| members[at].id().as_str();
    let draw = || chance.draw();
    let chosen = selection::choose(
        selection,
        (members.len(), fleet.weight_max()),
        name,
        fitness,
        load,
        draw,
    );
    match chosen {
        Some(at) => Ok(Arc::clone(&members[at])),
        None => Err(nobody(&members)),
    }
}

pub(super) fn takes_sessions(member: &Member) -> bool {
    member.client.session_support() == SessionSupport::Streams
}

fn nobody(members: &[Arc<Member>]) -> Failure {
    let Some(first) = members.first() else {
        return Failure::new(Reason::NoInstance, "the fleet has no instances");
    };
    let with_sessions = members.iter().filter(|member| takes_sessions(member));
    let with_sessions: Vec<_> = with_sessions.cloned().collect();
    if with_sessions.is_empty() {
        let address = &first.spec.endpoint;
        let detail = format!(
            "{address} takes tasks over plain HTTP, which has no sessions: name an instance that speaks gRPC"
        );
        let (reason, progress) = (Reason::SessionUnsupported, Progress::NeverSent);
        return Failure::at(first.id(), reason, progress, detail);
    }
    crate::orchestrate::excluded::nobody(&with_sessions, Panic::Off)
}
