//! Instances that are left alone for what their calls said.

use std::time::Duration;

use super::{Execution, Facts};
use crate::history::{End, Left, What};
use crate::house;

/// For a try that waits for its connection.
const CONNECTING: Duration = Duration::from_millis(500);
/// The jitter takes at most a tenth of an ejection.
const SHORTEST_PERCENT: u32 = 90;

/// 15: no instance is ejected but for as many failures, in a row or in a while, as it takes.
pub(super) fn an_ejection_has_a_cause(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (id, at, _) in spells(facts) {
        let settings = house::ejection();
        let own = || {
            let own = facts.executions.values();
            own.filter(|one| one.arrival.instance == id && one.at <= at)
        };
        let known = own().filter(|one| is_good(facts, one));
        let known = known.filter_map(|one| one.left.map(|(left, _)| left));
        let last_good = known.filter(|left| *left + facts.latency < at).max();
        let since = last_good.unwrap_or_default().saturating_sub(facts.latency);
        // What the window holds is in parts, one of which may be older.
        let window = at.saturating_sub(settings.window + settings.window / 5 + facts.latency);
        let from = since.min(window).saturating_sub(CONNECTING);
        if !facts.instance_is_clear(&id, from, at) || facts.weather.hung_up(&id, from, at) {
            continue;
        }
        let since_then =
            |since: Duration| own().filter(move |one| one.over.is_none_or(|over| since <= over));
        let failed_since =
            |since: Duration| since_then(since).filter(|one| !is_good(facts, one)).count();
        let in_a_row = failed_since(since) < settings.failures_in_a_row as usize;
        // More than half of as many calls as it takes.
        let calls_min = settings.calls_min as usize;
        let few = failed_since(window) * 2 <= calls_min || since_then(window).count() < calls_min;
        if in_a_row && few {
            let count = failed_since(since);
            found.push(format!(
                "{id} is ejected at {at:?} after {count} failures in a row"
            ));
        }
    }
    found
}

/// Whether the orchestrator has surely taken it for a success: somebody was told so.
fn is_good(facts: &Facts<'_>, execution: &Execution<'_>) -> bool {
    let arrival = execution.arrival;
    let name = format!("#{}", arrival.execution);
    facts.who_ask(arrival.task).any(|call| match call.ended {
        Some((_, End::Answered { payload, .. })) => payload.ends_with(&name),
        Some((_, End::Streamed(stream))) => stream.partials.iter().any(|part| {
            part.instance == arrival.instance
                && part.outcome == "OUTCOME_ANSWERED"
                && part.attempts.len() == arrival.attempt as usize
        }),
        Some((_, End::Failed { .. } | End::Broken | End::LeftEarly | End::GaveUp)) | None => false,
    })
}

/// 15: an instance that is ejected gets nothing for a while, and then one call at a time that decides, but for
/// those that are told that ejections were ignored.
pub(super) fn who_is_ejected_has_one_trial_at_a_time(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (id, from, to) in spells(facts) {
        let begins = from + facts.latency * 4;
        let is_trial = |one: &&Execution<'_>| {
            let calls = || facts.who_ask(one.arrival.task);
            let believes = calls().all(|call| {
                let answered = call.ended.map(|(_, end)| end);
                matches!(answered, Some(End::Answered { panic: false, .. }))
            });
            let before = one.at.saturating_sub(CONNECTING).min(from);
            let is_clear = facts.instance_is_clear(&id, before, one.at)
                && !facts.weather.hung_up(&id, before, one.at);
            one.arrival.instance == id
                && begins < one.at
                && one.at < to
                && is_clear
                && believes
                && calls().next().is_some()
        };
        let mut trials: Vec<_> = facts.executions.values().filter(is_trial).collect();
        trials.sort_by_key(|one| one.at);
        let first = house::ejection().time * SHORTEST_PERCENT / 100;
        for one in trials.iter().filter(|one| one.at < from + first) {
            let (task, at) = (one.arrival.task, one.at);
            found.push(format!(
                "call {task} came to {id} at {at:?}, which is ejected"
            ));
        }
        for pair in trials.windows(2) {
            let over = pair[0].over.unwrap_or(Duration::MAX);
            // The orchestrator knows of an end only after its instance does, but for those that it has made itself.
            let way = match pair[0].left {
                Some((_, Left::Answered | Left::Failed | Left::Refused)) => Duration::ZERO,
                Some((_, Left::Reset | Left::Lost)) | None => facts.latency,
            };
            if pair[1].at + way < over {
                let (one, other) = (pair[0].arrival.task, pair[1].arrival.task);
                found.push(format!("{id} is tried by calls {one} and {other} at once"));
            }
        }
    }
    found
}

/// Who was ejected, from when to when.
fn spells(facts: &Facts<'_>) -> Vec<(String, Duration, Duration)> {
    let mut spells: Vec<(String, Duration, Duration)> = Vec::new();
    for record in facts.records {
        let What::Seen { instance, looks } = &record.what else {
            continue;
        };
        let mut open = spells.iter_mut();
        let open = open.find(|(id, _, to)| id == instance && *to == Duration::MAX);
        match (open, looks.ejected) {
            (None, true) => spells.push((instance.clone(), record.at, Duration::MAX)),
            (Some((_, _, to)), false) => *to = record.at,
            (None, false) | (Some(_), true) => {}
        }
    }
    spells
}
