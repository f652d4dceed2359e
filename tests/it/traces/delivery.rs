//! How a collector is reached, and that without one nothing is slower, fails or is told twice.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use orchestrator::instance::endpoint::Endpoint;
use orchestrator::proto::orchestrator::FanoutRequest;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::StreamExt as _;

use super::{Collector, traced};
use crate::raw::soon;
use crate::rest::ask::{Ask, WAYS};
use crate::stage::authority::Authority;
use crate::stage::program::{self, Server};
use crate::stage::{self, Bearer, Client, start};
use crate::tls::{acceptor, trusting};

#[tokio::test]
async fn a_collector_is_reached_over_tls_and_by_a_socket_and_shown_its_headers() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let secure = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = folder.path().join("collector.sock");
    let plain = UnixListener::bind(&socket).unwrap();
    let places = [
        (format!("grpcs://{}", secure.local_addr().unwrap()), 1),
        (format!("unix:{}", socket.display()), 1),
        // Whoever it says it is, it is not the one that is trusted.
        (format!("grpcs://{}", secure.local_addr().unwrap()), 0),
    ];
    let collector = Collector::default();
    let serving = collector.clone();
    let acceptor = acceptor(&authority, &[b"h2"]);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                accepted = secure.accept() => {
                    if let Ok(stream) = acceptor.accept(accepted.unwrap().0).await {
                        serving.serve(stream);
                    }
                }
                accepted = plain.accept() => serving.serve(accepted.unwrap().0),
            }
        }
    });
    for (endpoint, expected) in places {
        let mut config = traced("http://replaced:1", 1.0);
        let place = &mut config.traces.as_mut().unwrap().collector;
        place.endpoint = Endpoint::parse(&endpoint).unwrap();
        place.tls = trusting(if expected == 0 { &stranger } else { &authority });
        let key = http::HeaderValue::from_static("collector-key");
        place
            .headers
            .push((http::HeaderName::from_static("x-key"), key));
        let app = start(stage::Config {
            instances: stage::embedded().instances,
            ..config
        })
        .await;
        let asked = Ask::get("/api/orchestrator/health");
        let answer = asked.send(WAYS[0], app.address()).await;
        assert_eq!(answer.status, 200);
        let spans = collector.told(app).await;
        assert_eq!(spans.len(), expected, "{endpoint}");
        for metadata in std::mem::take(&mut *collector.metadata.lock().unwrap()) {
            assert_eq!(metadata.get("x-key").unwrap(), "collector-key");
        }
        collector.spans.lock().unwrap().clear();
    }
}

/// The fleet and the operator's port of a program that records every call.
fn recording(endpoint: &str) -> serde_json::Value {
    let instances: Vec<_> = (1..=FLEET)
        .map(|at| json!({"id": format!("w{at}"), "builtin": {}}))
        .collect();
    json!({
        "instances": instances,
        "operators": {"listen": "127.0.0.1:0"},
        "traces": {"endpoint": endpoint, "ratio": 1},
    })
}

const FLEET: usize = 50;
/// At least: the call, and the leg of each instance.
const SPANS_EACH: usize = 1 + FLEET;

async fn fan_out(client: &mut Client) {
    let everybody = FanoutRequest {
        targets: vec!["*".into()],
        ..Default::default()
    };
    let events = client.fanout(everybody).await.unwrap().into_inner();
    let events: Vec<_> = events.map(Result::unwrap).collect().await;
    assert_eq!(events.len(), FLEET + 2);
}

/// How many spans have come to this end.
async fn ended(operators: SocketAddr, result: &str) -> usize {
    let answer = Ask::get("/metrics").send(WAYS[0], operators).await;
    let metrics = String::from_utf8(answer.body).unwrap();
    let series = format!("orchestrator_spans_total{{result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_harms_no_call_and_what_becomes_of_spans_is_counted() {
    let collector = Collector {
        rejects: 1,
        ..Collector::default()
    };
    let config = recording(&collector.listen().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orchestrator.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    let line = server.logged("operators see metrics, health and the config");
    let operators = line["address"].as_str().unwrap().parse().unwrap();
    let channel = stage::channel(server.address.parse().unwrap()).await;
    let key = Bearer(program::KEY.into());
    let mut client = OrchestratorServiceClient::with_interceptor(channel, key);

    fan_out(&mut client).await;
    soon(async {
        loop {
            let delivered = ended(operators, "delivered").await;
            let rejected = ended(operators, "rejected").await;
            // One of each batch.
            let batches = collector.metadata.lock().unwrap().len();
            if SPANS_EACH <= delivered + rejected && rejected == batches {
                break;
            }
        }
    })
    .await;
    assert_eq!(ended(operators, "queue_full").await, 0);

    collector.hangs.store(true, Ordering::Relaxed);
    soon(async {
        while ended(operators, "queue_full").await == 0 {
            fan_out(&mut client).await;
        }
    })
    .await;
    drop(client);
    let (code, log) = tokio::task::spawn_blocking(|| server.stop()).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
    // Whether a batch was given up before it stopped or not.
    let told = ["last spans were not taken in time", "do not reach"];
    assert!(told.iter().any(|words| log.contains(words)), "{log}");
    assert!(!log.contains("repeated by nobody"), "{log}");
}

#[test]
fn a_collector_that_is_away_is_told_of_once_and_harms_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orchestrator.json");
    // Nobody listens there: the port is taken by a socket that does not.
    let taken = socket_without_listener();
    let text = format!(
        r#"{{"instances": [{{"id": "A", "builtin": {{}}}}], "traces": {{"endpoint": "http://{taken}", "ratio": 1}}}}"#
    );
    std::fs::write(&file, text).unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    for _ in 0..3 {
        let route = server.run(&["route", "--instances", "A", "--payload", "1"]);
        assert_eq!(route.status.code(), Some(0), "{route:?}");
    }
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    let lines = log.lines().filter(|line| line.contains("do not reach"));
    assert_eq!(lines.count(), 1, "{log}");
    // And not waited for.
    assert!(!log.contains("not taken in time"), "{log}");
}

/// An address at which connections are refused for as long as nobody else takes it.
fn socket_without_listener() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
