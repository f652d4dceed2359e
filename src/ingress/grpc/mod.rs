//! The gRPC methods: a request becomes a value of the domain, a room does the work, the answer goes back.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::arrival::Arrival;
use super::failure_table::{self, Protocol};
use super::layer::Answering;
use crate::chance::Chance;
use crate::domain::budget::Budget;
use crate::domain::failure::{Failure, Reason};
use crate::domain::hedge::Hedges;
use crate::domain::limit::{
    FANOUT_TIMEOUT_DEFAULT, MESSAGE_BYTES_MAX, ROUTE_TIMEOUT_DEFAULT, TIMEOUT_MAX,
};
use crate::fleet::Fleet;
use crate::orchestrate::admit::Gate;
use crate::orchestrate::deduplicate::Deduplicate;
use crate::orchestrate::hold_session::Sessions;
use crate::orchestrate::run_task::Readiness;
use crate::proto;
use crate::proto::health::health_server::{self, HealthServer};
use crate::proto::orchestrator::cluster_service_server::{self, ClusterServiceServer};
use crate::proto::orchestrator::orchestrator_service_server::{self, OrchestratorServiceServer};
use crate::tasks::Tasks;

mod cluster;
mod explain;
mod from_proto;
mod orchestrator;
mod serving;
mod session_from_proto;
mod session_to_proto;
mod sessions;
mod to_proto;
mod watch;

/// What the methods work with.
#[derive(Clone)]
pub struct House {
    /// Who is there.
    pub fleet: Arc<Fleet>,
    /// Who runs what outlives a request.
    pub tasks: Tasks,
    /// Who lets work in.
    pub gate: Arc<Gate>,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// Conversations with instances.
    pub sessions: Sessions,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// Hedges over all callers.
    pub hedges: Arc<Mutex<Hedges>>,
    /// Where calls wait while no instance may be used.
    pub readiness: Arc<Readiness>,
    /// Finds calls again by their idempotency keys.
    pub deduplicate: Deduplicate,
    /// What decides where nothing else does.
    pub chance: Chance,
    /// Fires when the orchestrator is about to stop: not ready, and no stream without an end goes on.
    pub draining: CancellationToken,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A Route that says nothing.
    pub route: std::time::Duration,
    /// A Fanout that says nothing.
    pub fanout: std::time::Duration,
    /// The most that anybody gets.
    pub max: std::time::Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            route: ROUTE_TIMEOUT_DEFAULT,
            fanout: FANOUT_TIMEOUT_DEFAULT,
            max: TIMEOUT_MAX,
        }
    }
}

const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The library does not name the types of its reflection services.
type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Every gRPC method of the server, found by path.
#[derive(Clone)]
pub struct Methods {
    orchestrator: OrchestratorServiceServer<orchestrator::Orchestrator>,
    cluster: ClusterServiceServer<cluster::Cluster>,
    health: HealthServer<serving::Serving>,
    reflection: Boxed,
    reflection_alpha: Boxed,
}

impl Methods {
    /// All methods. Fails only when the descriptors that were built in are broken.
    pub fn new(house: &House) -> Result<Self, tonic_reflection::server::Error> {
        let reflection = |own_name| {
            // Only what is served here is listed; what an instance implements can be described all the same.
            tonic_reflection::server::Builder::configure()
                .with_service_name(orchestrator_service_server::SERVICE_NAME)
                .with_service_name(cluster_service_server::SERVICE_NAME)
                .with_service_name(health_server::SERVICE_NAME)
                .with_service_name(own_name)
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                // What the details of a failure are made of, so that clients can show them.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let orchestrator = orchestrator::Orchestrator::new(house.clone());
        Ok(Self {
            orchestrator: OrchestratorServiceServer::new(orchestrator)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            cluster: ClusterServiceServer::new(cluster::Cluster::new(house.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            health: HealthServer::new(serving::Serving::new(house)).max_decoding_message_size(1024),
            reflection: Boxed::new(reflection(REFLECTION).build_v1()?),
            reflection_alpha: Boxed::new(reflection(REFLECTION_ALPHA).build_v1alpha()?),
        })
    }
}

impl Service<Request<Body>> for Methods {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        if Protocol::of(request.headers()) == Protocol::Http {
            let detail = "this port speaks gRPC: see `grpcurl -plaintext ADDRESS list`";
            return refuse(&Failure::new(Reason::MethodUnknown, detail), Protocol::Http);
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            orchestrator_service_server::SERVICE_NAME => self.orchestrator.call(request),
            cluster_service_server::SERVICE_NAME => self.cluster.call(request),
            health_server::SERVICE_NAME => self.health.call(request),
            REFLECTION => self.reflection.call(request),
            REFLECTION_ALPHA => self.reflection_alpha.call(request),
            _ => refuse(
                &Failure::new(Reason::MethodUnknown, "no such service"),
                Protocol::Grpc,
            ),
        }
    }
}

fn refuse(failure: &Failure, protocol: Protocol) -> Answering {
    Box::pin(ready(Ok(failure_table::refuse(failure, protocol))))
}

/// What the door has noted; a method that is reached without it is a bug.
fn arrival<T>(request: &mut tonic::Request<T>) -> Result<Arrival, Failure> {
    let noted = request.extensions_mut().remove::<Arrival>();
    noted.ok_or_else(|| Failure::new(Reason::Internal, "the request has no arrival"))
}
