//! Route, Explain, Health and HealthWatch.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;
use tokio_stream::StreamExt as _;
use tonic::body::Body;

use super::super::failure_body::{Problem, json};
use super::super::methods::{NotRouted, attempts_told};
use super::events::{self, Event};
use super::{Call, Shared, answer};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::task::Attempt;
use crate::proto::orchestrator::{
    ExplainRequest, HealthRequest, HealthState, HealthWatchRequest, InstanceHealth, RouteRequest,
};

pub(super) async fn route(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<RouteRequest>(shared, &[]).await?;
    match shared.orchestrator.route(arrival, asked.message).await {
        Ok(answered) => match answer::message_json(shared, "RouteResponse", &answered) {
            Ok(made) => Ok(json(StatusCode::OK, Box::<str>::from(made).into_string())),
            Err(error) => Err(Problem::of(no_json(&answered.instance, &error))),
        },
        Err(NotRouted::Refused(failure)) => Err(Problem::of(failure)),
        Err(NotRouted::Unanswered(unanswered)) => {
            let problem = Problem::of(unanswered.failure);
            Err(match attempts_json(shared, unanswered.attempts) {
                Some(attempts) => problem.with_attempts(attempts),
                None => problem,
            })
        }
    }
}

/// The instance has answered, with what JSON cannot say.
pub(super) fn no_json(instance: &str, error: &impl std::fmt::Display) -> Failure {
    let detail = error.to_string();
    match InstanceId::parse(instance) {
        Ok(id) => Failure::at(&id, Reason::AnswerMalformed, Progress::Answered, detail),
        Err(_) => Failure::new(Reason::AnswerMalformed, detail),
    }
}

/// Every try, as JSON; texts and numbers, so there always is such.
fn attempts_json(shared: &Shared, attempts: Vec<Attempt>) -> Option<Box<RawValue>> {
    let told = attempts_told(attempts);
    let each = told.attempts.iter();
    let each = each.map(|attempt| answer::message_json(shared, "Attempt", attempt));
    let each: Vec<_> = each.collect::<Result<_, _>>().ok()?;
    serde_json::value::to_raw_value(&each).ok()
}

pub(super) async fn explain(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<ExplainRequest>(shared, &[]).await?;
    let told = shared.orchestrator.explain(arrival, asked.message);
    answer::message(shared, "ExplainResponse", &told.map_err(Problem::of)?)
}

pub(super) fn health(shared: &Shared, call: &Call) -> Result<Response<Body>, Problem> {
    let request = HealthRequest {
        instances: call.query.texts("instances"),
    };
    let is_verbose = call.query.flag("verbose").map_err(Problem::of)?;
    let told = shared.orchestrator.health(&request).map_err(Problem::of)?;
    if is_verbose {
        answer::document(&Reasons(shared, &told.instances))
    } else {
        answer::document(&Words(&told.instances))
    }
}

/// The states now, then each change.
pub(super) fn health_watch(shared: Arc<Shared>, call: Call) -> Result<Response<Body>, Problem> {
    let request = HealthWatchRequest {
        instances: call.query.texts("instances"),
    };
    let names = call.arrival.names.clone();
    let changes = shared.orchestrator.health_watch(call.arrival, request);
    let changes = changes.map_err(Problem::of)?;
    let told = changes.map(move |change| match change {
        Ok(change) => Event::message(&shared, "health", "HealthWatchResponse", &change),
        Err(failure) => Event::failed(failure, &names),
    });
    Ok(events::response(told))
}

/// `{"A": "healthy", "B": "down"}`, in the order of the question.
struct Words<'a>(&'a [InstanceHealth]);

impl Serialize for Words<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|health| (&health.instance, word(health))))
    }
}

fn word(health: &InstanceHealth) -> String {
    let name = HealthState::try_from(health.state)
        .unwrap_or_default()
        .as_str_name();
    let short = name.strip_prefix("HEALTH_STATE_");
    short.unwrap_or(name).to_ascii_lowercase()
}

/// `{"A": {"state": "healthy", "reason": …}}`.
struct Reasons<'a>(&'a Shared, &'a [InstanceHealth]);

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(shared, instances) = self;
        let each = instances.iter().map(|health| {
            let told = answer::message_json(shared, "InstanceHealth", health);
            (&health.instance, told.ok())
        });
        serializer.collect_map(each)
    }
}
