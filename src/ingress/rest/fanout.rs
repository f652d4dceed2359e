//! Fanout: an array of results in roster order, or a stream of one event a line.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;

use super::super::failure_body::{Problem, json};
use super::super::methods::failure_told;
use super::orchestrator::no_json;
use super::request::check_accepted;
use super::{Call, Shared, answer};
use crate::domain::failure::Failure;
use crate::domain::task::Names;
use crate::payload_json::{self, AsJson};
use crate::proto::orchestrator::fanout_response::Event;
use crate::proto::orchestrator::{FanoutRequest, FanoutResponse, Outcome, Partial};

pub(super) async fn fanout(shared: Arc<Shared>, call: Call) -> Result<Response<Body>, Problem> {
    let headers = call.headers.clone();
    let (arrival, asked) = call.message::<FanoutRequest>(&shared, &[]).await?;
    let names = arrival.names.clone();
    let is_aggregate = asked.message.aggregate;
    if is_aggregate {
        check_accepted(&headers, &[answer::JSON]).map_err(Problem::of)?;
    }
    let events = shared.orchestrator.fanout(arrival, asked.message).await;
    let events = events.map_err(Problem::of)?;
    if is_aggregate {
        aggregated(&shared, events).await
    } else {
        Ok(streamed(shared, names, events))
    }
}

// === with aggregate: one array ===

async fn aggregated(
    shared: &Shared,
    events: impl Stream<Item = Result<FanoutResponse, Failure>>,
) -> Result<Response<Body>, Problem> {
    let mut events = Box::pin(events);
    let (mut results, mut ended) = (Vec::new(), Ok(()));
    while let Some(event) = events.next().await {
        match event.map(|event| event.event) {
            Ok(Some(Event::Summary(summary))) => results = summary.aggregate,
            Ok(Some(Event::Started(_) | Event::Partial(_)) | None) => {}
            Err(failure) => {
                ended = Err(failure);
                break;
            }
        }
    }
    let told: Vec<_> = results
        .iter()
        .map(|partial| told(shared, partial))
        .collect();
    let made = serde_json::value::to_raw_value(&told).ok();
    match (ended, made) {
        (Ok(()), made) => {
            let made = made.map(|made| Box::<str>::from(made).into_string());
            Ok(json(StatusCode::OK, made.unwrap_or_default()))
        }
        (Err(failure), Some(made)) => Err(Problem::of(failure).with_results(made)),
        (Err(failure), None) => Err(Problem::of(failure)),
    }
}

/// The result of one target.
#[derive(Serialize)]
struct Told<'a> {
    instance: &'a str,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<AsJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorTold>,
    attempts: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct ErrorTold {
    code: String,
    message: String,
    instance: String,
    retryable: bool,
}

fn told<'a>(shared: &Shared, partial: &'a Partial) -> Told<'a> {
    let outcome = Outcome::try_from(partial.outcome)
        .unwrap_or_default()
        .as_str_name();
    let (payload, unsayable) = sayable(partial);
    let failure = unsayable.or_else(|| partial.failure.clone());
    let attempts = partial.attempts.iter();
    let attempts = attempts.filter_map(|it| answer::message_json(shared, "Attempt", it).ok());
    Told {
        instance: &partial.instance,
        status: outcome
            .strip_prefix("OUTCOME_")
            .unwrap_or(outcome)
            .to_ascii_lowercase(),
        payload: payload.map(AsJson),
        error: failure.map(|failure| ErrorTold {
            code: failure.reason.to_ascii_lowercase(),
            message: failure.message,
            instance: failure.instance,
            retryable: failure.retryable,
        }),
        attempts: attempts.collect(),
    }
}

type FailureTold = crate::proto::orchestrator::Failure;

/// The payload of a result, or the failure to say it: one such answer must not take the others with it.
fn sayable(partial: &Partial) -> (Option<&[u8]>, Option<FailureTold>) {
    let Some(encoded) = partial.payload.as_deref() else {
        return (None, None);
    };
    match payload_json::to_json(encoded) {
        Ok(_) => (Some(encoded), None),
        Err(bad) => (None, Some(failure_told(no_json(&partial.instance, &bad)))),
    }
}

// === without: one event a line ===

fn streamed(
    shared: Arc<Shared>,
    names: Names,
    events: impl Stream<Item = Result<FanoutResponse, Failure>> + Send + 'static,
) -> Response<Body> {
    let lines = events.map(move |event| line(&shared, &names, event));
    let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
    let frames: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(frames);
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(answer::NDJSON),
    );
    // Proxies that gather an answer before they pass it on would spoil the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn line(shared: &Shared, names: &Names, event: Result<FanoutResponse, Failure>) -> Vec<u8> {
    let mut line = match event {
        Ok(event) => event_line(shared, event),
        // The status has been sent: the failure is the last line.
        Err(failure) => Problem::of(failure).body(Some(names)),
    };
    line.push(b'\n');
    line
}

fn event_line(shared: &Shared, mut event: FanoutResponse) -> Vec<u8> {
    if let Some(Event::Partial(partial)) = &mut event.event
        && let (_, Some(unsayable)) = sayable(partial)
    {
        partial.payload = None;
        partial.failure = Some(unsayable);
    }
    let made = answer::message_json(shared, "FanoutResponse", &event);
    made.map(|made| Box::<str>::from(made).into_string().into_bytes())
        .unwrap_or_default()
}
