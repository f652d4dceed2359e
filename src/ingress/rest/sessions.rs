//! Sessions, one call at a time.

use http::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::body::Body;

use super::super::failure_body::Problem;
use super::{Call, Shared, answer};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::message_json::Means;
use crate::proto::orchestrator::{
    SessionAck, SessionCloseRequest, SessionGetRequest, SessionListRequest, SessionPostRequest,
    SessionSpawnRequest,
};

/// What stands in the body of a message beside its fields.
const SEND_NAMES: [(&str, Means<'_>); 2] = [
    ("data", Means::Field("payload")),
    ("wait", Means::Opposite("no_wait")),
];

/// The answer of the contract, with what is asked for most before it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spawned<'a> {
    session_id: &'a str,
    token: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    deduplicated: bool,
    session: Box<RawValue>,
}

pub(super) async fn spawn(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<SessionSpawnRequest>(shared, &[]).await?;
    let spawned = shared.orchestrator.session_spawn(arrival, asked.message);
    let spawned = spawned.await.map_err(Problem::of)?;
    let session = spawned.session.unwrap_or_default();
    let whole = answer::message_json(shared, "Session", &session);
    answer::document(&Spawned {
        session_id: &session.id,
        token: &spawned.token,
        instance: &session.instance,
        expire_time: session.expire_time.map(|time| time.to_string()),
        deduplicated: spawned.deduplicated,
        session: whole.map_err(|error| Problem::of(answer::bug(&error)))?,
    })
}

pub(super) async fn send(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let asked = call.message::<SessionPostRequest>(shared, &SEND_NAMES);
    let (arrival, asked) = asked.await?;
    let posted = shared.orchestrator.session_post(arrival, asked.message);
    let posted = posted.await.map_err(Problem::of)?;
    match answer::message_json(shared, "SessionPostResponse", &posted) {
        Ok(made) => answer::document(&made),
        Err(error) => Err(Problem::of(no_json(&error))),
    }
}

/// The instance has replied, with what JSON cannot say.
fn no_json(error: &serde_json::Error) -> Failure {
    Failure {
        progress: Progress::Answered,
        ..Failure::new(Reason::AnswerMalformed, error.to_string())
    }
}

pub(super) async fn get(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let request = SessionGetRequest {
        session_id: call.id,
    };
    let told = shared.orchestrator.session_get(call.arrival, request).await;
    answer::message(shared, "SessionGetResponse", &told.map_err(Problem::of)?)
}

pub(super) async fn acknowledge(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let id = call.id.clone();
    let (arrival, asked) = call.message::<SessionAck>(shared, &[]).await?;
    let told = shared
        .orchestrator
        .session_acknowledge(arrival, &id, asked.message);
    let told = told.await.map_err(Problem::of)?;
    answer::message(shared, "SessionGetResponse", &told)
}

pub(super) async fn list(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let request = filter(shared, &call).map_err(Problem::of)?;
    let page = shared.orchestrator.session_list(call.arrival, request);
    let page = page.await;
    answer::message(shared, "SessionListResponse", &page.map_err(Problem::of)?)
}

fn filter(shared: &Shared, call: &Call) -> Result<SessionListRequest, Failure> {
    let missing = || Failure::new(Reason::Internal, "an enum of the contract is missing");
    let states = shared.schema.enum_named("SessionState");
    Ok(SessionListRequest {
        page_size: call.query.count("pageSize")?,
        page_token: call.query.text("pageToken"),
        state: call.query.word("state", states.ok_or_else(missing)?)?,
        instance: call.query.text("instance"),
        labels: call.query.pairs("labels")?,
    })
}

pub(super) async fn close(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let request = SessionCloseRequest {
        session_id: call.id,
    };
    let closed = shared
        .orchestrator
        .session_close(call.arrival, request)
        .await;
    answer::message(
        shared,
        "SessionCloseResponse",
        &closed.map_err(Problem::of)?,
    )
}
