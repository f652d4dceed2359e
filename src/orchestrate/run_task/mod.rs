//! Route: one task, one answer, tried again where that is safe and of use.
//!
//! ```text
//! choose ─▶ try ─▶ answered: the call ends, and with it every other try
//!   ▲        │ ╲─▶ failed for good: likewise
//!   │        │  ╲▶ failed: perhaps another try, at once or later
//!   └────────┴───▶ takes long: perhaps a hedge beside it
//! ```
//!
//! What a failed try means is decided in `domain::retry`, when a hedge is due in `domain::hedge`; this is the
//! loop around them. A leg of a fan-out is a Route with one candidate and without hedges.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::attempt::{Lag, Terms, attempt, no_time, report};
use crate::chance::Chance;
use crate::domain::budget::Budget;
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::health::Panic;
use crate::domain::hedge::{self, Hedges};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::retry::{self, Stop};
use crate::domain::selection;
use crate::domain::task::{Attempt, Task};
use crate::fleet::view::{FleetNow, Member, Members};
use crate::instance::Sent;
use crate::telemetry::trace::Within;

mod choose;
mod flying;
mod next;
mod ready;
mod tries;

use flying::Flying;
use next::{Entered, Next};
pub use ready::Readiness;
pub use tries::Tries;

/// One task for one of several instances.
#[derive(Clone)]
pub struct Route {
    /// The task.
    pub task: Arc<Task>,
    /// The instances that may have it, in the caller's order.
    pub candidates: Members,
    /// None of them weighs more.
    pub weight_max: u32,
    /// Whether so few of them are well that those whose calls failed get work too; decided when the call began.
    pub panic: Panic,
    /// How one is chosen.
    pub selection: selection::Policy,
    /// How often, and where else, it is tried.
    pub retry: retry::Policy,
    /// When it is sent to a second instance while the first still works on it.
    pub hedge: hedge::Policy,
    /// Where it waits while no instance may be used; `None` when it then fails at once.
    pub readiness: Option<Arc<Readiness>>,
    /// Who is there, and how, when it is tried again.
    pub fleet_now: FleetNow,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// Hedges over all callers; `None` for a leg of a fan-out, which says nothing about other calls.
    pub hedges: Option<Arc<Mutex<Hedges>>>,
    /// When nobody looked at the task; `None` where it is always looked at.
    pub lag: Option<Arc<Lag>>,
    /// Where its tries are recorded.
    pub within: Within,
    /// What decides where nothing else does.
    pub chance: Chance,
    /// When the call arrived.
    pub arrived: Instant,
    /// When it ends.
    pub deadline: Deadline,
}

/// The answer to a task.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Who answered.
    pub instance: InstanceId,
    /// What.
    pub payload: Payload,
    /// Every try, in the order in which they began; the answer is the one that did not fail.
    pub attempts: Vec<Attempt>,
    /// Whether ejections were lifted for it.
    pub panic: Panic,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub struct Unanswered {
    /// What decided the call.
    pub failure: Failure,
    /// Every try.
    pub attempts: Vec<Attempt>,
    /// Why it was not tried again; `None` when it never was tried.
    pub stop: Option<Stop>,
}

/// Finds an instance for the task and brings back its answer. The tries so far can be read, and are kept, when
/// the future is dropped.
pub async fn run_task(mut route: Route, tries: &Tries) -> Result<Answered, Unanswered> {
    lock(&route.retries).call();
    let ended = match route.first().await {
        Ok(first) => try_until_over(&route, tries, first).await,
        Err(failure) => {
            report(&route.task, 0, &failure);
            Err((failure, None))
        }
    };
    // What still runs is reset when this returns.
    let not_needed = "another try has decided the call";
    match ended {
        Ok((instance, payload)) => {
            tries.cut(&Failure::new(Reason::NotNeeded, not_needed));
            Ok(Answered {
                instance,
                payload,
                attempts: tries.take(),
                panic: route.panic,
            })
        }
        Err((mut failure, stop)) => {
            // One instance that never began says nothing about those that were tried before it.
            failure.progress = failure.progress.farthest(tries.progress());
            tries.cut(&Failure::new(Reason::NotNeeded, not_needed));
            Err(Unanswered {
                failure,
                attempts: tries.take(),
                stop,
            })
        }
    }
}

impl Route {
    /// Looks at its candidates again: time has passed since they were chosen.
    pub fn look_again(&mut self) {
        let fleet = (self.fleet_now)();
        self.candidates = fleet.refreshed(&self.candidates);
        self.weight_max = fleet.weight_max();
        self.panic = fleet.panic_among(&self.candidates);
    }
}

