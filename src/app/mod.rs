//! Builds the house from a config, and takes it down again. It alone names concrete implementations.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::config::{self, Builtin, Config, Journal, Planned, Shutdown};
use crate::domain::admission::Quota;
use crate::domain::failure::{Failure, Reason};
use crate::domain::health::{self, Admin};
use crate::domain::id::InstanceId;
use crate::domain::limit::STORE_BYTES_MAX;
use crate::fleet::view::Origin;
use crate::fleet::{Connect, Fleet, ProbeSettings, registration};
use crate::ingress::caller::{FindToken, Keys};
use crate::ingress::listener::{self, Listen};
use crate::ingress::{BadContract, front_door, methods};
use crate::instance::endpoint::{Dial, Endpoint, Protocol, Transport, dial_tcp};
use crate::instance::grpc::GrpcInstance;
use crate::instance::http::HttpInstance;
use crate::instance::{InstanceClient, Spec, builtin, tls};
use crate::memory::Memory;
use crate::orchestrate::admit::Gate;
use crate::orchestrate::deduplicate::Deduplicate;
use crate::orchestrate::hold_session::{self, Sessions};
use crate::orchestrate::run_task::Readiness;
use crate::store::Store;
use crate::store::memory::{self as in_memory, MemoryStore};
use crate::store::sqlite::{self, OpenError, SqliteStore};
use crate::tasks::{Finish, Tasks};

mod capacity;

/// A running orchestrator.
pub struct App {
    address: SocketAddr,
    fleet: Arc<Fleet>,
    /// What calls and instances need.
    tasks: Tasks,
    /// The connections of callers; they end before everything else.
    connections: Tasks,
    draining: CancellationToken,
    cut: CancellationToken,
    shutdown: Shutdown,
    sessions: Sessions,
    store: Arc<dyn Store>,
    gate: Arc<Gate>,
    memory: Memory,
}

/// What an orchestrator has of the world outside, besides the clock of its runtime.
pub struct Outside<L> {
    /// Where its callers come in.
    pub listener: L,
    /// Where that is.
    pub address: SocketAddr,
    /// The way to its instances.
    pub dial: Dial,
    /// Its random numbers.
    pub chance: Chance,
}

