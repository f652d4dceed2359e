//! What instances get whose operator wants them out of work.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator::domain::health::Admin;
use orchestrator::domain::limit::CONNECT_TIMEOUT;

use super::Facts;
use crate::history::What;
use crate::operator::Order;
use crate::plan::Link;

/// For a try that waits for its connection while its instance is set aside.
const CONNECTING: Duration = Duration::from_millis(500);

/// Since when an instance is set aside, and since when it has nothing left.
#[derive(Clone, Copy)]
struct Aside {
    since: Duration,
    drained: Option<Duration>,
}

/// 15: once the orchestrator has said that an instance is draining, or was disabled from the start, nothing new is
/// sent there, whoever holds an older view; and once it has said that nothing is left, nothing comes at all.
pub(super) fn who_is_set_aside_gets_nothing(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let begins = facts.plan.instances.iter();
    let begins = begins.filter(|instance| instance.admin != Admin::Active);
    let start = Aside {
        since: Duration::ZERO,
        drained: Some(Duration::ZERO),
    };
    let mut aside: BTreeMap<&str, Aside> = begins
        .map(|instance| (instance.id.as_str(), start))
        .collect();
    for record in facts.records {
        match &record.what {
            What::Ordered {
                instance,
                order: Order::Undrain,
            } => drop(aside.remove(instance.as_str())),
            What::Heard {
                instance,
                order: Order::Drain,
                admin,
                drained,
                ..
            } => {
                if admin == "ADMIN_STATE_ACTIVE" {
                    found.push(format!("{instance} is active after it was drained"));
                }
                let heard = aside.entry(instance).or_insert(Aside {
                    since: record.at,
                    drained: None,
                });
                if *drained {
                    heard.drained.get_or_insert(record.at);
                }
            }
            What::Arrived(arrival) => {
                let Some(aside) = aside.get(arrival.instance.as_str()) else {
                    continue;
                };
                if latest(facts, *aside, &arrival.instance, record.at) < record.at {
                    let (task, id) = (arrival.task, &arrival.instance);
                    found.push(format!("call {task} came to {id}, which is set aside"));
                }
            }
            _ => {}
        }
    }
    found
}

/// Until when something may come that was sent before.
fn latest(facts: &Facts<'_>, aside: Aside, id: &str, now: Duration) -> Duration {
    let link = Link::Instance(id.to_owned());
    let held = |since| facts.weather.held(&link, since, now);
    if let Some(drained) = aside.drained {
        return drained + facts.latency + held(drained);
    }
    let before = aside.since.saturating_sub(CONNECTING);
    let is_clear =
        facts.instance_is_clear(id, before, now) && !facts.weather.hung_up(id, before, now);
    if is_clear {
        // There and back again for the connection, and once for the request.
        aside.since + facts.latency * 4
    } else {
        Duration::MAX
    }
}

/// An instance is said to be drained when it has nothing left, and not before.
pub(super) fn drained_is_who_has_nothing_left(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    // When it was last said that something is left.
    let mut busy: BTreeMap<&str, Duration> = BTreeMap::new();
    for record in facts.records {
        let (id, is_drained, outstanding) = match &record.what {
            What::Heard {
                instance,
                order: Order::Drain,
                drained,
                outstanding,
                ..
            } => (instance.as_str(), *drained, *outstanding),
            What::Ordered { instance, .. } => {
                busy.remove(instance.as_str());
                continue;
            }
            _ => continue,
        };
        if is_drained != (outstanding == 0) {
            found.push(format!(
                "{id} is said to be drained, and to have {outstanding} calls"
            ));
        }
        if is_drained {
            busy.remove(id);
            found.extend(still_works(facts, id, record.at));
        } else if let Some(since) = busy.insert(id, record.at)
            && has_nothing(facts, id, since, record.at)
        {
            found.push(format!(
                "{id} is said to have work at {:?}, and has none",
                record.at
            ));
        }
    }
    found
}

fn still_works(facts: &Facts<'_>, id: &str, at: Duration) -> Option<String> {
    let known = at + facts.latency;
    let goes_on = facts.executions.values().find(|execution| {
        execution.arrival.instance == id
            && execution.at <= at
            && execution.over.is_none_or(|over| known < over)
            && facts.instance_is_clear(id, execution.at, known)
    });
    goes_on.map(|execution| {
        let task = execution.arrival.task;
        format!("{id} is said to be drained at {at:?}, and works on call {task}")
    })
}

/// Whether nothing can have been with the instance in all this time, nor wait for a connection that was lost while it
/// was being made.
fn has_nothing(facts: &Facts<'_>, id: &str, from: Duration, to: Duration) -> bool {
    let before = from.saturating_sub(CONNECT_TIMEOUT);
    let (from, to) = (
        from.saturating_sub(facts.latency * 4),
        to + facts.latency * 4,
    );
    let is_clear =
        facts.instance_is_clear(id, before, to) && !facts.weather.hung_up(id, before, to);
    is_clear
        && !facts.executions.values().any(|execution| {
            execution.arrival.instance == id
                && execution.at <= to
                && execution.over.is_none_or(|over| from <= over)
        })
}
