//! Who gets work.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Facts;
use crate::history::{Said, What};
use crate::world::PROBE;

/// 15: an instance that has said often enough that it does not serve gets nothing until it says otherwise.
pub(super) fn who_is_down_gets_nothing(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    // How often in a row, and when it was last said.
    let mut against: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
    for record in facts.records {
        match &record.what {
            What::Probed { instance, said } => match said {
                Said::Serving => {
                    against.remove(instance.as_str());
                }
                Said::NotServing => {
                    let (count, last) = against.entry(instance).or_default();
                    // The one that decides is the threshold's; later ones only repeat it.
                    if *count < PROBE.thresholds.failures_down {
                        (*count, *last) = (*count + 1, record.at);
                    }
                }
                // It may be as well that the probe was lost: the orchestrator knows, the instance does not.
                Said::Nothing => {}
            },
            What::Arrived(arrival) => {
                let Some((count, decided)) = against.get(arrival.instance.as_str()) else {
                    continue;
                };
                let is_down = *count == PROBE.thresholds.failures_down;
                // The word has to come back, and what has left by then has to arrive.
                let known = *decided + facts.latency * 2 + Duration::from_millis(5);
                let clear = facts.instance_is_clear(&arrival.instance, *decided, record.at);
                if is_down && clear && known < record.at {
                    let (call, id) = (arrival.call, &arrival.instance);
                    found.push(format!("call {call} came to {id}, which is down"));
                }
            }
            _ => {}
        }
    }
    found
}
