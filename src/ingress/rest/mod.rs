//! The REST door: the methods of the contract as JSON over HTTP/1.1 and HTTP/2.
//!
//! A body is turned into the bytes of the message that a gRPC caller would have sent (`message_json`), and from
//! there on both doors run the same methods. It knows nothing of gRPC, and the gRPC door nothing of it.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use super::access::{known, without_api};
use super::arrival::Arrival;
use super::failure_body::{Problem, json};
use super::layer::Answering;
use super::methods::{Cluster, House, Orchestrator};
use crate::domain::failure::{Failure, Reason};
use crate::message_json::{BadSchema, Beside, Schema};
use crate::proto;

mod answer;
mod cluster;
mod endpoints;
mod events;
mod fanout;
mod openapi;
mod orchestrator;
mod query;
mod request;
mod schemas;
mod session_events;
mod sessions;
mod skill;

use endpoints::{ENDPOINTS, Endpoint, Operation};
use query::Asked;

/// The package of the messages that this door speaks.
const PACKAGE: &str = "openclaw.orchestrator.v1";

/// Every endpoint, found by path.
#[derive(Clone)]
pub(super) struct Endpoints {
    shared: Arc<Shared>,
}

/// What every call needs.
struct Shared {
    orchestrator: Orchestrator,
    cluster: Cluster,
    draining: CancellationToken,
    schema: Schema,
    /// The OpenAPI document, from when it is first asked for.
    document: OnceLock<Bytes>,
}

/// One call.
struct Call {
    endpoint: &'static Endpoint,
    arrival: Arrival,
    /// Whether the body of the answer is wanted.
    verb: Method,
    /// What stands in the path for `{id}`; empty where there is no such place.
    id: String,
    headers: HeaderMap,
    query: Asked,
    body: Body,
}

