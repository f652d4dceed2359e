//! An instance is killed or stopped in the middle of a load.

use orchestrator::proto::orchestrator::{CallPolicy, HealthState};

use crate::load::{Account, Load, settled};
use crate::processes::{Instance, Orchestrator, begun};

const CALLS: usize = 1500;

fn eight() -> (Vec<Instance>, Orchestrator) {
    let instances: Vec<_> = ["A", "B", "C", "D", "E", "F", "G", "H"]
        .map(Instance::start)
        .into();
    let addresses: Vec<_> = instances
        .iter()
        .map(|one| (one.id.as_str(), one.address))
        .collect();
    let orchestrator = Orchestrator::start(&addresses);
    (instances, orchestrator)
}

/// Calls with a fault in the middle of them.
async fn with_fault(
    instances: &[Instance],
    orchestrator: &Orchestrator,
    name: &'static str,
    policy: CallPolicy,
    fault: impl FnOnce(),
) -> Account {
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
    let address = orchestrator.address;
    let load = Load {
        address,
        name,
        callers: 16,
        calls: CALLS,
        policy,
    }
    .start();
    load.begun(CALLS / 3).await;
    fault();
    let account = load.account(instances).await;
    account.check();
    // A fault that nobody has met shows nothing.
    assert_ne!(account.repeated, 0, "{account}");
    account
}

pub(crate) async fn a_killed_instance_costs_no_call_that_may_be_repeated() {
    let (instances, orchestrator) = eight();
    let policy = CallPolicy {
        idempotent: true,
        ..Default::default()
    };
    let account = with_fault(&instances, &orchestrator, "killed", policy, || {
        instances[2].signal("KILL")
    })
    .await;
    assert_eq!(account.answered, CALLS, "{account}");
    // The killed one took part before, and what was given to it had to be repeated elsewhere.
    assert_ne!(instances[2].begun().len(), 0);
    settled(orchestrator.address, |id, state| {
        (state == HealthState::Down) == (id == "C")
    })
    .await;
}

pub(crate) async fn a_killed_instance_makes_nobody_execute_a_task_twice() {
    let (instances, orchestrator) = eight();
    let account = with_fault(
        &instances,
        &orchestrator,
        "once",
        CallPolicy::default(),
        || {
            instances[5].signal("KILL");
        },
    )
    .await;
    // Only what was with the killed one may have failed.
    let kinds: Vec<_> = account.failed.keys().collect();
    assert!(
        kinds
            .iter()
            .all(|kind| *kind == "Unavailable INSTANCE_LOST"),
        "{account}"
    );
    let failed: usize = account.failed.values().sum();
    assert!(
        failed <= 16,
        "at most one call of each caller was with it: {account}"
    );
    check_once(&instances);
}

pub(crate) async fn a_stopped_instance_costs_no_call_that_may_be_repeated() {
    let (instances, orchestrator) = eight();
    let policy = CallPolicy {
        idempotent: true,
        per_try_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
        ..Default::default()
    };
    let account = with_fault(&instances, &orchestrator, "stopped", policy, || {
        instances[0].signal("STOP")
    })
    .await;
    assert_eq!(account.answered, CALLS, "{account}");
    settled(orchestrator.address, |id, state| {
        (state == HealthState::Healthy) == (id != "A")
    })
    .await;
    instances[0].signal("CONT");
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
}

/// No task was begun twice anywhere.
pub(crate) fn check_once(instances: &[Instance]) {
    let twice: Vec<_> = begun(instances)
        .into_iter()
        .filter(|(_, count)| 1 < *count)
        .collect();
    assert_eq!(twice, []);
}
