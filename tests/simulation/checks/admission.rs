//! How much work is taken at once, and what becomes of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator::domain::admission::{Quota, Rate};

use super::{Call, Execution, Facts};
use crate::history::{Left, What};
use crate::inside;
use crate::plan::Link;

/// The longest that anybody is asked to stay away, jitter included.
const PUSHBACK_MAX: i64 = 15_000;

/// While this lasts the orchestrator waits for the execution: whatever it knows otherwise is not here yet.
fn held(facts: &Facts<'_>, execution: &Execution<'_>) -> Option<(Duration, Duration)> {
    let id = &execution.arrival.instance;
    let (at, Left::Answered | Left::Failed) = execution.left? else {
        return None;
    };
    let is_clear = facts.instance_is_clear(id, execution.at, at)
        && !facts.weather.hung_up(id, execution.at, at);
    let until = at.saturating_sub(facts.latency);
    (is_clear && execution.at < until).then_some((execution.at, until))
}

/// No more calls are with instances at once than may be let in, over all callers and of each.
pub(super) fn no_more_is_let_in_than_may_be(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let spells: Vec<_> = facts
        .executions
        .values()
        .filter_map(|execution| {
            let call = facts.calls.get(&execution.arrival.task)?;
            Some((held(facts, execution)?, call.ask))
        })
        .collect();
    for ((now, _), _) in &spells {
        let all = spells
            .iter()
            .filter(|((from, to), _)| from <= now && now < to);
        let all: BTreeSet<_> = all.map(|(_, ask)| (ask.caller, ask.task)).collect();
        let quotas = (0..facts.plan.callers).map(|caller| {
            let own = all.iter().filter(|(own, _)| *own == caller).count();
            (own, facts.plan.allowance.of(caller), "of one caller")
        });
        let of_all = (all.len(), facts.plan.allowance.calls().all, "in all");
        for (count, quota, whose) in quotas.chain([of_all]) {
            if (quota.in_flight_max as usize) < count {
                let max = quota.in_flight_max;
                found.push(format!(
                    "{count} calls {whose} at once at {now:?}, {max} may be"
                ));
            }
        }
    }
    found
}

/// No instance works on more calls at once than it may have.
pub(super) fn no_instance_has_more_than_it_may_have(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut spells: BTreeMap<&str, Vec<(Duration, Duration)>> = BTreeMap::new();
    for execution in facts.executions.values() {
        let id = execution.arrival.instance.as_str();
        spells.entry(id).or_default().extend(held(facts, execution));
    }
    for (id, spells) in spells {
        let max = inside::calls_max(facts.plan, id);
        for (now, _) in &spells {
            let at_once = spells.iter().filter(|(from, to)| from <= now && now < to);
            let count = at_once.count();
            if (max as usize) < count {
                found.push(format!(
                    "{id} has {count} calls at once at {now:?}, {max} may be"
                ));
            }
        }
    }
    found
}

/// In no stretch of time are more calls let in than their rate allows.
pub(super) fn nobody_is_faster_than_allowed(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let allowance = &facts.plan.allowance;
    let own = (0..facts.plan.callers).map(|caller| (Some(caller), allowance.of(caller).rate));
    for (caller, rate) in own.chain([(None, allowance.calls().all.rate)]) {
        let Some(rate) = rate else { continue };
        let was_sent = |call: &&Call<'_>| {
            let task = call.ask.task;
            caller.is_none_or(|caller| caller == call.ask.caller)
                && call.ask.word.is_none()
                && facts.of_task(task).next().is_some()
        };
        let mut sent: Vec<_> = facts.calls.values().filter(was_sent).collect();
        sent.sort_by_key(|call| call.asked);
        found.extend(too_fast(facts, &sent, rate));
    }
    found
}

fn too_fast(facts: &Facts<'_>, sent: &[&Call<'_>], rate: Rate) -> Option<String> {
    for (at, first) in sent.iter().enumerate() {
        for (count, last) in (1_u32..).zip(&sent[at..]) {
            let link = Link::Caller(last.ask.caller);
            let way = facts.latency + facts.weather.held(&link, first.asked, last.over());
            let time = (last.asked + way - first.asked).as_secs_f64();
            let allowed = f64::from(rate.burst) + time * f64::from(rate.per_second);
            if allowed < f64::from(count) {
                let (from, to) = (first.asked, last.asked);
                return Some(format!(
                    "{count} calls are let in from {from:?} to {to:?}, {allowed:.1} may be"
                ));
            }
        }
    }
    None
}

fn is_refusal(reason: &str) -> bool {
    matches!(reason, "OVERLOADED" | "CALLER_LIMIT")
}

/// Who is refused for load was not sent anywhere, and is told when to come again.
pub(super) fn who_is_refused_was_never_sent_and_knows_when_to_come(
    facts: &Facts<'_>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let Some((reason, pushback)) = call.refusal() else {
            continue;
        };
        if !is_refusal(reason) {
            continue;
        }
        if !call.tries().is_empty() || facts.of_task(*number).any(|_| call.ask.word.is_none()) {
            found.push(format!("call {number} was refused, and sent"));
        }
        if pushback.is_none_or(|millis| !(1..=PUSHBACK_MAX).contains(&millis)) {
            found.push(format!(
                "call {number} was refused without a word of when to come again"
            ));
        }
    }
    found
}

/// Who is refused for load was one too many: there were as many calls as there may be.
pub(super) fn who_is_refused_was_one_too_many(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let allowance = &facts.plan.allowance;
    let callers_are_clear = !facts
        .records
        .iter()
        .any(|record| matches!(record.what, What::Disturbed(Link::Caller(_), _)));
    for (number, call) in &facts.calls {
        let Some((reason, _)) = call.refusal().filter(|(reason, _)| is_refusal(reason)) else {
            continue;
        };
        if !allowance.limits_calls() {
            found.push(format!(
                "call {number} was refused, and everything is allowed"
            ));
        }
        let (all, own) = (allowance.calls().all, allowance.of(call.ask.caller));
        let (quota, others): (Quota, Vec<_>) = if reason == "CALLER_LIMIT" {
            let is_own = |other: &&Call<'_>| other.ask.caller == call.ask.caller;
            (own, facts.calls.values().filter(is_own).collect())
        } else {
            (all, facts.calls.values().collect())
        };
        if quota.rate.is_some() || call.is_fan_out() || !callers_are_clear {
            continue;
        }
        // A call that was left may hold its place until that is noticed.
        let noticed = facts.latency * 2;
        let at_once = others.iter().filter(|other| {
            // What others have joined keeps its place when its caller leaves.
            let bearers = facts.who_ask(other.ask.task).map(Call::over);
            let over = bearers.max().unwrap_or_default();
            other.ask.call != *number
                && other.asked <= call.over()
                && call.asked <= over.saturating_add(noticed)
        });
        let count = at_once.count();
        if count < quota.in_flight_max as usize {
            let max = quota.in_flight_max;
            found.push(format!(
                "call {number} was refused beside {count} others, {max} may be"
            ));
        }
    }
    found
}
