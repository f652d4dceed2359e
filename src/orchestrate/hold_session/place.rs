//! Which instance a session is given to, and how many sessions each has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::chance::Chance;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::health::Panic;
use crate::domain::id::InstanceId;
use crate::domain::limit::FLEET_MAX;
use crate::domain::selection::{self, Fitness, Load, Policy};
use crate::fleet::view::{Member, View};
use crate::instance::SessionSupport;

/// Open sessions of each instance.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<InstanceId, u32>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, instance: &InstanceId) {
        *self.lock().entry(instance.clone()).or_default() += 1;
    }

    pub(super) fn remove(&self, instance: &InstanceId) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(instance) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(instance);
            }
        }
    }

    pub(super) fn of(&self, instance: &InstanceId) -> u32 {
        self.lock().get(instance).copied().unwrap_or(0)
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
    counts: &Counts,
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
        outstanding: counts.of(members[at].id()),
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

fn takes_sessions(member: &Member) -> bool {
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
