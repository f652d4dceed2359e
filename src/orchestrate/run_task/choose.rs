//! The next instance for a task, out of those that may have it, and what is said when there is none.

use std::sync::Arc;
use std::time::Duration;

use super::Route;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::retry::Fallback;
use crate::domain::selection::{self, Fitness};
use crate::domain::task::Attempt;
use crate::fleet::view::{Member, Members};

/// The next instance, and whether it was named. None is tried twice while another that may be used is not.
pub(super) fn choose(route: &Route, attempts: &[Attempt]) -> Option<(Arc<Member>, bool)> {
    if attempts.is_empty()
        && let Some(member) = pick(route, &route.candidates, Member::fitness)
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
    let usable = |member: &&Arc<Member>| member.fitness() != Fitness::Unfit;
    let fewest = candidates
        .iter()
        .filter(usable)
        .map(|member| tries(member))
        .min();
    if fewest != Some(0) && route.retry.fallback == Fallback::AnyHealthy {
        let untried = |member: &Member| match (member.fitness(), tries(member)) {
            (Fitness::Fit, 0) => Fitness::Fit,
            (Fitness::Fit | Fitness::Unknown | Fitness::Unfit, _) => Fitness::Unfit,
        };
        if let Some(member) = pick(route, fleet.members(), untried) {
            return Some((member, false));
        }
    }
    let fewest = fewest?;
    let least_tried = |member: &Member| {
        if tries(member) == fewest {
            member.fitness()
        } else {
            Fitness::Unfit
        }
    };
    pick(route, &candidates, least_tried).map(|member| (member, true))
}

fn pick(
    route: &Route,
    members: &[Arc<Member>],
    fitness: impl Fn(&Member) -> Fitness,
) -> Option<Arc<Member>> {
    let chosen = selection::choose(
        &route.selection,
        members.len(),
        |at| members[at].id().as_str(),
        |at| fitness(&members[at]),
        |at| members[at].load.compared(),
        || route.chance.draw(),
    )?;
    Some(Arc::clone(&members[chosen]))
}

pub(in crate::orchestrate) fn nobody(candidates: &[Arc<Member>]) -> Failure {
    if let [only] = candidates {
        return down(only);
    }
    let reasons: Vec<_> = candidates
        .iter()
        .take(3)
        .map(|member| format!("{}: {}", member.id(), member.health.reason))
        .collect();
    let detail = format!(
        "all {} candidates are down ({})",
        candidates.len(),
        reasons.join("; ")
    );
    Failure::new(Reason::NoInstance, detail)
}

/// What is said of an instance that is not asked because its probes fail.
pub(in crate::orchestrate) fn down(member: &Member) -> Failure {
    let since = member.health.since.elapsed().unwrap_or(Duration::ZERO);
    let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
    let detail = format!("down for {since}: {}", member.health.reason);
    Failure::at(
        member.id(),
        Reason::InstanceDown,
        Progress::NeverSent,
        detail,
    )
}
