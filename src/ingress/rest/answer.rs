//! Answers as JSON.

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::body::Body;

use super::super::failure_body::{Problem, json};
use super::Shared;
use super::endpoints::Operation;
use crate::domain::failure::{Failure, Reason};
use crate::message_json::Written;

/// One JSON document a line.
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const JSON: &str = "application/json";
/// Server-sent events (HTML, 9.2).
pub(super) const EVENTS: &str = "text/event-stream";

/// The forms that an answer may have.
pub(super) fn forms(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Fanout => &[JSON, NDJSON],
        Operation::SessionEvents | Operation::HealthWatch => &[EVENTS],
        Operation::Route
        | Operation::Explain
        | Operation::SessionSpawn
        | Operation::SessionSend
        | Operation::SessionGet
        | Operation::SessionList
        | Operation::SessionClose
        | Operation::SessionAck
        | Operation::Health
        | Operation::Register
        | Operation::Deregister
        | Operation::ListInstances
        | Operation::Drain
        | Operation::Undrain
        | Operation::Check
        | Operation::Document => &[JSON],
    }
}

/// The JSON form of a message of the contract. Fails where a payload in it has none.
pub(super) fn message_json(
    shared: &Shared,
    name: &str,
    message: &impl prost::Message,
) -> Result<Box<RawValue>, serde_json::Error> {
    let described = shared.schema.message(name);
    let described = described.ok_or_else(|| serde::ser::Error::custom("it is not described"))?;
    let encoded = message.encode_to_vec();
    serde_json::value::to_raw_value(&Written {
        schema: &shared.schema,
        message: described,
        encoded: &encoded,
    })
}

/// A message of the contract as the whole answer.
pub(super) fn message(
    shared: &Shared,
    name: &str,
    message: &impl prost::Message,
) -> Result<Response<Body>, Problem> {
    let made = message_json(shared, name, message).map_err(|error| Problem::of(bug(&error)))?;
    Ok(json(StatusCode::OK, Box::<str>::from(made).into_string()))
}

/// Anything else as the whole answer.
pub(super) fn document(document: &impl Serialize) -> Result<Response<Body>, Problem> {
    let made = serde_json::to_vec(document).map_err(|error| Problem::of(bug(&error)))?;
    Ok(json(StatusCode::OK, made))
}

/// What has no payload has a JSON form.
pub(super) fn bug(error: &serde_json::Error) -> Failure {
    Failure::new(
        Reason::Internal,
        format!("the answer has no JSON form: {error}"),
    )
}