/// Why an orchestrator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No socket.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// An instance that cannot be.
    #[error("instance {0}")]
    Instance(Failure),
    /// A broken contract.
    #[error("{0}")]
    Contract(#[from] BadContract),
    /// The journal cannot be used.
    #[error("{0}")]
    Journal(#[from] OpenError),
    /// The sessions that are in the journal cannot be taken over.
    #[error("the sessions of the journal: {0}")]
    Recovery(Failure),
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every call was finished.
    Clean,
    /// Calls or connections were cut at the limit.
    Cut,
}

impl App {
    /// Starts everything; the orchestrator serves once this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listener = listener::bind(config.listen).await?;
        let outside = Outside {
            address: listener.local_addr()?,
            listener,
            dial: dial_tcp(),
            chance: Chance::default(),
        };
        Self::start_in(outside, config).await
    }

    /// Starts everything in this world; where the config says to listen does not matter.
    pub async fn start_in(
        outside: Outside<impl Listen>,
        config: Config,
    ) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        // First of all: one that is in use, or damaged, stops the start.
        let store = store(&config.journal, &config.sessions, &tasks)?;
        Self::build(outside, config, store, tasks).await
    }

    /// Starts everything in this world, over a store that is there already; what the config says of a journal does
    /// not matter.
    pub async fn start_over(
        outside: Outside<impl Listen>,
        config: Config,
        store: Arc<dyn Store>,
    ) -> Result<Self, StartError> {
        Self::build(outside, config, store, Tasks::new()).await
    }

    async fn build(
        outside: Outside<impl Listen>,
        config: Config,
        store: Arc<dyn Store>,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let Outside {
            listener,
            address,
            dial,
            chance,
        } = outside;
        let connections = Tasks::new();
        let (limits, admission) = capacity::within_means(config.limits, config.admission);
        let memory = Memory::new(admission.buffered_bytes);
        let plan = FleetPlan {
            instances: config.instances,
            admin: config.admin,
            probe: config.probe,
            health: config.health,
            registration: registration::Settings {
                networks: config.networks,
                take_over: config.take_over,
                ourselves: vec![address],
                calls_in_flight_max: admission.instance_calls_max,
                rate: config.admission.instance_rate,
            },
        };
        let connect = connect(dial, &tasks, &memory);
        let fleet = gather(plan, connect, &tasks, &chance).await?;
        let keys = watched(config.keys, &tasks);
        let gate = Gate::new(admission.calls, quotas(&keys), chance.clone());
        // Before anybody can call: what a client was told before the restart stands.
        let each = config.sessions.each;
        let sessions = hold(&store, &fleet, &tasks, &chance, &memory, each).await?;
        let draining = CancellationToken::new();
        let house = methods::House {
            fleet: Arc::clone(&fleet),
            tasks: tasks.clone(),
            gate: Arc::clone(&gate),
            timeouts: config.timeouts,
            sessions: sessions.clone(),
            session_idle_ttl: config.sessions.idle_ttl,
            retries: Arc::default(),
            hedges: Arc::default(),
            readiness: Arc::new(Readiness::new(fleet.changes())),
            deduplicate: Deduplicate::new(tasks.clone()),
            chance: chance.clone(),
            draining: draining.clone(),
        };
        let door = front_door(keys, find_token(&sessions), limits.body, &house)?;
        let cut = CancellationToken::new();
        let serving = listener::serve(
            listener,
            door,
            limits,
            memory.clone(),
            connections.clone(),
            cut.clone(),
            chance,
        );
        connections.spawn_vital("accept", serving);
        Ok(Self {
            address,
            fleet,
            tasks,
            connections,
            draining,
            cut,
            shutdown: config.shutdown,
            sessions,
            store,
            gate,
            memory,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who is there.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Who lets work in.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The account of all bytes that are held.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Tells, also after the end, whether a part has died without which nothing works.
    pub fn fallen(&self) -> impl Fn() -> bool + use<> {
        let (tasks, connections) = (self.tasks.fallen(), self.connections.fallen());
        move || tasks.is_cancelled() || connections.is_cancelled()
    }

    /// Tells, also after the end, how many tasks have not ended.
    pub fn tasks_left(&self) -> impl Fn() -> usize + use<> {
        let (tasks, connections) = (self.tasks.clone(), self.connections.clone());
        move || tasks.left() + connections.left()
    }

    /// Serves until `asked` is over, or a part without which nothing works has died; then stops.
    pub async fn run_until(self, asked: impl Future<Output = ()>) -> Stopped {
        tokio::select! {
            biased;
            () = asked => {}
            () = self.tasks.fallen().cancelled_owned() => {}
            () = self.connections.fallen().cancelled_owned() => {}
        }
        self.stop().await
    }

    /// Not ready, then no new calls, then the running ones; never longer than the limit.
    pub async fn stop(self) -> Stopped {
        tracing::info!("stopping: not ready");
        self.draining.cancel();
        time::sleep(self.shutdown.not_ready_for).await;
        tracing::info!("stopping: sessions come again later");
        self.sessions.drain(SESSIONS_GRACE).await;
        tracing::info!("stopping: no new calls, running ones finish");
        let finished = self.connections.finish(self.shutdown.grace).await;
        if let Finish::Abandoned(left) = finished {
            tracing::warn!(left, "stopping: the limit is reached, the rest is cut");
            self.cut.cancel();
        }
        self.store.stop().await;
        if let Finish::Abandoned(left) = self.tasks.finish(LAST_GRACE).await {
            tracing::warn!(left, "stopping: tasks do not end");
        }
        match finished {
            Finish::Complete => Stopped::Clean,
            Finish::Abandoned(_) => Stopped::Cut,
        }
    }
}

/// The keys, each of which ends at its date from now on.
fn watched(keys: Keys, tasks: &Tasks) -> Arc<Keys> {
    let keys = Arc::new(keys);
    let expiry = Arc::clone(&keys);
    let expiring = async move { expiry.expire().await };
    tasks.spawn_vital("keys", tasks.until_stop(expiring));
    keys
}

/// For sessions, which only have to say so and to finish what they write.
const SESSIONS_GRACE: time::Duration = time::Duration::from_secs(5);
/// The callers that have a quota of their own.
fn quotas(keys: &Keys) -> impl Iterator<Item = (Arc<str>, Quota)> {
    let keys = keys.keys.iter();
    keys.filter_map(|key| Some((Arc::clone(&key.name), key.quota?)))
}

/// For what only has to notice that it should end.
const LAST_GRACE: time::Duration = time::Duration::from_secs(1);

/// What a fleet is at its start.
struct FleetPlan {
    instances: Vec<Planned>,
    admin: BTreeMap<InstanceId, Admin>,
    probe: ProbeSettings,
    health: health::Settings,
    registration: registration::Settings,
}

/// The sessions that the store has, kept from now on.
async fn hold(
    store: &Arc<dyn Store>,
    fleet: &Arc<Fleet>,
    tasks: &Tasks,
    chance: &Chance,
    memory: &Memory,
    settings: hold_session::Settings,
) -> Result<Sessions, StartError> {
    let (store, fleet_now) = (Arc::clone(store), fleet.now());
    let recovered = Sessions::recover(
        store,
        fleet_now,
        tasks.clone(),
        chance.clone(),
        memory.clone(),
        settings,
    );
    let sessions = recovered.await.map_err(StartError::Recovery)?;
    let keeping = sessions.clone().keep(fleet.changes());
    tasks.spawn_vital("sessions", tasks.until_stop(keeping));
    Ok(sessions)
}

/// How the door finds out what a session's token is good for.
fn find_token(sessions: &Sessions) -> FindToken {
    let sessions = sessions.clone();
    Arc::new(move |hash| sessions.find_by_token(hash))
}

/// Opens what keeps sessions. It blocks for a moment, before anybody is served.
fn store(
    journal: &Journal,
    sessions: &config::Sessions,
    tasks: &Tasks,
) -> Result<Arc<dyn Store>, StartError> {
    let (bytes_max, sessions_max) = (sessions.journal_bytes_max, sessions.sessions_max);
    match journal {
        Journal::Memory => {
            let settings = in_memory::Settings {
                bytes_max: bytes_max.min(STORE_BYTES_MAX / 4),
                sessions_max,
                ..in_memory::Settings::default()
            };
            Ok(Arc::new(MemoryStore::new(settings)))
        }
        Journal::Folder(folder) => {
            let settings = sqlite::Settings {
                bytes_max,
                sessions_max,
            };
            let store = SqliteStore::open(folder, settings, tasks)?;
            Ok(Arc::new(store))
        }
    }
}

/// The fleet with the instances of the config, whose leases are watched from now on.
async fn gather(
    plan: FleetPlan,
    connect: Connect,
    tasks: &Tasks,
    chance: &Chance,
) -> Result<Arc<Fleet>, StartError> {
    let fleet = Fleet::new(
        connect,
        plan.probe,
        plan.health,
        plan.registration,
        tasks.clone(),
        chance.clone(),
    );
    fleet
        .add(specs(plan.instances, tasks).await?)
        .map_err(StartError::Instance)?;
    for (id, admin) in &plan.admin {
        fleet.set_admin([id], *admin, "config");
    }
    let leases = Fleet::keep_time(Arc::downgrade(&fleet));
    tasks.spawn_vital("leases", tasks.until_stop(leases));
    Ok(fleet)
}

fn connect(dial: Dial, tasks: &Tasks, memory: &Memory) -> Connect {
    let (tasks, memory) = (tasks.clone(), memory.clone());
    Arc::new(move |spec: &Spec| {
        let made: Result<Arc<dyn InstanceClient>, _> = match spec.endpoint.protocol {
            Protocol::Grpc => GrpcInstance::new(spec, &dial, &tasks, &memory).map(as_client),
            Protocol::Http { .. } => HttpInstance::new(spec, &dial, &tasks, &memory).map(as_client),
        };
        made.map_err(|bad| Failure {
            instance: Some(spec.id.clone()),
            ..Failure::new(Reason::ArgumentInvalid, bad.to_string())
        })
    })
}

fn as_client(instance: impl InstanceClient + 'static) -> Arc<dyn InstanceClient> {
    Arc::new(instance)
}

async fn specs(planned: Vec<Planned>, tasks: &Tasks) -> Result<Vec<(Spec, Origin)>, StartError> {
    let mut specs = Vec::with_capacity(planned.len());
    for planned in planned {
        specs.push(match planned {
            Planned::Remote(spec) => (spec, Origin::Config),
            Planned::Builtin(Builtin {
                id,
                labels,
                weight,
                calls_in_flight_max,
                behaviour,
            }) => {
                let address = builtin::start(behaviour, tasks).await?;
                let spec = Spec {
                    calls_in_flight_max,
                    ..builtin_spec(id, address, labels, weight)
                };
                (spec, Origin::Builtin)
            }
        });
    }
    Ok(specs)
}

fn builtin_spec(
    id: InstanceId,
    address: SocketAddr,
    labels: BTreeMap<String, String>,
    weight: u32,
) -> Spec {
    let endpoint = Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        transport: Transport::Plain,
        protocol: Protocol::Grpc,
        pinned: vec![address],
    };
    Spec {
        id,
        endpoint,
        labels,
        weight,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    }
}
