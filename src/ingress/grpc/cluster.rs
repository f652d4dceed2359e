//! ClusterService over gRPC.

use tonic::{Request, Response, Status};

use crate::domain::failure::Failure;
use crate::ingress::failure_table;
use crate::ingress::methods;
use crate::proto::orchestrator::cluster_service_server::ClusterService;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, ListInstancesRequest, ListInstancesResponse,
    RegisterRequest, RegisterResponse,
};

#[derive(Clone)]
pub(super) struct Cluster(pub(super) methods::Cluster);

fn answer<T>(made: Result<T, Failure>) -> Result<Response<T>, Status> {
    made.map(Response::new)
        .map_err(|failure| failure_table::status(&failure))
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        answer(self.0.register(request.into_inner()).await)
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        answer(self.0.deregister(request.get_ref()))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        answer(self.0.list_instances(request.get_ref()))
    }
}
