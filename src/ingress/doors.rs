//! The doors behind the layers: gRPC and REST over the same methods.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::failure_table::Protocol;
use super::layer::Answering;
use super::methods::{Cluster, House, Orchestrator};
use super::{arrival, grpc, rest};
use crate::message_json::BadSchema;

/// Why the doors cannot be built: only when what was built in is broken.
#[derive(Debug, thiserror::Error)]
pub enum BadContract {
    /// It has no form in JSON.
    #[error("the contract in JSON: {0}")]
    Schema(#[from] BadSchema),
}

/// Both doors.
#[derive(Clone)]
pub(super) struct Doors {
    grpc: Arc<grpc::Methods>,
    rest: rest::Endpoints,
}

impl Doors {
    pub(super) fn new(house: &House) -> Result<Self, BadContract> {
        let orchestrator = Orchestrator::new(house.clone());
        let cluster = Cluster::new(house.clone());
        Ok(Self {
            grpc: Arc::new(grpc::Methods::new(
                house,
                orchestrator.clone(),
                cluster.clone(),
            )),
            rest: rest::Endpoints::new(house, orchestrator, cluster)?,
        })
    }
}

impl Service<Request<Body>> for Doors {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        match arrival::protocol(&request) {
            Protocol::Grpc => self.grpc.call(request),
            Protocol::Http => self.rest.call(request),
        }
    }
}
