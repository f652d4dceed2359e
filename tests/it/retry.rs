//! A failed try is repeated where that is safe and of use, and the answer tells every try.

use std::time::Duration;

use orchestrator::domain::health::State;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    AttemptKind, CallPolicy, FailedAttempts, Fallback, FanoutRequest, Outcome, RouteRequest,
    Selection,
};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, config, planned, reason, start};

/// The detail of a failed call that tells every try.
pub(crate) fn attempts_detail(status: &Status) -> Vec<u8> {
    let details = tonic_types::pb::Status::decode(status.details())
        .unwrap()
        .details;
    let name = "type.googleapis.com/openclaw.orchestrator.v1.FailedAttempts";
    let detail = details
        .iter()
        .find(|detail| detail.type_url == name)
        .expect("the tries are a detail");
    detail.value.clone()
}

/// Every try, from the details of a failed call.
fn tries(status: &Status) -> Vec<(String, AttemptKind, String)> {
    let detail = attempts_detail(status);
    let attempts = FailedAttempts::decode(&detail[..]).unwrap().attempts;
    let told = |failure: Option<orchestrator::proto::orchestrator::Failure>| {
        failure.map_or(String::new(), |failure| failure.reason)
    };
    attempts
        .into_iter()
        .map(|attempt| {
            (
                attempt.instance.clone(),
                attempt.kind(),
                told(attempt.failure),
            )
        })
        .collect()
}

