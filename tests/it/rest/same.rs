//! The same call by either door has the same end: code, HTTP status, instance and attempts.

use http::StatusCode;
use orchestrator::domain::failure::{Reason, Status as Said};
use orchestrator::ingress::failure_table::codes;
use orchestrator::proto::orchestrator::{
    CallPolicy, Completion, FailedAttempts, Fallback, FanoutRequest, RouteRequest, Selection,
    completion, fanout_response,
};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::ask::{Ask, Way};
use crate::stage::instance::{Act, Instance};
use crate::stage::{Config, client, config, planned, reason, start, text};

/// How a call has ended: the reason, whether it is retryable, the instance, and instance and kind of each try.
#[derive(Debug, PartialEq, Eq)]
struct End {
    reason: String,
    retryable: bool,
    instance: String,
    attempts: Vec<(String, String)>,
}

fn by_grpc(status: &Status) -> End {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    let said = tonic_types::pb::Status::decode(status.details()).unwrap();
    let tried = said.details.iter();
    let tried = tried.filter(|it| it.type_url.ends_with("FailedAttempts"));
    let tried: Vec<_> = tried
        .flat_map(|it| FailedAttempts::decode(&it.value[..]).unwrap().attempts)
        .collect();
    let kind = |attempt: &orchestrator::proto::orchestrator::Attempt| {
        let name = attempt.kind().as_str_name();
        name.strip_prefix("ATTEMPT_KIND_").unwrap().to_lowercase()
    };
    End {
        reason: info.reason.to_lowercase(),
        retryable: info.metadata["retryable"] == "true",
        instance: info.metadata.get("instance").cloned().unwrap_or_default(),
        attempts: tried
            .iter()
            .map(|it| (it.instance.clone(), kind(it)))
            .collect(),
    }
}

fn by_rest(told: &Value) -> End {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let error = &told["error"];
    let attempts = error["attempts"].as_array().into_iter().flatten();
    End {
        reason: text(&error["code"]),
        retryable: error["retryable"].as_bool().unwrap(),
        instance: text(&error["instance"]),
        attempts: attempts
            .map(|attempt| (text(&attempt["instance"]), text(&attempt["kind"])))
            .collect(),
    }
}

fn instances() -> Vec<(String, Code)> {
    let codes = (1..=16).map(Code::from_i32);
    codes
        .map(|code| (format!("i-{}", code as i32), code))
        .collect()
}

#[tokio::test]
async fn a_call_that_fails_has_the_same_end_by_either_door() {
    let mut running = Vec::new();
    let mut fleet = Vec::new();
    for (id, code) in instances() {
        let instance = Instance::start(Act::Fail(code)).await;
        fleet.push(planned(&id, instance.address));
        running.push(instance);
    }
    let silent = Instance::start(Act::Silent).await;
    fleet.push(planned("silent", silent.address));
    let mut gone = Instance::start(Act::Echo).await;
    fleet.push(planned("gone", gone.address));
    gone.kill();
    let mut config = config();
    // Those that fail are asked by both doors, and by one after the other.
    config.health.ejection.failures_in_a_row = 1000;
    config.health.ejection.success_percent_min = 0;
    let app = start(Config {
        instances: fleet,
        ..config
    })
    .await;
    let mut client = client(&app).await;
    let ordered = |idempotent, attempts_max| CallPolicy {
        selection: Selection::Ordered.into(),
        fallback: Fallback::ListedOnly.into(),
        idempotent,
        attempts_max,
        ..Default::default()
    };
    let mut cases: Vec<(Vec<String>, CallPolicy, i32)> = instances()
        .into_iter()
        .map(|(id, _)| (vec![id], ordered(false, 1), 0))
        .collect();
    let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    cases.extend([
        (list(&["i-14", "i-8", "i-13"]), ordered(true, 3), 0),
        (list(&["i-14", "i-8", "i-13"]), ordered(false, 3), 0),
        (list(&["i-3", "i-14"]), ordered(true, 2), 0),
        (list(&["gone"]), ordered(false, 1), 0),
        (list(&["silent"]), ordered(false, 1), 60),
        (list(&["nobody"]), ordered(false, 1), 0),
        (list(&["i-1-"]), ordered(false, 1), 0),
        (list(&[]), ordered(false, 1), 0),
        (list(&["i-3"]), ordered(false, 9), 0),
    ]);
    for (instances, policy, millis) in cases {
        let timeout = (millis != 0).then_some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        });
        let request = RouteRequest {
            instances: instances.clone(),
            policy: Some(policy.clone()),
            timeout,
            ..Default::default()
        };
        let status = client.route(request).await.unwrap_err();
        let mut body = json!({"instances": instances, "policy": {
            "selection": "ordered",
            "fallback": "listed_only",
            "idempotent": policy.idempotent,
            "attemptsMax": policy.attempts_max,
        }});
        if millis != 0 {
            body["timeout"] = json!(f64::from(millis) / 1000.0);
        }
        let ask = Ask::post("/api/orchestrator/route", body.to_string());
        let answer = ask.send(Way::Http1, app.address()).await;
        let told = answer.json();
        assert_eq!(by_rest(&told), by_grpc(&status), "{body}");
        assert_eq!(answer.status, http(&status).as_u16(), "{body}: {told}");
    }
}

