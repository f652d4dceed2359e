//! Calls that bear the same idempotency key: one of them runs, the others join it or get its outcome.
//!
//! The call that runs is a task of its own, so that it outlives the caller who began it, and keeps that caller's place
//! among the calls that were let in; it ends with its outcome, or once nobody waits for it any more. It runs under the deadline and the policy of the caller who
//! began it, and everybody waits no longer than their own. Where it runs out of time before somebody who has
//! more, that one begins it anew, as it would have had it come a moment later: only where nothing had begun, or
//! its caller says that the task is idempotent. So no call is begun more often than it was asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{self, Instant};

use super::admit::Permit;
use super::run_task::{Answered, Route, Tries, Unanswered, run_task};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::idempotency::{Bounds, Fingerprint, Found, Key, Memory, Word, is_definitive};
use crate::domain::limit::{
    FAILURE_DETAIL_CHARS_MAX, IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_ENTRIES_MAX, IDEMPOTENCY_KEPT_FOR,
};
use crate::domain::retry::{Pushback, Repeat, Stop};
use crate::tasks::Tasks;

/// When to come again while as many calls run as can be remembered.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// How a task ended.
pub type Outcome = Result<Answered, Unanswered>;

/// By what a call is found again.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Arc<Key>,
    fingerprint: Fingerprint,
}

/// Whose work an outcome is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This call's own.
    Own,
    /// That of an earlier call with the same key.
    Earlier,
}

/// Finds calls again by their idempotency keys. Clones have the same memory.
#[derive(Clone)]
pub struct Deduplicate {
    calls: Calls,
    tasks: Tasks,
}

type Calls = Arc<Mutex<Memory<Joinable, Arc<Outcome>>>>;

/// A call that runs, for those who join it.
#[derive(Debug, Clone)]
struct Joinable {
    /// Tells all who have joined, in the order in which they came; a watch would tell them in any order.
    outcome: broadcast::Sender<Arc<Outcome>>,
    tries: Arc<Tries>,
}

/// Where the outcome of a call comes from.
enum Source {
    Kept(Arc<Outcome>),
    Running {
        outcome: broadcast::Receiver<Arc<Outcome>>,
        tries: Arc<Tries>,
        origin: Origin,
    },
}

impl Identity {
    /// Of a request of a caller: its own word for it, and what it asks for.
    #[must_use]
    pub fn new(
        caller: Option<Arc<str>>,
        method: &'static str,
        word: Word,
        fingerprint: Fingerprint,
    ) -> Self {
        let key = Key {
            caller,
            method,
            word,
        };
        Self {
            key: Arc::new(key),
            fingerprint,
        }
    }
}

impl Deduplicate {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        let memory = Memory::new(Bounds {
            entries_max: IDEMPOTENCY_ENTRIES_MAX,
            bytes_max: IDEMPOTENCY_BYTES_MAX,
            kept_for: IDEMPOTENCY_KEPT_FOR,
        });
        Self {
            calls: Arc::new(Mutex::new(memory)),
            tasks,
        }
    }

    /// Runs the task, or waits for the one that runs already, or gives back what came of it.
    /// The `place` of the caller is kept until the caller has its outcome, or the call that it began is over.
    pub async fn run_task(
        &self,
        identity: Identity,
        mut route: Route,
        place: Permit,
    ) -> (Outcome, Origin) {
        let mut place = Some(place);
        loop {
            let begun = self.find_or_begin(&identity, &route, &mut place);
            let (mut outcome, tries, origin) = match begun {
                Err(failure) => return (refused(failure), Origin::Own),
                Ok(Source::Kept(outcome)) => return (Outcome::clone(&outcome), Origin::Earlier),
                Ok(Source::Running {
                    outcome,
                    tries,
                    origin,
                }) => (outcome, tries, origin),
            };
            let ends = match origin {
                // It ends by itself before that.
                Origin::Own => route.deadline.ends(),
                Origin::Earlier => route.deadline.work_ends(),
            };
            let waited = outcome.recv();
            let ended = match time::timeout_at(Instant::from_std(ends), waited).await {
                Ok(Ok(ended)) => Some(ended),
                // Its task is gone without an outcome.
                Ok(Err(_)) => None,
                Err(_elapsed) => return (out_of_time(&tries), origin),
            };
            let Some(ended) = ended else {
                let failure = Failure {
                    progress: tries.progress(),
                    ..Failure::new(Reason::Internal, "the call that ran has ended unasked")
                };
                return (refused(failure), origin);
            };
            if origin == Origin::Earlier && may_begin_anew(&ended, &route) {
                route.look_again();
                continue;
            }
            return (Outcome::clone(&ended), origin);
        }
    }

    fn find_or_begin(
        &self,
        identity: &Identity,
        route: &Route,
        place: &mut Option<Permit>,
    ) -> Result<Source, Failure> {
        let Identity { key, fingerprint } = identity;
        let now = Instant::now().into_std();
        let mut calls = lock(&self.calls);
        match calls.find(key, *fingerprint, now) {
            Found::Kept(outcome) => return Ok(Source::Kept(Arc::clone(outcome))),
            // Under the lock: whoever gives the call up looks whether somebody has joined.
            Found::Running(joinable) => return Ok(joinable.join(Origin::Earlier)),
            Found::Conflict => {
                let detail =
                    "idempotency_key: was given to a request with another payload or other targets";
                return Err(Failure::new(Reason::IdempotencyConflict, detail));
            }
            Found::Nothing => {}
        }
        let joinable = Joinable {
            outcome: broadcast::Sender::new(1),
            tries: Arc::default(),
        };
        let source = joinable.join(Origin::Own);
        calls
            .begin(Arc::clone(key), *fingerprint, joinable.clone())
            .map_err(|_full| {
                let detail = format!(
                    "of the {IDEMPOTENCY_ENTRIES_MAX} calls with an idempotency key that are \
                     remembered, too many run already, or are those of the same caller"
                );
                Failure {
                    pushback: Some(Pushback::Wait(COME_AGAIN)),
                    ..Failure::new(Reason::TooMany, detail)
                }
            })?;
        let running = Running {
            calls: Arc::clone(&self.calls),
            key: Some(Arc::clone(key)),
            joinable,
            place: place.take(),
        };
        self.tasks.spawn(running.until_over(route.clone()));
        Ok(source)
    }
}

