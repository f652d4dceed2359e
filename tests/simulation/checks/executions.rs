//! How often a task is executed, and how often it is tried.

use std::collections::{BTreeMap, BTreeSet};

use super::Facts;
use crate::history::Begun;

/// The most tries that anybody gets.
const TRIES_MAX: u32 = 5;

/// 11: once an instance may have begun a task, no other and not the same one begins it again, unless its caller
/// said that this does no harm. In a fan-out each target has a task of its own.
pub(super) fn no_task_is_executed_twice_unless_it_may_be(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in facts
        .calls
        .iter()
        .filter(|(_, call)| call.ask.word.is_none())
    {
        let mut begun: BTreeMap<&str, u32> = BTreeMap::new();
        for execution in facts.of_task(*number) {
            if execution.arrival.begun == Begun::Yes {
                let leg = if call.is_fan_out() {
                    execution.arrival.instance.as_str()
                } else {
                    ""
                };
                *begun.entry(leg).or_default() += 1;
            }
        }
        let twice = begun.into_iter().filter(|(_, count)| 1 < *count);
        for (leg, count) in twice.filter(|_| !call.ask.idempotent) {
            found.push(format!("call {number} {leg}: executed {count} times"));
        }
    }
    found
}

/// 12: no more tries than the caller allows, nor than anybody gets, and no number is used twice.
pub(super) fn tries_are_bounded(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let most = call.attempts_max(facts.plan).min(TRIES_MAX);
        // A task with a key may be begun anew, from its first try on.
        let is_alone = facts.who_ask(*number).count() == 1;
        let mut seen = BTreeSet::new();
        for execution in facts.of_task(*number) {
            let arrival = execution.arrival;
            let leg = call.is_fan_out().then_some(&arrival.instance);
            if arrival.attempt == 0 || most < arrival.attempt {
                let attempt = arrival.attempt;
                found.push(format!(
                    "call {number}: try {attempt}, {most} tries are allowed"
                ));
            }
            if !seen.insert((leg, arrival.attempt)) && is_alone {
                let attempt = arrival.attempt;
                found.push(format!("call {number}: try {attempt} was made twice"));
            }
        }
    }
    found
}
