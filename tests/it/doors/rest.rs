//! A call by REST, and how it ends.

use std::net::SocketAddr;

use orchestrator::proto::orchestrator::completion;
use serde_json::{Value, json};

use super::{Case, End, Verb, outcomes, routed, text};
use crate::rest::ask::{Ask, Way};

pub(super) fn ask(case: &Case) -> Ask {
    let mut policy = json!({"idempotent": case.idempotent});
    if case.attempts_max != 0 {
        policy["attemptsMax"] = case.attempts_max.into();
    }
    if case.per_try_ms != 0 {
        policy["perTryTimeout"] = json!(format!("{}ms", case.per_try_ms));
    }
    let mut body = json!({});
    body["payload"] = serde_json::from_str(case.payload).unwrap();
    let path = match case.verb {
        Verb::Route => {
            body["instances"] = json!(case.targets);
            policy["selection"] = if case.hash_key.is_empty() {
                "ordered"
            } else {
                "hash"
            }
            .into();
            policy["hashKey"] = case.hash_key.into();
            "/api/orchestrator/route"
        }
        Verb::Fanout | Verb::Aggregate => {
            body["targets"] = json!(case.targets);
            body["aggregate"] = (case.verb == Verb::Aggregate).into();
            let mut completion = match case.rule {
                None => json!({}),
                Some(completion::Rule::First(count)) => json!({"first": count}),
                Some(completion::Rule::Quorum(count)) => json!({"quorum": count}),
                Some(completion::Rule::Majority(is)) => json!({"majority": is}),
            };
            if let Some(count) = case.failures_max {
                completion["failuresMax"] = count.into();
            }
            body["completion"] = completion;
            "/api/orchestrator/fanout"
        }
    };
    body["policy"] = policy;
    let ask = Ask::post(path, body.to_string()).without("authorization");
    match case.key {
        Some(key) => ask.with("authorization", &format!("Bearer {key}")),
        None => ask,
    }
}

pub(super) async fn end(case: &Case, address: SocketAddr) -> (End, u16) {
    let answer = ask(case).send(Way::Http1, address).await;
    let told = |results: &Value, name: &str| {
        let each = results.as_array().into_iter().flatten();
        let each = each.map(|it| format!("{} {}", text(&it["instance"]), text(&it[name])));
        outcomes(each.collect())
    };
    let failure = |error: &Value, told: String| End {
        code: text(&error["code"]),
        told,
        retryable: error["retryable"].as_bool(),
        instance: error["instance"].as_str().map(str::to_owned),
    };
    let good = |told| End {
        code: String::new(),
        told,
        retryable: None,
        instance: None,
    };
    let is_stream = answer.header("content-type") == "application/x-ndjson";
    if is_stream {
        let lines = answer.lines();
        let partials = lines.iter().map(|line| line["partial"].clone());
        let partials: Vec<_> = partials.filter(|it| !it.is_null()).collect();
        let told = told(&json!(partials), "outcome");
        let error = &lines.last().unwrap()["error"];
        let end = if error.is_null() {
            good(told)
        } else {
            failure(error, told)
        };
        return (end, answer.status);
    }
    let whole = answer.json();
    let end = match (case.verb, &whole["error"]) {
        (Verb::Route, _) => routed(&whole),
        (Verb::Fanout | Verb::Aggregate, Value::Null) => good(told(&whole, "status")),
        (Verb::Fanout | Verb::Aggregate, error) => {
            failure(error, told(&error["results"], "status"))
        }
    };
    (end, answer.status)
}
