//! The methods of ClusterService.

use prost::Message as _;

use super::{House, from_proto, to_proto};
use crate::domain::failure::Failure;
use crate::domain::health::Admin;
use crate::domain::id::InstanceId;
use crate::domain::limit::{FLEET_MAX, PAGE_BYTES_MAX};
use crate::ingress::arrival::Arrival;
use crate::proto::orchestrator::{
    DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, InstanceHealth,
    ListInstancesRequest, ListInstancesResponse, RegisterRequest, RegisterResponse, UndrainRequest,
    UndrainResponse,
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
        arrival: &Arrival,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Failure> {
        let registration = from_proto::registration(request)?;
        let asker = arrival.asker();
        let ends = self.house.fleet.register(registration, &asker).await?;
        Ok(RegisterResponse {
            expire_time: Some(to_proto::timestamp(ends)),
        })
    }

    /// Removes a registered instance.
    pub(crate) async fn deregister(
        &self,
        arrival: &Arrival,
        request: &DeregisterRequest,
    ) -> Result<DeregisterResponse, Failure> {
        let id = from_proto::instance_id("id", &request.id)?;
        let fleet = &self.house.fleet;
        let asker = arrival.asker();
        fleet.deregister(&id, request.incarnation, &asker).await?;
        Ok(DeregisterResponse {})
    }

    /// Sends no new work to instances; tells how they are then.
    pub(crate) fn drain(
        &self,
        arrival: &Arrival,
        request: &DrainRequest,
    ) -> Result<DrainResponse, Failure> {
        let instances = self.set_admin(arrival, &request.instances, Admin::Draining)?;
        if request.move_sessions {
            let ids = instances.iter().map(|health| &health.instance);
            let ids: Vec<_> = ids.filter_map(|id| InstanceId::parse(id).ok()).collect();
            self.house.sessions.move_away(&ids);
        }
        Ok(DrainResponse { instances })
    }

    /// Gives instances work again; tells how they are then.
    pub(crate) fn undrain(
        &self,
        arrival: &Arrival,
        request: &UndrainRequest,
    ) -> Result<UndrainResponse, Failure> {
        let instances = self.set_admin(arrival, &request.instances, Admin::Active)?;
        Ok(UndrainResponse { instances })
    }

    fn set_admin(
        &self,
        arrival: &Arrival,
        expressions: &[String],
        admin: Admin,
    ) -> Result<Vec<InstanceHealth>, Failure> {
        let fleet = &self.house.fleet;
        let chosen = fleet.view().resolve(expressions, FLEET_MAX);
        let chosen = chosen.map_err(from_proto::target)?;
        let ids: Vec<_> = chosen.iter().map(|member| member.id()).collect();
        fleet.set_admin(ids.iter().copied(), admin, arrival.caller.name());
        let view = fleet.view();
        let members = ids.iter().filter_map(|id| view.find(id));
        Ok(members
            .map(|member| to_proto::health(member, &self.house.sessions))
            .collect())
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
            let listed = to_proto::listed(
                member,
                self.house.fleet.lease_ends(member.id()),
                &self.house.sessions,
            );
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
