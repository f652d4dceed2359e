//! Orchestrators and instances are killed in the middle of conversations.

use std::future::pending;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use orchestrator::proto::orchestrator::{HealthState, LossPolicy};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::load::settled;
use crate::processes::{Instance, Orchestrator, PATIENCE, binary};
use crate::sessions::judge::Answering;
use crate::talk::Talk;

/// How often the orchestrator is killed, unless SESSION_KILLS says otherwise.
const KILLS: u64 = 20;

pub(crate) fn addresses(instances: &[Instance]) -> Vec<(&str, SocketAddr)> {
    instances
        .iter()
        .map(|one| (one.id.as_str(), one.address))
        .collect()
}

pub(crate) async fn healthy(orchestrator: &Orchestrator) {
    settled(orchestrator.address, |_, state| {
        state == HealthState::Healthy
    })
    .await;
}

/// Waits for what was begun.
pub(crate) async fn finished(talks: Vec<tokio::task::JoinHandle<()>>) {
    for talk in talks {
        let done = timeout(PATIENCE, talk).await;
        done.expect("the conversation comes to its end").unwrap();
    }
}

pub(crate) async fn an_orchestrator_that_is_killed_again_and_again_loses_nothing_that_it_has_acknowledged()
 {
    let kills = std::env::var("SESSION_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut instances = ["A", "B"].map(Instance::start);
    let data = tempfile::tempdir().unwrap();
    let start = |instances: &[Instance]| {
        let command = Command::new(binary());
        Orchestrator::start_on(command, "127.0.0.1:0", &addresses(instances), data.path())
    };
    let mut orchestrator = start(&instances);
    healthy(&orchestrator).await;
    let (now_at, at) = watch::channel(orchestrator.address);
    let talks = [
        Talk::new("fail", LossPolicy::Fail, 0),
        Talk::new("replay", LossPolicy::Replay, 300),
    ];
    let running: Vec<_> = talks
        .iter()
        .flat_map(|talk| {
            let posting = talk.clone().post(at.clone());
            [
                tokio::spawn(talk.clone().run(at.clone())),
                tokio::spawn(posting),
            ]
        })
        .collect();
    for _ in 0..kills {
        for talk in &talks {
            talk.goes_on_for(5).await;
        }
        // At any instant of what it does for one message.
        let wait = Duration::from_micros(rand::rng().random_range(0..20_000));
        let _ = timeout(wait, pending::<()>()).await;
        orchestrator.kill();
        orchestrator = start(&instances);
        now_at.send_replace(orchestrator.address);
    }
    talks.iter().for_each(Talk::end);
    finished(running).await;
    for talk in &talks {
        talk.check(&mut instances, Answering::Once);
    }
    println!("{kills} kills");
}

pub(crate) async fn a_killed_instance_costs_no_message_where_another_goes_on() {
    let mut instances: Vec<_> = ["A", "B"].map(Instance::start).into();
    let orchestrator = Orchestrator::start(&addresses(&instances));
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talks = [
        Talk::new("reassign-1", LossPolicy::Reassign, 0),
        Talk::new("reassign-2", LossPolicy::Reassign, 0),
        Talk::new("replay-1", LossPolicy::Replay, 0),
        Talk::new("replay-2", LossPolicy::Replay, 0),
    ];
    let mut running = Vec::new();
    for talk in &talks {
        running.push(tokio::spawn(talk.clone().run(at.clone())));
        // One after the other, so that each instance holds some.
        talk.goes_on_for(20).await;
    }
    instances[0].signal("KILL");
    for talk in &talks {
        talk.goes_on_for(100).await;
        talk.end();
    }
    finished(running).await;
    for talk in &talks {
        talk.check(&mut instances, Answering::Once);
    }
}
