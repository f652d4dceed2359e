//! What is held at once has a bound, and readers who stand still are cut.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{FanoutRequest, RouteRequest};
use prost::Message as _;
use tonic::Code;

use super::{House, ROUTE, route};
use crate::raw::frame::{self, Frame};
use crate::raw::{End, Peer, soon};
use crate::stage::instance::{Act, Instance};
use crate::stage::{KEY, client, config, planned, reason, start};

fn large(bytes: usize) -> Bytes {
    prost_types::Value::from("x".repeat(bytes))
        .encode_to_vec()
        .into()
}

#[tokio::test]
async fn requests_that_would_not_fit_the_memory_are_refused_and_every_byte_is_paid_back() {
    let house = House::with(|config| config.admission.buffered_bytes = Some(12 << 20)).await;
    let big = RouteRequest {
        payload: Some(large(3 << 20)),
        ..route(&["held1"])
    };
    // Two are held while their instance takes its time: a third would be more than requests may fill.
    let mut sent = Vec::new();
    for begun in 1..=2 {
        let (mut client, big) = (client(&house.app).await, big.clone());
        sent.push(tokio::spawn(async move { client.route(big).await }));
        house.held[0].until(|counts| counts.begun == begun).await;
    }
    let held = house.app.memory().held();
    assert!((6 << 20..7 << 20).contains(&held), "{held}");
    let begun = house.begun();
    let status = client(&house.app).await.route(big).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MEMORY_FULL")
    );
    assert_eq!(house.begun(), begun);
    // Small ones go on.
    client(&house.app)
        .await
        .route(route(&["echo"]))
        .await
        .unwrap();
    house.let_go.send_replace(true);
    let answers = join_all(sent).await;
    // What they send back is as large, and does not fit beside what is held: who is told so has lost nothing
    // but the answer.
    for answer in answers {
        match answer.unwrap() {
            Ok(answer) => assert_eq!(answer.into_inner().payload, Some(large(3 << 20))),
            Err(status) => assert_eq!(reason(&status), "MEMORY_FULL"),
        }
    }
    house.is_empty().await;
}

#[tokio::test]
async fn answers_that_would_not_fit_the_memory_are_failures_of_their_legs() {
    let lavish = Instance::start(Act::Answer(large(3 << 20))).await;
    let mut config = config();
    config.instances = (0..8)
        .map(|at| planned(&format!("w{at}"), lavish.address))
        .collect();
    config.admission.buffered_bytes = Some(4 << 20);
    let app = start(config).await;
    let mut client = client(&app).await;
    let fan_out = FanoutRequest {
        targets: vec!["*".into()],
        ..Default::default()
    };
    let mut events = client.fanout(fan_out).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    let status = loop {
        match events.message().await {
            Ok(Some(event)) => {
                if let Some(Event::Partial(partial)) = event.event {
                    let why = partial.failure.map(|failure| failure.reason);
                    outcomes.push((partial.instance, why));
                }
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    // Eight answers of 3 MiB at once do not fit into 4 MiB, and one that comes alone does.
    let dropped = outcomes
        .iter()
        .filter(|(_, why)| why.as_deref() == Some("MEMORY_FULL"));
    assert!(0 < dropped.count() || status.is_some(), "{outcomes:?}");
    drop(events);
    soon(async {
        while app.memory().held() != 0 || app.gate().load() != (0, 0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.route(route(&["w1"])).await.unwrap();
}

/// What a caller says that it speaks, and in which form it wants to be answered.
const SPEAKS: [(&str, &str); 3] = [
    ("application/grpc", "*/*"),
    ("application/grpc-web", "*/*"),
    ("application/grpc-web", "application/grpc-web-text"),
];

fn call(stream: u32, instance: &str, (sent, accepted): (&str, &str)) -> [Frame; 2] {
    let message = frame::message(&route(&[instance]));
    let bearer = format!("Bearer {KEY}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", ROUTE),
        (":authority", "house"),
        ("content-type", sent),
        ("accept", accepted),
        ("authorization", &bearer),
    ];
    [
        frame::headers(stream, &fields, 0),
        frame::data(stream, &message, frame::END_STREAM),
    ]
}

#[tokio::test]
async fn a_reader_who_stands_still_is_cut_and_the_calls_beside_it_are_not() {
    let cases = [(3 << 20, 65_535), (20_000, 10_000), (100, 0)];
    let cases = cases.map(|case| SPEAKS.map(|speaks| (case, speaks)));
    for ((bytes, window), speaks) in cases.into_iter().flatten() {
        let lavish = Instance::start(Act::Answer(large(bytes))).await;
        let house = House::with(|config| {
            config.instances.push(planned("lavish", lavish.address));
            config.limits.stream_idle = Duration::from_millis(100);
        })
        .await;
        let mut peer =
            Peer::with_settings(house.app.address(), &[(frame::INITIAL_WINDOW_SIZE, window)]).await;
        // The connection has room: only this stream does not.
        peer.send(&[frame::window_update(0, 16 << 20)]).await;
        peer.send(&call(1, "held1", speaks)).await;
        peer.send(&call(3, "lavish", speaks)).await;
        assert_eq!(
            peer.end_of(3).await,
            End::Reset(h2::Reason::CANCEL),
            "{bytes} {speaks:?}"
        );
        // It was no reason to cut the other one, which may be read now.
        house.let_go.send_replace(true);
        peer.send(&[frame::window_update(1, 1 << 20)]).await;
        assert_eq!(peer.end_of(1).await, End::Answered, "{bytes}");
        house.is_empty().await;
    }
}

#[tokio::test]
async fn a_reader_who_reads_slowly_gets_all_of_it() {
    let lavish = Instance::start(Act::Answer(large(1 << 20))).await;
    let house = House::with(|config| {
        config.instances.push(planned("lavish", lavish.address));
        config.limits.stream_idle = Duration::from_secs(30);
    })
    .await;
    let mut peer =
        Peer::with_settings(house.app.address(), &[(frame::INITIAL_WINDOW_SIZE, 7)]).await;
    peer.send(&[frame::window_update(0, 16 << 20)]).await;
    peer.send(&call(1, "lavish", SPEAKS[0])).await;
    let mut read = 0;
    loop {
        let part = peer.until(|frame| frame.stream == 1).await;
        if part.kind == frame::DATA {
            read += part.payload.len();
            peer.send(&[frame::window_update(1, 10_000)]).await;
        }
        assert_ne!(part.kind, frame::RST_STREAM);
        if part.kind == frame::HEADERS && part.flags & frame::END_STREAM != 0 {
            break;
        }
    }
    assert!(1 << 20 < read, "{read}");
    house.is_empty().await;
}