impl Endpoints {
    /// All endpoints. Fails only when the descriptors that were built in are broken.
    pub(super) fn new(
        house: &House,
        orchestrator: Orchestrator,
        cluster: Cluster,
    ) -> Result<Self, BadSchema> {
        let schema = Schema::new(proto::DESCRIPTORS, PACKAGE)?;
        let shared = Shared {
            orchestrator,
            cluster,
            draining: house.draining.clone(),
            document: OnceLock::new(),
            schema,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl Service<Request<Body>> for Endpoints {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering {
        let shared = Arc::clone(&self.shared);
        let noted = request.extensions_mut().remove::<Arrival>();
        let names = noted.as_ref().map(|arrival| arrival.names.clone());
        let is_head = request.method() == Method::HEAD;
        Box::pin(async move {
            let answered = match find(&request, noted) {
                Found::Call(endpoint, arrival) => {
                    carry_out(shared, endpoint, arrival, request).await
                }
                Found::Answer(response) => Ok(response),
                Found::Nothing(problem) => Err(problem),
            };
            let mut response = answered.unwrap_or_else(|problem| problem.answer(names.as_ref()));
            if is_head {
                without_body(&mut response);
            }
            Ok(response)
        })
    }
}

/// What a GET would be answered, without its body (RFC 9110, 9.3.2).
fn without_body(response: &mut Response<Body>) {
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::empty();
}

enum Found {
    Call(&'static Endpoint, Arrival),
    Answer(Response<Body>),
    Nothing(Problem),
}

/// The endpoint that a request is for.
fn find(request: &Request<Body>, noted: Option<Arrival>) -> Found {
    let path = without_api(request.uri().path());
    let there: Vec<_> = ENDPOINTS
        .iter()
        .filter(|endpoint| known(path).is_some_and(|known| known.form == endpoint.path))
        .collect();
    if there.is_empty() {
        return Found::Nothing(Problem::of(no_path(path)));
    }
    let verb = match *request.method() {
        Method::HEAD => &Method::GET,
        ref verb => verb,
    };
    if let Some(endpoint) = there.iter().find(|endpoint| endpoint.verb == *verb) {
        return match noted {
            Some(arrival) => Found::Call(endpoint, arrival),
            None => {
                let bug = Failure::new(Reason::Internal, "the request has no arrival");
                Found::Nothing(Problem::of(bug))
            }
        };
    }
    let allowed = allowed(&there);
    let header = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static("OPTIONS"));
    if *verb == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(header::ALLOW, header);
        return Found::Answer(response);
    }
    let detail = format!("{verb} is not for {path}: use one of {allowed}");
    let failure = Failure::new(Reason::MethodNotAllowed, detail);
    Found::Nothing(Problem::of(failure).with_header(header::ALLOW, header))
}

fn no_path(path: &str) -> Failure {
    let is_grpc = path.starts_with("/openclaw.") || path.starts_with("/grpc.");
    let detail = if is_grpc {
        "this path is a gRPC method: call it with a gRPC client; /openapi.json lists what takes JSON"
    } else {
        "no such path: /openapi.json lists what there is"
    };
    Failure::new(Reason::MethodUnknown, detail)
}

fn allowed(endpoints: &[&Endpoint]) -> String {
    let mut verbs: Vec<_> = endpoints.iter().map(|it| it.verb.as_str()).collect();
    if verbs.contains(&"GET") {
        verbs.push("HEAD");
    }
    verbs.push("OPTIONS");
    verbs.join(", ")
}

async fn carry_out(
    shared: Arc<Shared>,
    endpoint: &'static Endpoint,
    arrival: Arrival,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let query = Asked::read(query, endpoint.query).map_err(Problem::of)?;
    request::check_accepted(&head.headers, answer::forms(endpoint.operation))
        .map_err(Problem::of)?;
    let known = known(without_api(head.uri.path()));
    let id = query::percent_decoded(known.map_or("", |known| known.id));
    let call = Call {
        endpoint,
        arrival,
        verb: head.method,
        id: id.ok_or_else(|| Problem::of(not_text()))?,
        headers: head.headers,
        query,
        body,
    };
    match endpoint.operation {
        Operation::Route => orchestrator::route(&shared, call).await,
        Operation::Fanout => fanout::fanout(shared, call).await,
        Operation::Explain => orchestrator::explain(&shared, call).await,
        Operation::SessionSpawn => sessions::spawn(&shared, call).await,
        Operation::SessionSend => sessions::send(&shared, call).await,
        Operation::SessionGet => sessions::get(&shared, call).await,
        Operation::SessionList => sessions::list(&shared, call).await,
        Operation::SessionClose => sessions::close(&shared, call).await,
        Operation::SessionAck => sessions::acknowledge(&shared, call).await,
        Operation::SessionEvents => session_events::listen(shared, call).await,
        Operation::Health => orchestrator::health(&shared, &call),
        Operation::HealthWatch => orchestrator::health_watch(shared, call),
        Operation::Register => cluster::register(&shared, call).await,
        Operation::Deregister => cluster::deregister(&shared, call).await,
        Operation::Drain => cluster::drain(&shared, call).await,
        Operation::Undrain => cluster::undrain(&shared, call).await,
        Operation::ListInstances => cluster::list_instances(&shared, &call),
        Operation::Check => Ok(check(&shared)),
        Operation::Document => {
            let document = shared.document.get_or_init(|| {
                // Seldom asked for, and a start has no time to lose.
                openapi::document(&shared.schema).into()
            });
            Ok(json(StatusCode::OK, document.clone()))
        }
    }
}

fn not_text() -> Failure {
    Failure::new(Reason::ArgumentInvalid, "the path is not UTF-8")
}

/// The orchestrator's own health, in the words that instances have.
fn check(shared: &Shared) -> Response<Body> {
    if shared.draining.is_cancelled() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return json(status, Bytes::from_static(br#"{"status":"draining"}"#));
    }
    json(
        StatusCode::OK,
        Bytes::from_static(br#"{"status":"healthy"}"#),
    )
}

impl Call {
    /// The body as the message that the table names.
    async fn message<T: prost::Message + Default>(
        self,
        shared: &Shared,
        beside: Beside<'_>,
    ) -> Result<(Arrival, request::Asked<T>), Problem> {
        let name = self.endpoint.body.unwrap_or_default();
        let asked = request::message(
            shared,
            name,
            &self.arrival.exchange,
            &self.headers,
            self.body,
            beside,
        )
        .await;
        Ok((self.arrival, asked.map_err(refuse_body)?))
    }
}

/// A body in another form: the answer says which form is taken.
fn refuse_body(failure: Failure) -> Problem {
    let is_form = failure.reason == Reason::MediaTypeUnsupported;
    let problem = Problem::of(failure);
    if is_form {
        problem.with_header(header::ACCEPT, HeaderValue::from_static("application/json"))
    } else {
        problem
    }
}

#[cfg(test)]
mod tests;
