//! Bodies that cannot be meant: each gets a status of its own that names the place, and reaches no instance.

use serde_json::Value;

use super::ask::{Ask, WAYS, Way};
use super::house;
use crate::stage::App;
use crate::stage::instance::Act;

const ROUTE: &str = "/api/orchestrator/route";

/// A body, the status and the code that it gets, and what the message says of the place.
fn bad() -> Vec<(Vec<u8>, u16, &'static str, &'static str)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let task = |payload: &str| text(&format!(r#"{{"instances": ["A"], "payload": {payload}}}"#));
    let (malformed, argument) = ("request_malformed", "argument_invalid");
    let payload = "payload_invalid";
    vec![
        (text(""), 400, malformed, "line 1, column 1"),
        (
            text("{\n\"instances\": [\"A\""),
            400,
            malformed,
            "line 2, column 17",
        ),
        (
            text(r#"{"instances": ["A"]} x"#),
            400,
            malformed,
            "line 1, column 22",
        ),
        (
            text(r#"{"instances": [NaN]}"#),
            400,
            malformed,
            "line 1, column 16",
        ),
        (task("NaN"), 400, malformed, "line 1, column"),
        (task("[1e999]"), 400, malformed, "line 1, column"),
        (task("Infinity"), 400, malformed, "line 1, column"),
        (task("\"\\ud800\""), 400, malformed, "line 1, column"),
        (task("'single'"), 400, malformed, "line 1, column"),
        (
            b"{\n \"payload\": \"\xff\"}".to_vec(),
            400,
            malformed,
            "line 2, column 14",
        ),
        (task(&deep(1000)), 400, payload, "at payload[0][0]"),
        (task(&deep(100_000)), 400, payload, "at payload[0][0]"),
        (text(&deep(1000)), 400, argument, "body: expected an object"),
        (task(r#"{"a": 1, "a": 2}"#), 400, payload, "at payload.a"),
        (
            task(r#"{"id": 9007199254740993}"#),
            400,
            payload,
            "at payload.id",
        ),
        (
            task("[[100000000000000000000]]"),
            400,
            payload,
            "at payload[0][0]",
        ),
        (
            text(r#"{"instances": ["A"], "instances": ["A"]}"#),
            400,
            argument,
            "instances:",
        ),
        (
            text(r#"{"instances": ["A", 7]}"#),
            400,
            argument,
            "instances[1]:",
        ),
        (
            text(r#"{"instances": {"A": 1}}"#),
            400,
            argument,
            "instances: expected a list",
        ),
        (
            text(r#"{"instance": ["A"]}"#),
            400,
            argument,
            "did you mean instances?",
        ),
        (
            text(r#"{"instances": ["A"], "timeout": "soon"}"#),
            400,
            argument,
            "timeout:",
        ),
        (
            text(r#"{"instances": ["A"], "timeout": 0}"#),
            400,
            argument,
            "timeout:",
        ),
        (
            text(r#"{"instances": ["A"], "policy": {"attemptsMax": 9}}"#),
            400,
            argument,
            "attempts_max",
        ),
        (
            text(r#"{"instances": ["A"], "metadata": {"grpc-x": "1"}}"#),
            400,
            argument,
            "metadata",
        ),
        (text(r#"{"instances": []}"#), 400, "target_invalid", ""),
        (text("{}"), 400, "target_invalid", ""),
        (text(r#"{"instances": ["Z"]}"#), 404, "target_unknown", "Z"),
        (
            text("null"),
            400,
            argument,
            "body: expected an object, found null",
        ),
        (
            text(&format!(r#"{{"payload": "{}"}}"#, "x".repeat(10 << 20))),
            413,
            "message_too_large",
            "4194304",
        ),
        // Small as text and large as it travels.
        (
            task(&format!("[{}1]", "1,".repeat(400_000))),
            413,
            "message_too_large",
            "4194304",
        ),
    ]
}

#[tokio::test]
async fn a_body_that_cannot_be_meant_is_refused_and_the_place_is_named() {
    let (app, instance) = house(Act::Echo).await;
    for (body, status, code, place) in bad() {
        for way in WAYS {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            let answer = Ask::post(ROUTE, body.clone())
                .send(way, app.address())
                .await;
            assert_eq!(
                answer.failure(),
                (status, code.to_owned()),
                "{way:?} {shown}"
            );
            let told = answer.json();
            let message = told["error"]["message"].as_str().unwrap();
            assert!(message.contains(place), "{way:?} {shown}: {message}");
        }
    }
    assert_eq!(instance.counts.borrow().begun, 0);
}

/// Every path that takes a body, by the document that it serves.
async fn paths_with_a_body(app: &App) -> Vec<String> {
    let document = Ask::get("/openapi.json");
    let document = document.send(Way::Http1, app.address()).await.json();
    let paths = document["paths"].as_object().unwrap().iter();
    let takes = |described: &Value| described["post"]["requestBody"].is_object();
    let with_a_body = paths.filter(|(_, described)| takes(described));
    with_a_body.map(|(path, _)| format!("/api{path}")).collect()
}

#[tokio::test]
async fn whatever_the_path_a_body_that_cannot_be_meant_is_refused_with_its_place() {
    let (app, instance) = house(Act::Echo).await;
    let paths = paths_with_a_body(&app).await;
    assert!(8 <= paths.len(), "{paths:?}");
    let text = |text: &str| text.as_bytes().to_vec();
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    // Places that every message can have, whatever its fields are.
    let bodies = [
        (text(""), 400, "line 1, column 1"),
        (text("{\n"), 400, "line 2, column"),
        (text("{\"x\": NaN}"), 400, "line 1, column"),
        (text("[]"), 400, "body: expected an object, found"),
        (text("7"), 400, "body: expected an object, found"),
        (text(&deep), 400, "body: expected an object, found"),
        (text("{\"nothing\": 1}"), 400, "nothing: unknown field"),
        (b"{\"\xc3\x28\": 1}".to_vec(), 400, "line 1, column 3"),
        (vec![b' '; 10 << 20], 413, "the body is too large"),
    ];
    for path in &paths {
        for (body, status, place) in &bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
            let ask = Ask::post(path, body.clone());
            let answer = ask.send(Way::Http1, app.address()).await;
            assert_eq!(answer.failure().0, *status, "{path} {shown}: {answer:?}");
            let told = answer.json();
            let message = told["error"]["message"].as_str().unwrap();
            assert!(message.contains(place), "{path} {shown}: {message}");
        }
    }
    assert_eq!(instance.counts.borrow().begun, 0);
}

#[tokio::test]
async fn the_form_of_a_request_is_looked_at_before_its_body() {
    let (app, instance) = house(Act::Echo).await;
    let good = || Ask::post(ROUTE, r#"{"instances": ["A"]}"#);
    let form = |form: &str| good().without("content-type").with("content-type", form);
    for way in WAYS {
        for (ask, status, code) in [
            (form("text/plain"), 415, "media_type_unsupported"),
            (
                form("application/x-www-form-urlencoded"),
                415,
                "media_type_unsupported",
            ),
            (
                form("application/json; charset=utf-16"),
                415,
                "media_type_unsupported",
            ),
            (
                good().with("content-encoding", "gzip"),
                415,
                "media_type_unsupported",
            ),
            (good().with("accept", "text/html"), 406, "not_acceptable"),
            (
                Ask::post(
                    "/api/orchestrator/fanout",
                    r#"{"targets": ["A"], "aggregate": true}"#,
                )
                .with("accept", "application/x-ndjson"),
                406,
                "not_acceptable",
            ),
            (
                good().with("request-timeout", "soon"),
                400,
                "timeout_invalid",
            ),
            (good().with("grpc-timeout", "1x"), 400, "timeout_invalid"),
            (
                Ask::post(&format!("{ROUTE}?timeout=1"), "{}"),
                400,
                "argument_invalid",
            ),
            (
                Ask::get("/api/orchestrator/health?instance=A"),
                400,
                "argument_invalid",
            ),
            (
                Ask::get("/api/orchestrator/health?instances=%ff"),
                400,
                "argument_invalid",
            ),
            (Ask::get("/api/orchestrator/nothing"), 404, "method_unknown"),
            (Ask::get("/api"), 404, "method_unknown"),
            (Ask::post(&format!("{ROUTE}/"), "{}"), 404, "method_unknown"),
            (
                Ask::post("/openclaw.orchestrator.v1.OrchestratorService/Route", "{}"),
                404,
                "method_unknown",
            ),
        ] {
            let answer = ask.send(way, app.address()).await;
            assert_eq!(
                answer.failure(),
                (status, code.to_owned()),
                "{way:?} {ask:?}"
            );
            if status == 415 {
                assert_eq!(answer.header("accept"), "application/json");
            }
        }
        for ask in [
            good().without("content-type"),
            form("Application/JSON; charset=UTF-8"),
            good().with("accept", "text/html, */*;q=0.1"),
        ] {
            let answer = ask.send(way, app.address()).await;
            assert_eq!(answer.status, 200, "{way:?} {ask:?}");
        }
    }
    assert_eq!(instance.counts.borrow().begun, 6);
}
