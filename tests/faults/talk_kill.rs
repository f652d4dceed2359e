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

/// How often an instance is killed that comes back.
const INSTANCE_KILLS: usize = 4;

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
    let start = |id: &str, listen: &str| {
        Instance::start_by(Command::new(std::env::current_exe().unwrap()), id, listen)
    };
    // B comes back where it was: nobody else of these tests is at its address.
    let mut instances = vec![start("A", "127.0.0.1:0"), start("B", "127.77.3.1:0")];
    let address_of_b = instances[1].address.to_string();
    let orchestrator = Orchestrator::start(&addresses(&instances));
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talks = [
        Talk::new("reassign-a", LossPolicy::Reassign, 0).placed_at(&["A", "B"]),
        Talk::new("replay-a", LossPolicy::Replay, 0).placed_at(&["A", "B"]),
        Talk::new("reassign-b", LossPolicy::Reassign, 0).placed_at(&["B", "A"]),
        Talk::new("replay-b", LossPolicy::Replay, 0).placed_at(&["B", "A"]),
    ];
    let fails = Talk::new("fail", LossPolicy::Fail, 0).placed_at(&["A", "B"]);
    let fails = fails.that_ends();
    let mut running = Vec::new();
    for talk in talks.iter().chain([&fails]) {
        running.push(tokio::spawn(talk.clone().run(at.clone())));
        talk.goes_on_for(20).await;
    }
    // Those at B begin anew there each time, those at A do not notice.
    for _ in 0..INSTANCE_KILLS {
        instances.last_mut().unwrap().kill();
        instances.push(start("B", &address_of_b));
        for talk in &talks {
            talk.goes_on_for(20).await;
        }
    }
    let moves = |talks: &[Talk]| -> Vec<usize> { talks.iter().map(Talk::moves).collect() };
    assert_eq!(moves(&talks[..2]), [0, 0], "nothing has happened to A");
    for moves in moves(&talks[2..]) {
        assert!(INSTANCE_KILLS <= moves, "{moves}");
    }
    // A does not come back.
    instances[0].kill();
    fails.post_without_waiting(orchestrator.address, "p0").await;
    for talk in &talks {
        talk.goes_on_for(100).await;
        talk.end();
    }
    finished(running).await;
    assert!(moves(&talks[..2]).iter().all(|moves| 1 <= *moves));
    let (reason, streamed, posted) = fails.ended();
    assert_eq!(reason.as_deref(), Some("instance_lost"));
    assert!(1 <= streamed && posted == 1, "{streamed}, {posted}");
    for talk in talks.iter().chain([&fails]) {
        talk.check(&mut instances, Answering::Once);
    }
}
