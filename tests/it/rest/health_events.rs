//! Following the health of instances as server-sent events.

use http::Method;
use serde_json::{Value, json};

use super::ask::{Ask, WAYS, Way};
use super::house;
use super::reading::Reading;
use crate::stage::instance::Act;
use crate::stage::{App, embedded, start};

const EVENTS: &str = "/api/orchestrator/health/events";

async fn watch(app: &App, way: Way, query: &str) -> Reading {
    let ask = Ask::get(&format!("{EVENTS}{query}")).with("accept", "text/event-stream");
    let reading = Reading::open(&ask, way, app.address()).await;
    assert_eq!(reading.status, 200);
    assert_eq!(reading.headers["content-type"], "text/event-stream");
    reading
}

fn states(change: &Value) -> Vec<(&str, &str)> {
    let instances = change["instances"].as_array().unwrap().iter();
    instances
        .map(|it| {
            (
                it["instance"].as_str().unwrap(),
                it["state"].as_str().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn the_states_come_first_and_then_each_change() {
    for way in WAYS {
        let (app, _instance) = house(Act::Echo).await;
        let mut watch = watch(&app, way, "?instances=*").await;
        let first = watch.expect("health").await;
        assert_eq!(states(&first.data), [("A", "healthy")]);
        assert_eq!(first.data["removed"], json!([]));
        assert_eq!(first.id, None);
        for (path, state) in [("drain", "draining"), ("undrain", "healthy")] {
            let ask = Ask::post(&format!("/api/cluster/{path}"), r#"{"instances": ["A"]}"#);
            assert_eq!(ask.send(way, app.address()).await.status, 200);
            loop {
                let change = watch.expect("health").await;
                if states(&change.data) == [("A", state)] {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_watch_ends_with_the_time_that_its_caller_has_and_says_so() {
    let app = start(embedded()).await;
    for way in WAYS {
        let ask = Ask::get(EVENTS).with("request-timeout", "0.05");
        let mut watch = Reading::open(&ask, way, app.address()).await;
        let end = loop {
            let event = watch.next().await.expect("it says why it ends");
            if event.name != "health" {
                break event;
            }
        };
        assert_eq!(end.name, "failed");
        assert_eq!(end.data["error"]["code"], "deadline_exceeded");
        assert_eq!(watch.next().await, None);
    }
}

#[tokio::test]
async fn who_asks_for_what_there_is_not_is_told_at_once() {
    let app = start(embedded()).await;
    for way in WAYS {
        let ask = |query: &str| Ask::get(&format!("{EVENTS}{query}"));
        let unknown = ask("?instances=Z").send(way, app.address()).await;
        assert_eq!(unknown.failure(), (404, "target_unknown".to_owned()));
        let json = ask("").with("accept", "application/json");
        let json = json.send(way, app.address()).await;
        assert_eq!(json.failure(), (406, "not_acceptable".to_owned()));
        let verb = Method::HEAD;
        let head = Ask { verb, ..ask("") }.send(way, app.address()).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
}

#[tokio::test]
async fn a_watch_of_an_orchestrator_that_stops_says_so() {
    for way in WAYS {
        let app = start(embedded()).await;
        let mut watch = watch(&app, way, "").await;
        assert_eq!(states(&watch.expect("health").await.data).len(), 8);
        let stopping = tokio::task::spawn(app.stop());
        let end = loop {
            let event = watch.next().await.expect("it says why it ends");
            if event.name != "health" {
                break event;
            }
        };
        assert_eq!(end.data["error"]["code"], "draining");
        assert_eq!(end.data["error"]["retryable"], true);
        stopping.await.unwrap();
    }
}
