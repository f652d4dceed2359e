//! Two hundred random edits of the config of a real process under load, half of them wrong: no call fails, and what
//! runs is always the last config that was right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use orchestrator::ingress::caller;
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{
    ExplainRequest, FanoutRequest, HealthWatchRequest, ListInstancesRequest, Outcome,
    explain_request,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::process::Server;
use super::route;
use crate::stage::instance::{Act, Instance};
use crate::stage::{Bearer, Client, ClusterClient, channel, reason};

const EDITS: u64 = 200;
const LOAD_KEY: &str = "load-key";
const KEYS: [&str; 3] = ["one", "two", "three"];

/// What a config that is right says, as far as it can be seen from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Addresses of the instances.
    instances: BTreeMap<String, String>,
    /// The number of the edit, as a label says it.
    edit: String,
    /// Keys that may call, besides that of the load.
    keys: BTreeSet<String>,
    /// Milliseconds that a Route has which names none.
    route_ms: u64,
}

/// A config that is right, and what will be seen of it.
fn right(random: &mut StdRng, edit: u64, addresses: &[String]) -> (Value, Seen) {
    let key = |name: &str| {
        let hash = hex::encode(caller::hash(name.as_bytes()));
        json!({"name": name, "sha256": hash, "scopes": ["admin"]})
    };
    let mut seen = Seen {
        edit: edit.to_string(),
        route_ms: random.random_range(20_000..60_000),
        ..Seen::default()
    };
    let mut keys = vec![key(LOAD_KEY)];
    for name in KEYS {
        if random.random_bool(0.5) {
            keys.push(key(name));
            seen.keys.insert(name.to_owned());
        }
    }
    let mut instances = Vec::new();
    for id in ["A", "B", "C", "D", "E"] {
        // One of them always stays, though not always at one place.
        if id != "A" && random.random_bool(0.4) {
            continue;
        }
        let address = &addresses[random.random_range(0..addresses.len())];
        seen.instances
            .insert(id.to_owned(), format!("grpc://{address}"));
        let mut instance =
            json!({"id": id, "address": address, "weight": random.random_range(1..100)});
        instance["labels"] = json!({"edit": seen.edit});
        instances.push(instance);
    }
    let mut config = json!({
        "instances": instances,
        "keys": keys,
        "timeouts": {"route": seen.route_ms as f64 / 1000.0},
        "health": {"interval": random.random_range(1..5), "slow_start": 0},
        "admission": {"calls_in_flight_max": random.random_range(50..1000), "calls_waiting_max": random.random_range(10..100)},
        "limits": {"connections": random.random_range(100..1000), "body_timeout": random.random_range(10..20)},
        "shutdown": {"grace": random.random_range(1..5)},
    });
    if random.random_bool(0.5) {
        config["reflection"] = json!("public");
    }
    (config, seen)
}

/// The same config with one thing wrong.
fn wrong(random: &mut StdRng, mut config: Value) -> Vec<u8> {
    match random.random_range(0..9) {
        0 => config["instanses"] = json!([]),
        1 => config["timeouts"] = json!({"route": "11m"}),
        2 => config["instances"][0]["weight"] = json!(0),
        3 => config["keys"][0]["sha256"] = json!("secret"),
        4 => config["instances"][0]["credential"] = json!({"bearer_file": "/nowhere/token"}),
        5 => config["health"]["interval"] = json!(null),
        6 => {
            let again = config["instances"][0].clone();
            config["instances"].as_array_mut().unwrap().push(again);
        }
        7 => {
            let mut text = config.to_string().into_bytes();
            text.truncate(random.random_range(0..text.len()));
            return text;
        }
        _ => {
            let mut text = config.to_string().into_bytes();
            let at = random.random_range(0..text.len());
            text[at] = 0xff;
            return text;
        }
    }
    config.to_string().into_bytes()
}

