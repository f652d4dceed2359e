//! Values of the domain → answers as they go out.

use std::time::{Duration, SystemTime};

use prost_types::{Any, Duration as ProtoDuration, Timestamp};

use crate::domain::failure::{Failure, Reason};
use crate::domain::gather::{Counts, Outcome, Stop};
use crate::domain::health::observed::Standing;
use crate::domain::health::{Admin, Panic, State, probed};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::task;
use crate::fleet::view::{self, Health, Member};
use crate::ingress::failure_table;
use crate::orchestrate::deduplicate::Origin;
use crate::orchestrate::fan_out::{Event, Leg, Summary};
use crate::orchestrate::hold_session::Sessions;
use crate::orchestrate::run_task::Answered;
use crate::proto::orchestrator as proto;

/// Characters of the message of each try in the status of a failed call.
const FAILED_ATTEMPT_CHARS_MAX: usize = 100;

pub(super) fn route(answered: Answered, origin: Origin) -> proto::RouteResponse {
    proto::RouteResponse {
        panic_mode: answered.panic == Panic::On,
        instance: answered.instance.to_string(),
        payload: Some(answered.payload.into_encoded()),
        attempts: answered.attempts.into_iter().map(attempt).collect(),
        deduplicated: origin == Origin::Earlier,
    }
}

pub(super) fn event(event: Event) -> proto::FanoutResponse {
    use proto::fanout_response::Event as Out;
    let event = match event {
        Event::Started(roster, panic) => Out::Started(proto::Started {
            roster: names(roster),
            panic_mode: panic == Panic::On,
        }),
        Event::Partial(leg) => Out::Partial(partial(leg)),
        Event::Summary(ended) => Out::Summary(summary(ended)),
    };
    proto::FanoutResponse { event: Some(event) }
}

fn partial(leg: Leg) -> proto::Partial {
    proto::Partial {
        instance: leg.instance.to_string(),
        outcome: outcome(leg.outcome).into(),
        payload: leg.payload.map(Payload::into_encoded),
        failure: leg.failure.map(failure_told),
        attempts: leg.attempts.into_iter().map(attempt).collect(),
    }
}

fn summary(summary: Summary) -> proto::Summary {
    let Counts {
        answered,
        failed,
        timed_out,
        cancelled,
        skipped,
    } = summary.counts;
    proto::Summary {
        counts: Some(proto::OutcomeCounts {
            answered,
            failed,
            timed_out,
            cancelled,
            skipped,
        }),
        stop_reason: stop_reason(summary.stop).into(),
        missing: names(summary.missing),
        aggregate: summary.aggregate.into_iter().map(partial).collect(),
    }
}

fn names(ids: Vec<InstanceId>) -> Vec<String> {
    ids.iter().map(InstanceId::to_string).collect()
}

fn outcome(outcome: Outcome) -> proto::Outcome {
    match outcome {
        Outcome::Answered => proto::Outcome::Answered,
        Outcome::Failed => proto::Outcome::Failed,
        Outcome::TimedOut => proto::Outcome::TimedOut,
        Outcome::Cancelled => proto::Outcome::Cancelled,
        Outcome::Skipped => proto::Outcome::Skipped,
    }
}

fn stop_reason(stop: Stop) -> proto::StopReason {
    match stop {
        Stop::AllTerminal => proto::StopReason::AllTerminal,
        Stop::Met => proto::StopReason::CompletionMet,
        Stop::Impossible => proto::StopReason::CompletionImpossible,
        Stop::FailuresMax => proto::StopReason::FailuresMax,
        Stop::Deadline => proto::StopReason::Deadline,
        Stop::TooLarge => proto::StopReason::AggregateTooLarge,
    }
}

/// The tries of a failed call.
pub(crate) fn attempts_told(attempts: Vec<task::Attempt>) -> proto::FailedAttempts {
    proto::FailedAttempts {
        attempts: attempts.into_iter().map(attempt).collect(),
    }
}

/// The tries of a failed call, as a detail of its status.
pub(crate) fn failed_attempts(attempts: Vec<task::Attempt>) -> Any {
    let mut told = attempts_told(attempts);
    // All of it travels in a header, and clients take few kilobytes of those.
    for failure in told
        .attempts
        .iter_mut()
        .filter_map(|attempt| attempt.failure.as_mut())
    {
        failure.message = failure
            .message
            .chars()
            .take(FAILED_ATTEMPT_CHARS_MAX)
            .collect();
    }
    failure_table::any("openclaw.orchestrator.v1.FailedAttempts", &told)
}

