//! The network is cut in the middle of conversations. Needs root, iproute2 and nftables.

use std::future::pending;
use std::time::Duration;

use orchestrator::proto::orchestrator::{HealthState, LossPolicy};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::load::settled;
use crate::network::Host;
use crate::processes::{Instance, Orchestrator, binary};
use crate::sessions::judge::Answering;
use crate::talk::Talk;
use crate::talk_kill::{addresses, finished, healthy};

const MESSAGES: u64 = 100;

pub(crate) async fn a_session_outlives_a_cut_between_the_orchestrator_and_its_instance() {
    let host = Host::start(21);
    let mut instances = vec![host.instance("A")];
    let orchestrator = Orchestrator::start(&addresses(&instances));
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("cut", LossPolicy::Fail, 0);
    let running = tokio::spawn(talk.clone().run(at));
    talk.goes_on_for(MESSAGES).await;
    host.cut();
    settled(orchestrator.address, |_, state| state == HealthState::Down).await;
    host.mend();
    talk.goes_on_for(MESSAGES).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
}

pub(crate) async fn a_session_whose_connection_is_a_black_hole_goes_on_although_its_instance_is_well()
 {
    let host = Host::start(23);
    let mut instances = vec![host.instance("A")];
    let orchestrator = Orchestrator::start(&addresses(&instances));
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("hole", LossPolicy::Fail, 0);
    let running = tokio::spawn(talk.clone().run(at));
    talk.goes_on_for(MESSAGES).await;
    // Probes go over a connection of their own, and over a new one when that fails.
    host.cut_what_is_open();
    talk.goes_on_for(MESSAGES).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
}

pub(crate) async fn a_session_outlives_a_cut_between_its_client_and_the_orchestrator() {
    let host = Host::start(22);
    let command = host.command(std::env::current_exe().unwrap());
    let mut instances = vec![Instance::start_by(command, "A", "127.0.0.1:0")];
    let listen = format!("{}:7070", host.address);
    let command = host.command(binary());
    let orchestrator = Orchestrator::start_by(command, &listen, &addresses(&instances));
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("cut", LossPolicy::Fail, 0);
    let running = tokio::spawn(talk.clone().run(at));
    for _ in 0..2 {
        talk.goes_on_for(MESSAGES).await;
        host.cut();
        // Longer than the client takes to give its stream up.
        let _ = timeout(Duration::from_secs(4), pending::<()>()).await;
        host.mend();
    }
    talk.goes_on_for(MESSAGES).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
}
