//! A caller who leaves ends the work at every instance; a shutdown lets calls finish; a connection serves
//! more than one call.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use orchestrator::app::Stopped;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::ask::{Answer, Ask, WAYS, Way};
use super::house;
use crate::raw::{rest, soon};
use crate::stage::instance::Act;
use crate::stage::{KEY, embedded, start};

/// Reads on until the text has come.
async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let mut part = [0; 4096];
        let read = soon(stream.read(&mut part)).await.unwrap();
        assert_ne!(read, 0, "ended after {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..read]);
    }
    String::from_utf8(seen).unwrap()
}

/// The calls that are with an instance for as long as their caller waits.
fn waiting() -> [Ask; 3] {
    [
        Ask::post("/api/orchestrator/route", r#"{"instances": ["A"]}"#),
        Ask::post("/api/orchestrator/fanout", r#"{"targets": ["A"]}"#),
        Ask::post(
            "/api/orchestrator/fanout",
            r#"{"targets": ["A"], "aggregate": true}"#,
        ),
    ]
}

#[tokio::test]
async fn a_caller_who_hangs_up_resets_the_call_at_its_instance() {
    for ask in waiting() {
        let (app, instance) = house(Act::Silent).await;
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(&ask.text()).await.unwrap();
        instance.until(|counts| counts.begun == 1).await;
        drop(stream);
        let counts = instance.until(|counts| counts.reset == 1).await;
        assert_eq!(counts.answered, 0, "{ask:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_resets_the_call_at_its_instance() {
    for ask in waiting() {
        let (app, instance) = house(Act::Silent).await;
        let stream = TcpStream::connect(app.address()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::task::spawn(connection);
        let mut request = Request::post(format!("http://house{}", ask.path));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let mut sender = sender.ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (response, mut sending) = sender.send_request(request, false).unwrap();
        sending
            .send_data(Bytes::from(ask.body.clone()), true)
            .unwrap();
        instance.until(|counts| counts.begun == 1).await;
        drop(sending);
        drop(response);
        let counts = instance.until(|counts| counts.reset == 1).await;
        assert_eq!(counts.answered, 0, "{ask:?}");
        connection.abort();
    }
}

#[tokio::test]
async fn events_of_a_fan_out_come_as_they_happen() {
    let (let_go, gate) = watch::channel(false);
    let (app, _instance) = house(Act::EchoOnce(gate)).await;
    let ask = Ask::post("/api/orchestrator/fanout", r#"{"targets": ["A"]}"#);
    let ask = ask.with("connection", "close");
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    stream.write_all(&ask.text()).await.unwrap();
    // The instance has not answered yet.
    let first = until(&mut stream, "\"started\"").await;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let_go.send_replace(true);
    let end = until(&mut stream, "\"summary\"").await;
    assert!(end.contains("\"answered\":1"), "{end}");
}

#[tokio::test]
async fn one_connection_serves_many_calls_in_their_order() {
    let app = start(embedded()).await;
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let task = |at: usize| {
        let body = json!({"instances": ["A-H"], "payload": at}).to_string();
        Ask::post("/api/orchestrator/route", body)
    };
    // All at once, as pipelining callers do; the last one says that it is the last.
    let mut together = Vec::new();
    for at in 0..20 {
        together.extend_from_slice(&task(at).text());
    }
    together.extend_from_slice(&task(20).with("connection", "close").text());
    stream.write_all(&together).await.unwrap();
    let all = String::from_utf8(rest(&mut stream).await).unwrap();
    let answers: Vec<_> = all.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 21, "{all}");
    for (at, answer) in answers.iter().enumerate() {
        let answer = Answer::from_text(format!("HTTP/1.1 {answer}").as_bytes());
        assert_eq!(
            (answer.status, &answer.json()["payload"]),
            (200, &json!(at))
        );
    }
}

#[tokio::test]
async fn a_shutdown_lets_a_call_finish_and_says_so_before() {
    for way in WAYS {
        let (let_go, gate) = watch::channel(false);
        let (app, instance) = house(Act::EchoOnce(gate)).await;
        let address = app.address();
        let ask = Ask::post(
            "/api/orchestrator/route",
            r#"{"instances": ["A"], "payload": 7}"#,
        );
        let call = tokio::task::spawn(async move { ask.send(way, address).await });
        instance.until(|counts| counts.begun == 1).await;
        let stopping = tokio::task::spawn(app.stop());
        // Nobody listens any more: from then on everything knows that the house stops.
        soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
        let_go.send_replace(true);
        let answer = call.await.unwrap();
        assert_eq!((answer.status, &answer.json()["payload"]), (200, &json!(7)));
        assert_eq!(soon(stopping).await.unwrap(), Stopped::Clean);
    }
}

#[tokio::test]
async fn an_orchestrator_that_drains_is_not_healthy() {
    let mut config = embedded();
    config.shutdown.not_ready_for = Duration::from_secs(600);
    let app = start(config).await;
    let address = app.address();
    let stopping = tokio::task::spawn(app.stop());
    let check = || async move {
        Ask::get("/api/health/check")
            .send(Way::Http1, address)
            .await
    };
    soon(async { while check().await.status == 200 {} }).await;
    let answer = check().await;
    assert_eq!(
        (answer.status, answer.json()),
        (503, json!({"status": "draining"}))
    );
    // Calls are still taken.
    let ask = Ask::post("/api/orchestrator/route", r#"{"instances": ["A"]}"#);
    assert_eq!(ask.send(Way::Http1, address).await.status, 200);
    stopping.abort();
}

#[tokio::test]
async fn a_body_that_stays_half_sent_ends_with_the_time_of_its_caller() {
    let (app, instance) = house(Act::Echo).await;
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let head = format!(
        "POST /api/orchestrator/route HTTP/1.1\r\nhost: house\r\nauthorization: Bearer {KEY}\r\n\
         request-timeout: 0.05\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = Answer::from_text(&rest(&mut stream).await);
    assert_eq!(answer.failure(), (504, "deadline_exceeded".to_owned()));
    assert_eq!(instance.counts.borrow().begun, 0);
}
