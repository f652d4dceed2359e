//! ClusterService over gRPC.

use tonic::{Request, Response, Status};

use super::arrival;
use crate::domain::failure::Failure;
use crate::ingress::arrival::Arrival;
use crate::ingress::failure_table;
use crate::ingress::methods;
use crate::proto::orchestrator::cluster_service_server::ClusterService;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, ListInstancesRequest,
    ListInstancesResponse, RegisterRequest, RegisterResponse, UndrainRequest, UndrainResponse,
};

#[derive(Clone)]
pub(super) struct Cluster(pub(super) methods::Cluster);

fn answer<T>(made: Result<T, Failure>) -> Result<Response<T>, Status> {
    made.map(Response::new)
        .map_err(|failure| failure_table::status(&failure))
}

fn noted<T>(request: &mut Request<T>) -> Result<Arrival, Status> {
    arrival(request).map_err(|failure| failure_table::status(&failure))
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn register(
        &self,
        mut request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let arrival = noted(&mut request)?;
        answer(self.0.register(&arrival, request.into_inner()).await)
    }

    async fn deregister(
        &self,
        mut request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let arrival = noted(&mut request)?;
        answer(self.0.deregister(&arrival, request.get_ref()).await)
    }

    async fn drain(
        &self,
        mut request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let arrival = noted(&mut request)?;
        answer(self.0.drain(&arrival, request.get_ref()))
    }

    async fn undrain(
        &self,
        mut request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        let arrival = noted(&mut request)?;
        answer(self.0.undrain(&arrival, request.get_ref()))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        answer(self.0.list_instances(request.get_ref()))
    }
}
