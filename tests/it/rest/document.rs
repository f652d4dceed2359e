//! The OpenAPI document and what really answers are the same.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use super::ask::{Answer, Ask, WAYS, Way};
use super::reading::Reading;
use crate::stage::{App, KEY, config, embedded, start};

async fn document(app: &App, way: Way, path: &str) -> Value {
    let answer = Ask::bare(Method::GET, path).send(way, app.address()).await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// The beginning of an answer that goes on.
async fn begun(ask: &Ask, way: Way, app: &App) -> Answer {
    let reading = Reading::open(ask, way, app.address()).await;
    Answer {
        status: reading.status,
        headers: reading.headers.clone(),
        body: Vec::new(),
    }
}

fn verbs() -> [Method; 7] {
    [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ]
}

#[tokio::test]
async fn every_method_of_every_path_answers_as_the_document_says_and_no_other_does() {
    let app = start(embedded()).await;
    let spawn = Ask::post("/api/orchestrator/sessions/spawn", r#"{"sessionId": "s1"}"#);
    let spawned = spawn.send(Way::Http1, app.address()).await;
    assert_eq!(spawned.status, 200, "{spawned:?}");
    for way in WAYS {
        let document = document(&app, way, "/openapi.json").await;
        assert_eq!(document["openapi"], "3.1.0");
        for (path, described) in document["paths"].as_object().unwrap() {
            let known: BTreeSet<_> = described.as_object().unwrap().keys().collect();
            for start in ["/api", ""] {
                for verb in verbs() {
                    let path = format!("{start}{path}").replace("{id}", "s1");
                    let ask = Ask::bare(verb.clone(), &path);
                    let ask = ask.with("authorization", &format!("Bearer {KEY}"));
                    let is_stream = path.ends_with("/events");
                    let answer = if is_stream && verb == Method::GET {
                        begun(&ask, way, &app).await
                    } else {
                        ask.send(way, app.address()).await
                    };
                    let name = verb.as_str().to_lowercase();
                    let is_get = known.contains(&"get".to_owned());
                    let told = format!("{way:?} {verb} {path}: {answer:?}");
                    if verb == Method::OPTIONS {
                        assert_eq!(answer.status, 204, "{told}");
                        assert_eq!(answer.header("allow").contains("GET"), is_get, "{told}");
                    } else if known.contains(&name) {
                        let responses = &described[&name]["responses"];
                        let response = &responses[answer.status.to_string()];
                        assert!(response.is_object(), "undocumented: {told}");
                        let form = answer.header("content-type");
                        assert!(
                            response["content"][form].is_object(),
                            "undocumented: {told}"
                        );
                        assert!(![404, 405].contains(&answer.status), "{told}");
                    } else if verb == Method::HEAD && is_get {
                        assert_eq!((answer.status, answer.body.len()), (200, 0), "{told}");
                        let has_no_length = answer.header("content-length").is_empty();
                        assert_eq!(has_no_length, is_stream, "{told}");
                    } else {
                        assert_eq!(answer.status, 405, "{told}");
                        assert_ne!(answer.header("allow"), "", "{told}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn the_document_is_the_same_at_both_its_paths() {
    let app = start(config()).await;
    let one = document(&app, Way::Http1, "/openapi.json").await;
    assert_eq!(one, document(&app, Way::Http2, "/api/openapi.json").await);
}
