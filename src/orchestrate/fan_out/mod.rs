//! Fanout: one task, every target, each outcome as it comes.
//!
//! ```text
//! started ─▶ (waves of dispatch ⇄ arrivals) ─▶ partials of what is left ─▶ summary ─▶ verdict
//! ```
//!
//! A task of its own drives the legs, so that the deadline holds even when nobody reads; it ends with the
//! stream that it feeds, and with it every leg. Between waves whatever has arrived gets its turn, so that the
//! first partial does not wait for the last dispatch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{self, Instant};

use super::attempt::{Lag, report};
use super::excluded::excluded;
use super::run_task::{Answered, Route, Tries, Unanswered, run_task, was_too_late};
use crate::chance::Chance;
use crate::domain::budget::Budget;
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::gather::{BadCompletion, Completion, Counts, Gather, Outcome, Stop};
use crate::domain::health::Panic;
use crate::domain::hedge;
use crate::domain::id::InstanceId;
use crate::domain::limit::{CLOSE_MAX, FANOUT_WAVE, FANOUT_WAVE_FIRST};
use crate::domain::payload::Payload;
use crate::domain::retry;
use crate::domain::selection;
use crate::domain::task::{Attempt, Task};
use crate::fleet::view::{FleetNow, Member, Members};
use crate::instance::Pending;
use crate::tasks::Tasks;
use crate::telemetry::metric;
use crate::telemetry::trace::{Span, Within};

mod collect;
mod events;

use collect::Collected;
pub use events::Events;
use events::Feed;

/// One task for every target.
pub struct FanOut {
    /// The task; its bytes are shared by all legs.
    pub task: Arc<Task>,
    /// The targets, frozen.
    pub roster: Members,
    /// Whether so few targets are well that those whose calls failed get work too.
    pub panic: Panic,
    /// When the call is complete.
    pub completion: Completion,
    /// Collect the payloads for the summary instead of sending each with its partial.
    pub aggregate: bool,
    /// How often each target is tried; nowhere else.
    pub retry: retry::Policy,
    /// Who is there, and how, when a target is tried again.
    pub fleet_now: FleetNow,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// Where its legs are recorded.
    pub within: Within,
    /// What decides where nothing else does.
    pub chance: Chance,
    /// When the call arrived.
    pub arrived: Instant,
    /// When it ends.
    pub deadline: Deadline,
}

impl FanOut {
    /// Looks at its targets again: time has passed since they were chosen. They stay the same ones.
    pub fn look_again(&mut self) {
        let fleet = (self.fleet_now)();
        self.roster = fleet.refreshed(&self.roster);
        self.panic = fleet.panic_among(&self.roster);
    }
}

/// What the caller is told, in this order: once, once for each target, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The frozen roster, and whether what the calls of its instances said is ignored.
    Started(Vec<InstanceId>, Panic),
    /// The one outcome of one target.
    Partial(Leg),
    /// How the call ended.
    Summary(Summary),
}

/// The one outcome of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The target.
    pub instance: InstanceId,
    /// How it ended.
    pub outcome: Outcome,
    /// The answer.
    pub payload: Option<Payload>,
    /// Why there is none.
    pub failure: Option<Failure>,
    /// Every try.
    pub attempts: Vec<Attempt>,
}

/// How a fan-out ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many targets ended in which way.
    pub counts: Counts,
    /// Why the call ended.
    pub stop: Stop,
    /// The targets that did not answer, in roster order.
    pub missing: Vec<InstanceId>,
    /// With `aggregate`, every target in roster order.
    pub aggregate: Vec<Leg>,
}

