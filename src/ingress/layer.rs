//! The layers of the front door; their order and its reasons stand in `ingress::front_door`.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, Version, header};
use tonic::body::Body;
use tower::Service;

use super::access::SESSION_SEND;
use super::arrival::{self, Arrival};
use super::body::Timely;
use super::caller::FindToken;
use super::failure_body::Problem;
use super::failure_table::{self, Protocol};
use super::settings::SettingsNow;
use crate::chance::Chance;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{REST_BODY_TIMEOUT, TIMEOUT_MAX};

/// A service that answers every request and is always ready for one; cloned for each.
pub trait Door<B>:
    Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + Unpin>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Door<B> for S where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + Unpin>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The answer to a request, on its way.
pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Tells browsers which pages may call, and lets everybody else pass for a look at one header.
#[derive(Clone)]
pub(super) struct Cross<S> {
    pub(super) inner: S,
    pub(super) settings: SettingsNow,
}

impl<S, B> Service<Request<B>> for Cross<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        // What caches may keep must say that it differs from page to page, whoever asks first.
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read && !request.headers().contains_key(header::ORIGIN) {
            return self.inner.call(request);
        }
        let Some(cors) = self.settings.load().cors.clone() else {
            return self.inner.call(request);
        };
        if let Some(told) = cors.preflight(&request) {
            return Box::pin(ready(Ok(told)));
        }
        let grant = cors.grant(request.headers());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            grant.write(response.headers_mut());
            Ok(response)
        })
    }
}

/// Notes time and names of a request; its answer carries the request's id, and no failure leaves unnamed.
#[derive(Clone)]
pub(super) struct Stamp<S> {
    pub(super) inner: S,
    pub(super) chance: Chance,
}

impl<S, B> Service<Request<B>> for Stamp<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        arrival::note(&mut request, &self.chance);
        let id = request
            .extensions()
            .get::<Arrival>()
            .and_then(|arrival| arrival::request_id(&arrival.names));
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = failure_table::name_framework_refusal(answering.await?);
            if let Some(id) = id {
                response.headers_mut().insert(arrival::REQUEST_ID, id);
            }
            Ok(response)
        })
    }
}

/// Lets nobody pass who may not.
#[derive(Clone)]
pub(super) struct Guard<S> {
    pub(super) inner: S,
    pub(super) settings: SettingsNow,
    pub(super) sessions: FindToken,
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        let settings = self.settings.load();
        match settings.keys.authenticate(&mut request, &self.sessions) {
            Ok(()) => self.inner.call(request),
            Err(failure) => refuse(&request, &failure),
        }
    }
}

/// Reads how long the caller will wait, and gives the body that long, or a limit of our own, to arrive.
#[derive(Clone)]
pub(super) struct Hurry<S> {
    pub(super) inner: S,
    pub(super) settings: SettingsNow,
}

impl<S, B> Service<Request<B>> for Hurry<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>,
    B: http_body::Body<Data = Bytes, Error = Failure> + Send + Unpin + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        if let Err(failure) = arrival::note_timeout(&mut request) {
            return refuse(&request, &failure);
        }
        let Some(arrival) = request.extensions().get::<Arrival>() else {
            let bug = Failure::new(Reason::Internal, "the request has no arrival");
            return refuse(&request, &bug);
        };
        // A session lasts as long as both sides like; only its beginning is waited for, by the method itself.
        if request.uri().path() == SESSION_SEND {
            let exchange = Arc::clone(&arrival.exchange);
            let body = |body| Body::new(Timely::without_end(body, exchange));
            return self.inner.call(request.map(body));
        }
        // Reflection is a conversation: clients ask more as they go.
        let is_conversation = request.uri().path().starts_with("/grpc.reflection.");
        let (own, longest) = match arrival.protocol {
            Protocol::Grpc if is_conversation => (TIMEOUT_MAX, TIMEOUT_MAX),
            Protocol::Grpc => (self.settings.load().limits.body, TIMEOUT_MAX),
            Protocol::Http => (REST_BODY_TIMEOUT, REST_BODY_TIMEOUT),
        };
        // A body over HTTP/1.1 holds a whole connection, however long its caller would wait.
        let longest = if request.version() < Version::HTTP_2 {
            longest.min(REST_BODY_TIMEOUT)
        } else {
            longest
        };
        // Word that the time is over must still reach whoever set it.
        let ends = arrival.deadline(None, own, longest).work_ends();
        let exchange = Arc::clone(&arrival.exchange);
        self.inner
            .call(request.map(|body| Body::new(Timely::new(body, ends.into(), exchange))))
    }
}

