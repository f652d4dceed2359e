//! Builds the house from a config, and takes it down again. It alone names concrete implementations.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::config::{self, Config, Journal, Shutdown};
use crate::domain::admission;
use crate::domain::budget::Budget;
use crate::domain::failure::{Failure, Reason};
use crate::domain::hedge::Hedges;
use crate::domain::limit::STORE_BYTES_MAX;
use crate::fleet::{Configured, Connect, Fleet};
use crate::ingress::caller::{FindToken, Keys};
use crate::ingress::listener::{self, Address, Limits, Listen, Terms, secure};
use crate::ingress::settings::{Settings, SettingsNow};
use crate::ingress::visitor::Forwarders;
use crate::ingress::{BadContract, front_door, methods};
use crate::instance::endpoint::{Dial, Protocol, dial_tcp};
use crate::instance::grpc::GrpcInstance;
use crate::instance::http::HttpInstance;
use crate::instance::{InstanceClient, Spec};
use crate::memory::Memory;
use crate::orchestrate::admit::Gate;
use crate::orchestrate::deduplicate::Deduplicate;
use crate::orchestrate::hold_session::{self, Sessions, WallClock};
use crate::orchestrate::run_task::Readiness;
use crate::store::Store;
use crate::store::memory::{self as in_memory, MemoryStore};
use crate::store::sqlite::{self, OpenError, SqliteStore};
use crate::tasks::{Finish, Tasks};

mod builtins;
mod capacity;
mod follow;
mod live;
mod operators;
#[cfg(test)]
mod test_metrics;
mod traces;

use builtins::Builtins;
pub use follow::{Follow, Outcome, Reading};
use live::{Live, doors, quotas, registration_of};
pub use live::{Reload, Taken};
pub use traces::BadCollector;
use traces::Traces;

/// A running orchestrator.
pub struct App {
    address: Address,
    /// What the methods have, and the stop needs: the fleet, the sessions, the tasks that calls and instances need.
    house: methods::House,
    /// The connections of callers; they end before everything else.
    connections: Tasks,
    cut: CancellationToken,
    shutdown: Arc<ArcSwap<Shutdown>>,
    reload: Reload,
    /// TLS at the front door.
    secure: Option<Arc<secure::Keeper>>,
    store: Arc<dyn Store>,
    memory: Memory,
    traces: Traces,
}

/// What an orchestrator has of the world outside, besides the clock of its runtime.
pub struct Outside<L> {
    /// Where its callers come in.
    pub listener: L,
    /// Where that is.
    pub address: Address,
    /// The way to its instances.
    pub dial: Dial,
    /// Its random numbers.
    pub chance: Chance,
    /// What the wall says: how long sessions have lived, and since when.
    pub wall_clock: WallClock,
}

impl<L> Outside<L> {
    fn real(listener: L, address: Address) -> Self {
        Self {
            listener,
            address,
            dial: dial_tcp(),
            chance: Chance::default(),
            wall_clock: SystemTime::now,
        }
    }
}

