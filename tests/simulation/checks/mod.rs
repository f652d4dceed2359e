//! What must never happen, read from a history. Each check says in words what it has found.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ask::Ask;
use crate::history::{Arrival, End, Left, Record, Remains, Stream, Tried, Verdict, What};
use crate::plan::{Link, Plan};
use crate::world::TICK;

mod admission;
mod budget;
mod deadlines;
mod desk;
mod drains;
mod ejections;
mod ends;
mod executions;
mod health;
mod hedges;
mod keys;
mod readiness;
mod reports;
mod resets;
mod streams;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_load;
#[cfg(test)]
mod tests_of_patience;
#[cfg(test)]
mod tests_of_tries;
mod tries;
mod weather;

use weather::Weather;

/// A history, sorted by what the checks ask for.
pub(crate) struct Facts<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) records: &'a [Record],
    pub(crate) calls: BTreeMap<u32, Call<'a>>,
    pub(crate) executions: BTreeMap<u32, Execution<'a>>,
    of_tasks: BTreeMap<u32, Vec<u32>>,
    who_ask: BTreeMap<u32, Vec<u32>>,
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
    let facts = Facts::of(records, plan, &mut complaints);
    let checks: [fn(&Facts<'_>) -> Vec<String>; 32] = [
        executions::no_task_is_executed_twice_unless_it_may_be,
        executions::tries_are_bounded,
        deadlines::nothing_is_sent_late_or_with_more_time_than_is_left,
        ends::every_call_ends_in_time_and_by_its_name,
        resets::nothing_goes_on_that_nobody_waits_for,
        resets::nothing_is_reset_that_somebody_waits_for,
        budget::retries_stay_within_their_share,
        budget::no_instance_spends_what_all_have,
        desk::what_is_no_work_is_never_refused_for_load,
        ejections::an_ejection_has_a_cause,
        ejections::who_is_ejected_has_one_trial_at_a_time,
        tries::what_an_instance_asks_for_is_waited_for,
        tries::the_untried_come_first,
        health::who_is_down_gets_nothing,
        health::who_looks_down_gets_nothing,
        reports::what_is_reported_is_what_instances_saw,
        drains::who_is_set_aside_gets_nothing,
        drains::drained_is_who_has_nothing_left,
        hedges::what_contradicts_itself_is_refused,
        hedges::a_hedge_goes_beside_a_try_that_takes_long,
        hedges::hedges_stay_within_their_share,
        hedges::the_first_answer_is_taken,
        keys::a_key_is_carried_out_once,
        keys::a_key_has_one_answer_and_one_origin,
        keys::a_key_belongs_to_one_task,
        keys::what_may_pass_is_not_kept,
        readiness::who_waits_for_an_instance_gets_it,
        admission::no_more_is_let_in_than_may_be,
        admission::no_instance_has_more_than_it_may_have,
        admission::nobody_is_faster_than_allowed,
        admission::who_is_refused_was_never_sent_and_knows_when_to_come,
        admission::who_is_refused_was_one_too_many,
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
    fn of(records: &'a [Record], plan: &'a Plan, complaints: &mut Vec<String>) -> Self {
        let mut facts = Self {
            plan,
            records,
            calls: BTreeMap::new(),
            executions: BTreeMap::new(),
            of_tasks: BTreeMap::new(),
            who_ask: BTreeMap::new(),
            weather: Weather::of(records),
            calm: None,
            remains: None,
            latency: plan.latency_max + TICK * 2 + Duration::from_millis(1),
        };
        for Record { at, what } in records {
            match what {
                What::Asked(ask) => {
                    let call = Call {
                        ask,
                        asked: *at,
                        ended: None,
                    };
                    facts.who_ask.entry(ask.task).or_default().push(ask.call);
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
                    let of_task = facts.of_tasks.entry(arrival.task).or_default();
                    of_task.push(arrival.execution);
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
                | What::PushedBack { .. }
                | What::Desk { .. }
                | What::WatchBegan { .. }
                | What::Told { .. }
                | What::WatchOver { .. }
                | What::Ordered { .. }
                | What::Heard { .. }
                | What::Seen { .. }
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

    /// The executions of a task, in order.
    fn of_task(&self, task: u32) -> impl Iterator<Item = &Execution<'a>> {
        let numbers = self.of_tasks.get(&task).map_or(&[][..], Vec::as_slice);
        numbers.iter().map(|number| &self.executions[number])
    }

    /// The calls that ask for a task, in the order in which they were made: one, unless it has a key.
    fn who_ask(&self, task: u32) -> impl Iterator<Item = &Call<'a>> {
        let calls = self.who_ask.get(&task).map_or(&[][..], Vec::as_slice);
        calls.iter().map(|call| &self.calls[call])
    }

    /// When nobody waits any more for what began then, whoever has joined in the meantime included; `None` while
    /// somebody does.
    fn waited_until(&self, task: u32, from: Duration) -> Option<Duration> {
        let mut until = from;
        for call in self.who_ask(task) {
            if call.asked <= until + self.latency {
                until = until.max(call.ended?.0);
            }
        }
        Some(until)
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
        self.ask.is_fan_out()
    }

    /// When it ended; long after everything, when it did not.
    fn over(&self) -> Duration {
        const NEVER: Duration = Duration::from_secs(1_000_000);
        self.ended.map_or(NEVER, |(at, _)| at)
    }

    /// The reason of its failure, when the orchestrator has named one, with its pushback.
    fn refusal(&self) -> Option<(&str, Option<i64>)> {
        match self.ended?.1 {
            End::Failed {
                reason, pushback, ..
            }
            | End::Streamed(Stream {
                verdict:
                    Verdict::Failed {
                        reason, pushback, ..
                    },
                ..
            }) => Some((reason, *pushback)),
            End::Answered { .. }
            | End::Streamed(_)
            | End::Broken
            | End::LeftEarly
            | End::GaveUp => None,
        }
    }

    /// The tries that its caller was told of.
    fn tries(&self) -> &[Tried] {
        match self.ended {
            Some((_, End::Answered { attempts, .. } | End::Failed { attempts, .. })) => attempts,
            _ => &[],
        }
    }

    /// When its caller expects it to be over.
    fn deadline(&self) -> Duration {
        self.asked + self.ask.timeout
    }

    /// How often it may be tried at most, at each target of a fan-out.
    fn attempts_max(&self, plan: &Plan) -> u32 {
        match self.ask.attempts_max {
            0 => plan.means.retry.attempts_default,
            asked => asked,
        }
    }
}
