//! ClusterService.

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{House, arrival, from_proto, to_proto};
use crate::domain::failure::Failure;
use crate::domain::health::Admin;
use crate::domain::limit::{FLEET_MAX, PAGE_BYTES_MAX};
use crate::ingress::failure_table;
use crate::proto::orchestrator::cluster_service_server::ClusterService;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, InstanceHealth,
    ListInstancesRequest, ListInstancesResponse, RegisterRequest, RegisterResponse, UndrainRequest,
    UndrainResponse,
};

#[derive(Clone)]
pub(super) struct Cluster {
    house: House,
}

impl Cluster {
    pub(super) fn new(house: House) -> Self {
        Self { house }
    }

    /// Sets what is wanted of instances; tells how they are then.
    fn set_admin<T>(
        &self,
        mut request: Request<T>,
        expressions: impl FnOnce(T) -> Vec<String>,
        admin: Admin,
    ) -> Result<Vec<InstanceHealth>, Failure> {
        let caller = arrival(&mut request)?.caller;
        let expressions = expressions(request.into_inner());
        let fleet = &self.house.fleet;
        let chosen = fleet.view().resolve(&expressions, FLEET_MAX);
        let chosen = chosen.map_err(from_proto::target)?;
        let ids: Vec<_> = chosen.iter().map(|member| member.id()).collect();
        fleet.set_admin(ids.iter().copied(), admin, caller.name());
        let view = fleet.view();
        let members = ids.iter().filter_map(|id| view.find(id));
        Ok(members.map(|member| to_proto::health(member)).collect())
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn register(
        &self,
        mut request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let asker = arrival(&mut request).map(|arrival| arrival.asker());
        let asker = asker.map_err(|failure| failure_table::status(&failure))?;
        let read = from_proto::registration(request.into_inner());
        let registration = read.map_err(|failure| failure_table::status(&failure))?;
        let registered = self.house.fleet.register(registration, &asker).await;
        let ends = registered.map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(RegisterResponse {
            expire_time: Some(to_proto::timestamp(ends)),
        }))
    }

    async fn deregister(
        &self,
        mut request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let asker = arrival(&mut request).map(|arrival| arrival.asker());
        let asker = asker.map_err(|failure| failure_table::status(&failure))?;
        let request = request.into_inner();
        let id = from_proto::instance_id("id", &request.id);
        id.and_then(|id| {
            self.house
                .fleet
                .deregister(&id, request.incarnation, &asker)
        })
        .map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(DeregisterResponse {}))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let instances = self.set_admin(request, |request| request.instances, Admin::Draining);
        let instances = instances.map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(DrainResponse { instances }))
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        let instances = self.set_admin(request, |request| request.instances, Admin::Active);
        let instances = instances.map_err(|failure| failure_table::status(&failure))?;
        Ok(Response::new(UndrainResponse { instances }))
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