/// Begins a fan-out. Dropping the events resets every leg that still runs.
pub fn fan_out(fan_out: FanOut, tasks: &Tasks) -> Result<Events, BadCompletion> {
    let gather = Gather::new(fan_out.roster.len() as u32, fan_out.completion)?;
    let (feed, verdict, queue) = events::channel();
    let driver = Driver {
        tries: fan_out.roster.iter().map(|_| Tries::default()).collect(),
        collected: fan_out
            .aggregate
            .then(|| Collected::new(fan_out.roster.len())),
        legs: FuturesUnordered::new(),
        spans: BTreeMap::new(),
        next: 0,
        lag: Arc::default(),
        progress: Progress::NeverBegan,
        gather,
        feed,
        unread: Vec::new(),
        fan_out,
    };
    let way = driver.feed.hold_open();
    let driver = tasks.spawn_owned(async move {
        verdict.set(driver.run().await);
        drop(way);
    });
    Ok(Events::new(queue, driver))
}

/// The position of a target, and what its instance said.
type Arrival = (usize, Result<Answered, Unanswered>);

struct Driver {
    fan_out: FanOut,
    gather: Gather,
    legs: FuturesUnordered<Pending<Arrival>>,
    /// The legs that are recorded and have no outcome yet, by their targets; none where nothing is recorded.
    spans: BTreeMap<usize, Span>,
    /// The first target that was not dispatched yet.
    next: usize,
    /// The tries of each target; those of a leg that is cut are read here.
    tries: Arc<[Tries]>,
    /// Noted each time that the legs were left alone, because the reader lagged behind.
    lag: Arc<Lag>,
    /// Whether any target may have begun: repeating the call would repeat it there.
    progress: Progress,
    collected: Option<Collected>,
    feed: Feed,
    /// What had arrived when time ran out, while the reader lagged behind.
    unread: Vec<Arrival>,
}

impl Driver {
    async fn run(mut self) -> Result<(), Failure> {
        let roster = self
            .fan_out
            .roster
            .iter()
            .map(|member| member.id().clone())
            .collect();
        let panic = self.fan_out.panic;
        self.feed.send(Event::Started(roster, panic)).await?;
        let ends = Instant::from_std(self.fan_out.deadline.work_ends());
        let mut wave = FANOUT_WAVE_FIRST;
        while self.gather.stop().is_none() {
            self.dispatch_wave(wave).await?;
            if self.next < self.fan_out.roster.len() {
                wave = FANOUT_WAVE.min(wave * 2);
                self.take_what_is_here().await?;
                // What was sent goes out, and what comes in is read.
                tokio::task::yield_now().await;
                if self.take_what_is_here().await? != 0 {
                    // Partials leave before the next wave is made.
                    tokio::task::yield_now().await;
                }
            } else if self.gather.stop().is_none() {
                match time::timeout_at(ends, self.legs.next()).await {
                    Ok(Some(arrival)) => self.arrive(arrival).await?,
                    Ok(None) | Err(_) => self.gather.end(Stop::Deadline),
                }
            }
        }
        // However slowly it is read, the rest of the call has an end.
        match time::timeout(CLOSE_MAX, self.close()).await {
            Ok(closed) => closed,
            Err(_elapsed) => {
                let detail = format!(
                    "the end of the call was not read within {} s",
                    CLOSE_MAX.as_secs()
                );
                Err(Failure::new(Reason::SlowConsumer, detail))
            }
        }
    }

    /// Lets the legs go on as far as they come without waiting; returns how many have arrived.
    async fn take_what_is_here(&mut self) -> Result<usize, Failure> {
        let mut arrived = 0;
        while self.gather.stop().is_none()
            && let Some(Some(arrival)) = self.legs.next().now_or_never()
        {
            self.arrive(arrival).await?;
            arrived += 1;
        }
        Ok(arrived)
    }

    async fn dispatch_wave(&mut self, wave: usize) -> Result<(), Failure> {
        let end = self.fan_out.roster.len().min(self.next + wave);
        while self.next < end && self.gather.stop().is_none() {
            let at = self.next;
            self.next += 1;
            let member = &self.fan_out.roster[at];
            if let Some(exclusion) = member.exclusion(self.fan_out.panic, Instant::now()) {
                let failure = excluded(member, exclusion);
                report(&self.fan_out.task, 0, &failure);
                self.outcome(at, Outcome::Failed, Err(failure), Vec::new())
                    .await?;
                continue;
            }
            let span = self.fan_out.within.leg(member.id());
            let leg = self.leg(Arc::clone(member), span.within());
            if span.context().is_some() {
                self.spans.insert(at, span);
            }
            let tries = Arc::clone(&self.tries);
            self.legs.push(Box::pin(
                async move { (at, run_task(leg, &tries[at]).await) },
            ));
        }
        Ok(())
    }

