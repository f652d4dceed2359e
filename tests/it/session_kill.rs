//! An orchestrator that is killed again and again under a conversation loses nothing that it has acknowledged.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use orchestrator::instance::builtin::{self, Behaviour};
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::session_server_data::Reply;
use orchestrator::proto::orchestrator::{HealthState, HealthWatchRequest, SessionSpawnRequest};
use orchestrator::tasks::Tasks;
use prost::Message as _;

use crate::history::{Event, judge};
use crate::session::Attached;
use crate::stage::{Bearer, Client, KEY, channel};

const KILLS: u64 = 20;
const MESSAGES: u64 = 4000;

/// An orchestrator in a process of its own, with its config and its journal in one folder.
pub(crate) struct Killed {
    child: Child,
    pub(crate) address: String,
}

impl Killed {
    pub(crate) fn start(folder: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .args(["serve", "--log", "off", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(folder.join("orchestrator.json"))
            .arg("--data-dir")
            .arg(folder)
            .env("ORCHESTRATOR_API_KEY", KEY)
            .env_remove("ORCHESTRATOR_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let started: serde_json::Value = serde_json::from_str(&line).expect("it starts");
        let address = started["listening"].as_str().unwrap().to_owned();
        Self { child, address }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn client(address: &str) -> Client {
    let bearer = Bearer(Arc::from(KEY));
    OrchestratorServiceClient::with_interceptor(channel(address.parse().unwrap()).await, bearer)
}

/// Waits until the instance was probed.
pub(crate) async fn until_healthy(client: &mut Client) {
    let states = client.health_watch(HealthWatchRequest::default()).await;
    let mut states = states.unwrap().into_inner();
    let healthy = async {
        while let Some(change) = states.message().await.unwrap() {
            let mut instances = change.instances.iter();
            if instances.any(|instance| instance.state() == HealthState::Healthy) {
                return;
            }
        }
    };
    let healthy = tokio::time::timeout(Duration::from_secs(60), healthy);
    healthy.await.expect("the instance is well");
}

fn words(payload: Option<bytes::Bytes>) -> String {
    let value = prost_types::Value::decode(payload.unwrap()).unwrap();
    match value.kind {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// One attachment: sends what is not acknowledged, and goes on until `stop` messages have been received or the
/// stream is lost.
async fn converse(client: &mut Client, history: &mut Vec<Event>, received: &mut u64, stop: u64) {
    let Ok(mut attached) = Attached::try_new(client, "s", Some(*received)).await else {
        return;
    };
    history.push(Event::Ready {
        epoch: attached.ready.epoch,
        last_received: attached.ready.last_received_seq,
        first: attached.ready.first_seq,
    });
    let mut next = attached.ready.last_received_seq + 1;
    let mut acked = attached.ready.last_received_seq;
    while *received < stop {
        // A window of messages on their way, so that a kill always meets some.
        while next <= MESSAGES && next <= acked + 32 {
            let text = format!("m{next}");
            history.push(Event::Sent(next, text.clone()));
            attached.send(next, &text).await;
            next += 1;
        }
        match attached.next().await {
            Ok(In::Ack(ack)) => {
                history.push(Event::Acked(ack.seq));
                acked = acked.max(ack.seq);
            }
            Ok(In::Data(data)) => {
                let reply = data.reply.map(|reply| match reply {
                    Reply::InReplyTo(seq) => seq,
                    Reply::InReplyToPost(_) => panic!("nobody posts"),
                });
                history.push(Event::Received(data.seq, reply, words(data.payload)));
                *received = (*received).max(data.seq);
                attached.ack(data.seq).await;
            }
            Ok(In::Lost(lost)) => history.push(Event::Lost(lost.first_seq, lost.last_seq)),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrator_that_is_killed_twenty_times_loses_nothing_that_it_has_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    // The instance is not killed: it remembers what it has applied, and drops what comes twice.
    let tasks = Tasks::new();
    let instance = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let config = serde_json::json!({"instances": [{"id": "A", "address": instance.to_string()}]});
    std::fs::write(folder.path().join("orchestrator.json"), config.to_string()).unwrap();
    let mut server = Killed::start(folder.path());
    let spawn = SessionSpawnRequest {
        session_id: "s".to_owned(),
        ..Default::default()
    };
    let mut first = client(&server.address).await;
    until_healthy(&mut first).await;
    first.session_spawn(spawn).await.unwrap();
    let (mut history, mut received) = (Vec::new(), 0);
    for kill in 1..=KILLS {
        let mut client = client(&server.address).await;
        let stop = kill * MESSAGES / (KILLS + 1);
        {
            let conversing = converse(&mut client, &mut history, &mut received, stop);
            let conversing = tokio::time::timeout(Duration::from_secs(60), conversing);
            conversing.await.expect("the conversation goes on");
        }
        // The client hears nothing of it: the stream just breaks, with messages in it both ways.
        server.kill();
        server = Killed::start(folder.path());
    }
    while received < MESSAGES {
        let mut client = client(&server.address).await;
        let conversing = converse(&mut client, &mut history, &mut received, MESSAGES);
        let conversing = tokio::time::timeout(Duration::from_secs(60), conversing);
        conversing.await.expect("the conversation comes to its end");
    }
    assert_eq!(judge(&history), [""; 0]);
    let epochs = history.iter().filter_map(|event| match event {
        Event::Ready { epoch, .. } => Some(*epoch),
        Event::Sent(..)
        | Event::Acked(_)
        | Event::Received(..)
        | Event::Applied { .. }
        | Event::Lost(..) => None,
    });
    assert!(KILLS < epochs.max().unwrap());
}
