//! The methods of ClusterService.

use prost::Message as _;

use super::{House, from_proto, to_proto};
use crate::domain::failure::Failure;
use crate::domain::limit::PAGE_BYTES_MAX;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, ListInstancesRequest, ListInstancesResponse,
    RegisterRequest, RegisterResponse,
};

/// The methods of ClusterService.
#[derive(Clone)]
pub(crate) struct Cluster {
    house: House,
}

impl Cluster {
    pub(crate) fn new(house: House) -> Self {
        Self { house }
    }

    /// Adds an instance to the fleet, or renews its lease.
    pub(crate) async fn register(
        &self,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Failure> {
        let registration = from_proto::registration(request)?;
        let ends = self.house.fleet.register(registration).await?;
        Ok(RegisterResponse {
            expire_time: Some(to_proto::timestamp(ends)),
        })
    }

    /// Removes a registered instance.
    pub(crate) fn deregister(
        &self,
        request: &DeregisterRequest,
    ) -> Result<DeregisterResponse, Failure> {
        let id = from_proto::instance_id("id", &request.id)?;
        self.house.fleet.deregister(&id, request.incarnation)?;
        Ok(DeregisterResponse {})
    }

    /// Lists the fleet, a page at a time.
    pub(crate) fn list_instances(
        &self,
        request: &ListInstancesRequest,
    ) -> Result<ListInstancesResponse, Failure> {
        let size = from_proto::page_size(request.page_size)?;
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
        Ok(ListInstancesResponse {
            instances,
            next_page_token: next.unwrap_or_default(),
        })
    }
}