    /// A leg is a Route that has nowhere else to go.
    fn leg(&self, member: Arc<Member>, within: Within) -> Route {
        Route {
            task: Arc::clone(&self.fan_out.task),
            candidates: Arc::from([member]),
            weight_max: 1,
            panic: self.fan_out.panic,
            selection: selection::Policy::Ordered,
            retry: self.fan_out.retry,
            hedge: hedge::Policy::Off,
            readiness: None,
            hedges: None,
            lag: Some(Arc::clone(&self.lag)),
            fleet_now: Arc::clone(&self.fan_out.fleet_now),
            retries: Arc::clone(&self.fan_out.retries),
            within,
            chance: self.fan_out.chance.clone(),
            arrived: self.fan_out.arrived,
            deadline: self.fan_out.deadline,
        }
    }

    async fn arrive(&mut self, (at, result): Arrival) -> Result<(), Failure> {
        if Instant::from_std(self.fan_out.deadline.work_ends()) <= Instant::now() {
            self.gather.end(Stop::Deadline);
        }
        let (outcome, result, attempts) = match result {
            Ok(Answered {
                payload, attempts, ..
            }) => (Outcome::Answered, Ok(payload), attempts),
            Err(Unanswered {
                failure, attempts, ..
            }) => {
                let late = failure.reason == Reason::DeadlineExceeded;
                let outcome = if was_too_late(&failure) {
                    Outcome::Skipped
                } else if late {
                    Outcome::TimedOut
                } else {
                    Outcome::Failed
                };
                (outcome, Err(failure), attempts)
            }
        };
        self.outcome(at, outcome, result, attempts).await
    }

    /// Gives a target its one outcome and tells the caller.
    async fn outcome(
        &mut self,
        at: usize,
        outcome: Outcome,
        result: Result<Payload, Failure>,
        attempts: Vec<Attempt>,
    ) -> Result<(), Failure> {
        self.gather.record(at, outcome);
        metric::leg_ended(outcome.word());
        // One that was never dispatched begins and ends here.
        let span = self.spans.remove(&at);
        let begun = || self.fan_out.within.leg(self.fan_out.roster[at].id());
        span.unwrap_or_else(begun).end(outcome.word(), None);
        let never_began = |failure: &Failure| {
            matches!(failure.progress, Progress::NeverSent | Progress::NeverBegan)
        };
        if !result.as_ref().is_err_and(never_began) {
            self.progress = Progress::MayHaveBegun;
        }
        let (mut payload, failure) = match result {
            Ok(payload) => (Some(payload), None),
            Err(failure) => (None, Some(failure)),
        };
        let instance = self.fan_out.roster[at].id().clone();
        if let Some(collected) = &mut self.collected {
            let leg = Leg {
                instance: instance.clone(),
                outcome,
                payload: payload.take(),
                failure: failure.clone(),
                attempts: Vec::clone(&attempts),
            };
            if !collected.add(at, leg) {
                self.gather.end(Stop::TooLarge);
            }
        }
        self.tell(Event::Partial(Leg {
            instance,
            outcome,
            payload,
            failure,
            attempts,
        }))
        .await
    }

    /// Waits for a reader who lags behind, but holds the legs no longer than until the deadline.
    async fn tell(&mut self, event: Event) -> Result<(), Failure> {
        let Some(event) = self.feed.try_send(event)? else {
            return Ok(());
        };
        self.lag.note();
        let ends = Instant::from_std(self.fan_out.deadline.work_ends());
        let mut sending = std::pin::pin!(self.feed.send(event));
        if let Ok(sent) = time::timeout_at(ends, &mut sending).await {
            return sent;
        }
        // What is here already was in time; only its reader was not.
        end_late(&mut self.legs, self.fan_out.deadline, &mut self.unread).await;
        self.gather.end(Stop::Deadline);
        sending.await
    }