type Ended = Result<(InstanceId, Payload), (Failure, Option<Stop>)>;

async fn try_until_over(route: &Route, tries: &Tries, first: Next) -> Ended {
    first.member().load.retries().call();
    let mut place = pin!(None);
    let mut flying = Flying::new(place.as_mut());
    let mut hedge_at = None;
    let mut planned = Some(first);
    // Once an instance has asked not to be tried again there is nothing but to wait for what runs.
    let mut closed = None;
    let mut asked = retry::Asked::default();
    loop {
        let now = Instant::now();
        if let Some(next) = planned.take_if(|next| next.at <= now) {
            if route.deadline.budget(now.into_std()).is_none() && flying.is_empty() {
                return Err((no_time(next.member()), Some(Stop::NoTime)));
            }
            match route.enter(next, tries, flying.beside(), now) {
                Ok(entered) => {
                    flying.push(one_try(route, tries, entered, now));
                    hedge_at = route.hedge_at(now);
                }
                Err(refused) if flying.is_empty() => return Err(turned_away(tries, refused)),
                // What runs decides again when it lands.
                Err(_refused) => {}
            }
        }
        let wake = planned.as_ref().map(|next| next.at).or(hedge_at);
        let landed = match wake {
            None => Some(flying.next().await),
            Some(at) => tokio::select! {
                biased;
                landed = flying.next() => Some(landed),
                () = time::sleep_until(at) => None,
            },
        };
        let Some(landed) = landed else {
            // Time for what is planned, which is sent above, or else for a hedge.
            if planned.is_none() {
                hedge_at = None;
                planned = route.hedge(tries, &asked);
            }
            continue;
        };
        let failure = match landed.result {
            Ok(payload) => {
                route.observe(landed.elapsed);
                return Ok((landed.member.id().clone(), payload));
            }
            Err(failure) => failure,
        };
        let stop = match closed {
            _ if was_too_late(&failure) => Stop::NoTime,
            _ if !retry::may_be_repeated(&route.retry, &failure) => Stop::NotRepeatable,
            Some(stop) => stop,
            None => {
                let failed = (&*landed.member, &failure);
                let (planned_before, beside) = (planned.take(), flying.beside());
                let next = route.go_on(failed, planned_before, &mut asked, tries, beside);
                match next.await {
                    Ok(next) => {
                        planned = next;
                        continue;
                    }
                    Err(stop) => stop,
                }
            }
        };
        if stop == Stop::NotRepeatable || flying.is_empty() {
            return Err((failure, Some(stop)));
        }
        (planned, hedge_at, closed) = (None, None, Some(stop));
    }
}

/// A try that has ended.
struct Landed {
    member: Arc<Member>,
    result: Result<Payload, Failure>,
    elapsed: Duration,
}

/// It counts from `began` on, whenever it is polled.
fn one_try<'a>(
    route: &'a Route,
    tries: &'a Tries,
    entered: Entered,
    began: Instant,
) -> impl Future<Output = Landed> + use<'a> {
    let Entered { member, kind, pass } = entered;
    let sent = Sent::default();
    let offset = began.saturating_duration_since(route.arrived);
    let (at, trace) = tries.begin(
        member.id(),
        kind,
        (began, offset),
        sent.clone(),
        &route.within,
    );
    let terms = Terms {
        began,
        number: at as u32 + 1,
        deadline: route.deadline,
        per_try_timeout: route.retry.per_try_timeout,
        sent,
        trace,
        lag: route.lag.clone(),
    };
    async move {
        let (result, ended) = attempt(&member, pass, &route.task, terms).await;
        tries.end(at, result.as_ref().err(), ended);
        Landed {
            member,
            result,
            elapsed: ended - began,
        }
    }
}

/// Nobody let the task in, which is no try. What the last try said stands, if there was one.
fn turned_away(tries: &Tries, refused: Failure) -> (Failure, Option<Stop>) {
    let last = tries.with(|attempts| attempts.last().and_then(|last| last.failure.clone()));
    match last {
        Some(failure) => (failure, Some(Stop::Exhausted)),
        None => (refused, None),
    }
}

/// Time was over before anything had left for an instance.
pub(super) fn was_too_late(failure: &Failure) -> bool {
    failure.reason == Reason::DeadlineExceeded && failure.progress == Progress::NeverSent
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod hedge_tests;
#[cfg(test)]
mod tests;
