//! Explain: what Route or Fanout would do now. It looks and does nothing: no instance is asked, no budget used.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::excluded::{at_limit, why};
use super::fan_out::FanOut;
use super::run_task::Route;
use crate::domain::health::{Exclusion, Panic};
use crate::domain::retry::Fallback;
use crate::domain::selection::{self, Fitness};
use crate::fleet::view::Member;

/// What a call would make of one instance.
pub struct Explained {
    /// The instance.
    pub member: Arc<Member>,
    /// Why it would not be asked.
    pub exclusion: Option<Excluded>,
    /// That in words, or why its state is what it is.
    pub reason: String,
    /// The share of its usual work that it gets.
    pub warmth: f64,
    /// Whether the request names it.
    pub place: Place,
}

/// Why an instance would not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excluded {
    /// For its health.
    Unwell(Exclusion),
    /// It has as many calls as it may have.
    AtLimit,
}

/// Whether the request names an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It does.
    Listed,
    /// It would be tried after those that are named.
    Fallback,
}

/// In the order in which they would be tried; those that are excluded come last, in the order of the request.
#[must_use]
pub fn route(route: &Route) -> Vec<Explained> {
    let now = Instant::now();
    let listed = &route.candidates;
    let explained = |member: &Arc<Member>| explained(member, route.panic, Place::Listed, now);
    let asked = order(
        route,
        listed,
        |member| unless_full(member, member.fitness(route.panic, now)),
        now,
    );
    let mut all: Vec<_> = asked.iter().map(|&at| explained(&listed[at])).collect();
    if route.retry.fallback == Fallback::AnyHealthy {
        let fleet = (route.fleet_now)();
        let named: HashSet<_> = listed.iter().map(|listed| listed.id()).collect();
        let healthy = |member: &Member| match unless_full(member, member.fitness(Panic::Off, now)) {
            Fitness::Fit if !named.contains(member.id()) => Fitness::Fit,
            Fitness::Fit | Fitness::Unknown | Fitness::Unfit => Fitness::Unfit,
        };
        let others = order(route, fleet.members(), healthy, now);
        let member = |at: usize| &fleet.members()[at];
        let other = |&at: &usize| self::explained(member(at), Panic::Off, Place::Fallback, now);
        all.extend(others.iter().map(other));
    }
    let excluded = listed.iter().map(explained);
    all.extend(excluded.filter(|explained| explained.exclusion.is_some()));
    all
}

/// In the order of the roster.
#[must_use]
pub fn fan_out(fan_out: &FanOut) -> Vec<Explained> {
    let now = Instant::now();
    let roster = fan_out.roster.iter();
    roster
        .map(|member| explained(member, fan_out.panic, Place::Listed, now))
        .collect()
}

fn unless_full(member: &Member, fitness: Fitness) -> Fitness {
    if member.load.is_full() {
        Fitness::Unfit
    } else {
        fitness
    }
}

fn order(
    route: &Route,
    members: &[Arc<Member>],
    fitness: impl Fn(&Member) -> Fitness,
    now: Instant,
) -> Vec<usize> {
    selection::order(
        &route.selection,
        members.len(),
        |at| members[at].id().as_str(),
        |at| fitness(&members[at]),
        |at| members[at].compared(now),
    )
}

fn explained(member: &Arc<Member>, panic: Panic, place: Place, now: Instant) -> Explained {
    let unwell = member.exclusion(panic, now).map(Excluded::Unwell);
    let exclusion = unwell.or_else(|| member.load.is_full().then_some(Excluded::AtLimit));
    let reason = match exclusion {
        None => member.health.reason.to_string(),
        Some(Excluded::Unwell(exclusion)) => why(member, exclusion),
        Some(Excluded::AtLimit) => at_limit(member),
    };
    Explained {
        exclusion,
        reason,
        warmth: member.compared(now).warmth,
        place,
        member: Arc::clone(member),
    }
}