    /// Resets what still runs, gives every open target its outcome, and sums up.
    async fn close(mut self) -> Result<(), Failure> {
        if self.gather.stop() == Some(Stop::Deadline) {
            end_late(&mut self.legs, self.fan_out.deadline, &mut self.unread).await;
        } else {
            self.legs.clear();
        }
        for arrival in std::mem::take(&mut self.unread) {
            self.arrive(arrival).await?;
        }
        let stop = self.gather.stop().unwrap_or(Stop::AllTerminal);
        let open: Vec<_> = self.gather.open().collect();
        for at in open {
            let (outcome, failure) = self.left_over(at, stop);
            let tries = &self.tries[at];
            tries.cut(&failure);
            let attempts = tries.take();
            self.outcome(at, outcome, Err(failure), attempts).await?;
        }
        let id = |at: usize| self.fan_out.roster[at].id().clone();
        let summary = Summary {
            counts: self.gather.counts(),
            stop,
            missing: self.gather.missing().map(id).collect(),
            aggregate: self
                .collected
                .take()
                .map(Collected::into_legs)
                .unwrap_or_default(),
        };
        self.feed.send(Event::Summary(summary)).await?;
        if self.gather.is_met() {
            return Ok(());
        }
        let failure = unmet(stop, self.gather.counts(), self.fan_out.roster.len());
        Err(Failure {
            progress: self.progress,
            ..failure
        })
    }

    fn left_over(&self, at: usize, stop: Stop) -> (Outcome, Failure) {
        let member = &self.fan_out.roster[at];
        let tries = &self.tries[at];
        let progress = tries.progress();
        let dispatched = progress != Progress::NeverSent;
        match (stop, dispatched) {
            (Stop::Deadline, true) => {
                let detail = "the instance did not answer in time";
                (
                    Outcome::TimedOut,
                    Failure::at(member.id(), Reason::DeadlineExceeded, progress, detail),
                )
            }
            (Stop::Deadline, false) => {
                let detail = "time ran out before the task was sent";
                (
                    Outcome::Skipped,
                    Failure::at(member.id(), Reason::DeadlineExceeded, progress, detail),
                )
            }
            (
                Stop::AllTerminal
                | Stop::Met
                | Stop::Impossible
                | Stop::FailuresMax
                | Stop::TooLarge,
                _,
            ) => {
                let outcome = if dispatched {
                    Outcome::Cancelled
                } else {
                    Outcome::Skipped
                };
                let detail = "the call was over without this target";
                (
                    outcome,
                    Failure::at(member.id(), Reason::NotNeeded, progress, detail),
                )
            }
        }
    }
}

/// Work is over, which ends every leg by itself: each judges its own try, logs it and holds it against its instance. One
/// that does not is dropped while the caller can still be told.
async fn end_late(
    legs: &mut FuturesUnordered<Pending<Arrival>>,
    deadline: Deadline,
    ended: &mut Vec<Arrival>,
) {
    let reserve = deadline.ends() - deadline.work_ends();
    let given_up = Instant::from_std(deadline.work_ends() + reserve / 2);
    while let Ok(Some(arrival)) = time::timeout_at(given_up, legs.next()).await {
        ended.push(arrival);
    }
    legs.clear();
}

fn unmet(stop: Stop, counts: Counts, roster: usize) -> Failure {
    let Counts {
        answered,
        failed,
        timed_out,
        ..
    } = counts;
    let detail =
        format!("{answered} of {roster} targets answered, {failed} failed, {timed_out} timed out");
    match stop {
        Stop::TooLarge => Failure::new(
            Reason::AggregateTooLarge,
            "the collected results are larger than an answer may be: ask fewer targets, or without aggregate",
        ),
        Stop::Deadline => Failure::new(Reason::CompletionLate, detail),
        Stop::AllTerminal | Stop::Met | Stop::Impossible | Stop::FailuresMax => {
            Failure::new(Reason::CompletionUnmet, detail)
        }
    }
}

#[cfg(test)]
mod tests;
