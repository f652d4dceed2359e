//! Calls with an idempotency key: how often what they ask for is executed, and what they are told.

use std::collections::BTreeMap;

use super::{Call, Execution, Facts};
use crate::history::{Begun, End, Tried};
use crate::plan::Link;

/// Every answer to calls of a task, with its call.
fn answers<'f>(facts: &'f Facts<'_>, task: u32) -> impl Iterator<Item = (&'f Call<'f>, &'f End)> {
    let answered = |call: &'f Call<'f>| match call.ended {
        Some((_, end @ End::Answered { .. })) => Some((call, end)),
        _ => None,
    };
    facts.who_ask(task).filter_map(answered)
}

fn tasks(facts: &Facts<'_>) -> impl Iterator<Item = u32> {
    let keyed = facts.calls.values().filter(|call| call.ask.word.is_some());
    let mut tasks: Vec<_> = keyed.map(|call| call.ask.task).collect();
    tasks.sort_unstable();
    tasks.dedup();
    tasks.into_iter()
}

/// 7: what has a key is carried out once for all that bear it: not again once it was answered, not beside itself,
/// and anew only for a call that has come since. Only what may be executed twice is tried again.
pub(super) fn a_key_is_carried_out_once(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for execution in facts.executions.values() {
        let arrival = execution.arrival;
        let call = facts.calls.get(&arrival.task);
        if call.is_some_and(|call| call.ask.word != arrival.word) {
            let (task, word) = (arrival.task, &arrival.word);
            found.push(format!("call {task} came with the key {word:?}"));
        }
    }
    for task in tasks(facts) {
        let answered = answers(facts, task).map(|(call, _)| call.over()).min();
        for execution in facts.of_task(task) {
            let link = Link::Instance(execution.arrival.instance.clone());
            let again = answered.filter(|at| {
                let held = facts.weather.held(&link, *at, execution.at);
                *at + facts.latency + held < execution.at
            });
            if let Some(at) = again {
                found.push(format!(
                    "call {task} was sent once more, answered at {at:?}"
                ));
            }
        }
        let begun = |execution: &&Execution<'_>| execution.arrival.begun == Begun::Yes;
        let begun: Vec<_> = facts.of_task(task).filter(begun).collect();
        if facts.who_ask(task).any(|call| call.ask.idempotent) {
            continue;
        }
        for pair in begun.windows(2) {
            let what = judge(facts, task, pair[0], pair[1]);
            found.extend(what.map(|what| format!("call {task} was begun once more {what}")));
        }
    }
    found
}

/// What is wrong with a second execution of what must not be executed twice by one call.
fn judge(
    facts: &Facts<'_>,
    task: u32,
    one: &Execution<'_>,
    other: &Execution<'_>,
) -> Option<&'static str> {
    let known = other.at + facts.latency;
    let is_clear = facts.instance_is_clear(&one.arrival.instance, one.at, known);
    if is_clear && one.over.is_none_or(|over| known < over) {
        return Some("beside itself");
    }
    // Whoever waits for a turn first looks for the key only then.
    let is_known = !facts.plan.allowance.limits_calls();
    let has_come = |call: &Call<'_>| {
        let link = Link::Caller(call.ask.caller);
        let way = facts.latency + facts.weather.held(&link, call.asked, other.at);
        one.at <= call.asked + way && call.asked <= other.at
    };
    (is_known && !facts.who_ask(task).any(has_come)).then_some("for nobody")
}

