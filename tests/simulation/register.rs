//! An instance that is not in the config makes itself known, anew with each start.

use std::net::IpAddr;
use std::time::Duration;

use orchestrator::domain::limit::LEASE_MIN;
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::{Instance, RegisterRequest};
use tokio::time::{sleep, timeout};

use crate::caller::{self, HOUSE_KEY, authorized};
use crate::wire::Wire;

/// How long one try may take, and how long the pause after it is.
const TRY: Duration = Duration::from_millis(100);
/// Well before the lease ends.
const RENEWED_EVERY: Duration = Duration::from_secs(2);

/// Registers, and renews its lease for as long as it lives. `incarnation` rises with each start.
pub(crate) async fn stay_registered(
    orchestrator: IpAddr,
    id: String,
    address: String,
    incarnation: u64,
) {
    loop {
        let request = RegisterRequest {
            instance: Some(Instance {
                id: id.clone(),
                address: address.clone(),
                ..Default::default()
            }),
            incarnation,
            lease: Some(LEASE_MIN.try_into().unwrap()),
        };
        let done = timeout(TRY, register(orchestrator, request)).await;
        let pause = if done == Ok(Some(())) {
            RENEWED_EVERY
        } else {
            TRY
        };
        sleep(pause).await;
    }
}

async fn register(orchestrator: IpAddr, request: RegisterRequest) -> Option<()> {
    let (wire, driver) = Wire::open(orchestrator, caller::PORT).await.ok()?;
    let mut client = ClusterServiceClient::with_origin(wire, caller::origin(orchestrator));
    let registered = client.register(authorized(HOUSE_KEY, request)).await;
    driver.abort();
    registered.ok().map(drop)
}
