//! ClusterService.

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{House, from_proto, to_proto};
use crate::domain::limit::PAGE_BYTES_MAX;
use crate::ingress::failure_table;
use crate::proto::orchestrator::cluster_service_server::ClusterService;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, ListInstancesRequest, ListInstancesResponse,
    RegisterRequest, RegisterResponse,
};

#[derive(Clone)]
pub(super) struct Cluster {
    house: House,
}

impl Cluster {
    pub(super) fn new(house: House) -> Self {
        Self { house }
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let read = from_proto::registration(request.into_inner());
        let registration = read.map_err(|failure| failure_table::status(&failure))?;
        let registered = self.house.fleet.register(registration).await;
        let ends = registered.map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(RegisterResponse {
            expire_time: Some(to_proto::timestamp(ends)),
        }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let request = request.into_inner();
        let id = from_proto::instance_id("id", &request.id);
        id.and_then(|id| self.house.fleet.deregister(&id, request.incarnation))
            .map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(DeregisterResponse {}))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let request = request.into_inner();
        let size = from_proto::page_size(request.page_size)
            .map_err(|failure| failure_table::status(&failure))?;
        let view = self.house.fleet.view();
        let rest = view.after(&request.page_token);
        let mut instances = Vec::new();
        let mut bytes = 0;
        for member in rest.iter().take(size) {
            let listed = to_proto::listed(member, self.house.fleet.lease_ends(member.id()));
            bytes += listed.encoded_len();
            // Labels may be long: a page ends early rather than outgrow what clients take. One always fits.
            if PAGE_BYTES_MAX < bytes && !instances.is_empty() {
                break;
            }
            instances.push(listed);
        }
        let last = instances.len().checked_sub(1).map(|at| &rest[at]);
        let next = last
            .filter(|_| instances.len() < rest.len())
            .map(|last| last.id().to_string());
        Ok(Response::new(ListInstancesResponse {
            instances,
            next_page_token: next.unwrap_or_default(),
        }))
    }
}
