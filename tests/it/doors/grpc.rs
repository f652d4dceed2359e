//! A call by gRPC, and how it ends.

use std::net::SocketAddr;

use http::StatusCode;
use orchestrator::domain::failure::{Reason, Status as Said};
use orchestrator::ingress::failure_table::codes;
use orchestrator::payload_json;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{
    Attempt, CallPolicy, Completion, FailedAttempts, FanoutRequest, RouteRequest, Selection,
    fanout_response,
};
use prost::Message as _;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::{Case, End, Verb, outcomes};
use crate::stage::channel;

fn attempts(attempts: &[Attempt]) -> String {
    let each = attempts.iter().map(|it| {
        let kind = it.kind().as_str_name();
        let kind = kind.strip_prefix("ATTEMPT_KIND_").unwrap();
        format!("{} {}", it.instance, kind.to_lowercase())
    });
    each.collect::<Vec<_>>().join(", ")
}

fn failed(status: &Status, told: Option<String>) -> (End, u16) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?}"));
    let said = tonic_types::pb::Status::decode(status.details()).unwrap();
    let tried = said.details.iter();
    let tried = tried.filter(|it| it.type_url.ends_with("FailedAttempts"));
    let tried: Vec<_> = tried
        .flat_map(|it| FailedAttempts::decode(&it.value[..]).unwrap().attempts)
        .collect();
    let end = End {
        code: info.reason.to_lowercase(),
        told: told.unwrap_or_else(|| attempts(&tried)),
        retryable: Some(info.metadata["retryable"] == "true"),
        instance: info.metadata.get("instance").cloned(),
    };
    (end, http(status).as_u16())
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

fn duration(millis: u64) -> Option<prost_types::Duration> {
    let duration = std::time::Duration::from_millis(millis);
    (millis != 0).then(|| duration.try_into().unwrap())
}

fn policy(case: &Case) -> CallPolicy {
    let selection = match (case.verb, case.hash_key) {
        (Verb::Fanout | Verb::Aggregate, _) => Selection::Unspecified,
        (Verb::Route, "") => Selection::Ordered,
        (Verb::Route, _) => Selection::Hash,
    };
    CallPolicy {
        selection: selection.into(),
        hash_key: case.hash_key.to_owned(),
        idempotent: case.idempotent,
        attempts_max: case.attempts_max,
        per_try_timeout: duration(case.per_try_ms),
        ..Default::default()
    }
}

pub(super) fn request<M>(case: &Case, message: M) -> Request<M> {
    let mut request = Request::new(message);
    if let Some(key) = case.key {
        let value = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

pub(super) fn route(case: &Case) -> RouteRequest {
    let payload = payload_json::from_json(case.payload).unwrap();
    RouteRequest {
        instances: case.targets.clone(),
        payload: Some(payload.into_encoded()),
        policy: Some(policy(case)),
        ..Default::default()
    }
}

pub(super) fn fanout(case: &Case) -> FanoutRequest {
    let payload = payload_json::from_json(case.payload).unwrap();
    FanoutRequest {
        targets: case.targets.clone(),
        payload: Some(payload.into_encoded()),
        aggregate: case.verb == Verb::Aggregate,
        completion: Some(Completion {
            rule: case.rule,
            failures_max: case.failures_max,
        }),
        policy: Some(policy(case)),
        ..Default::default()
    }
}

pub(super) async fn end(case: &Case, address: SocketAddr) -> (End, u16) {
    let mut client = OrchestratorServiceClient::new(channel(address).await);
    if case.verb == Verb::Route {
        return match client.route(request(case, route(case))).await {
            Err(status) => failed(&status, None),
            Ok(answer) => {
                let answer = answer.into_inner();
                let told = attempts(&answer.attempts);
                (
                    End {
                        code: String::new(),
                        told,
                        retryable: None,
                        instance: Some(answer.instance),
                    },
                    200,
                )
            }
        };
    }
    let mut events = match client.fanout(request(case, fanout(case))).await {
        Ok(events) => events.into_inner(),
        Err(status) => return failed(&status, None),
    };
    let mut told = Vec::new();
    loop {
        let partials = match events.message().await {
            Err(status) => return failed(&status, Some(outcomes(told))),
            Ok(None) => {
                return (
                    End {
                        code: String::new(),
                        told: outcomes(told),
                        retryable: None,
                        instance: None,
                    },
                    200,
                );
            }
            Ok(Some(event)) => match event.event.unwrap() {
                fanout_response::Event::Started(_) => vec![],
                fanout_response::Event::Partial(_) if case.verb == Verb::Aggregate => vec![],
                fanout_response::Event::Partial(partial) => vec![partial],
                fanout_response::Event::Summary(summary) => summary.aggregate,
            },
        };
        told.extend(partials.iter().map(|it| {
            let name = it.outcome().as_str_name().strip_prefix("OUTCOME_").unwrap();
            format!("{} {}", it.instance, name.to_lowercase())
        }));
    }
}
