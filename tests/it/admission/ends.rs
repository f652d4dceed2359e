//! What ends before its time: requests that stay half sent, and streams whose key is no longer accepted.

use std::time::{Duration, SystemTime};

use orchestrator::ingress::caller::Key;
use orchestrator::proto::orchestrator::{FanoutRequest, HealthWatchRequest};
use tonic::Code;

use super::{House, ROUTE, client_of, route};
use crate::raw::caller::{self, Body};
use crate::raw::{frame, soon};
use crate::stage::{Config, client, reason};

#[tokio::test]
async fn a_half_sent_request_without_a_deadline_ends_with_the_server_s_own_limit() {
    let house = House::with(|config| config.limits.body = Duration::from_millis(50)).await;
    let whole = frame::message(&route(&["echo"]));
    for sent in [0, 3, 7] {
        let request = caller::grpc(ROUTE, &[]);
        let half = whole[..sent].to_vec();
        let answer = caller::ask(house.app.address(), request, half, Body::Unfinished).await;
        assert_eq!(
            answer.code(),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into())
        );
    }
    assert_eq!(house.begun(), 0);
    house.is_empty().await;
}

#[tokio::test]
async fn reflection_that_runs_out_of_time_says_so() {
    let house = House::with(|_| {}).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let request = caller::grpc(&path, &[("grpc-timeout", "50m")]);
        let answer = caller::ask(house.app.address(), request, Vec::new(), Body::Unfinished).await;
        assert_eq!(
            answer.code(),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()),
            "{version}"
        );
    }
}

/// A key that is good for so much longer.
fn passing(config: &mut Config, left: Duration) {
    config.keys.keys.push(Key {
        expires: Some(SystemTime::now() + left),
        ..Key::with_all_rights("passing", "passing-key")
    });
}

#[tokio::test]
async fn open_streams_end_with_the_key_that_opened_them() {
    let mut revoked = None;
    let house = House::with(|config| {
        passing(config, Duration::from_secs(3600));
        revoked = config.keys.keys.last().map(|key| key.revoked.clone());
    })
    .await;
    let mut passing = client_of(&house.app, "passing-key").await;
    let mut staying = client(&house.app).await;
    let mut others = staying
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut watch = passing
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let fan_out = FanoutRequest {
        targets: vec!["held1".into()],
        ..Default::default()
    };
    let mut events = passing.fanout(fan_out).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    others.message().await.unwrap().unwrap();
    events.message().await.unwrap().unwrap();
    house.held[0].until(|counts| counts.begun == 1).await;
    revoked.unwrap().revoke();
    for status in [
        soon(watch.message()).await.unwrap_err(),
        soon(events.message()).await.unwrap_err(),
    ] {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "KEY_INVALID")
        );
    }
    // Whoever worked for it need not go on.
    house.held[0].until(|counts| counts.reset == 1).await;
    let status = passing.route(route(&["echo"])).await.unwrap_err();
    assert_eq!(reason(&status), "KEY_INVALID");
    staying.route(route(&["echo"])).await.unwrap();
    drop(others);
    house.is_empty().await;
}

#[tokio::test]
async fn a_key_that_expires_ends_its_streams_at_its_date() {
    let left = Duration::from_millis(300);
    let house = House::with(|config| passing(config, left)).await;
    let mut passing = client_of(&house.app, "passing-key").await;
    let watching = passing.health_watch(HealthWatchRequest::default()).await;
    // On a machine that was held up for so long the date has come already.
    let status = match watching {
        Ok(watch) => {
            let mut watch = watch.into_inner();
            soon(async {
                loop {
                    if let Err(status) = watch.message().await {
                        break status;
                    }
                }
            })
            .await
        }
        Err(status) => status,
    };
    assert_eq!(reason(&status), "KEY_INVALID");
}
