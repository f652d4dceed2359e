//! How many tries there are in all.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator::domain::budget::Share;

use super::{Call, Facts};
use crate::ask::{Hedge, Kind};
use crate::history::{Arrival, What};

/// What a share allows after so many calls and so much time; a leg of a fan-out is a call.
fn allowed(share: Share, calls: usize, passed: Duration) -> f64 {
    share.floor + calls as f64 * share.per_call + passed.as_secs_f64() * share.per_second
}

/// 12: at every instant, tries beyond the first that have reached an instance stay within their share of what
/// was asked so far.
pub(super) fn retries_stay_within_their_share(facts: &Facts<'_>) -> Vec<String> {
    let (mut asked, mut again) = (0_usize, 0_usize);
    // What has been asked of each task, and what has come of it.
    let mut firsts = BTreeMap::<_, usize>::new();
    let mut tries = BTreeMap::<_, (usize, usize)>::new();
    for record in facts.records {
        match &record.what {
            What::Asked(ask) => {
                let is_fan_out = ask.is_fan_out();
                asked += if is_fan_out { ask.targets.len() } else { 1 };
                *firsts.entry(ask.task).or_default() += 1;
            }
            What::Arrived(arrival) => {
                let call = facts.calls.get(&arrival.task);
                let is_fan_out = call.is_some_and(Call::is_fan_out);
                let leg = is_fan_out.then_some(arrival.instance.as_str());
                let (first, others) = tries.entry((arrival.task, leg)).or_default();
                // A task with a key may be begun by each call that asks for it; one that nobody owns up to, by none.
                let firsts = firsts.get(&arrival.task).copied().unwrap_or_default();
                if arrival.attempt == 1 && *first < firsts {
                    *first += 1;
                } else {
                    // A first try that has not arrived leaves its place to the next one.
                    *others += 1;
                    again += usize::from(firsts.saturating_sub(*first) < *others);
                }
            }
            _ => continue,
        }
        let again = again as f64;
        let allowed = allowed(facts.plan.means.retry.budget, asked, record.at);
        if allowed < again {
            let at = record.at;
            return vec![format!(
                "beyond the budget at {at:?}: {again} tries again, {allowed:.1} are allowed"
            )];
        }
    }
    Vec::new()
}

/// 12: at every instant, tries that follow failures of one instance stay within the share of the calls that may have
/// gone there: one bad instance does not spend what all have.
pub(super) fn no_instance_spends_what_all_have(facts: &Facts<'_>) -> Vec<String> {
    // Of each instance: calls that may have had their first try there, tries after its failures, lives.
    let mut calls = BTreeMap::<&str, usize>::new();
    let mut spent = BTreeMap::<&str, usize>::new();
    let mut lives = BTreeMap::<&str, usize>::new();
    for record in facts.records {
        match &record.what {
            What::Asked(ask) => {
                for instance in &facts.plan.instances {
                    let anywhere = matches!(ask.kind, Kind::Route { anywhere: true, .. });
                    if anywhere || ask.targets.contains(&instance.id) {
                        *calls.entry(&instance.id).or_default() += 1;
                    }
                }
            }
            // One that registers anew is another instance, with a budget of its own.
            What::Restarted(id) => *lives.entry(id).or_default() += 1,
            What::Arrived(arrival) => {
                let Some(failed) = follows(facts, arrival) else {
                    continue;
                };
                let spent = spent.entry(failed).or_default();
                *spent += 1;
                let share = facts.plan.means.retry.instance_budget;
                let calls = calls.get(failed).copied().unwrap_or_default();
                let lives = 1 + lives.get(failed).copied().unwrap_or_default();
                let allowed = allowed(share, calls, record.at) + share.floor * (lives - 1) as f64;
                if allowed < *spent as f64 {
                    let at = record.at;
                    return vec![format!(
                        "beyond the budget of {failed} at {at:?}: {spent} tries again, {allowed:.1} are allowed"
                    )];
                }
            }
            _ => {}
        }
    }
    Vec::new()
}

/// After whose failure this try was made, where that is certain: nothing ran beside it, and the try before was sent.
fn follows<'a>(facts: &Facts<'a>, arrival: &Arrival) -> Option<&'a str> {
    let mut bearers = facts.who_ask(arrival.task);
    let (call, None) = (bearers.next()?, bearers.next()) else {
        return None;
    };
    if call.ask.hedge != Hedge::Never || arrival.attempt < 2 {
        return None;
    }
    let before = facts.of_task(arrival.task).find(|execution| {
        let is_own = !call.is_fan_out() || execution.arrival.instance == arrival.instance;
        is_own && execution.arrival.attempt + 1 == arrival.attempt
    });
    before.map(|before| before.arrival.instance.as_str())
}