#[tokio::test]
async fn a_fan_out_has_the_same_outcomes_by_either_door() {
    let good = Instance::start(Act::Echo).await;
    let bad = Instance::start(Act::Fail(Code::NotFound)).await;
    let silent = Instance::start(Act::Silent).await;
    let mut gone = Instance::start(Act::Echo).await;
    let app = start(Config {
        instances: vec![
            planned("A", good.address),
            planned("B", bad.address),
            planned("C", silent.address),
            planned("D", gone.address),
        ],
        ..config()
    })
    .await;
    gone.kill();
    let mut client = client(&app).await;
    // A rule, as gRPC has it and as JSON has it, and the reason it ends with.
    let quorum = |count| Some(completion::Rule::Quorum(count));
    for (rule, told, end) in [
        (None, json!({}), ""),
        (Some(completion::Rule::First(1)), json!({"first": 1}), ""),
        (quorum(1), json!({"quorum": 1}), ""),
        (quorum(4), json!({"quorum": 4}), "completion_unmet"),
        (
            Some(completion::Rule::First(2)),
            json!({"first": 2}),
            "completion_unmet",
        ),
    ] {
        let is_decided_early =
            !told.as_object().unwrap().is_empty() && !told["first"].eq(&json!(2));
        let request = FanoutRequest {
            targets: vec!["A-D".into()],
            payload: text("task"),
            aggregate: true,
            timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: 300_000_000,
            }),
            completion: Some(Completion {
                rule,
                failures_max: None,
            }),
            ..Default::default()
        };
        let mut events = client.fanout(request).await.unwrap().into_inner();
        let (mut results, mut ended) = (Vec::new(), String::new());
        loop {
            match events.message().await {
                Ok(Some(event)) => {
                    if let Some(fanout_response::Event::Summary(summary)) = event.event {
                        results = summary.aggregate;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    ended = reason(&status).to_lowercase();
                    break;
                }
            }
        }
        assert_eq!(ended, end, "{told}");
        let body = json!({
            "targets": ["A-D"],
            "payload": "task",
            "aggregate": true,
            "timeout": "0.3s",
            "completion": told,
        });
        let ask = Ask::post("/api/orchestrator/fanout", body.to_string());
        let answer = ask.send(Way::Http1, app.address()).await.json();
        assert_eq!(
            answer["error"]["code"].as_str().unwrap_or_default(),
            end,
            "{answer}"
        );
        let list = answer
            .as_array()
            .or_else(|| answer["error"]["results"].as_array());
        let by_rest: Vec<_> = list
            .unwrap()
            .iter()
            .map(|result| result["status"].as_str().unwrap().to_owned())
            .collect();
        let by_grpc: Vec<_> = results
            .iter()
            .map(|partial| {
                let name = partial.outcome().as_str_name();
                name.strip_prefix("OUTCOME_").unwrap().to_lowercase()
            })
            .collect();
        // Who is cancelled when a rule decides early is a matter of who was faster.
        if is_decided_early {
            assert_eq!(by_rest.len(), by_grpc.len(), "{told}");
        } else {
            assert_eq!(by_rest, by_grpc, "{told}");
            assert_eq!(
                by_rest,
                ["answered", "failed", "timed_out", "failed"],
                "{told}"
            );
        }
    }
}

/// The HTTP status that the table has for what gRPC was told.
fn http(status: &Status) -> StatusCode {
    let details = status.get_error_details();
    let name = &details.error_info().unwrap().reason;
    let own = Reason::ALL
        .into_iter()
        .filter(|reason| reason.name() == name);
    let said = (1..=16)
        .filter_map(Said::from_number)
        .map(Reason::InstanceFailed);
    let fits = |reason: &Reason| reason.name() == name && codes(*reason).0 == status.code();
    let found = own.chain(said).find(fits);
    codes(found.unwrap_or_else(|| panic!("{status:?}"))).1
}
