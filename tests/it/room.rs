//! Calls for which the connections to their instance have no room.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::domain::limit::LINKS_PER_INSTANCE_MAX;
use orchestrator::domain::payload::Payload;
use orchestrator::domain::task::{Form, Metadata, Names, Task};
use orchestrator::domain::trace::Carried;
use orchestrator::instance::{Call, InstanceClient as _, Sent};
use orchestrator::proto::instance::ExecuteResponse;
use orchestrator::tasks::Tasks;
use tokio::task::JoinSet;

use crate::instance_session::instance;
use crate::raw::frame::message;
use crate::raw::soon;
use crate::stage::peer::{Peer, Stream, end};

fn call() -> Call {
    Call {
        task: Arc::new(Task {
            payload: Payload::null(),
            metadata: Metadata::default(),
            names: Names {
                request_id: "call".into(),
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
                carried: Carried::default(),
            },
            form: Form::default(),
        }),
        attempt: 1,
        ends: tokio::time::Instant::now() + Duration::from_secs(60),
        sent: Sent::default(),
        trace: None,
    }
}

fn answer(mut stream: Stream) {
    let mut sending = stream.headers();
    let whole = message(&ExecuteResponse::default());
    sending.send_data(whole.into(), false).unwrap();
    end(&mut sending, "0", "");
}

#[tokio::test]
async fn a_burst_over_an_instance_that_takes_one_call_on_a_connection_fails_none() {
    let tasks = Tasks::new();
    let mut peer = Peer::with_streams(1).await;
    let way = Arc::new(instance(peer.address, &tasks));
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let way = Arc::clone(&way);
        calls.spawn(async move { soon(way.execute(call())).await });
    }
    for _ in 0..50 {
        answer(peer.stream().await);
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_call_that_waits_for_room_has_not_left_and_takes_its_turn() {
    let tasks = Tasks::new();
    let mut peer = Peer::with_streams(1).await;
    let way = instance(peer.address, &tasks);
    let mut held = Vec::new();
    let mut runs = JoinSet::new();
    for _ in 0..LINKS_PER_INSTANCE_MAX {
        runs.spawn(way.execute(call()));
        held.push(peer.stream().await);
    }
    let (gives_up, waits) = (call(), call());
    let (left_one, left_other) = (gives_up.sent.clone(), waits.sent.clone());
    let mut gives_up = way.execute(gives_up);
    let mut waits = way.execute(waits);
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut gives_up).is_pending());
        assert!(futures_util::poll!(&mut waits).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(!left_one.get() && !left_other.get(), "nobody has left");
    assert!(left_one.waits_for_room() && left_other.waits_for_room());
    drop(gives_up);
    answer(held.pop().unwrap());
    let (answered, ()) = tokio::join!(soon(waits), async { answer(peer.stream().await) });
    answered.unwrap();
    assert!(!left_one.get() && left_other.get());
    assert!(left_one.waits_for_room(), "also after it was given up");
    for stream in held {
        answer(stream);
    }
    while let Some(done) = runs.join_next().await {
        done.unwrap().unwrap();
    }
}