/// In one piece, or as an editor does that writes in place.
fn write(random: &mut StdRng, path: &Path, text: &[u8]) {
    if random.random_bool(0.5) {
        fs::write(path, text).unwrap();
        return;
    }
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Calls that go on until they are told to stop; how many there were.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(server: &Server) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut running = Vec::new();
        for at in 0..4 {
            let (stop, calls, mut client) = (
                Arc::clone(&stop),
                Arc::clone(&calls),
                client(server, LOAD_KEY).await,
            );
            running.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if at == 0 {
                        fan_out(&mut client).await;
                    } else {
                        client.route(route(&["A-E"])).await.unwrap();
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let (stopped, mut client) = (Arc::clone(&stop), client(server, LOAD_KEY).await);
        let watch = client.health_watch(HealthWatchRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        running.push(tokio::spawn(async move {
            // It never ends by itself, and something of it comes with each change.
            while !stopped.load(Ordering::Relaxed) {
                watch.message().await.unwrap().unwrap();
            }
        }));
        Self {
            stop,
            calls,
            running,
        }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut running = self.running;
        // The watch waits for a change that may not come any more.
        running.pop().unwrap().abort();
        for task in running {
            task.await.expect("no call fails");
        }
        self.calls.load(Ordering::Relaxed)
    }
}

async fn fan_out(client: &mut Client) {
    let request = FanoutRequest {
        targets: vec!["A-E".into()],
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(Event::Partial(partial)) = event.event {
            assert_eq!(partial.outcome(), Outcome::Answered, "{partial:?}");
        }
    }
}

async fn client(server: &Server, key: &str) -> Client {
    let channel = channel(server.address.parse().unwrap()).await;
    OrchestratorServiceClient::with_interceptor(channel, Bearer(key.into()))
}

/// What can be seen of the config that runs.
async fn seen(server: &Server, load: &mut Client, cluster: &mut ClusterClient) -> Seen {
    let listed = cluster
        .list_instances(ListInstancesRequest::default())
        .await
        .unwrap();
    let mut seen = Seen::default();
    for member in listed.into_inner().instances {
        let instance = member.instance.unwrap();
        seen.edit = instance.labels["edit"].clone();
        seen.instances.insert(instance.id, instance.address);
    }
    for key in KEYS {
        let mut client = client(server, key).await;
        match client.route(route(&["A"])).await {
            Ok(_) => drop(seen.keys.insert(key.to_owned())),
            Err(status) => assert_eq!(reason(&status), "KEY_INVALID"),
        }
    }
    let request = ExplainRequest {
        call: Some(explain_request::Call::Route(route(&["A"]))),
    };
    let explained = load.explain(request).await.unwrap().into_inner();
    let timeout = explained.policy.unwrap().timeout.unwrap();
    seen.route_ms = timeout.seconds as u64 * 1000 + timeout.nanos as u64 / 1_000_000;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_random_edits_under_load_fail_no_call_and_the_last_right_one_runs() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let instances = [
        Instance::start(Act::Echo).await,
        Instance::start(Act::Echo).await,
    ];
    let addresses = instances
        .each_ref()
        .map(|instance| instance.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    let (config, mut expected) = right(&mut random, 0, &addresses);
    fs::write(&path, config.to_string()).unwrap();
    let server = Server::start(&path, None);
    let load = Load::start(&server).await;
    let mut load_client = client(&server, LOAD_KEY).await;
    let mut cluster = ClusterServiceClient::with_interceptor(
        channel(server.address.parse().unwrap()).await,
        Bearer(LOAD_KEY.into()),
    );
    let mut taken = 0;
    for edit in 1..=EDITS {
        let (config, will_be_seen) = right(&mut random, edit, &addresses);
        let is_right = random.random_bool(0.5);
        if is_right {
            write(&mut random, &path, config.to_string().as_bytes());
            expected = will_be_seen;
        } else {
            let text = wrong(&mut random, config);
            write(&mut random, &path, &text);
        }
        let was_taken = tokio::task::block_in_place(|| server.hang_up());
        assert_eq!(
            was_taken,
            is_right,
            "edit {edit}: {:?}",
            fs::read_to_string(&path)
        );
        assert_eq!(
            seen(&server, &mut load_client, &mut cluster).await,
            expected,
            "edit {edit}"
        );
        taken += usize::from(was_taken);
    }
    assert!((40..=160).contains(&taken), "{taken} of {EDITS}");
    let calls = load.stop().await;
    assert!(EDITS as usize <= calls, "{calls} calls were made meanwhile");
}
