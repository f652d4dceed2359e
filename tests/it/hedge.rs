//! A task that takes long is sent to a second instance, where its caller allows that.

use orchestrator::proto::orchestrator::{
    AttemptKind, CallPolicy, FanoutRequest, Hedge, RouteRequest, Selection,
};
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, config, planned, reason, start};

fn after(nanos: i32) -> Option<Hedge> {
    let delay = Some(prost_types::Duration { seconds: 0, nanos });
    Some(Hedge { delay })
}

fn policy() -> CallPolicy {
    CallPolicy {
        selection: Selection::Ordered.into(),
        idempotent: true,
        hedge: after(20_000_000),
        ..Default::default()
    }
}

/// As long as the contract can say.
const LONGEST: Option<prost_types::Duration> = Some(prost_types::Duration {
    seconds: i64::MAX,
    nanos: 999_999_999,
});

#[tokio::test]
async fn a_time_beyond_all_clocks_is_a_long_time() {
    let app = start(stage::embedded()).await;
    let mut client = client(&app).await;
    let policy = CallPolicy {
        per_try_timeout: LONGEST,
        hedge: Some(Hedge { delay: LONGEST }),
        ..policy()
    };
    let asked = RouteRequest {
        timeout: LONGEST,
        ..route(policy)
    };
    client.route(asked).await.unwrap();
    let asked = FanoutRequest {
        targets: vec!["A-H".into()],
        timeout: LONGEST,
        policy: Some(CallPolicy {
            per_try_timeout: LONGEST,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut events = client.fanout(asked).await.unwrap().into_inner();
    let mut read = 0;
    while events.message().await.unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, 10, "started, eight targets, a summary");
}

fn route(policy: CallPolicy) -> RouteRequest {
    RouteRequest {
        instances: vec!["A B".into()],
        policy: Some(policy),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stuck_instance_is_hedged_and_its_call_is_reset() {
    let (stuck, echo) = (
        Instance::start(Act::Silent).await,
        Instance::start(Act::Echo).await,
    );
    let instances = vec![planned("A", stuck.address), planned("B", echo.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let answer = client.route(route(policy())).await.unwrap().into_inner();
    assert_eq!(answer.instance, "B");
    let tries: Vec<_> = answer
        .attempts
        .iter()
        .map(|attempt| {
            let failure = attempt.failure.as_ref();
            (
                attempt.kind(),
                failure.map(|failure| failure.reason.as_str()),
            )
        })
        .collect();
    let expected = [
        (AttemptKind::First, Some("NOT_NEEDED")),
        (AttemptKind::Hedge, None),
    ];
    assert_eq!(tries, expected);
    stuck.until(|counts| counts.reset == 1).await;
}

#[tokio::test]
async fn a_hedge_needs_the_word_of_the_caller_and_a_second_try() {
    let app = start(stage::embedded()).await;
    let mut client = client(&app).await;
    let refused = [
        CallPolicy {
            idempotent: false,
            ..policy()
        },
        CallPolicy {
            attempts_max: 1,
            ..policy()
        },
        CallPolicy {
            hedge: after(-1),
            ..policy()
        },
    ];
    for policy in refused {
        let status = client.route(route(policy.clone())).await.unwrap_err();
        let found = (status.code(), reason(&status));
        let expected = (Code::InvalidArgument, "ARGUMENT_INVALID".to_owned());
        assert_eq!(found, expected, "{policy:?}");
        assert!(status.message().contains("policy.hedge"), "{status:?}");
    }
    let of_route = [
        CallPolicy {
            idempotent: true,
            hedge: after(20_000_000),
            ..Default::default()
        },
        CallPolicy {
            wait_for_ready: true,
            ..Default::default()
        },
    ];
    for policy in of_route {
        let request = FanoutRequest {
            targets: vec!["A".into()],
            policy: Some(policy.clone()),
            ..Default::default()
        };
        let status = client.fanout(request).await.unwrap_err();
        assert_eq!(reason(&status), "ARGUMENT_INVALID", "{policy:?}");
    }
}
