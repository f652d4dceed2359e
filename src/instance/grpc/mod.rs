//! An instance that speaks gRPC, over HTTP/2 streams of our own.
//!
//! No generic client stands in between: the payload goes out as the bytes that came in, and the reason of a
//! reset is read from the protocol, which decides whether a task may be tried elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use prost::Message as _;
use tokio::time::Instant;

use super::endpoint::{Dial, Transport};
use super::session::{Open, Opened};
use super::tls::{self, BadTls, Offer};
use super::{Call, InstanceClient, Pending, Sent, Serving, Spec, Told};
use crate::domain::deadline::to_grpc_timeout;
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::domain::limit::SESSION_OPEN_DOUBT;
use crate::domain::payload::Payload;
use crate::memory::Memory;
use crate::proto::{health, instance};
use crate::tasks::Tasks;

mod answer;
mod doubt;
mod frame;
mod link;
mod pushback;
mod session;
mod watch;

use frame::Frame;
use link::{Link, Sharing};

const EXECUTE: &str = "/openclaw.instance.v1.InstanceService/Execute";
const SESSION: &str = "/openclaw.instance.v1.InstanceService/Session";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const ATTEMPT: HeaderName = HeaderName::from_static("x-orchestrator-attempt");
const SESSION_ID: HeaderName = HeaderName::from_static("x-orchestrator-session");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("openclaw-orchestrator/", env!("CARGO_PKG_VERSION")));

/// A gRPC instance. Connections are made when they are needed and shared by all calls.
pub struct GrpcInstance {
    id: InstanceId,
    calls: Arc<Link>,
    sessions: Arc<Link>,
    execute: Uri,
    session: Uri,
    check: Uri,
    watch: Uri,
    credential: Option<HeaderValue>,
    memory: Memory,
}

impl GrpcInstance {
    /// Prepares an instance; nothing is connected yet. Its answers are charged to `memory`.
    pub fn new(spec: &Spec, dial: &Dial, tasks: &Tasks, memory: &Memory) -> Result<Self, BadTls> {
        let secure = match spec.endpoint.transport {
            Transport::Plain | Transport::Unix => None,
            Transport::Tls => Some(tls::connector(
                &spec.tls,
                &spec.endpoint.host,
                Offer::Http2,
            )?),
        };
        let scheme = if secure.is_some() { "https" } else { "http" };
        let uri = |path: &str| {
            Uri::builder()
                .scheme(scheme)
                .authority(spec.endpoint.authority())
                .path_and_query(path)
                .build()
                .map_err(|_| BadTls::Name(spec.endpoint.authority()))
        };
        let link = |sharing| {
            Link::new(
                spec.id.clone(),
                sharing,
                spec.endpoint.clone(),
                Arc::clone(dial),
                secure.clone(),
                tasks.clone(),
            )
        };
        Ok(Self {
            id: spec.id.clone(),
            calls: link(Sharing::CALLS),
            sessions: link(Sharing::SESSIONS),
            execute: uri(EXECUTE)?,
            session: uri(SESSION)?,
            check: uri(CHECK)?,
            watch: uri(WATCH)?,
            credential: spec.credential.as_ref().map(super::Credential::header),
            memory: memory.clone(),
        })
    }

    fn request(&self, uri: &Uri) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.reserve(16);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, AGENT);
        if let Some(credential) = &self.credential {
            headers.insert(AUTHORIZATION, credential.clone());
        }
        request
    }
}

