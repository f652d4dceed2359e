//! Answers of a server, for the tests of what is printed.

use std::time::{Duration, SystemTime};

use crate::proto::orchestrator as proto;

/// When the tests take place.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
}

fn payload() -> Option<bytes::Bytes> {
    let payload = crate::payload_json::from_json(r#"{"data":"task","n":1}"#).ok()?;
    Some(payload.into_encoded())
}

fn milliseconds(milliseconds: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: 0,
        nanos: milliseconds * 1_000_000,
    })
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn failure(reason: &str, message: &str, instance: &str, code: i32) -> proto::Failure {
    proto::Failure {
        reason: reason.to_owned(),
        message: message.to_owned(),
        instance: instance.to_owned(),
        code,
        retryable: code == 14,
    }
}

/// A was down, B has answered.
pub(super) fn route() -> proto::RouteResponse {
    proto::RouteResponse {
        instance: "B".to_owned(),
        payload: payload(),
        attempts: vec![
            proto::Attempt {
                instance: "A".to_owned(),
                kind: proto::AttemptKind::First.into(),
                failure: Some(failure("INSTANCE_DOWN", "connection refused", "A", 14)),
                offset: milliseconds(0),
                elapsed: milliseconds(1),
            },
            proto::Attempt {
                instance: "B".to_owned(),
                kind: proto::AttemptKind::TransparentRetry.into(),
                failure: None,
                offset: milliseconds(1),
                elapsed: milliseconds(12),
            },
        ],
        panic_mode: false,
        deduplicated: false,
    }
}

/// A has answered, B has not.
pub(super) fn partials() -> Vec<proto::Partial> {
    vec![
        proto::Partial {
            instance: "A".to_owned(),
            outcome: proto::Outcome::Answered.into(),
            payload: payload(),
            ..Default::default()
        },
        proto::Partial {
            instance: "B".to_owned(),
            outcome: proto::Outcome::TimedOut.into(),
            failure: Some(failure("DEADLINE_EXCEEDED", "no answer in 0.1 s", "B", 4)),
            ..Default::default()
        },
    ]
}

/// Of the partials above.
pub(super) fn summary() -> proto::Summary {
    proto::Summary {
        counts: Some(proto::OutcomeCounts {
            answered: 1,
            timed_out: 1,
            ..Default::default()
        }),
        stop_reason: proto::StopReason::Deadline.into(),
        missing: vec!["B".to_owned()],
        aggregate: vec![],
    }
}

/// B is down and drained, A is well.
pub(super) fn health() -> Vec<proto::InstanceHealth> {
    vec![
        proto::InstanceHealth {
            instance: "B".to_owned(),
            state: proto::HealthState::Down.into(),
            reason: "connection refused".to_owned(),
            since: at(800),
            last_probe_latency: None,
            calls_outstanding: 0,
            admin: proto::AdminState::Draining.into(),
            probed: proto::ProbedState::Down.into(),
            observed: proto::ObservedState::Trusted.into(),
            ejected_until: None,
            drained: true,
            sessions_open: 0,
        },
        proto::InstanceHealth {
            instance: "A".to_owned(),
            state: proto::HealthState::Healthy.into(),
            reason: String::new(),
            since: None,
            last_probe_latency: milliseconds(2),
            calls_outstanding: 3,
            admin: proto::AdminState::Active.into(),
            probed: proto::ProbedState::Healthy.into(),
            observed: proto::ObservedState::Trusted.into(),
            ..Default::default()
        },
    ]
}

/// A, registered at run time.
pub(super) fn listed() -> proto::ListedInstance {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    proto::ListedInstance {
        instance: Some(proto::Instance {
            id: "A".to_owned(),
            address: "grpc://10.0.0.1:7000".to_owned(),
            labels: [label("zone", "x"), label("gpu", "a")].into(),
            weight: 2,
        }),
        origin: proto::InstanceOrigin::Registered.into(),
        expire_time: at(1020),
        health: health().into_iter().nth(1),
    }
}
