//! How many tries there are in all.

use std::collections::BTreeMap;

use super::{Call, Facts};
use crate::history::What;

/// Tries beyond the first that a quiet server has at once.
const FLOOR: f64 = 10.0;
/// As a share of the calls; a leg of a fan-out is a call.
const PER_CALL: f64 = 0.2;
/// With time alone.
const PER_SECOND: f64 = 1.0;

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
        let allowed = FLOOR + asked as f64 * PER_CALL + record.at.as_secs_f64() * PER_SECOND;
        if allowed < again {
            let at = record.at;
            return vec![format!(
                "beyond the budget at {at:?}: {again} tries again, {allowed:.1} are allowed"
            )];
        }
    }
    Vec::new()
}