fn attempt(made: task::Attempt) -> proto::Attempt {
    let kind = match made.kind {
        task::AttemptKind::First => proto::AttemptKind::First,
        task::AttemptKind::TransparentRetry => proto::AttemptKind::TransparentRetry,
        task::AttemptKind::Retry => proto::AttemptKind::Retry,
        task::AttemptKind::Fallback => proto::AttemptKind::Fallback,
        task::AttemptKind::Hedge => proto::AttemptKind::Hedge,
    };
    proto::Attempt {
        instance: made.instance.to_string(),
        kind: kind.into(),
        failure: made.failure.map(failure_told),
        offset: Some(duration(made.offset)),
        elapsed: Some(duration(made.elapsed)),
    }
}

/// A failure inside a message.
pub(crate) fn failure_told(failure: Failure) -> proto::Failure {
    proto::Failure {
        reason: failure.reason.name().to_owned(),
        code: code(failure.reason),
        retryable: failure.is_retryable(),
        instance: failure
            .instance
            .map(|id| id.to_string())
            .unwrap_or_default(),
        message: failure.detail.into_owned(),
    }
}

/// An instance's own status as it was; at the door two of them are called otherwise.
fn code(reason: Reason) -> i32 {
    if let Reason::InstanceFailed(status) = reason {
        status.number().into()
    } else {
        failure_table::codes(reason).0.into()
    }
}

pub(super) fn health(member: &Member, sessions: &Sessions) -> proto::InstanceHealth {
    let sessions_open = sessions.open_at(member.id());
    let Health {
        state,
        admin,
        probed,
        observed,
        ..
    } = member.health;
    let state = match state {
        State::Unknown => proto::HealthState::Unknown,
        State::Starting => proto::HealthState::Starting,
        State::Healthy => proto::HealthState::Healthy,
        State::Busy => proto::HealthState::Busy,
        State::Draining => proto::HealthState::Draining,
        State::Down => proto::HealthState::Down,
    };
    let admin = match admin {
        Admin::Active => proto::AdminState::Active,
        Admin::Draining => proto::AdminState::Draining,
        Admin::Disabled => proto::AdminState::Disabled,
    };
    let probed = match probed {
        probed::State::Unknown => proto::ProbedState::Unknown,
        probed::State::Starting => proto::ProbedState::Starting,
        probed::State::Healthy => proto::ProbedState::Healthy,
        probed::State::Busy => proto::ProbedState::Busy,
        probed::State::Down => proto::ProbedState::Down,
    };
    let observed = match observed {
        Standing::Trusted => proto::ObservedState::Trusted,
        Standing::Ejected { .. } => proto::ObservedState::Ejected,
    };
    proto::InstanceHealth {
        instance: member.id().to_string(),
        state: state.into(),
        reason: member.health.reason.to_string(),
        since: Some(timestamp(member.health.since)),
        last_probe_latency: member.load.probe_latency().map(duration),
        calls_outstanding: member.load.outstanding(),
        admin: admin.into(),
        probed: probed.into(),
        observed: observed.into(),
        ejected_until: member.health.ejected_until.map(timestamp),
        drained: member.is_drained() && sessions_open == 0,
        sessions_open,
    }
}

pub(super) fn listed(
    member: &Member,
    lease_ends: Option<SystemTime>,
    sessions: &Sessions,
) -> proto::ListedInstance {
    let origin = match member.origin {
        view::Origin::Config => proto::InstanceOrigin::Config,
        view::Origin::Registered => proto::InstanceOrigin::Registered,
        view::Origin::Builtin => proto::InstanceOrigin::Builtin,
    };
    let spec = &member.spec;
    proto::ListedInstance {
        instance: Some(proto::Instance {
            id: spec.id.to_string(),
            address: spec.endpoint.to_string(),
            labels: spec.labels.clone().into_iter().collect(),
            weight: spec.weight,
        }),
        origin: origin.into(),
        expire_time: lease_ends.map(timestamp),
        health: Some(health(member, sessions)),
    }
}

pub(super) fn duration(duration: Duration) -> ProtoDuration {
    // Nothing here lasts for centuries.
    ProtoDuration::try_from(duration).unwrap_or_default()
}

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}
