//! Every instance fails every call: retries must not make it worse.

use std::time::Duration;

use orchestrator::proto::orchestrator::{CallPolicy, HealthState};
use tokio::time::{self, Instant, MissedTickBehavior};

use crate::load::{Account, call, connect, settled};
use crate::processes::{Instance, Orchestrator, PROBE_INTERVAL, begun};

/// Calls a second that are offered.
const RATE: u64 = 1000;
const CALLS: u64 = 5 * RATE;

pub(crate) async fn a_storm_of_failures_is_not_made_worse_and_is_over_with_its_cause() {
    let mut instances: Vec<_> = ["A", "B", "C", "D"].map(Instance::start).into();
    let addresses: Vec<_> = instances
        .iter()
        .map(|one| (one.id.as_str(), one.address))
        .collect();
    let orchestrator = Orchestrator::start_as_usual(&addresses);
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
    for instance in &mut instances {
        instance.tell("fail");
    }
    // All of it may be repeated, as often as is allowed: the worst that callers can ask for.
    let policy = CallPolicy {
        idempotent: true,
        attempts_max: 5,
        ..Default::default()
    };
    let client = connect(orchestrator.address).await;
    let mut calls = tokio::task::JoinSet::new();
    let mut ticks = time::interval(Duration::from_secs(1) / RATE as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    for number in 0..CALLS {
        ticks.tick().await;
        let (mut client, policy) = (client.clone(), policy.clone());
        calls.spawn(async move { call(&mut client, format!("storm-{number}"), policy).await });
    }
    let mut account = Account::default();
    while let Some(one) = calls.join_next().await {
        account.add(one.unwrap());
    }
    println!("{account}");
    // Not `check`: so many calls at once also wait inside the client, and that is not the orchestrator's time.
    assert_eq!((account.lost, account.answered), (0, 0), "{account}");
    let offered_for = began.elapsed();
    let tries_reported = account.tries_reported;
    let reached: usize = begun(&instances).values().sum();
    println!(
        "{CALLS} calls offered in {offered_for:?}, {reached} tries reached an instance, {tries_reported} were reported"
    );
    // It is a storm: every call was tried, and as many were tried again as could be.
    assert!(
        CALLS as usize + 500 < reached,
        "{reached} tries for {CALLS} calls"
    );
    assert!(
        reached * 4 <= CALLS as usize * 5,
        "{reached} tries for {CALLS} calls"
    );
    assert_eq!(
        reached, tries_reported,
        "what instances saw is what callers were told"
    );

    for instance in &mut instances {
        instance.tell("echo");
    }
    let returned = Instant::now();
    time::sleep_until(returned + PROBE_INTERVAL).await;
    let mut client = client;
    for number in 0..200 {
        let account = call(
            &mut client,
            format!("after-{number}"),
            CallPolicy::default(),
        )
        .await;
        account.check();
        assert_eq!(account.answered, 1, "{account}");
    }
}
