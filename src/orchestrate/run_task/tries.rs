//! Every try of one task, readable while it runs: whoever cuts a task short can still tell what was done.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::ATTEMPTS_MAX;
use crate::domain::task::{Attempt, AttemptKind};
use crate::domain::trace::TraceContext;
use crate::instance::Sent;
use crate::telemetry::metric;
use crate::telemetry::trace::{Span, Within};

/// The tries of one task, in the order in which they began.
#[derive(Debug, Default)]
pub struct Tries(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    /// A try that runs stands here as if it had just ended well.
    attempts: Vec<Attempt>,
    /// The tries that run, by their place among the attempts.
    running: [Option<Running>; ATTEMPTS_MAX as usize],
}

#[derive(Debug)]
struct Running {
    began: Instant,
    sent: Sent,
    /// Ends with it, also when nobody waits for the task any longer.
    span: Span,
}

impl Running {
    fn progress(&self) -> Progress {
        if self.sent.get() {
            Progress::MayHaveBegun
        } else {
            Progress::NeverSent
        }
    }

    /// The try is over, and counted.
    fn ended(self, attempt: &Attempt) {
        let failure = attempt.failure.as_ref();
        let result = failure.map_or("OK", |failure| failure.reason.name());
        metric::attempt_ended(attempt.kind.word(), result, attempt.elapsed);
        self.span.end(result, failure.and_then(status));
    }

    fn end(&self, attempt: &mut Attempt, failure: &Failure) {
        attempt.elapsed = self.began.elapsed();
        attempt.failure = Some(Failure {
            instance: Some(attempt.instance.clone()),
            progress: self.progress(),
            ..failure.clone()
        });
    }
}

/// What the instance itself has said.
fn status(failure: &Failure) -> Option<&'static str> {
    if let Reason::InstanceFailed(status) = failure.reason {
        return Some(status.name());
    }
    None
}

impl Tries {
    /// A try begins; returns its place, here and in the trace where that is recorded. `offset` is since the call came.
    pub(super) fn begin(
        &self,
        instance: &InstanceId,
        kind: AttemptKind,
        (began, offset): (Instant, Duration),
        sent: Sent,
        within: &Within,
    ) -> (usize, Option<TraceContext>) {
        let mut made = self.made();
        let at = made.attempts.len();
        if at == 0 {
            // Most tasks are tried once.
            made.attempts.reserve_exact(1);
        }
        made.attempts.push(Attempt {
            instance: instance.clone(),
            kind,
            failure: None,
            offset,
            elapsed: Duration::ZERO,
        });
        let span = within.attempt(instance, kind.word(), at as u32 + 1);
        let context = span.context();
        if let Some(place) = made.running.get_mut(at) {
            *place = Some(Running { began, sent, span });
        }
        (at, context)
    }

    /// The try at that place has ended.
    pub(super) fn end(&self, at: usize, failure: Option<&Failure>, ended: Instant) {
        let mut made = self.made();
        let running = made.running.get_mut(at).and_then(Option::take);
        if let (Some(running), Some(attempt)) = (running, made.attempts.get_mut(at)) {
            attempt.failure = failure.cloned();
            attempt.elapsed = ended - running.began;
            running.ended(attempt);
        }
    }

    /// Every try that still runs is over, with this failure: the instance and how far it came are its own.
    pub(in crate::orchestrate) fn cut(&self, failure: &Failure) {
        let mut made = self.made();
        let Made { attempts, running } = &mut *made;
        for (attempt, place) in attempts.iter_mut().zip(running) {
            if let Some(running) = place.take() {
                running.end(attempt, failure);
                running.ended(attempt);
            }
        }
    }

    /// As they stand for somebody who waits no longer, for this reason. They go on.
    pub(in crate::orchestrate) fn left(&self, failure: &Failure) -> Vec<Attempt> {
        let made = self.made();
        let mut attempts = made.attempts.clone();
        for (attempt, place) in attempts.iter_mut().zip(&made.running) {
            if let Some(running) = place {
                running.end(attempt, failure);
            }
        }
        attempts
    }

    /// How far the task has come at whichever instance it came farthest.
    pub(in crate::orchestrate) fn progress(&self) -> Progress {
        let made = self.made();
        let of_tries = made.attempts.iter().enumerate().map(|(at, attempt)| {
            let running = made.running.get(at).and_then(Option::as_ref);
            match (running, &attempt.failure) {
                (Some(running), _) => running.progress(),
                (None, Some(failure)) => failure.progress,
                (None, None) => Progress::Answered,
            }
        });
        of_tries.fold(Progress::NeverSent, Progress::farthest)
    }

    /// Looks at the tries so far.
    pub(in crate::orchestrate) fn with<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.made().attempts)
    }

    /// Hands them out; none are left.
    pub(in crate::orchestrate) fn take(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.made()).attempts
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
