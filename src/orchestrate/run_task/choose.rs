//! The next instance for a task, out of those that may have it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Route;
use crate::domain::failure::Failure;
use crate::domain::health::Panic;
use crate::domain::retry::Fallback;
use crate::domain::selection::{self, Fitness};
use crate::domain::task::Attempt;
use crate::fleet::Pass;
use crate::fleet::view::{Member, Members};
use crate::orchestrate::excluded::{excluded, nobody};

/// An instance that may have the task.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) member: Arc<Member>,
    /// Whether the request names it.
    pub(super) is_listed: bool,
}

impl Choice {
    fn listed(member: Arc<Member>) -> Self {
        let is_listed = true;
        Self { member, is_listed }
    }

    fn fallback(member: Arc<Member>) -> Self {
        let is_listed = false;
        Self { member, is_listed }
    }

    /// Whether what its calls said is ignored. Panic is about those that were named: nobody else is asked whom
    /// his calls speak against.
    pub(super) fn panic(&self, route: &Route) -> Panic {
        if self.is_listed {
            route.panic
        } else {
            Panic::Off
        }
    }
}

/// The next instance. None is tried twice while another that may be used is not.
pub(super) fn choose(route: &Route, attempts: &[Attempt], now: Instant) -> Option<Choice> {
    let fit = |member: &Member| member.fitness(route.panic, now);
    if attempts.is_empty()
        && let Some(member) = pick(route, &route.candidates, unless_full(fit), now)
    {
        return Some(Choice::listed(member));
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
    let usable = || candidates.iter().filter(usable);
    let fewest = usable().map(|member| tries(member)).min();
    let is_free = |member: &Arc<Member>| tries(member) == 0 && !member.load.is_full();
    let elsewhere = (route.retry.fallback == Fallback::AnyHealthy && !usable().any(is_free))
        .then(|| fleet.members());
    // Nobody is asked, beyond those that were named, whom his calls speak against.
    let untried = |member: &Member| match (member.fitness(Panic::Off, now), tries(member)) {
        (Fitness::Fit, 0) => Fitness::Fit,
        (Fitness::Fit | Fitness::Unknown | Fitness::Unfit, _) => Fitness::Unfit,
    };
    if let Some(others) = elsewhere
        && let Some(member) = pick(route, others, unless_full(untried), now)
    {
        return Some(Choice::fallback(member));
    }
    let least_tried = |member: &Member| match fewest {
        Some(fewest) if tries(member) == fewest => fit(member),
        Some(_) | None => Fitness::Unfit,
    };
    // Whoever is left and full is asked all the same: he may be free by then, or it is told what he lacks.
    pick(route, &candidates, unless_full(least_tried), now)
        .or_else(|| pick(route, &candidates, least_tried, now))
        .map(Choice::listed)
        .or_else(|| pick(route, elsewhere?, untried, now).map(Choice::fallback))
}

/// Times that a choice may turn out to be outdated before the call is given up: each is a race of moments.
const OUTDATED_MAX: usize = 16;

/// Leave to send to the instance that was chosen, or to another one when it was drained or ejected since.
pub(super) fn enter(
    route: &Route,
    mut choice: Choice,
    attempts: &[Attempt],
    now: Instant,
) -> Result<(Choice, Pass), Failure> {
    for _ in 0..OUTDATED_MAX {
        let member = &choice.member;
        let exclusion = match member.load.admit(choice.panic(route), now) {
            Ok(pass) => return Ok((choice, pass)),
            Err(exclusion) => exclusion,
        };
        let Some(next) = choose(route, attempts, now) else {
            return Err(excluded(member, exclusion));
        };
        choice = next;
    }
    Err(nobody(&route.candidates, route.panic))
}

/// An instance that is full is passed over while another one is free.
fn unless_full(fitness: impl Fn(&Member) -> Fitness) -> impl Fn(&Member) -> Fitness {
    move |member| {
        if member.load.is_full() {
            Fitness::Unfit
        } else {
            fitness(member)
        }
    }
}

fn pick(
    route: &Route,
    members: &[Arc<Member>],
    fitness: impl Fn(&Member) -> Fitness,
    now: Instant,
) -> Option<Arc<Member>> {
    let chosen = selection::choose(
        &route.selection,
        (members.len(), route.weight_max),
        |at| members[at].id().as_str(),
        |at| fitness(&members[at]),
        |at| members[at].compared(now),
        || route.chance.draw(),
    )?;
    Some(Arc::clone(&members[chosen]))
}
