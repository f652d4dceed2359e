//! The wall clock of the orchestrator jumps, back and forth. Needs libfaketime.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator::proto::orchestrator::HealthState;
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::{
    CallPolicy, Instance as Registered, ListInstancesRequest, RegisterRequest,
};
use tokio::time;
use tonic::Request;
use tonic::transport::Channel;

use crate::load::{Load, authorize, settled};
use crate::processes::{Instance, Orchestrator, binary};

const CALLS: usize = 900;
/// Where Debian puts it, by machine.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

pub(crate) async fn a_jump_of_the_wall_clock_changes_no_deadline_and_no_lease() {
    let library = LIBRARIES
        .iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime is installed");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let mut command = Command::new(binary());
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        // Where timeouts come from stays as it is, as it does when somebody sets the clock.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let (instance, registered) = (Instance::start("A"), Instance::start("R"));
    let orchestrator = Orchestrator::start_by(command, "127.0.0.1:0", &[("A", instance.address)]);
    let shown = register(&orchestrator, &registered).await;
    assert!(from_now(shown).abs() < 1200, "the clock is right at first");
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;

    let address = orchestrator.address;
    let policy = CallPolicy::default();
    let load = Load {
        address,
        name: "jump",
        callers: 8,
        calls: CALLS,
        policy,
    }
    .start();
    let jumps = ["+3600\n", "-86400\n", "+315360000\n", "+0\n"];
    for (at, jump) in jumps.iter().enumerate() {
        load.begun(CALLS * (at + 1) / (jumps.len() + 1)).await;
        std::fs::write(&clock, jump).unwrap();
        // The fleet looks at its leases twice a second.
        let mut looks = time::interval(Duration::from_millis(200));
        for _ in 0..5 {
            looks.tick().await;
            assert!(
                is_registered(&orchestrator).await,
                "the lease goes on after a jump by {jump}"
            );
        }
    }
    let account = load.account([&instance, &registered]).await;
    account.check();
    std::fs::write(&clock, "+7200\n").unwrap();
    let shown = register(&orchestrator, &registered).await;
    assert!(
        7200 <= from_now(shown),
        "the clock of the orchestrator does jump"
    );
    assert_eq!(account.answered, CALLS, "{account}");
}

async fn cluster(orchestrator: &Orchestrator) -> ClusterServiceClient<Channel> {
    let address = format!("http://{}", orchestrator.address);
    ClusterServiceClient::new(
        Channel::builder(address.parse().unwrap())
            .connect()
            .await
            .unwrap(),
    )
}

/// Registers, or renews; when the lease ends, as shown.
async fn register(orchestrator: &Orchestrator, instance: &Instance) -> prost_types::Timestamp {
    let mut request = Request::new(RegisterRequest {
        instance: Some(Registered {
            id: instance.id.clone(),
            address: instance.address.to_string(),
            ..Default::default()
        }),
        incarnation: 1,
        lease: Some(Duration::from_secs(600).try_into().unwrap()),
    });
    authorize(&mut request);
    let registered = cluster(orchestrator).await.register(request).await;
    registered.unwrap().into_inner().expire_time.unwrap()
}

/// Seconds between our own time and a time.
fn from_now(time: prost_types::Timestamp) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    time.seconds - now.as_secs() as i64
}

async fn is_registered(orchestrator: &Orchestrator) -> bool {
    let mut request = Request::new(ListInstancesRequest::default());
    authorize(&mut request);
    let listed = cluster(orchestrator)
        .await
        .list_instances(request)
        .await
        .unwrap()
        .into_inner();
    let mut ids = listed
        .instances
        .into_iter()
        .filter_map(|listed| Some(listed.instance?.id));
    ids.any(|id| id == "R")
}