impl Joinable {
    fn join(&self, origin: Origin) -> Source {
        Source::Running {
            outcome: self.outcome.subscribe(),
            tries: Arc::clone(&self.tries),
            origin,
        }
    }
}

/// A call that runs, for the task that runs it. Forgotten when that task ends without an outcome.
struct Running {
    calls: Calls,
    key: Option<Arc<Key>>,
    joinable: Joinable,
    /// The place of the caller who began it: that one may leave before it is over.
    place: Option<Permit>,
}

impl Running {
    async fn until_over(mut self, route: Route) {
        let tries = Arc::clone(&self.joinable.tries);
        let mut work = std::pin::pin!(run_task(route, &tries));
        loop {
            let sender = self.joinable.outcome.clone();
            tokio::select! {
                biased;
                outcome = &mut work => return self.end(outcome),
                () = sender.closed() => if self.is_given_up() { return },
            }
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let definitive = match &outcome {
            Ok(_) => true,
            Err(unanswered) => is_definitive(&unanswered.failure),
        };
        let kept = definitive.then(|| {
            let mut kept = outcome.clone();
            if let Ok(answered) = &mut kept {
                answered.payload = answered.payload.copied();
            }
            let bytes = bytes_of(&kept);
            (Arc::new(kept), bytes)
        });
        if let Some(key) = self.key.take() {
            lock(&self.calls).end(&key, kept, Instant::now().into_std());
        }
        self.place = None;
        // After it is remembered, so that whoever comes now finds the one or the other.
        // Whoever has asked may have left.
        let _ = self.joinable.outcome.send(Arc::new(outcome));
    }

    /// Forgets the call if really nobody waits.
    fn is_given_up(&mut self) -> bool {
        let mut calls = lock(&self.calls);
        let nobody = self.joinable.outcome.receiver_count() == 0;
        if nobody && let Some(key) = self.key.take() {
            calls.end(&key, None, Instant::now().into_std());
        }
        nobody
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.calls).end(&key, None, Instant::now().into_std());
        }
    }
}

/// What an outcome weighs in memory, at least.
fn bytes_of(outcome: &Outcome) -> usize {
    // Names, durations and the place in the memory; failures beside it at their longest.
    const ENVELOPE_BYTES: usize = 512;
    let (payload, attempts) = match outcome {
        Ok(answered) => (answered.payload.encoded().len(), &answered.attempts),
        Err(unanswered) => (FAILURE_DETAIL_CHARS_MAX * 4, &unanswered.attempts),
    };
    let failed = attempts.iter().filter(|attempt| attempt.failure.is_some());
    payload + ENVELOPE_BYTES * (1 + attempts.len()) + failed.count() * FAILURE_DETAIL_CHARS_MAX * 4
}

fn may_begin_anew(ended: &Outcome, route: &Route) -> bool {
    let Err(Unanswered { failure, .. }) = ended else {
        return false;
    };
    let never_began = matches!(failure.progress, Progress::NeverSent | Progress::NeverBegan);
    let has_time = route.deadline.budget(Instant::now().into_std()).is_some();
    let may_run = never_began || route.retry.repeat == Repeat::Idempotent;
    failure.reason == Reason::DeadlineExceeded && has_time && may_run
}

fn refused(failure: Failure) -> Outcome {
    Err(Unanswered {
        failure,
        attempts: Vec::new(),
        stop: None,
    })
}

fn out_of_time(tries: &Tries) -> Outcome {
    let detail = "the call with this idempotency key did not end in time";
    let failure = Failure {
        progress: tries.progress(),
        ..Failure::new(Reason::DeadlineExceeded, detail)
    };
    Err(Unanswered {
        attempts: tries.left(&failure),
        failure,
        stop: Some(Stop::NoTime),
    })
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