fn refuse<B>(request: &Request<B>, failure: &Failure) -> Answering {
    let (method, path) = (request.method(), request.uri().path());
    tracing::debug!(%method, path, code = failure.reason.name(), "request refused at the door");
    let response = match arrival::protocol(request) {
        Protocol::Grpc => failure_table::status(failure).into_http(),
        Protocol::Http => {
            let noted = request.extensions().get::<Arrival>();
            let names = noted.map(|arrival| &arrival.names);
            Problem::of(failure.clone()).answer(names)
        }
    };
    Box::pin(ready(Ok(response)))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;

    use std::time::Duration;

    use super::*;
    use crate::chance::Chance;
    use crate::ingress::caller::{Keys, Reflection};
    use crate::ingress::listener::Limits;
    use crate::ingress::methods::Timeouts;
    use crate::ingress::settings::Settings;
    use crate::ingress::visitor::Forwarders;

    /// How long a body may take that never comes.
    async fn check(path: &str, version: Version, timeout: Option<&str>, expected_ms: u64) {
        let waits = tower::service_fn(|request: Request<Body>| -> Answering {
            Box::pin(async move {
                let late = request.into_body().frame().await;
                let status = late.and_then(Result::err).expect("it never comes");
                Ok(status.into_http())
            })
        });
        let mut hurry = Hurry {
            inner: waits,
            settings: SettingsNow::new(Settings {
                keys: Keys {
                    keys: Vec::new(),
                    identities: Vec::new(),
                    reflection: Reflection::WithKey,
                },
                limits: Limits::default(),
                forwarders: Forwarders::default(),
                cors: None,
                timeouts: Timeouts::default(),
                retry: Default::default(),
                shown: Arc::from(""),
            }),
        };
        let never = StreamBody::new(tokio_stream::pending::<Result<_, Failure>>());
        let request = Request::post(path).version(version);
        let mut request = request.body(never).unwrap();
        if !path.starts_with("/api/") {
            let grpc = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", grpc);
        }
        if let Some(timeout) = timeout {
            let timeout = timeout.parse().unwrap();
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        arrival::note(&mut request, &Chance::default());
        let start = Instant::now();
        let answer = hurry.call(request).await.unwrap();
        // DEADLINE_EXCEEDED.
        assert_eq!(answer.headers()["grpc-status"], "4");
        assert_eq!(
            start.elapsed(),
            Duration::from_millis(expected_ms),
            "{path} {version:?} {timeout:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up_before_its_caller_gives_up() {
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        let (method, path) = ("/a.Service/Method", "/api/orchestrator/route");
        let reflection = "/grpc.reflection.v1.ServerReflection/Info";
        for version in [http1, http2] {
            check(method, version, None, 14_750).await;
            check(method, version, Some("1S"), 950).await;
            check(method, version, Some("20m"), 15).await;
            check(path, version, None, 29_750).await;
            check(path, version, Some("1H"), 29_750).await;
            check(path, version, Some("1S"), 950).await;
            check(reflection, version, Some("1S"), 950).await;
        }
        check(method, http2, Some("1H"), 599_750).await;
        check(method, http1, Some("1H"), 29_750).await;
        check(reflection, http2, None, 599_750).await;
        check(reflection, http1, None, 29_750).await;
    }
}