/// 7: all who bear a key get the same answer, with the same tries, and one of them is told that it is its own.
pub(super) fn a_key_has_one_answer_and_one_origin(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for call in facts.calls.values().filter(|call| call.ask.word.is_none()) {
        if let Some((
            _,
            End::Answered {
                deduplicated: true, ..
            },
        )) = call.ended
        {
            let number = call.ask.call;
            found.push(format!(
                "call {number} has no key, and its answer is an earlier one"
            ));
        }
    }
    for task in tasks(facts) {
        // What is told, but for whether it is one's own.
        let told = |end: &End| {
            let mut end = end.clone();
            if let End::Answered { deduplicated, .. } = &mut end {
                *deduplicated = false;
            }
            end
        };
        let mut given = answers(facts, task).map(|(_, end)| told(end));
        if let Some(first) = given.next()
            && given.any(|other| other != first)
        {
            found.push(format!("call {task} has two answers"));
        }
        let first_over = answers(facts, task).map(|(call, _)| call.over()).min();
        let mut own = 0;
        for (call, end) in answers(facts, task) {
            let End::Answered {
                deduplicated: false,
                ..
            } = end
            else {
                continue;
            };
            own += 1;
            if 1 < own || first_over.is_some_and(|over| over < call.asked) {
                let number = call.ask.call;
                found.push(format!("the answer of call {number} is said to be its own"));
            }
        }
        let all = facts.who_ask(task).count();
        if 0 < all && answers(facts, task).count() == all && own == 0 {
            found.push(format!("nobody has made the first call of {task}"));
        }
    }
    found
}

/// 7: only an outcome that repeating would not change is kept for later calls; one that may pass is not.
pub(super) fn what_may_pass_is_not_kept(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for task in tasks(facts) {
        // With its tries; two runs may have made the same ones, at the same times after they began.
        let failed: Vec<_> = facts
            .who_ask(task)
            .filter_map(|call| match call.ended {
                Some((at, End::Failed { code, attempts, .. })) if may_pass(code) => {
                    Some((call, at, attempts))
                }
                _ => None,
            })
            .collect();
        for (call, _, attempts) in &failed {
            let was_failed = |id: &str| {
                // Whoever joins a run that is about to fail gets its failure too.
                let mut later = facts.of_task(task).filter(|one| {
                    let known = one.over.map(|over| over + facts.latency);
                    known.is_none_or(|known| call.asked <= known)
                });
                later.any(|execution| execution.arrival.instance == id)
            };
            let unseen = attempts.iter().any(|tried| {
                // An instance that says so has seen it.
                tried.failure.as_deref() == Some("INSTANCE_FAILED") && !was_failed(&tried.instance)
            });
            let is_told_again =
                |(_, at, others): &(_, _, &Vec<Tried>)| *at < call.asked && attempts == others;
            if unseen && failed.iter().any(is_told_again) {
                let number = call.ask.call;
                found.push(format!(
                    "call {number} got a failure that may pass once more"
                ));
            }
        }
    }
    found
}

/// Instances say so, and the orchestrator of itself: whatever is behind it, it was not decided.
fn may_pass(code: &str) -> bool {
    matches!(
        code,
        "Unavailable" | "ResourceExhausted" | "DeadlineExceeded"
    )
}

/// 7: a key that was given to one task is given to no other as long as it is remembered, and is refused with it.
pub(super) fn a_key_belongs_to_one_task(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut words: BTreeMap<(usize, &str), Vec<&Call<'_>>> = BTreeMap::new();
    for call in facts.calls.values() {
        if let Some(word) = &call.ask.word {
            let bearers = words.entry((call.ask.caller, word)).or_default();
            bearers.push(call);
        }
    }
    for ((_, word), calls) in words {
        let is_answered = |call: &Call<'_>| matches!(call.ended, Some((_, End::Answered { .. })));
        let answered = calls.iter().filter(|call| is_answered(call));
        let mut tasks: Vec<_> = answered.map(|call| call.ask.task).collect();
        tasks.dedup();
        tasks.sort_unstable();
        tasks.dedup();
        if 1 < tasks.len() {
            found.push(format!(
                "the key {word} was answered for two tasks: {tasks:?}"
            ));
        }
        let is_conflict =
            |call: &&&Call<'_>| matches!(call.refusal(), Some(("IDEMPOTENCY_CONFLICT", _)));
        for refused in calls.iter().filter(is_conflict) {
            let mut others = calls.iter();
            let number = refused.ask.call;
            if !others.any(|other| other.ask.task != refused.ask.task) {
                found.push(format!("call {number} is in conflict with nobody"));
            }
        }
    }
    found
}