impl InstanceClient for GrpcInstance {
    fn execute(&self, call: Call) -> Pending<Result<Payload, Failure>> {
        let mut request = self.request(&self.execute);
        let (link, id) = (Arc::clone(&self.calls), self.id.clone());
        let memory = self.memory.clone();
        Box::pin(async move {
            let frame = Frame::execute(&call.task.payload);
            put_names(request.headers_mut(), &call);
            let sender = link
                .ready(&call.sent, &mut |now| {
                    put_timeout(request.headers_mut(), call.ends, now);
                })
                .await?;
            call.sent.set();
            let answer = sender.unary(request, frame, &memory).await?;
            let malformed = |what: &'static str| {
                Failure::at(&id, Reason::AnswerMalformed, Progress::Answered, what)
            };
            let message = instance::ExecuteResponse::decode(answer)
                .map_err(|_| malformed("the answer is not an ExecuteResponse"))?;
            match message.payload {
                None => Ok(Payload::null()),
                Some(encoded) => Payload::check(encoded).map_err(|bad| Failure {
                    detail: bad.to_string().into(),
                    ..malformed("")
                }),
            }
        })
    }

    fn probe(&self) -> Pending<Result<Serving, Failure>> {
        let request = self.request(&self.check);
        let (link, id) = (Arc::clone(&self.calls), self.id.clone());
        let memory = self.memory.clone();
        Box::pin(async move {
            let sender = link.ready(&Sent::default(), &mut |_| ()).await?;
            let doubt = sender.doubt(Duration::ZERO);
            let answer = sender.unary(request, Frame::empty(), &memory).await;
            doubt.dispel();
            match answer {
                Ok(answer) => serving(&id, answer),
                Err(failure) if failure.reason == Reason::InstanceFailed(Status::Unimplemented) => {
                    Ok(Serving::NotSaid)
                }
                Err(failure) => Err(failure),
            }
        })
    }

    fn open_session(&self, open: Open) -> Pending<Result<Opened, Failure>> {
        let mut request = self.request(&self.session);
        let headers = request.headers_mut();
        if let Some(names) = &open.names {
            put(headers, REQUEST_ID, names.request_id.clone());
            put(headers, TRACEPARENT, names.traceparent.clone());
            for (name, value) in names.carried.iter() {
                append(headers, HeaderName::from_static(name), value.clone());
            }
        }
        put(
            headers,
            SESSION_ID,
            Bytes::copy_from_slice(open.session.as_bytes()),
        );
        let (link, id) = (Arc::clone(&self.sessions), self.id.clone());
        Box::pin(async move {
            let sender = link.ready(&Sent::default(), &mut |_| ()).await?;
            // Whoever opens it gives up in the end, and should not try the same dead connection again.
            let doubt = sender.doubt(SESSION_OPEN_DOUBT);
            let opened = session::open(id, sender, request, open).await;
            doubt.dispel();
            opened
        })
    }

    fn watch(&self, told: Told) -> Pending<Failure> {
        let request = self.request(&self.watch);
        let (link, id) = (Arc::clone(&self.calls), self.id.clone());
        Box::pin(async move {
            match link.ready(&Sent::default(), &mut |_| ()).await {
                Ok(sender) => watch::follow(&id, sender, request, told).await,
                Err(failure) => failure,
            }
        })
    }
}

fn serving(id: &InstanceId, answer: Bytes) -> Result<Serving, Failure> {
    use health::health_check_response::ServingStatus;
    let message = health::HealthCheckResponse::decode(answer).map_err(|_| {
        let what = "the answer is not a HealthCheckResponse";
        Failure::at(id, Reason::AnswerMalformed, Progress::Answered, what)
    })?;
    Ok(match message.status() {
        ServingStatus::Serving => Serving::Yes,
        ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Serving::No
        }
    })
}

fn put_names(headers: &mut HeaderMap, call: &Call) {
    let names = &call.task.names;
    put(headers, REQUEST_ID, names.request_id.clone());
    put(headers, TRACEPARENT, call.traceparent());
    headers.insert(ATTEMPT, HeaderValue::from(call.attempt));
    for (name, value) in call.task.metadata.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    for (name, value) in call.task.metadata.beside(&names.carried) {
        append(headers, HeaderName::from_static(name), value.clone());
    }
}

/// As `put`, beside what has that name already.
fn append(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Some(value) = for_once(value) {
        headers.append(name, value);
    }
}

/// Checked where it came in; a value that cannot travel is left out, not the call.
fn put(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Some(value) = for_once(value) {
        headers.insert(name, value);
    }
}

/// Written as late as can be: waiting for a connection has already used up some of the time.
fn put_timeout(headers: &mut HeaderMap, ends: Instant, now: Instant) {
    let timeout = to_grpc_timeout(ends.saturating_duration_since(now));
    if let Some(timeout) = for_once(timeout.into()) {
        headers.insert(TIMEOUT, timeout);
    }
}

/// A value that no other call will have. Both ends would keep it in their compression tables, where it drives
/// out the values that do come again; "sensitive" means just that they do not.
fn for_once(value: Bytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
