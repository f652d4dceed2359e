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
use super::caller::Keys;
use super::failure_body::Problem;
use super::failure_table::{self, Protocol};
use crate::chance::Chance;
use crate::domain::failure::Failure;
use crate::domain::limit::{BODY_TIMEOUT, REST_BODY_TIMEOUT, TIMEOUT_MAX};

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
        match self.keys.authenticate(&mut request) {
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
        let noted = request.extensions().get::<Arrival>();
        let (at, timeout, protocol) = noted.map_or_else(
            || (tokio::time::Instant::now(), None, Protocol::Http),
            |arrival| (arrival.at, arrival.timeout, arrival.protocol),
        );
        // Reflection is a conversation: clients ask more as they go.
        let is_conversation = request.uri().path().starts_with("/grpc.reflection.");
        let own = match protocol {
            Protocol::Grpc if is_conversation => TIMEOUT_MAX,
            Protocol::Grpc => BODY_TIMEOUT,
            Protocol::Http => REST_BODY_TIMEOUT,
        };
        let longest = match protocol {
            Protocol::Grpc => TIMEOUT_MAX,
            // A body over HTTP/1.1 holds a whole connection, however long its caller would wait.
            Protocol::Http => REST_BODY_TIMEOUT,
        };
        let ends = at + timeout.unwrap_or(own).min(longest);
        self.inner
            .call(request.map(|body| Body::new(Timely::new(body, ends))))
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
    use std::time::Duration;

    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;

    use super::*;

    /// Reads the body of a request to its end.
    #[derive(Clone)]
    struct Reads;

    impl Service<Request<Body>> for Reads {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Answering;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Answering {
            Box::pin(async move {
                let _ = request.into_body().collect().await;
                Ok(Response::new(Body::empty()))
            })
        }
    }

    /// How long a body that never comes is waited for.
    async fn waited(headers: &[(&'static str, &str)]) -> Duration {
        let body = tokio_stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
        let mut request = Request::new(StreamBody::new(body));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let mut door = Stamp {
            inner: Hurry { inner: Reads },
            chance: Chance::default(),
        };
        let began = Instant::now();
        door.call(request).await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_so_long_and_no_longer() {
        let grpc = ("content-type", "application/grpc");
        let near = |waited: Duration, limit: Duration| {
            assert!(
                limit <= waited && waited < limit + Duration::from_millis(10),
                "{waited:?}"
            );
        };
        near(waited(&[grpc]).await, BODY_TIMEOUT);
        near(
            waited(&[grpc, ("grpc-timeout", "99S")]).await,
            Duration::from_secs(99),
        );
        near(waited(&[]).await, REST_BODY_TIMEOUT);
        near(
            waited(&[("request-timeout", "600")]).await,
            REST_BODY_TIMEOUT,
        );
        near(
            waited(&[("request-timeout", "0.5")]).await,
            Duration::from_millis(500),
        );
        near(
            waited(&[("grpc-timeout", "2S")]).await,
            Duration::from_secs(2),
        );
    }
}
