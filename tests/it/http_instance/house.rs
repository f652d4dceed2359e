//! An orchestrator in front of HTTP instances: they get work like all others, and no sessions.

use orchestrator::domain::health::State;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    AttemptKind, CallPolicy, ExplainRequest, FanoutRequest, Instance as Registered,
    ListInstancesRequest, Outcome, RegisterRequest, RouteRequest, Selection, SessionSpawnRequest,
    explain_request,
};
use prost::Message as _;
use tonic::Code;

use super::by_hand::json;
use super::*;
use crate::raw::soon;
use crate::stage::instance::{Act, Instance};
use crate::stage::{self, App, client, cluster, config, reason, settled, start, text};

async fn house(instances: Vec<Planned>) -> App {
    start(stage::Config {
        instances,
        ..config()
    })
    .await
}

fn route(instances: &[&str]) -> RouteRequest {
    RouteRequest {
        instances: instances.iter().map(|id| (*id).to_owned()).collect(),
        payload: text("task"),
        policy: Some(CallPolicy {
            selection: Selection::Ordered.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_task_goes_over_http_like_over_grpc() {
    let mut a = ByHand::start().await;
    let app = house(vec![planned("A", &format!("http://{}/run", a.address))]).await;
    let mut client = client(&app).await;
    let request = RouteRequest {
        idempotency_key: "order-7".into(),
        metadata: [("tenant".to_owned(), "blue".to_owned())].into(),
        timeout: Some(prost_types::Duration {
            seconds: 5,
            nanos: 0,
        }),
        ..route(&["A"])
    };
    let mut request = tonic::Request::new(request);
    request
        .metadata_mut()
        .insert("x-request-id", "request-17".parse().unwrap());
    let answer = tokio::spawn(async move { client.route(request).await });
    let asked = a.asked().await;
    assert_eq!(asked.body, r#""task""#);
    for (name, value) in [
        ("x-request-id", "request-17"),
        ("idempotency-key", "order-7"),
        ("tenant", "blue"),
        ("x-orchestrator-attempt", "1"),
    ] {
        assert_eq!(asked.header(name), [value], "{name}");
    }
    assert!(
        asked.header("authorization").is_empty(),
        "the caller's key stays here"
    );
    let seconds: f64 = asked.header("request-timeout")[0].parse().unwrap();
    assert!(seconds <= 4.75, "{seconds}");
    asked.answer(&json(r#""done""#)).await;
    let answer = answer.await.unwrap().unwrap().into_inner();
    assert_eq!(
        (answer.instance.as_str(), answer.payload),
        ("A", text("done"))
    );
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_passed_over_for_one_that_is() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    let b = Instance::start(Act::Echo).await;
    let instances = vec![
        planned("A", &format!("http://{address}")),
        stage::planned("B", b.address),
    ];
    // Its probes find nobody, and before they do so a call finds the same.
    drop(nobody);
    let app = stage::App::start(stage::Config {
        instances,
        probe: orchestrator::fleet::ProbeSettings::default(),
        ..config()
    })
    .await
    .unwrap();
    let answer = client(&app)
        .await
        .route(route(&["A", "B"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.instance.as_str(), answer.payload),
        ("B", text("task"))
    );
    for attempt in &answer.attempts {
        let expected = if attempt.instance == "A" {
            AttemptKind::First
        } else {
            attempt.kind()
        };
        assert_eq!(attempt.kind(), expected);
    }
}

#[tokio::test]
async fn a_task_that_may_have_begun_over_http_goes_elsewhere_only_if_it_may() {
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    for (answer, idempotent, expected) in [
        ("", false, "INSTANCE_LOST"),
        ("", true, "B"),
        (busy, false, "INSTANCE_FAILED"),
        (busy, true, "B"),
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            true,
            "INSTANCE_FAILED",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[",
            true,
            "INSTANCE_LOST",
        ),
    ] {
        // Each in a house of its own, where nobody is ejected yet.
        let mut a = ByHand::start().await;
        let b = Instance::start(Act::Echo).await;
        let a_address = format!("http://{}", a.address);
        let app = house(vec![
            planned("A", &a_address),
            stage::planned("B", b.address),
        ])
        .await;
        let mut request = route(&["A", "B"]);
        request.policy.as_mut().unwrap().idempotent = idempotent;
        let mut client = client(&app).await;
        let outcome = tokio::spawn(async move { client.route(request).await });
        let mut asked = a.asked().await;
        asked.say(answer).await;
        drop(asked);
        let found = match outcome.await.unwrap() {
            Ok(answer) => answer.into_inner().instance,
            Err(status) => reason(&status),
        };
        assert_eq!(found, expected, "{answer} {idempotent}");
        assert!(!a.has_more());
    }
}

#[tokio::test]
async fn time_that_runs_out_within_an_answer_is_told_as_that_and_ends_the_call_there() {
    let mut a = ByHand::start().await;
    let app = house(vec![planned("A", &format!("http://{}", a.address))]).await;
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1,"] {
        let mut client = client(&app).await;
        let request = RouteRequest {
            timeout: Some(prost_types::Duration {
                seconds: 2,
                nanos: 0,
            }),
            ..route(&["A"])
        };
        let outcome = tokio::spawn(async move { client.route(request).await });
        let mut asked = a.asked().await;
        asked.say(begun).await;
        asked.closed().await;
        let status = outcome.await.unwrap().unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
    }
}

#[tokio::test]
async fn a_fan_out_reaches_both_kinds_and_explain_knows_no_difference() {
    let mut a = ByHand::start().await;
    let b = Instance::start(Act::Echo).await;
    let a_address = format!("http://{}", a.address);
    let app = house(vec![
        planned("A", &a_address),
        stage::planned("B", b.address),
    ])
    .await;
    let mut client = client(&app).await;
    let request = FanoutRequest {
        targets: vec!["*".into()],
        payload: text("task"),
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    a.asked().await.answer(&json(r#""task""#)).await;
    let mut answered = Vec::new();
    while let Some(event) = soon(events.message()).await.unwrap() {
        if let Some(Event::Partial(partial)) = event.event {
            assert_eq!(partial.outcome(), Outcome::Answered);
            assert_eq!(partial.payload, text("task"));
            answered.push(partial.instance);
        }
    }
    answered.sort();
    assert_eq!(answered, ["A", "B"]);
    let request = ExplainRequest {
        call: Some(explain_request::Call::Route(route(&["A", "B"]))),
    };
    let explained = client.explain(request).await.unwrap().into_inner();
    let order: Vec<_> = explained
        .instances
        .iter()
        .map(|explained| explained.instance.as_str())
        .collect();
    assert_eq!(order, ["A", "B"]);
}

#[tokio::test]
async fn a_payload_that_one_instance_cannot_be_told_says_so() {
    let mut a = ByHand::start().await;
    let app = house(vec![planned("A", &format!("http://{}", a.address))]).await;
    let request = RouteRequest {
        payload: Some(
            prost_types::Value::from(f64::INFINITY)
                .encode_to_vec()
                .into(),
        ),
        ..route(&["A"])
    };
    let status = client(&app).await.route(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "PAYLOAD_INVALID")
    );
    assert!(status.message().contains("instance A"), "{status:?}");
    assert!(!a.has_more());
}

#[tokio::test]
async fn an_instance_is_down_while_its_health_check_says_so() {
    let a = ByHand::start().await;
    let app = house(vec![planned("A", &format!("http://{}/run", a.address))]).await;
    settled(&app, |state| state == State::Healthy).await;
    a.health
        .send_replace("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"status\":\"down\"}");
    settled(&app, |state| state == State::Down).await;
    let reason = app.fleet().view().members()[0].health.reason.to_string();
    assert_eq!(reason, "its health check says down");
    a.health
        .send_replace("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    settled(&app, |state| state == State::Healthy).await;
}

#[tokio::test]
async fn sessions_go_to_instances_that_have_them_and_otherwise_the_refusal_names_the_reason() {
    let a = ByHand::start().await;
    let a_address = format!("http://{}/run", a.address);
    let builtin = stage::embedded().instances.into_iter().take(2);
    let app = house(
        [planned("Z", &a_address)]
            .into_iter()
            .chain(builtin)
            .collect(),
    )
    .await;
    let mut client = client(&app).await;
    let spawn = |targets: &str| SessionSpawnRequest {
        instances: vec![targets.to_owned()],
        ..Default::default()
    };
    for _ in 0..8 {
        let spawned = client.session_spawn(spawn("*")).await.unwrap().into_inner();
        assert_ne!(spawned.session.unwrap().instance, "Z");
    }
    let status = client.session_spawn(spawn("Z")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "SESSION_UNSUPPORTED")
    );
    let expected = format!(
        "instance Z: {a_address} takes tasks over plain HTTP, which has no sessions: name an instance that speaks gRPC"
    );
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn an_http_instance_registers_like_any_other() {
    let mut a = ByHand::start().await;
    let app = house(Vec::new()).await;
    let (mut client, mut cluster) = (client(&app).await, cluster(&app).await);
    let registration = |address: &str, incarnation| RegisterRequest {
        instance: Some(Registered {
            id: "A".into(),
            address: address.into(),
            ..Default::default()
        }),
        incarnation,
        lease: None,
    };
    let address = format!("http://{}/run", a.address);
    cluster.register(registration(&address, 1)).await.unwrap();
    cluster.register(registration(&address, 1)).await.unwrap();
    let elsewhere = format!("http://{}/walk", a.address);
    let status = cluster
        .register(registration(&elsewhere, 1))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&status),
        "INCARNATION_STALE",
        "another path is another place"
    );
    let status = cluster
        .register(registration("http://10.0.0.1/run", 2))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "ADDRESS_NOT_ALLOWED");
    let status = cluster
        .register(registration("http://u:CANARY@127.0.0.1/run", 2))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "ARGUMENT_INVALID");
    assert!(!status.message().contains("CANARY"), "{status:?}");
    let listed = cluster
        .list_instances(ListInstancesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed.instances[0].instance.as_ref().unwrap().address,
        address
    );
    let answer = tokio::spawn(async move { client.route(route(&["A"])).await });
    let asked = a.asked().await;
    assert!(asked.head.starts_with("POST /run HTTP/1.1\r\n"));
    asked.answer(&json("1")).await;
    answer.await.unwrap().unwrap();
}
