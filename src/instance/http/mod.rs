//! An instance that takes a task as JSON in a POST over HTTP, and tells with a GET how it is.
//!
//! HTTP/1.1, or HTTP/2 where TLS has agreed on it. A request is written once, on one connection: what could not be
//! written to a connection that had just closed is written to another one, and nothing else is ever repeated here.
//! No redirect is followed. There are no sessions.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::Full;
use tokio::time::Instant;

use super::endpoint::{Dial, Protocol, Transport};
use super::tls::{self, BadTls, Offer};
use super::{Call, InstanceClient, Pending, Serving, SessionSupport, Spec};
use crate::domain::deadline::{to_grpc_timeout, to_request_timeout};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::task::Task;
use crate::memory::{self, Memory, Purpose};
use crate::payload_json::to_json;
use crate::tasks::Tasks;

mod answer;
mod broken;
mod connections;
mod failed;
mod health;
mod heard;
mod open;
#[cfg(test)]
mod tests;

use connections::{Connections, User};
use open::Spoken;

/// Where an instance says how it is, whatever the path of its tasks.
const HEALTH: PathAndQuery = PathAndQuery::from_static("/api/health/check");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ATTEMPT: HeaderName = HeaderName::from_static("x-orchestrator-attempt");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("openclaw-orchestrator/", env!("CARGO_PKG_VERSION")));

type Body = Full<Bytes>;

/// An instance over HTTP. Connections are made when they are needed and kept for a while.
pub struct HttpInstance(Arc<Reach>);

/// What a call at the instance needs.
struct Reach {
    id: InstanceId,
    connections: Arc<Connections>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    path: PathAndQuery,
    credential: Option<HeaderValue>,
    memory: Memory,
}

impl HttpInstance {
    /// Prepares an instance; nothing is connected yet. What is held for it is charged to `memory`.
    pub fn new(spec: &Spec, dial: &Dial, tasks: &Tasks, memory: &Memory) -> Result<Self, BadTls> {
        let endpoint = &spec.endpoint;
        let (secure, scheme, port_default) = match endpoint.transport {
            Transport::Plain | Transport::Unix => (None, Scheme::HTTP, 80),
            Transport::Tls => {
                let secure = tls::connector(&spec.tls, &endpoint.host, Offer::AnyHttp)?;
                (Some(secure), Scheme::HTTPS, 443)
            }
        };
        let path = match &endpoint.protocol {
            Protocol::Http { path } => path.as_str(),
            Protocol::Grpc => "/",
        };
        let whole = endpoint.authority();
        // Servers know themselves without the port that everybody means (RFC 9110, 4.2.3).
        let shown = match whole.rsplit_once(':') {
            Some((host, _)) if endpoint.port == port_default => host,
            Some(_) | None => &whole,
        };
        let bad = || BadTls::Name(whole.clone());
        let connections = Connections::new(
            spec.id.clone(),
            endpoint.clone(),
            Arc::clone(dial),
            secure,
            tasks.clone(),
        );
        Ok(Self(Arc::new(Reach {
            id: spec.id.clone(),
            connections,
            scheme,
            authority: Authority::try_from(shown).map_err(|_| bad())?,
            host: HeaderValue::try_from(shown).map_err(|_| bad())?,
            path: PathAndQuery::try_from(path).map_err(|_| bad())?,
            credential: spec.credential.as_ref().map(super::Credential::header),
            memory: memory.clone(),
        })))
    }
}

impl InstanceClient for HttpInstance {
    fn execute(&self, call: Call) -> Pending<Result<Payload, Failure>> {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let body = call.task.form.get_or_make(|| reach.json(&call.task))?;
            let mut request = |spoken, now| {
                let mut request = reach.request(spoken, Method::POST, &reach.path, body.clone());
                put_call(request.headers_mut(), &call, now);
                request
            };
            let answer = reach
                .connections
                .exchange(User::Call(&call.sent), &mut request);
            answer::read(&reach.id, answer.await?, call.ends, &reach.memory).await
        })
    }

    fn session_support(&self) -> SessionSupport {
        SessionSupport::None
    }

    fn probe(&self) -> Pending<Result<Serving, Failure>> {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            // Whoever is silent now gets new connections later: these may be dead without having said so.
            let doubt = reach.connections.doubt();
            let mut request =
                |spoken, _now| reach.request(spoken, Method::GET, &HEALTH, Bytes::new());
            let answer = reach.connections.exchange(User::Probe, &mut request).await;
            let said = match answer {
                Ok(answer) => health::read(&reach.id, answer).await,
                Err(failure) => Err(failure),
            };
            doubt.dispel();
            said
        })
    }
}

impl Reach {
    /// The payload as it travels, charged like the request it comes from.
    fn json(&self, task: &Task) -> Result<Bytes, Failure> {
        let refused = |reason, detail| Failure::at(&self.id, reason, Progress::NeverSent, detail);
        let text = to_json(task.payload.encoded())
            .map_err(|bad| refused(Reason::PayloadInvalid, bad.to_string()))?;
        let charge = self.memory.charge();
        charge
            .grow(text.len(), Purpose::Request)
            .map_err(|full| refused(Reason::MemoryFull, full.to_string()))?;
        Ok(memory::kept(Bytes::from(text), charge))
    }

    fn request(
        &self,
        spoken: Spoken,
        method: Method,
        path: &PathAndQuery,
        body: Bytes,
    ) -> Request<Body> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(path.clone());
        let mut request = Request::new(Full::new(body));
        let headers = request.headers_mut();
        headers.reserve(16);
        if spoken == Spoken::Http2 {
            parts.scheme = Some(self.scheme.clone());
            parts.authority = Some(self.authority.clone());
        } else {
            headers.insert(HOST, self.host.clone());
        }
        headers.insert(ACCEPT, JSON);
        headers.insert(USER_AGENT, AGENT);
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, JSON);
        }
        if let Some(credential) = &self.credential {
            headers.insert(AUTHORIZATION, credential.clone());
        }
        *request.method_mut() = method;
        // What is put together here was checked when the instance was made.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = match spoken {
            Spoken::Http1 => Version::HTTP_11,
            Spoken::Http2 => Version::HTTP_2,
        };
        request
    }
}

/// The time is written as late as can be: waiting for a connection has already used up some of it.
fn put_call(headers: &mut HeaderMap, call: &Call, now: Instant) {
    // First, so that nothing of the caller's stands in the place of what is ours.
    for (name, value) in call.task.metadata.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
            && !headers.contains_key(&name)
        {
            headers.append(name, value);
        }
    }
    let names = &call.task.names;
    let left = call.ends.saturating_duration_since(now);
    for (name, value) in call.task.metadata.beside(&names.carried) {
        if let Some(value) = for_once(value.clone()) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    put(headers, REQUEST_ID, names.request_id.clone());
    put(headers, TRACEPARENT, call.traceparent());
    put(headers, GRPC_TIMEOUT, to_grpc_timeout(left).into());
    put(headers, REQUEST_TIMEOUT, to_request_timeout(left).into());
    headers.insert(ATTEMPT, HeaderValue::from(call.attempt));
}

/// Checked where it came in; a value that cannot travel is left out, not the call.
fn put(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Some(value) = for_once(value) {
        headers.insert(name, value);
    }
}

/// A value that no other call will have, so that it is kept out of compression tables.
fn for_once(value: Bytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
