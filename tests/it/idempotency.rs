//! A request that bears an idempotency key is carried out once.

use std::sync::Arc;

use orchestrator::ingress::caller::Key;
use orchestrator::payload_json::from_json;
use orchestrator::proto::orchestrator::RouteRequest;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use tokio::sync::watch;
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, Bearer, channel, client, config, planned, reason, start};

fn request(key: &str, json: &str) -> RouteRequest {
    RouteRequest {
        instances: vec!["A".into(), "B".into()],
        payload: Some(from_json(json).unwrap().into_encoded()),
        idempotency_key: key.into(),
        ..Default::default()
    }
}

async fn one(act: Act) -> (Instance, orchestrator::app::App) {
    let instance = Instance::start(act).await;
    let app = start(stage::Config {
        instances: vec![
            planned("A", instance.address),
            planned("B", instance.address),
        ],
        ..config()
    })
    .await;
    (instance, app)
}

#[tokio::test]
async fn one_key_is_one_execution_whatever_the_order_of_keys_and_targets() {
    let (open, gate) = watch::channel(false);
    let (instance, app) = one(Act::EchoOnce(gate)).await;
    let (mut client, mut other) = (client(&app).await, client(&app).await);
    let first = request("k", r#"{"a":1,"b":{"x":[1,2],"y":null}}"#);
    let first = tokio::spawn(async move { client.route(first).await });
    instance.until(|counts| counts.begun == 1).await;
    let mut again = request("k", r#"{"b":{"y":null,"x":[1,2]},"a":1}"#);
    again.instances.reverse();
    let mut joining = other.clone();
    let duplicate = again.clone();
    let second = tokio::spawn(async move { joining.route(duplicate).await });
    // Either it joins, or it comes when the answer is known.
    open.send(true).unwrap();
    let first = first.await.unwrap().unwrap().into_inner();
    let second = second.await.unwrap().unwrap().into_inner();
    let third = other.route(again).await.unwrap().into_inner();
    assert!(!first.deduplicated && second.deduplicated && third.deduplicated);
    // Bit for bit what the first was answered.
    assert_eq!(
        (&second.payload, &third.payload),
        (&first.payload, &first.payload)
    );
    assert_eq!(third.attempts, first.attempts);
    assert_eq!(instance.counts.borrow().begun, 1);
    let seen = instance.seen.lock().unwrap();
    assert_eq!(seen[0].get("idempotency-key").unwrap(), "k");
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_caller() {
    let (instance, app) = one(Act::Echo).await;
    let mut client = client(&app).await;
    client.route(request("k", "1")).await.unwrap();
    let mut elsewhere = request("k", "1");
    elsewhere.instances = vec!["A".into()];
    for other in [request("k", "2"), elsewhere] {
        let status = client.route(other).await.unwrap_err();
        let found = (status.code(), reason(&status));
        let expected = (Code::InvalidArgument, "IDEMPOTENCY_CONFLICT".to_owned());
        assert_eq!(found, expected);
    }
    assert_eq!(instance.counts.borrow().begun, 1);
    for bad in ["has space", &"x".repeat(256)] {
        let status = client.route(request(bad, "1")).await.unwrap_err();
        assert_eq!(reason(&status), "ARGUMENT_INVALID", "{bad}");
    }
    let mut reserved = request("", "1");
    let entry = ("idempotency-key".to_owned(), "k".to_owned());
    reserved.metadata.extend([entry]);
    let status = client.route(reserved).await.unwrap_err();
    assert_eq!(reason(&status), "ARGUMENT_INVALID");
    // Without a key nothing is remembered.
    for _ in 0..2 {
        let answer = client.route(request("", "1")).await.unwrap();
        assert!(!answer.into_inner().deduplicated);
    }
    assert_eq!(instance.counts.borrow().begun, 3);
}

#[tokio::test]
async fn callers_do_not_see_each_other_s_answers() {
    let instance = Instance::start(Act::Echo).await;
    let mut config = config();
    config.instances = vec![
        planned("A", instance.address),
        planned("B", instance.address),
    ];
    config.keys.keys = vec![
        Key::with_all_rights("red", "red-key"),
        Key::with_all_rights("blue", "blue-key"),
    ];
    let app = start(config).await;
    for (key, payload) in [("red-key", "1"), ("blue-key", "2")] {
        let channel = channel(app.address()).await;
        let bearer = Bearer(Arc::from(key));
        let mut client = OrchestratorServiceClient::with_interceptor(channel, bearer);
        let answer = client.route(request("k", payload)).await.unwrap();
        assert!(!answer.into_inner().deduplicated);
    }
    assert_eq!(instance.counts.borrow().begun, 2);
}
