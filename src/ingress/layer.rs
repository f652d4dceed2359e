//! The layers of the front door; their order and its reasons stand in `ingress::front_door`.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::arrival::{self, Arrival};
use super::body::Timely;
use super::caller::{FindToken, Keys, SESSION_SEND};
use super::failure_table::{self, Protocol};
use crate::chance::Chance;
use crate::domain::failure::Failure;
use crate::domain::limit::{BODY_TIMEOUT, TIMEOUT_MAX};

/// A service that answers every request; cloned for each.
pub trait Door<B>:
    Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Door<B> for S where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The answer to a request, on its way.
pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

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
    pub(super) keys: Arc<Keys>,
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
        match self.keys.authenticate(&mut request, &self.sessions) {
            Ok(()) => self.inner.call(request),
            Err(failure) => refuse(&request, &failure),
        }
    }
}

/// Reads how long the caller will wait, and gives the body that long, or a limit of our own, to arrive.
#[derive(Clone)]
pub(super) struct Hurry<S> {
    pub(super) inner: S,
}

impl<S, B> Service<Request<B>> for Hurry<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
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
        // A session lasts as long as both sides like; only its beginning is waited for, by the method itself.
        if request.uri().path() == SESSION_SEND {
            let body = |body| Body::new(Timely::without_end(body));
            return self.inner.call(request.map(body));
        }
        let noted = request.extensions().get::<Arrival>();
        let (at, timeout) = noted.map_or_else(
            || (tokio::time::Instant::now(), None),
            |arrival| (arrival.at, arrival.timeout),
        );
        // Reflection is a conversation: clients ask more as they go.
        let is_conversation = request.uri().path().starts_with("/grpc.reflection.");
        let own = if is_conversation {
            TIMEOUT_MAX
        } else {
            BODY_TIMEOUT
        };
        let ends = at + timeout.unwrap_or(own).min(TIMEOUT_MAX);
        self.inner
            .call(request.map(|body| Body::new(Timely::new(body, ends))))
    }
}

fn refuse<B>(request: &Request<B>, failure: &Failure) -> Answering {
    let (method, path) = (request.method(), request.uri().path());
    tracing::debug!(%method, path, code = failure.reason.name(), "request refused at the door");
    let response = failure_table::refuse(failure, Protocol::of(request.headers()));
    Box::pin(ready(Ok(response)))
}
