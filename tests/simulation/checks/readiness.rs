//! Calls that wait for an instance.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator::domain::health::{Admin, probed};
use orchestrator::domain::limit::READY_LOOK_INTERVAL;

use super::{Call, Facts};
use crate::ask::Kind;
use crate::history::{End, Looks, What};

/// How long an instance may be well before who waits for it has it.
const LOOKED_AFTER: Duration = READY_LOOK_INTERVAL.saturating_mul(2);

/// When instances were well, by the orchestrator's own view.
pub(super) type Spells<'a> = BTreeMap<&'a str, Vec<(Duration, Duration)>>;

/// Who waits for an instance is neither turned away before its time nor left waiting when there is one.
pub(super) fn who_waits_for_an_instance_gets_it(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let spells = spells(facts);
    for (number, call) in facts
        .calls
        .iter()
        .filter(|(_, call)| call.ask.waits_for_ready)
    {
        let Some((
            at,
            End::Failed {
                reason, attempts, ..
            },
        )) = call.ended
        else {
            continue;
        };
        if !attempts.is_empty() || facts.who_ask(call.ask.task).count() != 1 {
            continue;
        }
        match reason.as_str() {
            "NO_INSTANCE" | "INSTANCE_DOWN" | "INSTANCE_DRAINING" => {
                found.push(format!("call {number} did not wait: {reason}"));
            }
            // Or it has waited for its turn.
            "DEADLINE_EXCEEDED" if !facts.plan.allowance.limits_calls() => {
                let well = who_was_well(facts, call, at, &spells);
                found.extend(well.map(|id| format!("call {number} waited, and {id} was well")));
            }
            _ => {}
        }
    }
    found
}

fn who_was_well<'a>(
    facts: &Facts<'_>,
    call: &Call<'_>,
    ended: Duration,
    spells: &Spells<'a>,
) -> Option<&'a str> {
    let anywhere = matches!(call.ask.kind, Kind::Route { anywhere: true, .. });
    let (from, to) = (
        call.asked + facts.latency,
        ended.saturating_sub(facts.latency),
    );
    // What is kept back for the way of the answer is not waited for.
    let to = to.min(call.deadline().saturating_sub(Duration::from_millis(5)));
    let was_well = |(begin, end): &(Duration, Duration)| {
        let (from, to) = (from.max(*begin), to.min(*end));
        from + LOOKED_AFTER < to
    };
    let asked = |id: &str| anywhere || call.ask.targets.iter().any(|target| target == id);
    let is_clear = facts.caller_is_clear(call, ended);
    let mut well = spells
        .iter()
        .filter(|(_, spells)| spells.iter().any(was_well));
    well.find(|(id, _)| is_clear && asked(id))
        .map(|(id, _)| *id)
}

pub(super) fn spells<'a>(facts: &Facts<'a>) -> Spells<'a> {
    let mut spells = Spells::new();
    let mut well: BTreeMap<&str, Duration> = BTreeMap::new();
    for record in facts.records {
        let What::Seen { instance, looks } = &record.what else {
            continue;
        };
        if is_well(looks) {
            well.entry(instance).or_insert(record.at);
        } else if let Some(since) = well.remove(instance.as_str()) {
            spells.entry(instance).or_default().push((since, record.at));
        }
    }
    for (instance, since) in well {
        let open = (since, Duration::MAX);
        spells.entry(instance).or_default().push(open);
    }
    spells
}

fn is_well(looks: &Looks) -> bool {
    looks.admin == Admin::Active && looks.probed == probed::State::Healthy && !looks.ejected
}