/// Why an orchestrator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No socket.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// No TLS at the front door.
    #[error("{0}")]
    Tls(#[from] secure::Unusable),
    /// An instance that cannot be.
    #[error("instance {0}")]
    Instance(Failure),
    /// A broken contract.
    #[error("{0}")]
    Contract(#[from] BadContract),
    /// A collector of traces that cannot be.
    #[error("traces: {0}")]
    Traces(#[from] BadCollector),
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
        match config.listen.clone() {
            Address::Tcp(address) => {
                let listener = listener::bind(address).await?;
                let address = Address::Tcp(listener.local_addr()?);
                Self::start_in(Outside::real(listener, address), config).await
            }
            Address::Unix(path) => {
                let socket = listener::bind_unix(&path, config.socket_mode).await?;
                Self::start_in(Outside::real(socket, Address::Unix(path)), config).await
            }
        }
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
        let (chance, wall_clock) = (outside.chance, outside.wall_clock);
        let connections = Tasks::new();
        let secure = secured(config.tls.clone(), &tasks).await?;
        let (limits, admission) = capacity::within_means(config.limits.clone(), config.admission);
        let memory = Memory::new(admission.buffered_bytes);
        let (tracer, traces) = traces::start(&config, &outside.dial, &tasks)?;
        let connect = connect(outside.dial, &tasks, &memory);
        let own = (&outside.address, admission.instance_calls_max);
        let (fleet, builtins) = gather(&config, own, connect, &tasks, &chance).await?;
        let gate = gate(admission.calls, &config.keys, &chance);
        let settings = watched(&config, limits, &tasks);
        // Before anybody can call: what a client was told before the restart stands.
        let each = config.sessions.each;
        let sessions = hold(&store, &fleet, &tasks, &chance, &memory, wall_clock, each).await?;
        let house = methods::House {
            readiness: Arc::new(Readiness::new(fleet.changes())),
            deduplicate: Deduplicate::new(tasks.clone()),
            fleet,
            tasks,
            gate,
            settings,
            sessions,
            session_idle_ttl: config.sessions.idle_ttl,
            retries: Arc::new(Mutex::new(Budget::new(config.retry.budget))),
            hedges: Arc::new(Mutex::new(Hedges::new(config.hedging))),
            chance: chance.clone(),
            draining: CancellationToken::new(),
        };
        let door = front_door(find_token(&house.sessions), &house)?;
        let cut = CancellationToken::new();
        let terms = Terms {
            settings: house.settings.clone(),
            secure: secure.clone(),
            tracer,
        };
        let serving = listener::serve(
            outside.listener,
            door,
            terms,
            memory.clone(),
            connections.clone(),
            cut.clone(),
            chance,
        );
        connections.spawn_vital("accept", serving);
        let shutdown = Arc::new(ArcSwap::from_pointee(config.shutdown));
        let (reload, orders) = Reload::new();
        let app = Self {
            address: outside.address,
            house,
            connections,
            cut,
            shutdown,
            reload,
            secure,
            store,
            memory,
            traces,
        };
        app.live(config, builtins).start(orders);
        Ok(app)
    }

    /// Who takes the next config, after this one.
    fn live(&self, running: Config, builtins: Builtins) -> Live {
        Live {
            running,
            generation: 1,
            address: self.address.clone(),
            fleet: Arc::clone(&self.house.fleet),
            settings: self.house.settings.clone(),
            gate: Arc::clone(&self.house.gate),
            memory: self.memory.clone(),
            retries: Arc::clone(&self.house.retries),
            hedges: Arc::clone(&self.house.hedges),
            shutdown: Arc::clone(&self.shutdown),
            builtins,
            tasks: self.house.tasks.clone(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> &Address {
        &self.address
    }

    /// Where it listens on the network; nowhere, which is the unspecified address, when that is a socket in the
    /// file system.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        self.address.tcp().unwrap_or(nowhere)
    }

    /// Who is there.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.house.fleet
    }

    /// Who lets work in.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.house.gate
    }

    /// The way to hand it another config.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// The account of all bytes that are held.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Tells, also after the end, whether a part has died without which nothing works.
    pub fn fallen(&self) -> impl Fn() -> bool + use<> {
        let (tasks, connections) = (self.house.tasks.fallen(), self.connections.fallen());
        move || tasks.is_cancelled() || connections.is_cancelled()
    }

    /// Tells, also after the end, how many tasks have not ended.
    pub fn tasks_left(&self) -> impl Fn() -> usize + use<> {
        let (tasks, connections) = (self.house.tasks.clone(), self.connections.clone());
        move || tasks.left() + connections.left()
    }

    /// Serves until `asked` is over, or a part without which nothing works has died; then stops.
    pub async fn run_until(self, asked: impl Future<Output = ()>) -> Stopped {
        tokio::select! {
            biased;
            () = asked => {}
            () = self.house.tasks.fallen().cancelled_owned() => {}
            () = self.connections.fallen().cancelled_owned() => {}
        }
        self.stop().await
    }

    /// Not ready, then no new calls, then the running ones; never longer than the limit.
    pub async fn stop(self) -> Stopped {
        tracing::info!("stopping: not ready");
        self.house.draining.cancel();
        time::sleep(self.shutdown.load().not_ready_for).await;
        tracing::info!("stopping: sessions come again later");
        self.house.sessions.drain(SESSIONS_GRACE).await;
        tracing::info!("stopping: no new calls, running ones finish");
        let grace = self.shutdown.load().grace;
        let finished = self.connections.finish(grace).await;
        if let Finish::Abandoned(left) = finished {
            tracing::warn!(left, "stopping: the limit is reached, the rest is cut");
            self.cut.cancel();
            // What is cut has ended, and is in its trace, before the last spans leave.
            self.connections.finish(LAST_GRACE).await;
        }
        self.store.stop().await;
        // Over what ends with the tasks, and after the last call.
        self.traces.flush().await;
        if let Finish::Abandoned(left) = self.house.tasks.finish(LAST_GRACE).await {
            tracing::warn!(left, "stopping: tasks do not end");
        }
        match finished {
            Finish::Complete => Stopped::Clean,
            Finish::Abandoned(_) => Stopped::Cut,
        }
    }
}

/// TLS at the front door, whose files are looked at from now on.
async fn secured(
    settings: Option<secure::Settings>,
    tasks: &Tasks,
) -> Result<Option<Arc<secure::Keeper>>, StartError> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let (keeper, mut kept) = secure::Keeper::open(settings).await?;
    let following = Arc::clone(&keeper);
    let following = async move { following.follow(&mut kept).await };
    tasks.spawn_vital("certificates", tasks.until_stop(following));
    Ok(Some(keeper))
}

