//! One try of a task at one instance, with the time that is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::health::observed::{self, Said};
use crate::domain::limit::{ANSWER_PASSED_ON_BYTES_MAX, DELEGATION_LINES_MAX, LINES_INTERVAL};
use crate::domain::payload::Payload;
use crate::domain::task::Task;
use crate::domain::trace::TraceContext;
use crate::fleet::Pass;
use crate::fleet::view::Member;
use crate::instance::{Call, Sent};
use crate::orchestrate::excluded::at_limit;
use crate::telemetry::lines::Lines;

/// What holds for one try.
pub struct Terms {
    /// When it began.
    pub began: Instant,
    /// Its number within its call, from 1.
    pub number: u32,
    /// When the call ends.
    pub deadline: Deadline,
    /// How long this try may take.
    pub per_try_timeout: Option<Duration>,
    /// Tells, also after the future was dropped, whether anything has left for the instance.
    pub sent: Sent,
    /// Its place in the trace, where that is recorded.
    pub trace: Option<TraceContext>,
    /// When nobody looked at the try; `None` where it is always looked at.
    pub lag: Option<Arc<Lag>>,
}

/// Counts how often calls were left alone for a while, because the reader of their outcomes lagged behind. An
/// answer that came meanwhile is seen late: how long it took is then not known.
#[derive(Debug, Default)]
pub struct Lag(AtomicU64);

impl Lag {
    /// They were left alone once more.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn times(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Hands the task to the instance, which `pass` allows, and waits for the answer, at most until work must end.
/// Tells when it ended, too. Dropping the future resets the call at the instance.
pub async fn attempt(
    member: &Member,
    pass: Pass,
    task: &Arc<Task>,
    terms: Terms,
) -> (Result<Payload, Failure>, Instant) {
    let Terms {
        began,
        number,
        deadline,
        per_try_timeout,
        sent,
        trace,
        lag,
    } = terms;
    let times = || lag.as_ref().map_or(0, |lag| lag.times());
    if deadline.budget(began.into_std()).is_none() {
        return (Err(no_time(member)), began);
    }
    if pass.finds_it_full() {
        return (Err(busy(member)), began);
    }
    let ends = Instant::from_std(deadline.work_ends());
    let ends = per_try_timeout.map_or(ends, |timeout| ends.min(began + timeout));
    let call = Call {
        task: Arc::clone(task),
        attempt: number,
        ends,
        sent: sent.clone(),
        trace,
    };
    let before = times();
    let answered = time::timeout_at(ends, member.client.execute(call)).await;
    let now = Instant::now();
    let result = match answered {
        Ok(Ok(payload)) => fitting(member, payload),
        Ok(Err(failure)) => Err(by_deadline(member, failure, now, ends)),
        Err(_elapsed) => Err(late(member, &sent, deadline, now)),
    };
    let said = match &result {
        Ok(_) => Said::Success,
        Err(failure) => observed::said(failure, ends - began),
    };
    pass.report(said, now);
    let out_of_time = |failure: &Failure| failure.reason == Reason::DeadlineExceeded;
    if result.as_ref().err().is_none_or(out_of_time) && before == times() {
        member.load.observe(now - began, now);
    }
    if let Err(failure) = &result {
        report(task, number, failure);
    }
    (result, now)
}

/// Nobody is asked who could not finish.
pub(super) fn no_time(member: &Member) -> Failure {
    let (reason, progress) = (Reason::DeadlineExceeded, Progress::NeverSent);
    let detail = "no time was left to ask the instance";
    Failure::at(member.id(), reason, progress, detail)
}

/// It was not even asked, so that nothing is logged for each of many calls.
pub(super) fn busy(member: &Member) -> Failure {
    let (reason, progress) = (Reason::InstanceBusy, Progress::NeverSent);
    Failure::at(member.id(), reason, progress, at_limit(member))
}

/// An instance that gives up at the deadline it was given may say so just before we do.
fn by_deadline(member: &Member, failure: Failure, now: Instant, ends: Instant) -> Failure {
    let gave_up = matches!(
        failure.reason,
        Reason::InstanceFailed(Status::DeadlineExceeded | Status::Cancelled) | Reason::InstanceLost
    );
    if gave_up && ends <= now {
        did_not_answer(member)
    } else {
        failure
    }
}

/// An answer that could not leave by the front door is refused here, where it still has a name.
fn fitting(member: &Member, payload: Payload) -> Result<Payload, Failure> {
    let bytes = payload.encoded().len();
    if bytes <= ANSWER_PASSED_ON_BYTES_MAX {
        return Ok(payload);
    }
    let detail =
        format!("the answer has {bytes} bytes, {ANSWER_PASSED_ON_BYTES_MAX} can be passed on");
    Err(Failure::at(
        member.id(),
        Reason::AnswerTooLarge,
        Progress::Answered,
        detail,
    ))
}

/// Time ran out: for the instance when the task was with it, otherwise while it was waited for, or for those who were
/// before us.
fn late(member: &Member, sent: &Sent, deadline: Deadline, now: Instant) -> Failure {
    if sent.get() {
        return did_not_answer(member);
    }
    let full = sent.waits_for_room();
    let detail = if full {
        "no room in time on the connections to the instance: other calls have it"
    } else {
        "no connection to the instance in time"
    };
    let (id, progress) = (member.id(), Progress::NeverSent);
    match deadline.budget(now.into_std()) {
        // Only this try is over.
        Some(_) if full => Failure::at(id, Reason::InstanceBusy, progress, detail),
        Some(_) => Failure::at(id, Reason::InstanceDown, progress, detail),
        None => Failure::at(id, Reason::DeadlineExceeded, progress, detail),
    }
}

fn did_not_answer(member: &Member) -> Failure {
    let detail = "the instance did not answer in time";
    Failure::at(
        member.id(),
        Reason::DeadlineExceeded,
        Progress::MayHaveBegun,
        detail,
    )
}

static LINES: Lines = Lines::new(DELEGATION_LINES_MAX, LINES_INTERVAL);

/// The log line of a failed delegation; number 0 when nothing was tried. A fleet that fails as a whole does not fill
/// the log: each call tells its own tries in its answer.
pub(super) fn report(task: &Task, number: u32, failure: &Failure) {
    let Some(untold) = LINES.next(Instant::now()) else {
        return;
    };
    let request_id = String::from_utf8_lossy(&task.names.request_id);
    let instance = failure.instance.as_ref().map_or("", |id| id.as_str());
    let code = failure.reason.name();
    // An instance's own words may repeat the payload: they are for the caller, not for the log.
    let detail = if let Reason::InstanceFailed(status) = failure.reason {
        status.name()
    } else {
        failure.detail.as_ref()
    };
    tracing::warn!(%request_id, instance, attempt = number, code, detail, untold, "delegation failed");
}
