//! Registration, draining and the listing of the fleet.

use http::Response;
use tonic::body::Body;

use super::super::failure_body::Problem;
use super::skill::{SKILL_ID, skill};
use super::{Call, Shared, answer};
use crate::domain::failure::{Failure, Reason};
use crate::message_json::Means;
use crate::proto::orchestrator::{
    DeregisterRequest, DrainRequest, ListInstancesRequest, RegisterRequest, UndrainRequest,
};

/// Stands in the body beside the fields of the message.
const SKILL_FIELD: &str = "skillId";

/// With an instance it is registered; with a skill alone the answer says what the skill offers.
pub(super) async fn register(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call
        .message::<RegisterRequest>(shared, &[(SKILL_FIELD, Means::Text)])
        .await?;
    let named = asked.beside.into_iter().next();
    if let Some((_, named)) = &named
        && named != SKILL_ID
    {
        let detail = format!("{SKILL_FIELD}: the only skill here is {SKILL_ID}");
        return Err(Problem::of(Failure::new(Reason::ArgumentInvalid, detail)));
    }
    if named.is_some() && asked.message == RegisterRequest::default() {
        return answer::document(&skill());
    }
    let registered = shared.cluster.register(&arrival, asked.message).await;
    answer::message(
        shared,
        "RegisterResponse",
        &registered.map_err(Problem::of)?,
    )
}

pub(super) async fn deregister(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<DeregisterRequest>(shared, &[]).await?;
    let gone = shared.cluster.deregister(&arrival, &asked.message).await;
    answer::message(shared, "DeregisterResponse", &gone.map_err(Problem::of)?)
}

pub(super) async fn drain(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<DrainRequest>(shared, &[]).await?;
    let told = shared.cluster.drain(&arrival, &asked.message);
    answer::message(shared, "DrainResponse", &told.map_err(Problem::of)?)
}

pub(super) async fn undrain(shared: &Shared, call: Call) -> Result<Response<Body>, Problem> {
    let (arrival, asked) = call.message::<UndrainRequest>(shared, &[]).await?;
    let told = shared.cluster.undrain(&arrival, &asked.message);
    answer::message(shared, "UndrainResponse", &told.map_err(Problem::of)?)
}

pub(super) fn list_instances(shared: &Shared, call: &Call) -> Result<Response<Body>, Problem> {
    let request = ListInstancesRequest {
        page_size: call.query.count("pageSize").map_err(Problem::of)?,
        page_token: call.query.text("pageToken"),
    };
    let page = shared.cluster.list_instances(&request);
    answer::message(shared, "ListInstancesResponse", &page.map_err(Problem::of)?)
}
