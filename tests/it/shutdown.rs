//! A stop finishes what runs, within its limit, whoever is stuck.

use std::process::Stdio;
use std::time::Duration;

use h2::Reason;
use orchestrator::app::Stopped;
use orchestrator::proto::health::HealthCheckRequest;
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_client::HealthClient;
use orchestrator::proto::orchestrator::{HealthWatchRequest, RouteRequest};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use crate::raw::{Peer, frame, soon};
use crate::stage::instance::{Act, Instance};
use crate::stage::program::{Server, json_of, orchestrator};
use crate::stage::{self, channel, client, config, embedded, planned, reason, start, text};

/// Far beyond every limit that is set here.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_running_call_is_finished_and_the_stop_is_clean() {
    let instance = Instance::start(Act::EchoAfter(Duration::from_millis(300))).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        payload: text("task"),
        ..Default::default()
    };
    let call = tokio::task::spawn(async move { client.route(request).await });
    instance.until(|counts| counts.begun == 1).await;
    let address = app.address();
    let stopped = tokio::time::timeout(LONG, app.stop())
        .await
        .expect("it stops");
    assert_eq!(stopped, Stopped::Clean);
    assert_eq!(
        call.await.unwrap().unwrap().into_inner().payload,
        text("task")
    );
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn a_stop_leaves_no_task_behind() {
    let app = start(embedded()).await;
    let left = app.tasks_left();
    assert_ne!(left(), 0, "instances are being probed");
    app.stop().await;
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn it_says_that_it_is_not_ready_before_it_turns_callers_away() {
    let mut config = embedded();
    config.shutdown.not_ready_for = Duration::from_millis(500);
    let app = start(config).await;
    let mut health = HealthClient::new(channel(app.address()).await);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut client = client(&app).await;
    let stopping = tokio::task::spawn(app.stop());
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let request = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    client
        .route(request)
        .await
        .expect("calls are still taken while it is not ready");
    assert_eq!(
        tokio::time::timeout(LONG, stopping).await.unwrap().unwrap(),
        Stopped::Clean
    );
}

#[tokio::test]
async fn a_watch_without_end_is_ended_with_a_name() {
    let app = start(embedded()).await;
    let mut watch = client(&app)
        .await
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap();
    let stopping = tokio::task::spawn(app.stop());
    let status = watch.message().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    assert_eq!(
        tokio::time::timeout(LONG, stopping).await.unwrap().unwrap(),
        Stopped::Clean
    );
}

#[tokio::test]
async fn a_silent_peer_and_a_call_that_never_ends_cannot_hold_it_up() {
    let instance = Instance::start(Act::Silent).await;
    let mut config = config();
    config.instances = vec![planned("A", instance.address)];
    config.shutdown.grace = Duration::from_millis(300);
    config.limits.first_bytes = LONG;
    let app = start(config).await;
    let mut silent = TcpStream::connect(app.address()).await.unwrap();
    let mut client = client(&app).await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    let call = tokio::task::spawn(async move { client.route(request).await });
    instance.until(|counts| counts.begun == 1).await;
    let stopped = tokio::time::timeout(LONG, app.stop())
        .await
        .expect("it stops by its limit");
    assert_eq!(stopped, Stopped::Cut);
    assert!(call.await.unwrap().is_err(), "nobody was told OK");
    let read = tokio::time::timeout(LONG, silent.read(&mut [0; 64]))
        .await
        .expect("the peer is cut off");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    instance.until(|counts| counts.reset == 1).await;
}

#[tokio::test]
async fn connections_are_told_to_go_once_it_was_not_ready_for_long_enough_and_not_before() {
    let mut config = embedded();
    config.shutdown.not_ready_for = Duration::from_millis(500);
    let app = start(config).await;
    let mut health = HealthClient::new(channel(app.address()).await);
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    watch.message().await.unwrap();
    let mut peer = Peer::connect(app.address()).await;
    peer.pong().await;
    let stopping = tokio::task::spawn(app.stop());
    let told = watch.message().await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    peer.send(&[frame::ping(*b"no-goawa")]).await;
    let first = peer
        .until(|frame| matches!(frame.kind, frame::PING | frame::GOAWAY))
        .await;
    assert_eq!(first.kind, frame::PING, "it still takes calls");
    assert_eq!(peer.last_words().await, Some(Reason::NO_ERROR));
    assert_eq!(soon(stopping).await.unwrap(), Stopped::Clean);
}

#[test]
fn a_process_that_is_asked_to_stop_finishes_its_call_whoever_is_silent() {
    let server = Server::start(&[]);
    let silent = std::net::TcpStream::connect(&server.address).unwrap();
    let slow = r#"{"_builtin":{"delay":"1s"},"answer":42}"#;
    let call = orchestrator(&["route", "--instances", "A", "--payload", slow])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let outstanding = || {
        let told = json_of(&server.run(&["health", "--instances", "A", "--verbose"]));
        told[0]["callsOutstanding"] == 1
    };
    while !outstanding() {}
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    let call = call.wait_with_output().unwrap();
    assert_eq!(call.status.code(), Some(0), "{call:?}\n{log}");
    assert_eq!(json_of(&call)["payload"]["answer"], 42);
    drop(silent);
}