fn route(instances: &str, policy: CallPolicy) -> RouteRequest {
    RouteRequest {
        instances: vec![instances.into()],
        policy: Some(policy),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_task_that_may_be_repeated_survives_the_death_of_its_instance() {
    let (mut a, b) = (
        Instance::start(Act::Silent).await,
        Instance::start(Act::Echo).await,
    );
    let instances = vec![planned("A", a.address), planned("B", b.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let policy = CallPolicy {
        selection: Selection::Ordered.into(),
        idempotent: true,
        ..Default::default()
    };
    let call = tokio::task::spawn(async move { client.route(route("A B", policy)).await });
    a.until(|counts| counts.begun == 1).await;
    a.kill();
    let answer = call.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.instance, "B");
    let kinds: Vec<_> = answer
        .attempts
        .iter()
        .map(|attempt| attempt.kind())
        .collect();
    assert_eq!(kinds, [AttemptKind::First, AttemptKind::Retry]);
    assert_eq!(
        answer.attempts[0].failure.as_ref().unwrap().reason,
        "INSTANCE_LOST"
    );
}

#[tokio::test]
async fn a_failed_call_tells_every_try_and_that_outer_layers_should_not_repeat_it() {
    let failing = Instance::start(Act::Fail(Code::Unavailable)).await;
    let instances = vec![planned("A", failing.address), planned("B", failing.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let policy = CallPolicy {
        selection: Selection::Ordered.into(),
        idempotent: true,
        attempts_max: 3,
        ..Default::default()
    };
    let status = client.route(route("A B", policy)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "INSTANCE_FAILED")
    );
    let failed = |id: &str, kind| (id.to_owned(), kind, "INSTANCE_FAILED".to_owned());
    assert_eq!(
        tries(&status),
        [
            failed("A", AttemptKind::First),
            failed("B", AttemptKind::Retry),
            failed("A", AttemptKind::Retry)
        ]
    );
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "-1"
    );
    assert_eq!(failing.counts.borrow().begun, 3);
    // Without the caller's word nothing is repeated, here or further out.
    let policy = CallPolicy {
        selection: Selection::Ordered.into(),
        ..Default::default()
    };
    let status = client.route(route("A B", policy)).await.unwrap_err();
    assert_eq!(tries(&status).len(), 1);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "-1"
    );
}

#[tokio::test]
async fn a_fallback_reaches_an_instance_that_was_not_named() {
    let echo = Instance::start(Act::Echo).await;
    let failing = Instance::start(Act::Fail(Code::Unavailable)).await;
    let instances = vec![planned("A", failing.address), planned("B", echo.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let policy = CallPolicy {
        idempotent: true,
        fallback: Fallback::AnyHealthy.into(),
        ..Default::default()
    };
    let answer = client(&app)
        .await
        .route(route("A", policy))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.instance, "B");
    assert_eq!(answer.attempts[1].kind(), AttemptKind::Fallback);
}

#[tokio::test]
async fn a_leg_is_tried_again_at_its_own_target_only() {
    let failing = Instance::start(Act::Fail(Code::Unavailable)).await;
    let echo = Instance::start(Act::Echo).await;
    let instances = vec![planned("A", failing.address), planned("B", echo.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let policy = CallPolicy {
        idempotent: true,
        attempts_max: 2,
        ..Default::default()
    };
    let request = FanoutRequest {
        targets: vec!["A-B".into()],
        policy: Some(policy.clone()),
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    let mut legs = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(Event::Partial(leg)) = event.event {
            legs.push((leg.instance.clone(), leg.outcome(), leg.attempts.len()));
        }
    }
    legs.sort();
    assert_eq!(
        legs,
        [
            ("A".to_owned(), Outcome::Failed, 2),
            ("B".to_owned(), Outcome::Answered, 1)
        ]
    );
    let elsewhere = CallPolicy {
        fallback: Fallback::AnyHealthy.into(),
        ..policy
    };
    let request = FanoutRequest {
        targets: vec!["A-B".into()],
        policy: Some(elsewhere),
        ..Default::default()
    };
    let status = client.fanout(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "ARGUMENT_INVALID")
    );
}

#[tokio::test]
async fn a_key_selects_the_same_instance_every_time() {
    let echo = Instance::start(Act::Echo).await;
    let instances = (0..8)
        .map(|at| planned(&format!("w{at}"), echo.address))
        .collect();
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let policy = |key: &str| CallPolicy {
        selection: Selection::Hash.into(),
        hash_key: key.into(),
        ..Default::default()
    };
    let mut chosen = std::collections::BTreeSet::new();
    for key in 0..16 {
        let policy = policy(&format!("user-{key}"));
        let first = client
            .route(route("*", policy.clone()))
            .await
            .unwrap()
            .into_inner()
            .instance;
        let again = client
            .route(route("*", policy))
            .await
            .unwrap()
            .into_inner()
            .instance;
        assert_eq!(first, again);
        chosen.insert(first);
    }
    assert!(3 <= chosen.len(), "keys spread: {chosen:?}");
    let status = client.route(route("*", policy(""))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_instance_that_says_when_to_come_again_is_not_asked_earlier() {
    let mut details = tonic_types::ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_millis(200)));
    let busy = Status::with_error_details(Code::Unavailable, "busy", details);
    let busy = Instance::start(Act::FailWith(busy)).await;
    let instances = vec![planned("A", busy.address), planned("B", busy.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let policy = CallPolicy {
        idempotent: true,
        attempts_max: 2,
        ..Default::default()
    };
    let mut client = client(&app).await;
    let status = client.route(route("A B", policy)).await.unwrap_err();
    let detail = FailedAttempts::decode(&attempts_detail(&status)[..]).unwrap();
    let offset = |at: usize| Duration::try_from(detail.attempts[at].offset.unwrap()).unwrap();
    let elapsed = Duration::try_from(detail.attempts[0].elapsed.unwrap()).unwrap();
    // Even at another instance, and counted from the answer that asked for it.
    assert!(offset(0) + elapsed + Duration::from_millis(199) <= offset(1));
    assert_eq!(busy.counts.borrow().begun, 2);
}

#[tokio::test]
async fn a_call_waits_for_an_instance_that_comes_back() {
    let mut gone = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", gone.address)],
        ..config()
    })
    .await;
    gone.kill();
    stage::settled(&app, |state| state == State::Down).await;
    let mut client = client(&app).await;
    let status = client.route(route("A", CallPolicy::default())).await;
    assert_eq!(reason(&status.unwrap_err()), "INSTANCE_DOWN");
    let patient = CallPolicy {
        wait_for_ready: true,
        ..Default::default()
    };
    let waiting = tokio::spawn(async move { client.route(route("A", patient)).await });
    let _back = Instance::start_at(gone.address, Act::Echo).await;
    let answer = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!((answer.instance.as_str(), answer.attempts.len()), ("A", 1));
}
