//! What must never happen, read from a history. Each check says in words what it has found.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Arrival, End, Left, Record, Remains, What};
use crate::plan::{Ask, Kind, Link, Plan};

mod budget;
mod deadlines;
mod ends;
mod executions;
mod health;
mod reports;
mod streams;
#[cfg(test)]
mod tests;
mod weather;

use weather::Weather;

/// A history, sorted by what the checks ask for.
pub(crate) struct Facts<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) calls: BTreeMap<u32, Call<'a>>,
    pub(crate) executions: BTreeMap<u32, Execution<'a>>,
    pub(crate) weather: Weather,
    /// When the faults were over.
    pub(crate) calm: Option<Duration>,
    pub(crate) remains: Option<Remains>,
    /// The longest that one message takes where nothing is disturbed, turns of the clock included.
    pub(crate) latency: Duration,
}

/// One call, from the side of its caller.
pub(crate) struct Call<'a> {
    pub(crate) ask: &'a Ask,
    pub(crate) asked: Duration,
    pub(crate) ended: Option<(Duration, &'a End)>,
}

/// One execution, from the side of its instance.
pub(crate) struct Execution<'a> {
    pub(crate) at: Duration,
    pub(crate) arrival: &'a Arrival,
    /// `None` as long as it runs, and when its instance crashed.
    pub(crate) left: Option<(Duration, Left)>,
    /// When it was over, however that came.
    pub(crate) over: Option<Duration>,
}

/// Everything that is wrong with a history; nothing when all is well.
pub(crate) fn complaints(records: &[Record], plan: &Plan) -> Vec<String> {
    let mut complaints = Vec::new();
    let facts = Facts::of(records, plan.latency_max, &mut complaints);
    let checks: [fn(&Facts<'_>) -> Vec<String>; 8] = [
        executions::no_task_is_executed_twice_unless_it_may_be,
        executions::tries_are_bounded,
        deadlines::nothing_is_sent_late_or_with_more_time_than_is_left,
        ends::every_call_ends_in_time_and_by_its_name,
        ends::nothing_goes_on_that_nobody_waits_for,
        budget::retries_stay_within_their_share,
        health::who_is_down_gets_nothing,
        reports::what_is_reported_is_what_instances_saw,
    ];
    for check in checks {
        complaints.extend(check(&facts));
    }
    complaints.extend(streams::every_target_has_one_outcome(&facts));
    complaints.extend(ends::when_all_is_well_all_calls_succeed(&facts));
    complaints.extend(ends::nothing_is_left_behind(&facts));
    complaints
}

impl<'a> Facts<'a> {
    fn of(records: &'a [Record], latency_max: Duration, complaints: &mut Vec<String>) -> Self {
        let mut facts = Self {
            records,
            calls: BTreeMap::new(),
            executions: BTreeMap::new(),
            weather: Weather::of(records),
            calm: None,
            remains: None,
            latency: latency_max + Duration::from_millis(3),
        };
        for Record { at, what } in records {
            match what {
                What::Asked(ask) => {
                    let call = Call {
                        ask,
                        asked: *at,
                        ended: None,
                    };
                    facts.calls.insert(ask.call, call);
                }
                What::Ended { call, end } => match facts.calls.get_mut(call) {
                    Some(call) if call.ended.is_none() => call.ended = Some((*at, end)),
                    Some(_) => complaints.push(format!("call {call} ended twice")),
                    None => {}
                },
                What::Arrived(arrival) => {
                    let execution = Execution {
                        at: *at,
                        arrival,
                        left: None,
                        over: None,
                    };
                    facts.executions.insert(arrival.execution, execution);
                }
                What::Left { execution, how } => {
                    if let Some(execution) = facts.executions.get_mut(execution) {
                        execution.left = Some((*at, *how));
                        execution.over = Some(*at);
                    }
                }
                What::Crashed(id) => facts.crash(id, *at),
                What::Calm => facts.calm = Some(*at),
                What::Stopped(remains) => facts.remains = Some(*remains),
                What::Probed { .. }
                | What::Disturbed(..)
                | What::HungUp(_)
                | What::Mended(_)
                | What::Restarted(_) => {}
            }
        }
        facts
    }

    fn crash(&mut self, id: &str, at: Duration) {
        let here = self
            .executions
            .values_mut()
            .filter(|execution| execution.arrival.instance == id && execution.over.is_none());
        for execution in here {
            execution.over = Some(at);
        }
    }

    /// The executions of a call, in order.
    fn of_call(&self, call: u32) -> impl Iterator<Item = &Execution<'a>> {
        self.executions
            .values()
            .filter(move |execution| execution.arrival.call == call)
    }

    /// Whether nothing has come between the orchestrator and this caller.
    fn caller_is_clear(&self, call: &Call<'_>, until: Duration) -> bool {
        self.weather
            .is_clear(&Link::Caller(call.ask.caller), call.asked, until)
    }

    fn instance_is_clear(&self, id: &str, from: Duration, until: Duration) -> bool {
        self.weather
            .is_clear(&Link::Instance(id.to_owned()), from, until)
    }
}

impl Call<'_> {
    fn is_fan_out(&self) -> bool {
        matches!(self.ask.kind, Kind::Fanout { .. })
    }

    /// When its caller expects it to be over.
    fn deadline(&self) -> Duration {
        self.asked + self.ask.timeout
    }

    /// How often it may be tried at most, at each target of a fan-out.
    fn attempts_max(&self) -> u32 {
        const DEFAULT: u32 = 4;
        match self.ask.attempts_max {
            0 => DEFAULT,
            asked => asked,
        }
    }
}
