//! A real gRPC instance that counts what happens to it and does as a test tells it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_server::{Health, HealthServer};
use orchestrator::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use orchestrator::proto::instance::instance_service_server::{
    InstanceService, InstanceServiceServer,
};
use orchestrator::proto::instance::{
    ExecuteRequest, ExecuteResponse, SessionRequest, SessionResponse,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What an instance does with a call.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends the payload back.
    Echo,
    /// Sends it back later.
    EchoAfter(Duration),
    /// Sends it back once the value is true.
    EchoOnce(watch::Receiver<bool>),
    /// Answers with this payload.
    Answer(bytes::Bytes),
    /// Answers with a status.
    Fail(tonic::Code),
    /// Answers with this status, details included.
    FailWith(Status),
    /// Never answers.
    Silent,
}

/// What has happened to an instance so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that have come.
    pub(crate) begun: usize,
    /// Calls that were answered.
    pub(crate) answered: usize,
    /// Calls that were reset before their answer.
    pub(crate) reset: usize,
}

/// A port of its own.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A running instance.
pub(crate) struct Instance {
    life: Option<Runtime>,
    pub(crate) address: SocketAddr,
    pub(crate) counts: watch::Receiver<Counts>,
    /// The metadata of each call.
    pub(crate) seen: Arc<Mutex<Vec<MetadataMap>>>,
    /// The payloads, as they came.
    pub(crate) payloads: Arc<Mutex<Vec<Option<bytes::Bytes>>>>,
}

impl Instance {
    /// Starts an instance with one act that it repeats; it lives until it is killed or dropped.
    pub(crate) async fn start(act: Act) -> Self {
        Self::begin(act, Probes::Answered, LOOPBACK).await
    }

    /// As `start`, where an instance was before.
    pub(crate) async fn start_at(address: SocketAddr, act: Act) -> Self {
        Self::begin(act, Probes::Answered, address).await
    }

    /// As `start`, but it never answers a probe.
    pub(crate) async fn start_unprobed(act: Act) -> Self {
        Self::begin(act, Probes::Ignored, LOOPBACK).await
    }

    async fn begin(act: Act, probes: Probes, address: SocketAddr) -> Self {
        // A runtime of its own: dropping it closes every socket, as the death of a process does.
        let life = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = life
            .spawn(TcpListener::bind(address))
            .await
            .unwrap()
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (tx, counts) = watch::channel(Counts::default());
        let (seen, payloads) = (Arc::default(), Arc::default());
        let service = Service {
            act,
            probes,
            counts: tx,
            seen: Arc::clone(&seen),
            payloads: Arc::clone(&payloads),
        };
        let serving = Server::builder()
            .add_service(
                InstanceServiceServer::new(service.clone())
                    .max_decoding_message_size(64 << 20)
                    .max_encoding_message_size(64 << 20),
            )
            .add_service(HealthServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        life.spawn(serving);
        Self {
            life: Some(life),
            address,
            counts,
            seen,
            payloads,
        }
    }

    /// Ends it as a killed process ends: every connection breaks, and nobody listens any more.
    pub(crate) fn kill(&mut self) {
        self.life.take().unwrap().shutdown_background();
    }

    /// Waits until the counts are as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(Counts) -> bool) -> Counts {
        let mut counts = self.counts.clone();
        let found = tokio::time::timeout(
            Duration::from_secs(30),
            counts.wait_for(|counts| wanted(*counts)),
        );
        *found.await.expect("the instance sees it").unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probes {
    Answered,
    Ignored,
}

#[derive(Clone)]
struct Service {
    act: Act,
    probes: Probes,
    counts: watch::Sender<Counts>,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
    payloads: Arc<Mutex<Vec<Option<bytes::Bytes>>>>,
}

/// Counts a call as reset unless it was answered.
struct Ends<'a>(&'a watch::Sender<Counts>, bool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|counts| {
            if self.1 {
                counts.answered += 1
            } else {
                counts.reset += 1
            }
        });
    }
}

#[tonic::async_trait]
impl InstanceService for Service {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        self.counts.send_modify(|counts| counts.begun += 1);
        let mut ends = Ends(&self.counts, false);
        self.seen.lock().unwrap().push(request.metadata().clone());
        let payload = request.into_inner().payload;
        self.payloads.lock().unwrap().push(payload.clone());
        let payload = match self.act.clone() {
            Act::Echo => payload,
            Act::EchoAfter(delay) => {
                tokio::time::sleep(delay).await;
                payload
            }
            Act::EchoOnce(mut gate) => {
                gate.wait_for(|open| *open).await.unwrap();
                payload
            }
            Act::Answer(answer) => Some(answer),
            Act::Fail(code) => {
                ends.1 = true;
                return Err(Status::new(code, "as the test wants it"));
            }
            Act::FailWith(status) => {
                ends.1 = true;
                return Err(status);
            }
            Act::Silent => std::future::pending().await,
        };
        ends.1 = true;
        Ok(Response::new(ExecuteResponse { payload }))
    }

    type SessionStream = tokio_stream::Empty<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        _: Request<tonic::Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("this instance only executes"))
    }
}

type Watched = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if self.probes == Probes::Ignored {
            return std::future::pending().await;
        }
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = Watched;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Watched>, Status> {
        Err(Status::unimplemented(""))
    }
}
