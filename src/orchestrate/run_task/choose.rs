//! The next instance for a task, out of those that may have it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Route;
use crate::domain::failure::Failure;
use crate::domain::health::Panic;
use crate::domain::retry::Fallback;
use crate::domain::selection::{self, Fitness};
use crate::domain::task::{Attempt, AttemptKind};
use crate::fleet::Pass;
use crate::fleet::view::{Member, Members};
use crate::orchestrate::excluded::{excluded, nobody};

/// The next instance, and whether it was named. None is tried twice while another that may be used is not.
pub(super) fn choose(route: &Route, attempts: &[Attempt]) -> Option<(Arc<Member>, bool)> {
    let now = Instant::now();
    let fit = |member: &Member| member.fitness(route.panic, now);
    if attempts.is_empty()
        && let Some(member) = pick(route, &route.candidates, fit, now)
    {
        return Some((member, true));
    }
    // Time has passed: whoever has left or gone down since gets nothing more.
    let fleet = (route.fleet_now)();
    let candidates: Members = match attempts {
        [] => Arc::clone(&route.candidates),
        [..] => route
            .candidates
            .iter()
            .filter_map(|member| fleet.find(member.id()).cloned())
            .collect(),
    };
    let tries = |member: &Member| {
        attempts
            .iter()
            .filter(|attempt| attempt.instance == *member.id())
            .count()
    };
    let usable = |member: &&Arc<Member>| fit(member) != Fitness::Unfit;
    let fewest = candidates
        .iter()
        .filter(usable)
        .map(|member| tries(member))
        .min();
    if fewest != Some(0) && route.retry.fallback == Fallback::AnyHealthy {
        // Panic is about those that were named: nobody else is asked whom his calls speak against.
        let untried = |member: &Member| match (member.fitness(Panic::Off, now), tries(member)) {
            (Fitness::Fit, 0) => Fitness::Fit,
            (Fitness::Fit | Fitness::Unknown | Fitness::Unfit, _) => Fitness::Unfit,
        };
        if let Some(member) = pick(route, fleet.members(), untried, now) {
            return Some((member, false));
        }
    }
    let fewest = fewest?;
    let least_tried = |member: &Member| {
        if tries(member) == fewest {
            fit(member)
        } else {
            Fitness::Unfit
        }
    };
    pick(route, &candidates, least_tried, now).map(|member| (member, true))
}

/// Times that a choice may turn out to be outdated before the call is given up: each is a race of moments.
const OUTDATED_MAX: usize = 16;

/// Leave to send to the instance that was chosen, or to another one when it was drained or ejected since.
pub(super) fn enter(
    route: &Route,
    mut member: Arc<Member>,
    attempts: &[Attempt],
) -> Result<(Arc<Member>, Option<AttemptKind>, Pass), Failure> {
    let mut kind = None;
    for _ in 0..OUTDATED_MAX {
        let exclusion = match member.load.admit(route.panic, Instant::now()) {
            Ok(pass) => return Ok((member, kind, pass)),
            Err(exclusion) => exclusion,
        };
        let Some((next, listed)) = choose(route, attempts) else {
            return Err(excluded(&member, exclusion));
        };
        if !listed {
            kind = Some(AttemptKind::Fallback);
        }
        member = next;
    }
    Err(nobody(&route.candidates, route.panic))
}

fn pick(
    route: &Route,
    members: &[Arc<Member>],
    fitness: impl Fn(&Member) -> Fitness,
    now: Instant,
) -> Option<Arc<Member>> {
    let choose = |fitness: &dyn Fn(usize) -> Fitness| {
        selection::choose(
            &route.selection,
            members.len(),
            |at| members[at].id().as_str(),
            fitness,
            |at| members[at].compared(now),
            || route.chance.draw(),
        )
    };
    // An instance that is full is passed over while another one is free.
    let free = |at: usize| {
        if members[at].load.is_full() {
            Fitness::Unfit
        } else {
            fitness(&members[at])
        }
    };
    let chosen = choose(&free).or_else(|| choose(&|at| fitness(&members[at])))?;
    Some(Arc::clone(&members[chosen]))
}
