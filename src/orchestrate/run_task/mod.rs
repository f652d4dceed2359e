//! Route: one task, one answer, tried again where that is safe and of use.
//!
//! What a failed try means is decided in `domain::retry`; this is the loop around it. A leg of a fan-out is a
//! Route with one candidate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::attempt::{attempt, report};
use super::excluded::nobody;
use crate::chance::Chance;
use crate::domain::budget::Budget;
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::health::Panic;
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::retry::{self, Facts, Means, Place, Stop, Verdict, decide};
use crate::domain::selection;
use crate::domain::task::{Attempt, AttemptKind, Task};
use crate::fleet::view::{FleetNow, Member, Members};

mod choose;

use choose::{choose, enter};

/// One task for one of several instances.
#[derive(Clone)]
pub struct Route {
    /// The task.
    pub task: Arc<Task>,
    /// The instances that may have it, in the caller's order.
    pub candidates: Members,
    /// Whether so few of them are well that those whose calls failed get work too; decided when the call began.
    pub panic: Panic,
    /// How one is chosen.
    pub selection: selection::Policy,
    /// How often, and where else, it is tried.
    pub retry: retry::Policy,
    /// Who is there, and how, when it is tried again.
    pub fleet_now: FleetNow,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// What decides where nothing else does.
    pub chance: Chance,
    /// When the call arrived.
    pub arrived: Instant,
    /// When it ends.
    pub deadline: Deadline,
}

/// The answer to a task.
#[derive(Debug)]
pub struct Answered {
    /// Who answered.
    pub instance: InstanceId,
    /// What.
    pub payload: Payload,
    /// Every try; the last one is the answer.
    pub attempts: Vec<Attempt>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What decided the call.
    pub failure: Failure,
    /// Every try.
    pub attempts: Vec<Attempt>,
    /// Why it was not tried again; `None` when it never was tried.
    pub stop: Option<Stop>,
}

/// Finds an instance for the task and brings back its answer.
pub async fn run_task(route: Route) -> Result<Answered, Unanswered> {
    let mut attempts: Vec<Attempt> = Vec::with_capacity(1);
    lock(&route.retries).call();
    let Some((mut member, listed)) = choose(&route, &attempts) else {
        let failure = nobody(&route.candidates, route.panic);
        report(&route.task, 0, &failure);
        return Err(Unanswered {
            failure,
            attempts,
            stop: None,
        });
    };
    let mut kind = if listed {
        AttemptKind::First
    } else {
        AttemptKind::Fallback
    };
    member.load.retries().call();
    loop {
        let number = attempts.len() as u32 + 1;
        let started = Instant::now();
        let per_try = route.retry.per_try_timeout;
        let pass;
        (member, kind, pass) = match enter(&route, member, &attempts) {
            Ok((entered, other, pass)) => (entered, other.unwrap_or(kind), pass),
            Err(refused) => return Err(turned_away(&route, refused, attempts)),
        };
        let deadline = route.deadline;
        let result = attempt(&member, pass, &route.task, number, deadline, per_try).await;
        let failure = result.as_ref().err().cloned();
        if let Some(failure) = failure.clone().filter(was_too_late) {
            return Err(Unanswered {
                failure,
                attempts,
                stop: Some(Stop::NoTime),
            });
        }
        attempts.push(Attempt {
            instance: member.id().clone(),
            kind,
            failure,
            offset: started.saturating_duration_since(route.arrived),
            elapsed: started.elapsed(),
        });
        let failure = match result {
            Ok(payload) => {
                return Ok(Answered {
                    instance: member.id().clone(),
                    payload,
                    attempts,
                });
            }
            Err(failure) => failure,
        };
        match follow_up(&route, &member, &failure, &attempts) {
            Ok(next) => {
                time::sleep(next.wait).await;
                (member, kind) = (next.member, next.kind);
            }
            Err(stop) => {
                return Err(Unanswered {
                    failure,
                    attempts,
                    stop: Some(stop),
                });
            }
        }
    }
}

/// Nobody let the task in, which is no try. What the last try said stands, if there was one.
fn turned_away(route: &Route, refused: Failure, attempts: Vec<Attempt>) -> Unanswered {
    let last = attempts.last().and_then(|attempt| attempt.failure.clone());
    let stop = last.is_some().then_some(Stop::Exhausted);
    let failure = last.unwrap_or(refused);
    report(&route.task, attempts.len() as u32, &failure);
    Unanswered {
        failure,
        attempts,
        stop,
    }
}

/// There was no time to ask anybody: that is no try.
pub(super) fn was_too_late(failure: &Failure) -> bool {
    failure.reason == Reason::DeadlineExceeded && failure.progress == Progress::NeverSent
}

struct Next {
    member: Arc<Member>,
    kind: AttemptKind,
    wait: Duration,
}

/// What comes after a failed try.
fn follow_up(
    route: &Route,
    failed: &Member,
    failure: &Failure,
    attempts: &[Attempt],
) -> Result<Next, Stop> {
    let now = Instant::now().into_std();
    let (member, listed) = choose(route, attempts).ok_or(Stop::Exhausted)?;
    let tried = attempts
        .iter()
        .any(|attempt| attempt.instance == *member.id());
    // Both budgets at once, so that nobody takes what was just counted; always in this order.
    let (mut all, mut own) = (lock(&route.retries), failed.load.retries());
    let facts = Facts {
        failure,
        made: attempts.len() as u32,
        place: if tried {
            Place::Again
        } else {
            Place::Elsewhere
        },
        means: if all.has(now) && own.has(now) {
            Means::Left
        } else {
            Means::Spent
        },
        left: route.deadline.budget(now).unwrap_or_default(),
        random: route.chance.draw(),
    };
    match decide(&route.retry, facts) {
        Verdict::Stop(stop) => Err(stop),
        Verdict::Again(kind, wait) => {
            if failure.progress != Progress::NeverSent {
                let _ = (all.take(now), own.take(now));
            }
            let kind = if listed { kind } else { AttemptKind::Fallback };
            Ok(Next { member, kind, wait })
        }
    }
}

fn lock(budget: &Mutex<Budget>) -> std::sync::MutexGuard<'_, Budget> {
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
