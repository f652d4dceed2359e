//! Whether a task is tried again, and when, from what is known of the tries so far.
//!
//! | what is known of the failed try | tried again |
//! |---|---|
//! | it never left this process, or its instance says that it never began | always; the first time at once |
//! | it may have begun | only when the caller said that it may be repeated |
//! | its answer had begun | never |
//!
//! Another instance is tried without a delay, the same one after a backoff with full jitter. What an instance
//! asks for (`grpc-retry-pushback-ms`, RetryInfo or `Retry-After`) is obeyed to the letter.

use std::time::{Duration, Instant};

use super::budget::Share;
use super::failure::{Failure, Progress, Reason, Status};
use super::limit::{ATTEMPTS_MAX, DURATION_MAX};
use super::task::AttemptKind;

/// Tries of a call that says nothing, the first included, unless the config says otherwise.
pub const ATTEMPTS_DEFAULT: u32 = 4;

/// How tasks are tried again, as far as their callers do not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Tries of a call that says nothing, the first included; at most `attempts_max`.
    pub attempts_default: u32,
    /// Tries that a call may ask for; at most `ATTEMPTS_MAX`.
    pub attempts_max: u32,
    /// How long the same instance is left alone.
    pub backoff: Backoff,
    /// Retries and hedges over all callers, as a share of the calls.
    pub budget: Share,
    /// Retries after failures of one instance, as a share of its calls.
    pub instance_budget: Share,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts_default: ATTEMPTS_DEFAULT,
            attempts_max: ATTEMPTS_MAX,
            backoff: Backoff::default(),
            budget: Share::default(),
            instance_budget: Share::default(),
        }
    }
}

/// How long the same instance is left alone, at most: a random part of it is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second try; doubled for each further one.
    pub first: Duration,
    /// At the most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            max: Duration::from_secs(1),
        }
    }
}

/// How a caller wants a task to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Tries, the first included: 1 to `ATTEMPTS_MAX`.
    pub attempts_max: u32,
    /// How long one try may take.
    pub per_try_timeout: Option<Duration>,
    /// Whether the task may be executed more than once.
    pub repeat: Repeat,
    /// Where else it may be tried.
    pub fallback: Fallback,
    /// How long the same instance is left alone; not the caller's to say.
    pub backoff: Backoff,
}

/// Whether a task may be executed more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repeat {
    /// Not known to be harmless: tried again only when it provably never began.
    #[default]
    Unsafe,
    /// The caller says that it does no harm.
    Idempotent,
}

/// Where a task may be tried once every instance that was named has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fallback {
    /// Nowhere else.
    #[default]
    ListedOnly,
    /// At any healthy instance of the fleet.
    AnyHealthy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: ATTEMPTS_DEFAULT,
            per_try_timeout: None,
            repeat: Repeat::default(),
            fallback: Fallback::default(),
            backoff: Backoff::default(),
        }
    }
}

/// What an instance asks of whoever would try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this much time.
    Wait(Duration),
    /// Not at all.
    Stop,
}

impl Pushback {
    /// So long, or as long as anything may last here.
    #[must_use]
    pub fn wait(wait: Duration) -> Self {
        Self::Wait(wait.min(DURATION_MAX))
    }

    /// Reads `grpc-retry-pushback-ms` (gRFC A6): a number of milliseconds; negative, or not a number, means stop.
    #[must_use]
    pub fn from_grpc(value: &[u8]) -> Self {
        let number = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok());
        match number.map(u64::try_from) {
            Some(Ok(millis)) => Self::wait(Duration::from_millis(millis)),
            Some(Err(_)) | None => Self::Stop,
        }
    }

    /// Reads `Retry-After` (RFC 9110, 10.2.3) as a number of seconds. A date asks for nothing here: it needs the
    /// clock of whoever wrote it.
    #[must_use]
    pub fn from_retry_after(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim();
        let digits = text.bytes().all(|c| c.is_ascii_digit());
        let seconds = text.parse().ok().filter(|_| digits)?;
        Some(Self::wait(Duration::from_secs(seconds)))
    }

    /// Writes `grpc-retry-pushback-ms`; rounded up, so that nobody comes too early.
    #[must_use]
    pub fn to_grpc(self) -> String {
        match self {
            Self::Wait(wait) => wait.as_nanos().div_ceil(1_000_000).to_string(),
            Self::Stop => "-1".to_owned(),
        }
    }

    /// Writes `Retry-After`, which is in whole seconds; rounded up. Not to come again has no such form.
    #[must_use]
    pub fn to_retry_after(self) -> Option<u64> {
        match self {
            Self::Wait(wait) => Some(wait.as_secs() + u64::from(wait.subsec_nanos() != 0)),
            Self::Stop => None,
        }
    }
}

