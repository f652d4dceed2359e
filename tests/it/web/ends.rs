//! What ends before its time, and what is held meanwhile, over gRPC-Web as over gRPC.

use std::time::Duration;

use orchestrator::app::App;
use orchestrator::ingress::caller::Revoked;
use orchestrator::proto::orchestrator::{FanoutRequest, HealthWatchRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::Code;

use super::ask::{FORMS, Form, Web, WebAnswer, every_way};
use super::{path, route};
use crate::raw::frame::{self, Frame};
use crate::raw::{End, Peer, rest, soon};
use crate::rest::ask::{Answer, Ask, Way};
use crate::rest::house;
use crate::stage::instance::{Act, Instance};
use crate::stage::{config, embedded, planned, reason, start, text};

/// Waits until no call runs and no byte is held.
async fn is_empty(app: &App) {
    soon(async {
        while app.gate().load() != (0, 0, 0) || app.memory().held() != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_time_of_a_caller_travels_to_the_instance_and_ends_the_call() {
    for (way, form) in every_way() {
        let (app, instance) = house(Act::Silent).await;
        let call = Web::new(form, &path("Route"), &route("A", None));
        let call = call.with("grpc-timeout", "300m");
        let status = call.send(way, app.address()).await.status;
        assert_eq!(reason(&status), "DEADLINE_EXCEEDED", "{way:?} {form:?}");
        instance.until(|counts| counts.reset == 1).await;
        let seen = instance.seen.lock().unwrap()[0]
            .get("grpc-timeout")
            .cloned();
        assert!(seen.is_some());
        let bad = Web::new(form, &path("Route"), &route("A", None));
        let bad = bad.with("grpc-timeout", "soon");
        let refused = bad.send(way, app.address()).await.status;
        assert_eq!(reason(&refused), "TIMEOUT_INVALID");
        is_empty(&app).await;
    }
}

#[tokio::test]
async fn a_page_that_is_closed_resets_the_call_at_its_instance() {
    let fan_out = FanoutRequest {
        targets: vec!["A".to_owned()],
        ..Default::default()
    };
    for form in FORMS {
        for call in [
            Web::new(form, &path("Route"), &route("A", None)),
            Web::new(form, &path("Fanout"), &fan_out),
        ] {
            let (app, instance) = house(Act::Silent).await;
            let mut stream = TcpStream::connect(app.address()).await.unwrap();
            stream.write_all(&call.0.text()).await.unwrap();
            instance.until(|counts| counts.begun == 1).await;
            drop(stream);
            let counts = instance.until(|counts| counts.reset == 1).await;
            assert_eq!(counts.answered, 0);
            is_empty(&app).await;
        }
    }
}

#[tokio::test]
async fn a_half_sent_call_ends_with_the_time_of_its_caller() {
    let (app, instance) = house(Act::Echo).await;
    for form in FORMS {
        let Web(ask) = Web::new(form, &path("Route"), &route("A", text("x")));
        let whole = ask.with("grpc-timeout", "50m").text();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(&whole[..whole.len() - 3]).await.unwrap();
        let answer = WebAnswer::read(Answer::from_text(&rest(&mut stream).await));
        assert_eq!(reason(&answer.status), "DEADLINE_EXCEEDED");
    }
    assert_eq!(instance.counts.borrow().begun, 0);
    is_empty(&app).await;
}

#[tokio::test]
async fn a_request_weighs_what_it_holds_and_is_refused_where_there_is_no_room() {
    let (let_go, gate) = watch::channel(false);
    let held = Instance::start(Act::EchoOnce(gate)).await;
    let mut config = config();
    config.instances = vec![planned("A", held.address)];
    config.admission.buffered_bytes = Some(12 << 20);
    let app = start(config).await;
    let call = |form| {
        Web::new(
            form,
            &path("Route"),
            &route("A", text(&"x".repeat(3 << 20))),
        )
    };
    let mut sent = Vec::new();
    for (begun, form) in [(1, Form::Text), (2, Form::Binary)] {
        let (call, address) = (call(form), app.address());
        sent.push(tokio::spawn(
            async move { call.send(Way::Http1, address).await },
        ));
        held.until(|counts| counts.begun == begun).await;
    }
    // Out of base64 it weighs what it is.
    let weight = app.memory().held();
    assert!((6 << 20..7 << 20).contains(&weight), "{weight}");
    for form in FORMS {
        let refused = call(form).send(Way::Http1, app.address()).await.status;
        assert_eq!(reason(&refused), "MEMORY_FULL");
    }
    let_go.send_replace(true);
    for call in sent {
        let status = call.await.unwrap().status;
        let is_known = status.code() == Code::Ok || reason(&status) == "MEMORY_FULL";
        assert!(is_known, "{status:?}");
    }
    is_empty(&app).await;
}

/// Reads on until a message has come.
async fn until_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    loop {
        let head = seen.windows(4).position(|part| part == b"\r\n\r\n");
        // The size of its part, and something of it.
        if head.is_some_and(|at| at + 12 < seen.len()) {
            return seen;
        }
        let mut part = [0; 4096];
        let read = soon(stream.read(&mut part)).await.unwrap();
        assert_ne!(read, 0, "ended after {seen:?}");
        seen.extend_from_slice(&part[..read]);
    }
}

#[tokio::test]
async fn a_stream_whose_key_is_revoked_ends_with_a_status_that_a_page_can_read() {
    for form in FORMS {
        let mut config = embedded();
        let revoked = Revoked::default();
        config.keys.keys[0].revoked = revoked.clone();
        let app = start(config).await;
        let Web(ask) = Web::new(form, &path("HealthWatch"), &HealthWatchRequest::default());
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        let ask = ask.with("connection", "close");
        stream.write_all(&ask.text()).await.unwrap();
        let mut seen = until_message(&mut stream).await;
        revoked.revoke();
        seen.extend(rest(&mut stream).await);
        let answer = WebAnswer::read(Answer::from_text(&seen));
        assert!(!answer.messages.is_empty());
        let found = (answer.status.code(), reason(&answer.status));
        let expected = (Code::Unauthenticated, "KEY_INVALID".to_owned());
        assert_eq!(found, expected);
    }
}

fn call(stream: u32, form: Form) -> [Frame; 2] {
    let Web(Ask {
        path,
        headers,
        body,
        ..
    }) = Web::new(form, &path("Route"), &route("A", None));
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "house"),
    ];
    fields.extend(headers.iter().map(|(name, value)| (&**name, &**value)));
    [
        frame::headers(stream, &fields, 0),
        frame::data(stream, &body, frame::END_STREAM),
    ]
}

#[tokio::test]
async fn a_reader_who_stands_still_before_the_status_is_cut() {
    let answered = text("x").unwrap();
    for form in FORMS {
        let instance = Instance::start(Act::Answer(answered.clone())).await;
        let mut config = config();
        config.instances = vec![planned("A", instance.address)];
        config.limits.stream_idle = Duration::from_secs(1);
        let app = start(config).await;
        // How long the message is, and all of the answer.
        let mut peer = Peer::connect(app.address()).await;
        peer.send(&call(1, form)).await;
        let mut lengths = Vec::new();
        loop {
            let part = peer.until(|frame| frame.stream == 1).await;
            if part.kind == frame::DATA {
                lengths.push(u32::try_from(part.payload.len()).unwrap());
            }
            if part.flags & frame::END_STREAM != 0 {
                break;
            }
        }
        let whole: u32 = lengths.iter().sum();
        let ends = async |window: u32| {
            let settings = [(frame::INITIAL_WINDOW_SIZE, window)];
            let mut peer = Peer::with_settings(app.address(), &settings).await;
            peer.send(&call(1, form)).await;
            soon(peer.end_of(1)).await
        };
        // The times that an answer tells take some bytes more or fewer.
        assert_eq!(ends(whole + 64).await, End::Answered);
        for window in [0, 1, lengths[0] - 8] {
            let end = ends(window).await;
            assert_eq!(
                end,
                End::Reset(h2::Reason::CANCEL),
                "{form:?} {window} of {lengths:?}"
            );
        }
        is_empty(&app).await;
    }
}
