//! What instances still work on, next to what is still waited for.

use std::time::Duration;

use super::{Call, Execution, Facts};
use crate::history::{End, Left, Verdict};

/// How long a reset may take within the orchestrator.
const RESET: Duration = Duration::from_millis(100);

/// 13: once a call is over, whoever still works on it is told so.
pub(super) fn nothing_goes_on_that_nobody_waits_for(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for execution in facts.executions.values() {
        let arrival = execution.arrival;
        let Some(first) = facts.who_ask(arrival.task).next() else {
            continue;
        };
        let Some(ended) = facts.waited_until(arrival.task, execution.at) else {
            continue;
        };
        let due = ended + RESET + facts.latency * 2;
        let is_clear = facts.caller_is_clear(first, due)
            && facts.instance_is_clear(&arrival.instance, execution.at, due);
        if is_clear && execution.over.is_none_or(|over| due < over) {
            let number = arrival.task;
            found.push(format!(
                "call {number} goes on at {} though it has ended",
                arrival.instance
            ));
        }
    }
    found
}

/// The other way round: what is waited for, and has time left, is not reset. A drain resets nothing.
pub(super) fn nothing_is_reset_that_somebody_waits_for(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for execution in facts.executions.values() {
        let Some((at, Left::Reset)) = execution.left else {
            continue;
        };
        let arrival = execution.arrival;
        let budget = arrival.budget.unwrap_or_default();
        let is_late = execution.at + budget <= at + facts.latency;
        let mut calls = facts.who_ask(arrival.task).peekable();
        let has_cause = |call: &Call<'_>| {
            let has_ended = execution.at <= call.over() + facts.latency
                && call.over() <= at + facts.latency * 2;
            has_ended || !facts.caller_is_clear(call, at) || is_cut(call, execution)
        };
        let is_alone = calls.peek().is_some();
        let is_clear = facts.instance_is_clear(&arrival.instance, execution.at, at)
            && !facts.weather.hung_up(&arrival.instance, execution.at, at);
        if is_alone && is_clear && !is_late && !calls.any(has_cause) {
            let (task, id) = (arrival.task, &arrival.instance);
            found.push(format!("call {task} was reset at {id}, and is waited for"));
        }
    }
    found
}

/// Whether the leg was cut, or nobody reads of it any more.
fn is_cut(call: &Call<'_>, execution: &Execution<'_>) -> bool {
    let Some((_, End::Streamed(stream))) = call.ended else {
        return false;
    };
    let mut parts = stream.partials.iter();
    let part = parts.find(|part| part.instance == execution.arrival.instance);
    let is_cut = part.is_none_or(|part| {
        matches!(
            part.outcome.as_str(),
            "OUTCOME_CANCELLED" | "OUTCOME_TIMED_OUT"
        )
    });
    is_cut
        || matches!(
            stream.verdict,
            Verdict::LeftEarly | Verdict::GaveUp | Verdict::Broken
        )
}