/// Where the next try would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To an instance that has not been tried.
    Elsewhere,
    /// To one that has.
    Again,
}

/// Whether the budget of retries has anything left for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// It has.
    Left,
    /// Retries have used up their share of the calls.
    Spent,
}

/// What is known when a try has failed.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// How it failed.
    pub failure: &'a Failure,
    /// Tries so far.
    pub made: u32,
    /// Where the next one would go.
    pub place: Place,
    /// The budget.
    pub means: Means,
    /// Time until work must have ended.
    pub left: Duration,
    /// A uniform number, for the jitter.
    pub random: u32,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this long.
    Again(AttemptKind, Duration),
    /// The failure stands.
    Stop(Stop),
}

/// Why a task is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Trying again would not help, or could execute the task twice.
    NotRepeatable,
    /// As many tries as are allowed have been made, or the budget is spent, or the instance asked for it:
    /// outer layers should not try again either.
    Exhausted,
    /// There is no time for another try.
    NoTime,
}

/// Decides what follows a failed try.
#[must_use]
pub fn decide(policy: &Policy, facts: Facts<'_>) -> Verdict {
    let Facts {
        failure,
        made,
        place,
        means,
        left,
        random,
    } = facts;
    if !may_be_repeated(policy, failure) {
        return Verdict::Stop(Stop::NotRepeatable);
    }
    if left.is_zero() {
        return Verdict::Stop(Stop::NoTime);
    }
    let is_free = is_free(failure);
    let attempts_max = policy.attempts_max.min(ATTEMPTS_MAX);
    if failure.pushback == Some(Pushback::Stop)
        || attempts_max <= made
        || (means == Means::Spent && !is_free)
    {
        return Verdict::Stop(Stop::Exhausted);
    }
    let transparent = made == 1 && failure.progress != Progress::MayHaveBegun;
    let wait = match (failure.pushback, place) {
        (Some(Pushback::Wait(wait)), _) => wait,
        (_, Place::Elsewhere) => Duration::ZERO,
        // A connection that had just gone away is no reason to wait; a refused one is.
        (_, Place::Again) if transparent && !is_free => Duration::ZERO,
        (_, Place::Again) => policy.backoff.wait(made, random),
    };
    if left <= wait {
        return Verdict::Stop(Stop::NoTime);
    }
    let kind = if transparent {
        AttemptKind::TransparentRetry
    } else {
        AttemptKind::Retry
    };
    Verdict::Again(kind, wait)
}

/// Whether a try after this failure counts against no budget: a refusal inside this process has cost no instance
/// anything.
#[must_use]
pub fn is_free(failure: &Failure) -> bool {
    failure.progress == Progress::NeverSent
}

/// What instances have asked for so far, over all tries of one task: several may run side by side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    not_before: Option<Instant>,
}

impl Asked {
    /// One more try has failed, and its instance asks for this; the longest wait counts.
    pub fn note(&mut self, pushback: Option<Pushback>, now: Instant) -> Result<(), Stop> {
        match pushback {
            Some(Pushback::Stop) => return Err(Stop::Exhausted),
            Some(Pushback::Wait(wait)) => self.not_before = self.not_before.max(Some(now + wait)),
            None => {}
        }
        Ok(())
    }

    /// When a try that was planned for `at` may begin.
    #[must_use]
    pub fn not_before(&self, at: Instant) -> Instant {
        self.not_before.map_or(at, |then| then.max(at))
    }
}

/// Whether a task may be executed again after this failure, and whether that could help.
#[must_use]
pub fn may_be_repeated(policy: &Policy, failure: &Failure) -> bool {
    match failure.progress {
        Progress::NeverSent => {
            matches!(
                failure.reason,
                Reason::InstanceDown | Reason::InstanceDraining | Reason::InstanceBusy
            )
        }
        Progress::NeverBegan => failure.reason == Reason::InstanceDown,
        Progress::MayHaveBegun => {
            policy.repeat == Repeat::Idempotent && is_transient(failure.reason)
        }
        Progress::Answered => false,
    }
}

fn is_transient(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InstanceLost
            // Of one try: the call's own deadline leaves no time.
            | Reason::DeadlineExceeded
            | Reason::InstanceFailed(Status::Unavailable | Status::ResourceExhausted)
    )
}

impl Backoff {
    /// Full jitter: uniform between nothing and the doubled step.
    fn wait(self, made: u32, random: u32) -> Duration {
        let step = self
            .first
            .saturating_mul(1 << made.saturating_sub(1).min(10))
            .min(self.max);
        step.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests;
