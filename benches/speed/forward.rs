//! Role: what a plain tonic program does that takes a Route and hands it to one instance. No keys, no health,
//! no deadline, no choice: only the two hops.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use orchestrator::proto::instance::{ExecuteRequest, ExecuteResponse};
use orchestrator::proto::orchestrator::{RouteRequest, RouteResponse};
use prost::Message;
use prost_types::Value;
use tonic::body::Body;
use tonic::client;
use tonic::server::{self, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::process;

/// The four messages of a forwarder, and how they turn into each other.
pub(crate) trait Messages: Send + Sync + 'static {
    type Route: Message + Default + 'static;
    type Execute: Message + Default + 'static;
    type Executed: Message + Default + 'static;
    type Routed: Message + Default + 'static;

    fn execute(route: Self::Route) -> Self::Execute;
    fn routed(executed: Self::Executed) -> Self::Routed;
}

/// Payloads stay the bytes that they are: the product's own generated messages.
pub(crate) struct Opaque;

impl Messages for Opaque {
    type Route = RouteRequest;
    type Execute = ExecuteRequest;
    type Executed = ExecuteResponse;
    type Routed = RouteResponse;

    fn execute(route: RouteRequest) -> ExecuteRequest {
        let payload: Option<Bytes> = route.payload;
        ExecuteRequest { payload }
    }

    fn routed(executed: ExecuteResponse) -> RouteResponse {
        RouteResponse {
            instance: "A".to_owned(),
            payload: executed.payload,
            ..RouteResponse::default()
        }
    }
}

/// Payloads are decoded and encoded again: what the contract gives whoever generates code from it.
pub(crate) struct Typed;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypedRoute {
    #[prost(string, repeated, tag = "1")]
    instances: Vec<String>,
    #[prost(message, optional, tag = "2")]
    payload: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypedPayload {
    #[prost(message, optional, tag = "1")]
    payload: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypedRouted {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(message, optional, tag = "2")]
    payload: Option<Value>,
}

impl Messages for Typed {
    type Route = TypedRoute;
    type Execute = TypedPayload;
    type Executed = TypedPayload;
    type Routed = TypedRouted;

    fn execute(route: TypedRoute) -> TypedPayload {
        let payload = route.payload;
        TypedPayload { payload }
    }

    fn routed(executed: TypedPayload) -> TypedRouted {
        TypedRouted {
            instance: "A".to_owned(),
            payload: executed.payload,
        }
    }
}

/// Serves in front of the one instance that the argument names, in the same runtime as the orchestrator.
pub(crate) fn run<M: Messages>(arguments: &[String]) {
    let instance: SocketAddr = arguments[0].parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let uri: Uri = format!("http://{instance}").parse().unwrap();
        let channel = Channel::builder(uri).connect().await.unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let incoming = TcpIncoming::bind(any).unwrap().with_nodelay(Some(true));
        process::tell(&[incoming.local_addr().unwrap()]);
        let forward = Forward::<M> {
            instance: client::Grpc::new(channel),
            messages: PhantomData,
        };
        let server = Server::builder().add_service(forward);
        server.serve_with_incoming(incoming).await.unwrap();
    });
}

struct Forward<M> {
    instance: client::Grpc<Channel>,
    messages: PhantomData<M>,
}

impl<M> Clone for Forward<M> {
    fn clone(&self) -> Self {
        Self {
            instance: self.instance.clone(),
            messages: PhantomData,
        }
    }
}

impl<M> NamedService for Forward<M> {
    const NAME: &'static str = "openclaw.orchestrator.v1.OrchestratorService";
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<M: Messages> Service<http::Request<Body>> for Forward<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let forward = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<M::Routed, M::Route>::default();
            Ok(server::Grpc::new(codec).unary(forward, request).await)
        })
    }
}

impl<M: Messages> UnaryService<M::Route> for Forward<M> {
    type Response = M::Routed;
    type Future = Pending<Result<Response<M::Routed>, Status>>;

    fn call(&mut self, request: Request<M::Route>) -> Self::Future {
        let mut instance = self.instance.clone();
        Box::pin(async move {
            let path = PathAndQuery::from_static("/openclaw.instance.v1.InstanceService/Execute");
            let codec = ProstCodec::<M::Execute, M::Executed>::default();
            let message = Request::new(M::execute(request.into_inner()));
            let ready = instance.ready().await;
            ready.map_err(|error| Status::unavailable(error.to_string()))?;
            let answer = instance.unary(message, path, codec).await?;
            Ok(Response::new(M::routed(answer.into_inner())))
        })
    }
}
