//! Who gets work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator::domain::health::probed;

use super::Facts;
use crate::history::{Said, What};
use crate::house::PROBE;

/// For a try that waits for its connection while its instance goes down.
const CONNECTING: Duration = Duration::from_millis(500);

/// 15: an instance that has said often enough that it does not serve, or once by itself, gets nothing until it
/// says otherwise.
pub(super) fn who_is_down_gets_nothing(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let unheard = unheard(facts);
    // How often in a row, and when it was last said.
    let mut against: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
    for record in facts.records {
        match &record.what {
            What::Probed { instance, said } => match said {
                Said::Serving => {
                    against.remove(instance.as_str());
                }
                // To a probe that was held up on its way, and given up by then.
                Said::NotServing if !was_heard(facts, instance, record.at) => {}
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
            What::Told {
                instance,
                watch,
                said,
            } => match said {
                Said::Serving => drop(against.remove(instance.as_str())),
                Said::NotServing if unheard.contains(&(*watch, record.at)) => {}
                Said::NotServing => {
                    let entry = against.entry(instance).or_default();
                    if entry.0 < PROBE.thresholds.failures_down {
                        *entry = (PROBE.thresholds.failures_down, record.at);
                    }
                }
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
                    let (task, id) = (arrival.task, &arrival.instance);
                    found.push(format!("call {task} came to {id}, which is down"));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether the answer to a probe has come back in time.
fn was_heard(facts: &Facts<'_>, instance: &str, at: Duration) -> bool {
    let asked = at.saturating_sub(PROBE.timeout);
    facts.instance_is_clear(instance, asked, at + facts.latency)
}

/// What was told on a watch that was over before it can have been heard.
fn unheard(facts: &Facts<'_>) -> BTreeSet<(u32, Duration)> {
    let mut told: BTreeMap<u32, Vec<Duration>> = BTreeMap::new();
    let mut unheard = BTreeSet::new();
    for record in facts.records {
        match &record.what {
            What::Told { watch, .. } => told.entry(*watch).or_default().push(record.at),
            What::WatchOver { watch, .. } => {
                let told = told.remove(watch).unwrap_or_default().into_iter();
                let lately = told.filter(|at| record.at <= *at + facts.latency * 2);
                unheard.extend(lately.map(|at| (*watch, at)));
            }
            // With all that it was about to say.
            What::Crashed(_) => told.clear(),
            _ => {}
        }
    }
    unheard
}

/// 15: an instance that the orchestrator itself takes for down gets nothing.
pub(super) fn who_looks_down_gets_nothing(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut down: BTreeMap<&str, Duration> = BTreeMap::new();
    for record in facts.records {
        match &record.what {
            What::Seen { instance, looks } if looks.probed == probed::State::Down => {
                down.entry(instance).or_insert(record.at);
            }
            What::Seen { instance, .. } => drop(down.remove(instance.as_str())),
            What::Arrived(arrival) => {
                let id = arrival.instance.as_str();
                let Some(since) = down.get(id) else { continue };
                let before = since.saturating_sub(CONNECTING);
                let is_clear = facts.instance_is_clear(id, before, record.at)
                    && !facts.weather.hung_up(id, before, record.at);
                if is_clear && *since + facts.latency * 4 < record.at {
                    let task = arrival.task;
                    found.push(format!("call {task} came to {id}, which looks down"));
                }
            }
            _ => {}
        }
    }
    found
}
