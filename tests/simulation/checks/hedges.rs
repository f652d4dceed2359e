//! Tries beside a try that still runs.

use std::time::Duration;

use super::{Call, Execution, Facts};
use crate::ask::Hedge;
use crate::history::{End, Left, Tried};

const HEDGE: &str = "ATTEMPT_KIND_HEDGE";
/// Of a hundred answers that took longer than the usual delay, at most, whatever has been miscounted: five are meant.
const LONGER_PERCENT_MAX: usize = 30;

/// Only what may be executed twice is hedged, and only what may be tried twice: anything else is refused.
pub(super) fn what_contradicts_itself_is_refused(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let is_invalid = matches!(call.refusal(), Some(("ARGUMENT_INVALID", _)));
        let was_sent = facts.of_task(*number).next().is_some();
        let was_answered = matches!(call.ended, Some((_, End::Answered { .. })));
        if !call.ask.contradicts_itself() {
            if is_invalid {
                found.push(format!("call {number} was refused as invalid"));
            }
        } else if was_sent || was_answered {
            found.push(format!(
                "call {number} contradicts itself, and was carried out"
            ));
        }
    }
    found
}

/// A hedge goes to an instance that was not tried, beside a try that runs, and not before its time.
pub(super) fn a_hedge_goes_beside_a_try_that_takes_long(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        if let Some((_, End::Streamed(stream))) = call.ended {
            let mut tries = stream.partials.iter().flat_map(|part| &part.attempts);
            if tries.any(|tried| tried.kind == HEDGE) {
                found.push(format!("call {number} is a fan-out, and was hedged"));
            }
        }
        let tries = call.tries();
        let hedges = tries
            .iter()
            .enumerate()
            .filter(|(_, tried)| tried.kind == HEDGE);
        for (at, hedge) in hedges {
            let complaint = judge(facts, call, &tries[..at], hedge);
            found.extend(complaint.map(|what| format!("call {number} was hedged {what}")));
        }
    }
    found
}

fn judge(
    facts: &Facts<'_>,
    call: &Call<'_>,
    before: &[Tried],
    hedge: &Tried,
) -> Option<&'static str> {
    let Some(last) = before.last() else {
        return Some("before it was tried");
    };
    let runs = |tried: &Tried| hedge.offset <= tried.offset + tried.elapsed;
    if before.iter().any(|tried| tried.instance == hedge.instance) {
        return Some("where it had been tried");
    }
    if !before.iter().any(runs) {
        return Some("beside nothing");
    }
    match call.ask.hedge {
        Hedge::Never => Some("unasked"),
        Hedge::After(delay) if hedge.offset < last.offset + delay => Some("too early"),
        Hedge::Usual => {
            // From an earlier call's arrival it may be counted, which was no later.
            let at = call.asked + hedge.offset + facts.latency;
            let samples_min = facts.plan.means.hedging.samples_min as usize;
            if answers(facts, at).count() < samples_min {
                return Some("after a time that nobody knew");
            }
            let delay = hedge.offset.saturating_sub(last.offset);
            is_short(facts, call.asked + last.offset, delay).then_some("before its usual time")
        }
        Hedge::After(_) => None,
    }
}

/// Executions of Routes that were answered until then: at least as many as the orchestrator knows of.
fn answers<'f>(facts: &'f Facts<'_>, until: Duration) -> impl Iterator<Item = &'f Execution<'f>> {
    facts.executions.values().filter(move |execution| {
        let is_answered = matches!(execution.left, Some((at, Left::Answered)) if at <= until);
        let call = facts.calls.get(&execution.arrival.task);
        is_answered && !call.is_some_and(Call::is_fan_out)
    })
}

/// Whether far too many of the answers that were known by then took longer than this delay.
fn is_short(facts: &Facts<'_>, by: Duration, delay: Duration) -> bool {
    let (mut known, mut longer) = (0, 0);
    for execution in answers(facts, by.saturating_sub(facts.latency * 2)) {
        let Some((left, _)) = execution.left else {
            continue;
        };
        // Nobody took it: it was late.
        let budget = execution.arrival.budget.unwrap_or_default();
        if execution.at + budget <= left + facts.latency {
            continue;
        }
        known += 1;
        longer += usize::from(delay < left.saturating_sub(execution.at));
    }
    known * LONGER_PERCENT_MAX < longer * 100
}

/// 12: at every instant, hedges that have reached an instance are at most a twentieth of the answers, and a few.
pub(super) fn hedges_stay_within_their_share(facts: &Facts<'_>) -> Vec<String> {
    let mut hedges = 0_usize;
    for execution in facts.executions.values() {
        let arrival = execution.arrival;
        let mut calls = facts.who_ask(arrival.task);
        let (first, second) = (calls.next(), calls.next());
        let tries = first
            .filter(|_| second.is_none())
            .map_or(&[][..], Call::tries);
        let tried = tries.get((arrival.attempt as usize).wrapping_sub(1));
        if tried.is_none_or(|tried| tried.kind != HEDGE) {
            continue;
        }
        hedges += 1;
        let share = facts.plan.means.hedging.share;
        let allowed = share.floor + answers(facts, execution.at).count() as f64 * share.per_call;
        if allowed < hedges as f64 {
            let at = execution.at;
            return vec![format!(
                "{hedges} hedges at {at:?}, {allowed:.1} are allowed"
            )];
        }
    }
    Vec::new()
}

/// Of several answers the caller gets the one that came first.
pub(super) fn the_first_answer_is_taken(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let Some((_, End::Answered { payload, .. })) = call.ended else {
            continue;
        };
        if facts.who_ask(call.ask.task).count() != 1 {
            continue;
        }
        let taken = payload
            .rsplit('#')
            .next()
            .and_then(|number| number.parse().ok());
        let taken = taken.and_then(|number: u32| facts.executions.get(&number)?.left);
        let Some((taken, _)) = taken else { continue };
        let earlier = facts.of_task(*number).find(|other| {
            let Some((left, Left::Answered)) = other.left else {
                return false;
            };
            let known = left + facts.latency * 2;
            let in_time = known < other.at + other.arrival.budget.unwrap_or_default();
            let id = &other.arrival.instance;
            let is_clear = facts.instance_is_clear(id, other.at, known)
                && !facts.weather.hung_up(id, other.at, known);
            known < taken && in_time && is_clear
        });
        if let Some(earlier) = earlier {
            let id = &earlier.arrival.instance;
            found.push(format!(
                "call {number} has a later answer than that of {id}"
            ));
        }
    }
    found
}
