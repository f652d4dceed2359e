//! The same methods as JSON: over HTTP/1.1 and HTTP/2, with and without `/api`.

use std::time::Duration;

use orchestrator::app::App;
use orchestrator::payload_json;
use serde_json::json;

use crate::stage::instance::{Act, Instance};
use crate::stage::{Config, config, embedded, planned, start};

pub(crate) mod ask;
mod body;
mod document;
mod events;
mod health_events;
mod leaving;
mod reading;
mod resume;
mod sessions;
mod time;

use ask::{Ask, WAYS, Way};

/// An orchestrator in front of one instance, A.
pub(crate) async fn house(act: Act) -> (App, Instance) {
    let instance = Instance::start(act).await;
    let app = start(Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    (app, instance)
}

#[tokio::test]
async fn a_task_goes_to_one_instance_and_its_answer_comes_back_as_it_was() {
    let (app, instance) = house(Act::Echo).await;
    let payload = r#"{"z":1,"a":[9007199254740992,0.1,null],"":"é"}"#;
    let body = format!(r#"{{"instances": ["A"], "payload": {payload}, "timeout": 5}}"#);
    for way in WAYS {
        for path in ["/api/orchestrator/route", "/orchestrator/route"] {
            let answer = Ask::post(path, body.as_str())
                .with("x-request-id", "req-1")
                .send(way, app.address())
                .await;
            let text = String::from_utf8(answer.body.clone()).unwrap();
            assert_eq!(answer.status, 200, "{text}");
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("x-request-id"), "req-1");
            let start = format!(
                r#"{{"instance":"A","payload":{payload},"attempts":[{{"instance":"A","kind":"first","#
            );
            assert!(text.starts_with(&start), "{way:?} {path}: {text}");
        }
    }
    let sent = payload_json::from_json(payload).unwrap();
    for seen in instance.payloads.lock().unwrap().iter() {
        assert_eq!(seen.as_ref(), Some(sent.encoded()));
    }
    assert_eq!(instance.counts.borrow().answered, 4);
}

#[tokio::test]
async fn an_aggregated_fan_out_is_an_array_in_roster_order() {
    let good = Instance::start(Act::Echo).await;
    let slow = Instance::start(Act::EchoAfter(Duration::from_millis(50))).await;
    let bad = Instance::start(Act::Fail(tonic::Code::Internal)).await;
    let nan = [&[0x11][..], &f64::NAN.to_le_bytes()].concat();
    let odd = Instance::start(Act::Answer(nan.into())).await;
    let app = start(Config {
        instances: vec![
            planned("A", slow.address),
            planned("B", bad.address),
            planned("C", good.address),
            planned("D", odd.address),
        ],
        ..config()
    })
    .await;
    for way in WAYS {
        let body = r#"{"targets": ["A-D"], "payload": {"data": 1}, "aggregate": true}"#;
        let answer = Ask::post("/api/orchestrator/fanout", body);
        let answer = answer.send(way, app.address()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        let of = |name: &str| -> Vec<_> {
            let results = told.as_array().unwrap().iter();
            results.map(|result| result[name].clone()).collect()
        };
        assert_eq!(of("instance"), ["A", "B", "C", "D"]);
        assert_eq!(of("status"), ["answered", "failed", "answered", "answered"]);
        assert_eq!(told[0]["payload"], json!({"data": 1}));
        assert_eq!(told[1]["error"]["code"], "instance_failed");
        assert_eq!(told[1]["error"]["instance"], "B");
        assert_eq!(told[1].get("payload"), None);
        // What JSON cannot say takes nobody else with it.
        assert_eq!(told[3]["error"]["code"], "answer_malformed");
        assert_eq!(told[3].get("payload"), None);
        assert_eq!(told[2]["attempts"][0]["kind"], "first");

        let alone = Ask::post("/api/orchestrator/route", r#"{"instances": ["D"]}"#);
        let alone = alone.send(way, app.address()).await;
        assert_eq!(alone.failure(), (502, "answer_malformed".to_owned()));
        assert_eq!(alone.json()["error"]["instance"], "D");
        assert_eq!(alone.json()["error"]["retryable"], false);
    }
}

#[tokio::test]
async fn an_unmet_completion_carries_its_results() {
    let bad = Instance::start(Act::Fail(tonic::Code::Internal)).await;
    let good = Instance::start(Act::Echo).await;
    let app = start(Config {
        instances: vec![planned("A", good.address), planned("B", bad.address)],
        ..config()
    })
    .await;
    for way in WAYS {
        let body = r#"{"targets": ["A", "B"], "completion": {"first": 2}, "aggregate": true}"#;
        let answer = Ask::post("/api/orchestrator/fanout", body);
        let answer = answer.send(way, app.address()).await;
        assert_eq!(answer.failure(), (503, "completion_unmet".to_owned()));
        let told = answer.json();
        assert_eq!(told["error"]["results"][0]["status"], "answered");
        assert_eq!(told["error"]["results"][1]["status"], "failed");

        let body = r#"{"targets": ["A", "B"], "completion": {"first": 2}}"#;
        let answer = Ask::post("/api/orchestrator/fanout", body);
        let answer = answer.send(way, app.address()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        let lines = answer.lines();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(lines[0]["started"]["roster"], json!(["A", "B"]));
        assert_eq!(lines[3]["summary"]["missing"], json!(["B"]));
        assert_eq!(lines[4]["error"]["code"], "completion_unmet");
        assert_eq!(
            lines[4]["error"]["requestId"],
            answer.header("x-request-id")
        );
    }
}

#[tokio::test]
async fn health_is_a_plain_map_in_the_order_of_the_question() {
    let app = start(embedded()).await;
    let address = app.address();
    for way in WAYS {
        let ask = |path: &str| {
            let ask = Ask::get(path);
            async move { ask.send(way, address).await }
        };
        let answer = ask("/api/orchestrator/health?instances=C,A-B").await;
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(text, r#"{"C":"healthy","A":"healthy","B":"healthy"}"#);
        let whole = ask("/orchestrator/health").await.json();
        assert_eq!(whole.as_object().unwrap().len(), 8);
        let verbose = ask("/api/orchestrator/health?instances=A&verbose=true").await;
        assert_eq!(verbose.json()["A"]["reason"], "answers its probes");
        let unknown = ask("/api/orchestrator/health?instances=Z").await;
        assert_eq!(unknown.failure(), (404, "target_unknown".to_owned()));
        assert_eq!(
            ask("/api/health/check").await.json(),
            json!({"status": "healthy"})
        );
    }
}

#[tokio::test]
async fn instances_come_and_go_and_are_listed_by_pages() {
    let instance = Instance::start(Act::Echo).await;
    let app = start(config()).await;
    for way in WAYS {
        let post = |path: &str, body: serde_json::Value| {
            let ask = Ask::post(path, body.to_string());
            let address = app.address();
            async move { ask.send(way, address).await }
        };
        let there = instance.address.to_string();
        for id in ["w1", "w2", "w3"] {
            let body = json!({
                "skillId": "orchestrator",
                "instance": {"id": id, "address": there, "labels": {"zone": "a"}},
                "incarnation": 7,
                "lease": 60,
            });
            let answer = post("/api/cluster/register", body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.json()["expireTime"].is_string());
        }
        let page = Ask::get("/api/cluster/instances?pageSize=2");
        let page = page.send(way, app.address()).await.json();
        assert_eq!(
            page["instances"][0]["instance"]["labels"],
            json!({"zone": "a"})
        );
        assert_eq!(page["nextPageToken"], "w2");
        let next = Ask::get("/api/cluster/instances?page_size=2&page_token=w2");
        let next = next.send(way, app.address()).await.json();
        assert_eq!(next["instances"][0]["instance"]["id"], "w3");
        assert_eq!(next["nextPageToken"], "");

        let stale = json!({"id": "w1", "incarnation": 6});
        let stale = post("/api/cluster/deregister", stale).await;
        assert_eq!(stale.failure(), (409, "incarnation_stale".to_owned()));
        for id in ["w1", "w2", "w3"] {
            // A number beyond 2^53 is a text in JSON.
            let gone = json!({"id": id, "incarnation": "7"});
            let gone = post("/api/cluster/deregister", gone).await;
            assert_eq!((gone.status, gone.json()), (200, json!({})));
        }
        let gone = json!({"id": "w1", "incarnation": 7});
        let gone = post("/api/cluster/deregister", gone).await;
        assert_eq!(gone.failure(), (404, "registration_unknown".to_owned()));
        let refused = json!({"instance": {"id": "x", "address": "169.254.1.1:80"}});
        let refused = post("/api/cluster/register", refused).await;
        assert_eq!(refused.failure(), (403, "address_not_allowed".to_owned()));
    }
}

#[tokio::test]
async fn a_skill_tells_what_it_offers() {
    let app = start(config()).await;
    let ask = |body: &str| {
        let ask = Ask::post("/api/cluster/register", body);
        let address = app.address();
        async move { ask.send(Way::Http1, address).await }
    };
    let told = ask(r#"{"skillId": "orchestrator"}"#).await.json();
    assert_eq!(told["skillId"], "orchestrator");
    assert_eq!(
        told["hint"],
        "orchestrate delegate multi-instance session spawn send fanout aggregate instances"
    );
    assert_eq!(told["endpoints"][0]["path"], "/api/orchestrator/route");
    let other = ask(r#"{"skillId": "other"}"#).await;
    assert_eq!(other.failure(), (400, "argument_invalid".to_owned()));
    let nothing = ask("{}").await;
    assert_eq!(nothing.failure(), (400, "argument_invalid".to_owned()));
}

#[tokio::test]
async fn too_many_says_when_to_come_again() {
    let (app, _instance) = house(Act::Fail(tonic::Code::ResourceExhausted)).await;
    for way in WAYS {
        let ask = Ask::post("/api/orchestrator/route", r#"{"instances": ["A"]}"#);
        let answer = ask.send(way, app.address()).await;
        assert_eq!(answer.failure(), (429, "instance_failed".to_owned()));
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn an_instance_is_drained_and_what_would_happen_is_explained() {
    let (app, instance) = house(Act::Echo).await;
    for way in WAYS {
        let post = |path: &str, body: &str| {
            let (ask, address) = (Ask::post(path, body), app.address());
            async move { ask.send(way, address).await }
        };
        let explain = r#"{"route": {"instances": ["A"], "payload": {"data": 1}}}"#;
        let before = post("/api/orchestrator/explain", explain).await;
        assert_eq!(before.status, 200, "{before:?}");
        let drained = post("/api/cluster/drain", r#"{"instances": ["A"]}"#).await;
        assert_eq!(drained.status, 200, "{drained:?}");
        assert_eq!(drained.json()["instances"][0]["state"], "draining");
        let moving = r#"{"instances": ["A"], "moveSessions": true}"#;
        let moved = post("/api/cluster/drain", moving).await;
        assert_eq!(moved.json()["instances"][0]["drained"], true, "{moved:?}");
        let health = Ask::get("/api/orchestrator/health");
        let health = health.send(way, app.address()).await.json();
        assert_eq!(health, json!({"A": "draining"}));
        let refused = post("/api/orchestrator/route", r#"{"instances": ["A"]}"#).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        let after = post("/api/orchestrator/explain", explain).await;
        assert_eq!(after.status, 200, "{after:?}");
        assert_ne!(after.body, before.body);
        let back = post("/api/cluster/undrain", r#"{"instances": ["A"]}"#).await;
        assert_eq!(back.json()["instances"][0]["state"], "healthy", "{back:?}");
        let nobody = post("/api/cluster/drain", r#"{"instances": ["Z"]}"#).await;
        assert_eq!(nobody.failure(), (404, "target_unknown".to_owned()));
        let nothing = post("/api/orchestrator/explain", "{}").await;
        assert_eq!(nothing.failure(), (400, "argument_invalid".to_owned()));
    }
    assert_eq!(instance.counts.borrow().begun, 0);
}
