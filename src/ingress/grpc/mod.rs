//! The gRPC door: the services of the contract over `ingress::methods`, health and reflection.

use std::future::ready;
use std::sync::Arc;

use http::Request;
use tonic::body::Body;
use tower::Service;

use super::access::SESSION_SEND;
use super::arrival::Arrival;
use super::failure_table;
use super::layer::Answering;
use super::methods::{self, House};
use super::web;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::MESSAGE_BYTES_MAX;
use crate::proto::health::health_server::{self, HealthServer};
use crate::proto::orchestrator::cluster_service_server::{self, ClusterServiceServer};
use crate::proto::orchestrator::orchestrator_service_server::{self, OrchestratorServiceServer};

mod cluster;
mod orchestrator;
mod reflection;
mod serving;
mod session_stream;

use reflection::Reflection;

/// Every gRPC method of the server, found by path.
pub(super) struct Methods {
    orchestrator: OrchestratorServiceServer<orchestrator::Orchestrator>,
    /// The same, for the streams of sessions.
    sessions: Arc<orchestrator::Orchestrator>,
    cluster: ClusterServiceServer<cluster::Cluster>,
    health: HealthServer<serving::Serving>,
    reflection: Reflection,
    reflection_alpha: Reflection,
}

impl Methods {
    pub(super) fn new(
        house: &House,
        orchestrator: methods::Orchestrator,
        cluster: methods::Cluster,
    ) -> Self {
        let orchestrator = orchestrator::Orchestrator(orchestrator);
        Self {
            sessions: Arc::new(orchestrator.clone()),
            orchestrator: OrchestratorServiceServer::new(orchestrator)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            cluster: ClusterServiceServer::new(cluster::Cluster(cluster))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            health: HealthServer::new(serving::Serving::new(house)).max_decoding_message_size(1024),
            reflection: Reflection::v1(),
            reflection_alpha: Reflection::v1_alpha(),
        }
    }
}

impl Methods {
    /// Answers a request by the service that it names; of the others nothing is copied.
    pub(super) fn call(&self, request: Request<Body>) -> Answering {
        if request.uri().path() == SESSION_SEND {
            if web::is_web(&request) {
                return Box::pin(ready(Ok(failure_table::status(&one_way()).into_http())));
            }
            return session_stream::serve(&self.sessions, request);
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            orchestrator_service_server::SERVICE_NAME => self.orchestrator.clone().call(request),
            cluster_service_server::SERVICE_NAME => self.cluster.clone().call(request),
            health_server::SERVICE_NAME => self.health.clone().call(request),
            reflection::V1 => self.reflection.call(request),
            reflection::V1_ALPHA => self.reflection_alpha.call(request),
            _ => {
                let unknown = Failure::new(Reason::MethodUnknown, "no such service");
                Box::pin(ready(Ok(failure_table::status(&unknown).into_http())))
            }
        }
    }
}

fn one_way() -> Failure {
    let detail = "the stream of a session goes both ways at once, which gRPC-Web does not: send by SessionPost, and \
                  listen by GET /api/orchestrator/sessions/ID/events";
    Failure::new(Reason::MethodUnknown, detail)
}

/// What the door has noted; a method that is reached without it is a bug.
fn arrival<T>(request: &mut tonic::Request<T>) -> Result<Arrival, Failure> {
    let noted = request.extensions_mut().remove::<Arrival>();
    noted.ok_or_else(|| Failure::new(Reason::Internal, "the request has no arrival"))
}
