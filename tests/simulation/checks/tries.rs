//! When and where a task is tried again.

use std::time::Duration;

use super::readiness::spells;
use super::{Call, Execution, Facts};
use crate::history::{Tried, What};
use crate::plan::Link;
use crate::world::TICK;

/// What an instance asks for is obeyed to the letter: no try before the time that it names, and none at all when it
/// wants none, at any other instance either.
pub(super) fn what_an_instance_asks_for_is_waited_for(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for record in facts.records {
        let What::PushedBack { execution, millis } = &record.what else {
            continue;
        };
        let Some(asking) = facts.executions.get(execution) else {
            continue;
        };
        let (task, id) = (asking.arrival.task, &asking.arrival.instance);
        // It comes there and what was sent before it came is there.
        let heard = record.at + facts.latency * 2;
        let in_time =
            record.at + facts.latency < asking.at + asking.arrival.budget.unwrap_or_default();
        let is_heard = in_time
            && facts.instance_is_clear(id, asking.at, heard)
            && !facts.weather.hung_up(id, asking.at, heard);
        let mut bearers = facts.who_ask(task);
        let (Some(call), None, true) = (bearers.next(), bearers.next(), is_heard) else {
            continue;
        };
        let until = u64::try_from(*millis).map_or(Duration::MAX, |millis| {
            record.at + Duration::from_millis(millis)
        });
        let too_early = facts.of_task(task).find(|other| {
            let is_own = !call.is_fan_out() || other.arrival.instance == *id;
            is_own && heard < other.at && other.at < until && came_at_once(facts, other, record.at)
        });
        if let Some(other) = too_early {
            let (other, at) = (&other.arrival.instance, record.at);
            found.push(format!(
                "call {task} was tried at {other} though {id} had asked at {at:?} for {millis} ms"
            ));
        }
    }
    found
}

/// Whether it can not have been sent before that and held up on its way.
fn came_at_once(facts: &Facts<'_>, execution: &Execution<'_>, since: Duration) -> bool {
    let id = &execution.arrival.instance;
    let link = Link::Instance(id.clone());
    let before = since.saturating_sub(Duration::from_millis(500));
    facts.weather.is_clear(&link, before, execution.at)
        && !facts.weather.hung_up(id, before, execution.at)
}

/// 12: no instance is tried twice while another that was named, and was well all the time, is not.
pub(super) fn the_untried_come_first(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    // Who is full may be passed over.
    let limits = facts
        .plan
        .instances
        .iter()
        .any(|one| one.calls_max.is_some());
    let usual = orchestrator::config::Admission::default();
    if limits || facts.plan.allowance.admission.instance_calls_max != usual.instance_calls_max {
        return found;
    }
    let spells = spells(facts);
    for (number, call) in &facts.calls {
        if call.is_fan_out() || facts.who_ask(call.ask.task).count() != 1 {
            continue;
        }
        let tries = call.tries();
        for (at, again) in tries.iter().enumerate() {
            let before = &tries[..at];
            if !before.iter().any(|tried| tried.instance == again.instance) {
                continue;
            }
            let passed_over = call.ask.targets.iter().find(|target| {
                let is_untried = !before.iter().any(|tried| tried.instance == **target);
                let spells = spells.get(target.as_str());
                is_untried
                    && spells.is_some_and(|spells| was_well(facts, call, before, again, spells))
            });
            if let Some(other) = passed_over {
                let id = &again.instance;
                found.push(format!(
                    "call {number} was tried twice at {id}, and {other} is untried"
                ));
            }
        }
    }
    found
}

/// Whether an instance was well from the try before on.
fn was_well(
    facts: &Facts<'_>,
    call: &Call<'_>,
    before: &[Tried],
    again: &Tried,
    spells: &[(Duration, Duration)],
) -> bool {
    let step = TICK;
    let last = before.last().map_or(Duration::ZERO, |tried| tried.offset);
    let from = (call.asked + last).saturating_sub(step);
    // Offsets count from the arrival of the call, which may have come later than it should.
    let way = facts.latency
        + facts
            .weather
            .held(&Link::Caller(call.ask.caller), call.asked, call.over());
    let to = call.asked + again.offset + way + step;
    spells
        .iter()
        .any(|(begin, end)| *begin <= from && to <= *end)
}
