//! What callers are told of tries, next to what instances saw of them.

use super::{Call, Execution, Facts};
use crate::history::{Begun, End, Left, Tried};
use crate::payload;

/// The sum of what instances saw is the sum of what was reported, try by try.
pub(super) fn what_is_reported_is_what_instances_saw(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let task = call.ask.task;
        let seen: Vec<_> = facts.of_task(task).collect();
        // Which of several calls with a key has made a try cannot be told: see `keys`.
        let is_alone = facts.who_ask(task).count() == 1;
        let mut judge = |tried: &[Tried], seen: &[&Execution<'_>]| {
            if !is_alone {
                return;
            }
            let complaints = leg(facts, call, tried, seen);
            found.extend(complaints.map(|what| format!("call {number}: {what}")));
        };
        match call.ended {
            Some((
                _,
                End::Answered {
                    by,
                    payload,
                    attempts,
                    ..
                },
            )) => {
                judge(attempts, &seen);
                let good = attempts.iter().filter(|tried| tried.failure.is_none());
                let good: Vec<_> = good.map(|tried| &tried.instance).collect();
                if good != [by] {
                    found.push(format!(
                        "call {number}: {by} has answered, and the tries say {good:?}"
                    ));
                }
                if !payload::is_answer(payload, task, by) {
                    found.push(format!(
                        "call {number} has the answer of another: {payload}"
                    ));
                }
            }
            Some((_, End::Failed { attempts, .. })) => judge(attempts, &seen),
            Some((_, End::Streamed(stream))) => {
                for part in &stream.partials {
                    let own: Vec<_> = seen
                        .iter()
                        .filter(|execution| execution.arrival.instance == part.instance)
                        .copied()
                        .collect();
                    if part.outcome == "OUTCOME_SKIPPED" && !own.is_empty() {
                        let id = &part.instance;
                        found.push(format!("call {number}: {id} was skipped, and has it"));
                    }
                    let complaints = leg(facts, call, &part.attempts, &own);
                    found.extend(complaints.map(|what| format!("call {number}: {what}")));
                }
            }
            Some((_, End::Broken | End::LeftEarly | End::GaveUp)) | None => {}
        }
    }
    found
}

fn leg(
    facts: &Facts<'_>,
    call: &Call<'_>,
    tried: &[Tried],
    seen: &[&Execution<'_>],
) -> impl Iterator<Item = String> + use<> {
    let mut found = Vec::new();
    for execution in seen {
        let arrival = execution.arrival;
        let reported = tried.get((arrival.attempt as usize).wrapping_sub(1));
        match reported.filter(|tried| tried.instance == arrival.instance) {
            None => found.push(format!(
                "try {} at {} was not reported",
                arrival.attempt, arrival.instance
            )),
            Some(tried) if never_began(tried) && arrival.begun == Begun::Yes => {
                found.push(format!(
                    "try {} at {} is said never to have begun, and was executed",
                    arrival.attempt, arrival.instance
                ));
            }
            Some(_) => {}
        }
    }
    for (at, tried) in tried.iter().enumerate() {
        let own = seen
            .iter()
            .find(|execution| execution.arrival.attempt as usize == at + 1);
        match (&tried.failure, own) {
            (None, Some(execution))
                if execution.left.is_some_and(|(_, how)| how == Left::Answered) => {}
            (None, _) => found.push(format!("{} has not answered, as is said", tried.instance)),
            (Some(_), None) if !never_began(tried) => {
                // What was sent may have been lost, or be on its way still.
                let until = call.ended.map_or(call.asked, |(at, _)| at);
                let is_clear = facts.instance_is_clear(&tried.instance, call.asked, until);
                // So may what was on its way to a connection that was closed.
                let since = call.asked.saturating_sub(facts.latency);
                let hung_up = facts.weather.hung_up(&tried.instance, since, until);
                if is_clear && !hung_up && !is_cut(tried) {
                    found.push(format!(
                        "{} has never seen the try that is reported",
                        tried.instance
                    ));
                }
            }
            (Some(_), _) => {}
        }
    }
    found.into_iter()
}

/// A try of which is said that its instance has not begun it.
fn never_began(tried: &Tried) -> bool {
    matches!(
        tried.failure.as_deref(),
        Some("INSTANCE_DOWN" | "INSTANCE_BUSY" | "INSTANCE_DRAINING")
    )
}

/// A try that was cut may have been reset before the instance had it.
fn is_cut(tried: &Tried) -> bool {
    matches!(
        tried.failure.as_deref(),
        Some("DEADLINE_EXCEEDED" | "NOT_NEEDED")
    )
}
