//! Two hundred random edits of the config of a real process under load, half of them wrong: no call fails, a watch and a
//! session that were open before them are open after them, and what runs is always the last config that was right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use orchestrator::ingress::caller;
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::session_send_response::Frame;
use orchestrator::proto::orchestrator::{
    Durability, ExplainRequest, FanoutRequest, HealthWatchRequest, ListInstancesRequest, Outcome,
    SessionSpawnRequest, explain_request,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::process::Server;
use super::route;
use crate::raw::soon;
use crate::rest::ask::{Ask, Way};
use crate::session::Attached;
use crate::stage::instance::{Act, Instance};
use crate::stage::{Bearer, Client, ClusterClient, channel, reason, text};

const EDITS: u64 = 200;
const LOAD_KEY: &str = "load-key";
const KEYS: [&str; 3] = ["one", "two", "three"];
/// Whoever shows this may see health, where `identities` say so.
const SHOWN: &str = "spiffe://td/ns/a/sa/x";
const PAGE: &str = "https://console.example.com";
/// An instance of the process itself, which no edit changes: the session is there.
const STAYS: &str = "stays";

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
    /// Tries of a Route that names no number.
    attempts: u32,
    /// Whether a caller with a certificate is known.
    knows_identity: bool,
    /// Whether a page of another origin may call.
    knows_page: bool,
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
        attempts: random.random_range(1..=5),
        knows_identity: random.random_bool(0.5),
        knows_page: random.random_bool(0.5),
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
    instances.push(json!({"id": STAYS, "builtin": {}}));
    let mut config = json!({
        "instances": instances,
        "keys": keys,
        "timeouts": {"route": seen.route_ms as f64 / 1000.0},
        "health": {"interval": random.random_range(1..5), "slow_start": 0},
        "admission": {"calls_in_flight_max": random.random_range(50..1000), "calls_waiting_max": random.random_range(10..100)},
        "limits": {"connections": random.random_range(100..1000), "body_timeout": random.random_range(10..20)},
        "shutdown": {"grace": random.random_range(1..5)},
        "retry": {"attempts_default": seen.attempts, "attempts_max": 5, "budget": {"percent": random.random_range(1..50)}},
        "hedging": {"percent": random.random_range(1..50), "samples_min": random.random_range(1..100)},
    });
    if seen.knows_identity {
        config["identities"] = json!([{"name": "shown", "spiffe": SHOWN, "scopes": ["health"]}]);
        config["forwarders"] = json!(["127.0.0.0/8"]);
    }
    if seen.knows_page {
        config["cors"] = json!({"origins": [PAGE], "max_age": random.random_range(1..100)});
    }
    if random.random_bool(0.5) {
        config["reflection"] = json!("public");
    }
    (config, seen)
}

/// The same config with one thing wrong.
fn wrong(random: &mut StdRng, mut config: Value) -> Vec<u8> {
    match random.random_range(0..12) {
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
        7 => config["retry"] = json!({"attempts_default": 3, "attempts_max": 2}),
        8 => config["cors"] = json!({"origins": ["console"]}),
        9 => {
            config["identities"] =
                json!([{"name": "shown", "spiffe": "sa/x", "scopes": ["health"]}])
        }
        10 => {
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

/// Calls that go on until they are told to stop; how many there were. What is open besides is open all the time.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    running: Vec<JoinHandle<()>>,
    watch: JoinHandle<()>,
    echoes: watch::Receiver<u64>,
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
        let mut of_watch = client(server, LOAD_KEY).await;
        let watch = of_watch.health_watch(HealthWatchRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        let watch = tokio::spawn(async move {
            // It never ends by itself, and something of it comes with each change.
            loop {
                watch.message().await.unwrap().unwrap();
            }
        });
        let (echoed, echoes) = watch::channel(0);
        let (stopped, of_session) = (Arc::clone(&stop), client(server, LOAD_KEY).await);
        running.push(tokio::spawn(talk(of_session, echoed, stopped)));
        Self {
            stop,
            calls,
            running,
            watch,
            echoes,
        }
    }

    /// What is open goes on: the session has said something that is answered after now.
    async fn goes_on(&mut self) {
        let now = *self.echoes.borrow_and_update();
        let more = soon(self.echoes.wait_for(|echoes| now + 1 < *echoes)).await;
        drop(more.expect("the session talks until it is told to stop"));
        assert!(!self.watch.is_finished(), "the watch has ended");
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.running {
            task.await.expect("no call fails");
        }
        // It waits for a change that may not come any more.
        self.watch.abort();
        let ended = self.watch.await.unwrap_err();
        assert!(ended.is_cancelled(), "the watch has ended: {ended}");
        self.calls.load(Ordering::Relaxed)
    }
}

/// One session over one stream: each message is answered, in order, and nothing else is said.
async fn talk(mut client: Client, echoed: watch::Sender<u64>, stopped: Arc<AtomicBool>) {
    let spawn = SessionSpawnRequest {
        session_id: "talks".into(),
        instances: vec![STAYS.into()],
        // A sync of the disk for each message would only make it slow.
        durability: Durability::None.into(),
        ..Default::default()
    };
    client.session_spawn(spawn).await.unwrap();
    let mut session = Attached::try_new(&mut client, "talks", None).await.unwrap();
    for seq in 1.. {
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        session.send(seq, &format!("m{seq}")).await;
        loop {
            match session.next().await.unwrap() {
                Frame::Data(data) => {
                    assert_eq!((data.seq, data.payload), (seq, text(&format!("m{seq}"))));
                    break;
                }
                Frame::Ack(_) => {}
                other @ (Frame::Ready(_)
                | Frame::Moved(_)
                | Frame::Lost(_)
                | Frame::GoAway(_)
                | Frame::Closed(_)) => panic!("{other:?}"),
            }
        }
        session.ack(seq).await;
        echoed.send_replace(seq);
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
        if instance.id == STAYS {
            continue;
        }
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
    let policy = explained.policy.unwrap();
    seen.attempts = policy.attempts_max;
    let timeout = policy.timeout.unwrap();
    seen.route_ms = timeout.seconds as u64 * 1000 + timeout.nanos as u64 / 1_000_000;
    let address = server.address.parse().unwrap();
    let shown = Ask::bare(Method::GET, "/orchestrator/health")
        .with("x-forwarded-client-cert", &format!("Hash=1;URI={SHOWN}"));
    let answer = shown.send(Way::Http1, address).await;
    seen.knows_identity = answer.status == 200;
    assert!(seen.knows_identity || answer.status == 401, "{answer:?}");
    let asked = Ask::bare(Method::OPTIONS, "/orchestrator/route")
        .with("origin", PAGE)
        .with("access-control-request-method", "POST");
    let answer = asked.send(Way::Http1, address).await;
    seen.knows_page = answer.headers.contains_key("access-control-allow-origin");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "with it the edits can be made again")]
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
    let mut load = Load::start(&server).await;
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
        load.goes_on().await;
        taken += usize::from(was_taken);
    }
    assert!((40..=160).contains(&taken), "{taken} of {EDITS}");
    let calls = load.stop().await;
    assert!(EDITS as usize <= calls, "{calls} calls were made meanwhile");
}
