//! How many tries there are in all.

use std::collections::BTreeSet;

use super::Facts;
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
    let (mut asked, mut tries) = (0_usize, 0_usize);
    let mut tried = BTreeSet::new();
    for record in facts.records {
        match &record.what {
            What::Asked(ask) => {
                let is_fan_out = facts.calls[&ask.call].is_fan_out();
                asked += if is_fan_out { ask.targets.len() } else { 1 };
            }
            What::Arrived(arrival) => {
                let Some(call) = facts.calls.get(&arrival.call) else {
                    // A call that nobody owns up to has asked for nothing.
                    tries += 1;
                    continue;
                };
                let leg = call.is_fan_out().then_some(arrival.instance.as_str());
                tries += 1;
                tried.insert((arrival.call, leg));
            }
            _ => continue,
        }
        let again = (tries - tried.len()) as f64;
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
