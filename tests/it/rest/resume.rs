//! An orchestrator that is killed again and again under somebody who listens: who comes back with the id of the last
//! event misses nothing and gets nothing twice.

use std::net::SocketAddr;
use std::time::Duration;

use orchestrator::instance::builtin::{self, Behaviour};
use orchestrator::tasks::Tasks;
use serde_json::json;

use super::ask::{Ask, Way};
use super::reading::Reading;
use super::sessions::SESSIONS;
use crate::killed::{Killed, client, until_healthy};

const MESSAGES: usize = 400;
const KILLS: usize = 8;
/// A safety net only.
const LONG: Duration = Duration::from_secs(300);

fn posted(at: usize) -> Ask {
    // Under a key, so that one whose answer was lost may be repeated.
    let body = json!({
        "sessionId": "s",
        "data": format!("m{at}"),
        "wait": false,
        "idempotencyKey": at.to_string(),
    });
    Ask::post(&format!("{SESSIONS}/send"), body.to_string())
}

/// Keeps posting; comes back with how many were accepted once the server is gone.
async fn post_from(mut next: usize, address: SocketAddr) -> usize {
    while next <= MESSAGES {
        let sent = posted(next).try_send(address).await;
        match sent.map(|answer| answer.status) {
            Some(200) => next += 1,
            Some(429) => tokio::task::yield_now().await,
            Some(_) | None => break,
        }
    }
    next
}

/// What a listener has.
#[derive(Default)]
struct Listener {
    ids: Vec<u64>,
    payloads: Vec<String>,
    last_id: Option<u64>,
    epochs: Vec<String>,
}

impl Listener {
    /// Listens until so many messages have come, or the connection breaks.
    async fn listen(&mut self, address: SocketAddr, wanted: usize, way: Way) {
        while self.ids.len() < wanted {
            let ask = Ask::get(&format!("{SESSIONS}/s/events"));
            let ask = match self.last_id {
                Some(id) => ask.with("last-event-id", &id.to_string()),
                None => ask,
            };
            let mut reading = Reading::open(&ask, way, address).await;
            assert_eq!(reading.status, 200);
            while self.ids.len() < wanted {
                let Some(event) = reading.next().await else {
                    break;
                };
                match event.name.as_str() {
                    "ready" => {
                        let epoch = event.data["epoch"].as_str().unwrap();
                        self.epochs.push(epoch.to_owned());
                    }
                    "data" => {
                        self.ids.push(event.id.unwrap());
                        self.payloads
                            .push(event.data["payload"].as_str().unwrap().to_owned());
                        self.last_id = event.id;
                    }
                    "moved" | "goaway" => {}
                    _ => panic!("{event:?}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_by_the_last_event_misses_nothing_and_gets_nothing_twice_over_kills() {
    let folder = tempfile::tempdir().unwrap();
    // The instance is not killed: it remembers what it has applied, and drops what comes twice.
    let tasks = Tasks::new();
    let instance = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let config = json!({"instances": [{"id": "A", "address": instance.to_string()}]});
    std::fs::write(folder.path().join("orchestrator.json"), config.to_string()).unwrap();
    let mut server = Killed::start(folder.path());
    until_healthy(&mut client(&server.address).await).await;
    let spawn = Ask::post(&format!("{SESSIONS}/spawn"), r#"{"sessionId": "s"}"#);
    let spawned = spawn.send(Way::Http1, address(&server)).await;
    assert_eq!(spawned.status, 200, "{spawned:?}");

    let (mut listener, mut next) = (Listener::default(), 1);
    for kill in 1..=KILLS {
        let there = address(&server);
        let posting = tokio::task::spawn(post_from(next, there));
        let way = if kill % 2 == 0 {
            Way::Http1
        } else {
            Way::Http2
        };
        let listening = listener.listen(there, kill * MESSAGES / (KILLS + 1), way);
        let listening = tokio::time::timeout(LONG, listening);
        listening.await.expect("messages come");
        // More of them are on their way, in both directions.
        server.kill();
        next = posting.await.unwrap();
        server = Killed::start(folder.path());
    }
    let there = address(&server);
    let posting = tokio::task::spawn(post_from(next, there));
    let listening = listener.listen(there, MESSAGES, Way::Http1);
    let listening = tokio::time::timeout(LONG, listening);
    listening.await.expect("all of them come");
    assert_eq!(posting.await.unwrap(), MESSAGES + 1);

    let expected: Vec<_> = (1..=MESSAGES as u64).collect();
    assert_eq!(listener.ids, expected);
    let expected: Vec<_> = (1..=MESSAGES).map(|at| format!("m{at}")).collect();
    assert_eq!(listener.payloads, expected);
    listener.epochs.dedup();
    assert!(KILLS < listener.epochs.len(), "{:?}", listener.epochs);
}

fn address(server: &Killed) -> SocketAddr {
    server.address.parse().unwrap()
}
