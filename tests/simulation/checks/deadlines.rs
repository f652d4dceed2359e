//! When tasks are sent, and with how much time.

use super::{Call, Facts};
use crate::plan::Link;

/// 8: an instance has no more time than its caller gives, and none is asked when the time is over.
pub(super) fn nothing_is_sent_late_or_with_more_time_than_is_left(
    facts: &Facts<'_>,
) -> Vec<String> {
    let mut found = Vec::new();
    for execution in facts.executions.values() {
        let arrival = execution.arrival;
        let number = arrival.task;
        // Whoever has joined since gives it no more time.
        let asked = |call: &&Call<'_>| call.asked <= execution.at;
        let before = facts.who_ask(number).filter(asked);
        let Some(call) = before.max_by_key(|call| call.deadline()) else {
            continue;
        };
        let Some(budget) = arrival.budget else {
            found.push(format!("call {number}: sent without a deadline"));
            continue;
        };
        // On its way from the caller and to the instance, time passes that nobody can count.
        let ways = [
            Link::Caller(call.ask.caller),
            Link::Instance(arrival.instance.clone()),
        ];
        let held = ways
            .iter()
            .map(|link| facts.weather.held(link, call.asked, execution.at));
        let slack = facts.latency * 2 + held.sum();
        if call.deadline() + slack < execution.at {
            let late = execution.at - call.deadline();
            found.push(format!(
                "call {number}: arrived {late:?} after its deadline"
            ));
        }
        if call.deadline() + slack < execution.at + budget {
            let more = execution.at + budget - call.deadline();
            found.push(format!(
                "call {number}: {} has {more:?} more time than is left",
                arrival.instance
            ));
        }
        if call.ask.per_try.is_some_and(|per_try| per_try < budget) {
            found.push(format!("call {number}: more time than one try may have"));
        }
    }
    found
}