/// What the door goes by; each key ends at its date from now on.
fn watched(config: &Config, limits: Limits, tasks: &Tasks) -> SettingsNow {
    let settings = SettingsNow::new(Settings {
        keys: config.keys.clone(),
        limits,
        forwarders: Forwarders::new(&config.forwarders),
        cors: config.cors.clone(),
        timeouts: config.timeouts,
        retry: config.retry,
        shown: Arc::clone(&config.shown),
    });
    let expiry = settings.clone();
    let expiring = async move { expiry.expire_keys().await };
    tasks.spawn_vital("keys", tasks.until_stop(expiring));
    settings
}

fn gate(limits: admission::Limits, keys: &Keys, chance: &Chance) -> Arc<Gate> {
    let own = quotas(keys).into_iter();
    let own = own.filter_map(|(name, quota)| Some((name, quota?)));
    Gate::new(limits, own, chance.clone())
}

/// For sessions, which only have to say so and to finish what they write.
const SESSIONS_GRACE: time::Duration = time::Duration::from_secs(5);
/// For what only has to notice that it should end.
const LAST_GRACE: time::Duration = time::Duration::from_secs(1);

/// The sessions that the store has, kept from now on.
async fn hold(
    store: &Arc<dyn Store>,
    fleet: &Arc<Fleet>,
    tasks: &Tasks,
    chance: &Chance,
    memory: &Memory,
    wall_clock: WallClock,
    settings: hold_session::Settings,
) -> Result<Sessions, StartError> {
    let (store, fleet_now) = (Arc::clone(store), fleet.now());
    let recovered = Sessions::recover(
        store,
        fleet_now,
        tasks.clone(),
        chance.clone(),
        memory.clone(),
        wall_clock,
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

/// The fleet with the instances of the config, whose leases are watched from now on, and those of this process. `own`
/// is where we listen, and how many calls an instance may have.
async fn gather(
    config: &Config,
    own: (&Address, u32),
    connect: Connect,
    tasks: &Tasks,
    chance: &Chance,
) -> Result<(Arc<Fleet>, Builtins), StartError> {
    let mut builtins = Builtins::default();
    let (instances, housed) = builtins.house(&config.instances, tasks).await?;
    builtins.replace(housed);
    let ourselves = doors(config, own.0, &instances);
    let configured = Configured {
        instances,
        admin: config.admin.clone().into_iter().collect(),
        probe: config.probe,
        health: config.health,
        registration: registration_of(config, ourselves, own.1),
    };
    let fleet = Fleet::new(
        connect,
        configured.probe,
        configured.health,
        configured.registration.clone(),
        tasks.clone(),
        chance.clone(),
    );
    fleet.configure(configured).map_err(StartError::Instance)?;
    let leases = Fleet::keep_time(Arc::downgrade(&fleet));
    tasks.spawn_vital("leases", tasks.until_stop(leases));
    Ok((fleet, builtins))
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
