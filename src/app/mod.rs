//! Builds the house from a config, and takes it down again. It alone names concrete implementations.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::config::{Builtin, Config, Journal, Planned, Shutdown};
use crate::domain::failure::{Failure, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::STORE_BYTES_MAX;
use crate::fleet::view::Origin;
use crate::fleet::{Connect, Fleet, registration};
use crate::ingress::caller::FindToken;
use crate::ingress::listener::{self, Listen};
use crate::ingress::{front_door, grpc};
use crate::instance::endpoint::{Dial, Endpoint, Transport, dial_tcp};
use crate::instance::grpc::GrpcInstance;
use crate::instance::{InstanceClient, Spec, builtin, tls};
use crate::orchestrate::hold_session::Sessions;
use crate::store::Store;
use crate::store::memory::{self, MemoryStore};
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
    /// The journal cannot be used.
    #[error("{0}")]
    Journal(#[from] OpenError),
    /// The sessions that are in the journal cannot be taken over.
    #[error("the sessions of the journal: {0}")]
    Recovery(Failure),
    /// Broken descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
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
        let Outside {
            listener,
            address,
            dial,
            chance,
        } = outside;
        let (tasks, connections) = (Tasks::new(), Tasks::new());
        // First of all: one that is in use, or damaged, stops the start.
        let store = store(&config.journal, &tasks)?;
        let registration = registration::Settings {
            networks: config.networks,
            take_over: config.take_over,
            ourselves: vec![address],
        };
        let fleet = Fleet::new(
            connect(dial, &tasks),
            config.probe,
            config.health,
            registration,
            tasks.clone(),
            chance.clone(),
        );
        fleet
            .add(specs(config.instances, &tasks).await?)
            .map_err(StartError::Instance)?;
        for (id, admin) in &config.admin {
            fleet.set_admin([id], *admin, "config");
        }
        tasks.spawn_vital(
            "leases",
            until_stop(&tasks, Fleet::expire_leases(Arc::downgrade(&fleet))),
        );

        // Before anybody can call: what a client was told before the restart stands.
        let (fleet_now, drawing) = (fleet.now(), chance.clone());
        let sessions = Sessions::recover(Arc::clone(&store), fleet_now, tasks.clone(), drawing)
            .await
            .map_err(StartError::Recovery)?;
        let keeping = sessions.clone().keep(fleet.changes());
        tasks.spawn_vital("sessions", until_stop(&tasks, keeping));

        let draining = CancellationToken::new();
        let house = grpc::House {
            fleet: Arc::clone(&fleet),
            tasks: tasks.clone(),
            timeouts: config.timeouts,
            sessions: sessions.clone(),
            retries: Arc::default(),
            chance: chance.clone(),
            draining: draining.clone(),
        };
        let methods = grpc::Methods::new(&house)?;
        let tokens = sessions.clone();
        let tokens: FindToken = Arc::new(move |hash| tokens.find_by_token(hash));
        let door = front_door(Arc::new(config.keys), tokens, methods, chance.clone());
        let cut = CancellationToken::new();
        let limits = capacity::within_means(config.limits);
        let serving = listener::serve(
            listener,
            door,
            limits,
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
        self.tasks.finish(LAST_GRACE).await;
        match finished {
            Finish::Complete => Stopped::Clean,
            Finish::Abandoned(_) => Stopped::Cut,
        }
    }
}

/// For sessions, which only have to say so and to finish what they write.
const SESSIONS_GRACE: time::Duration = time::Duration::from_secs(5);
/// For what only has to notice that it should end.
const LAST_GRACE: time::Duration = time::Duration::from_secs(1);

/// Ends a task that would go on for ever once everything stops.
fn until_stop<T>(tasks: &Tasks, task: T) -> impl Future<Output = ()> + Send + use<T>
where
    T: Future<Output = ()> + Send,
{
    let stop = tasks.stopping();
    async move {
        tokio::select! {
            biased;
            () = task => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Opens what keeps sessions. It blocks for a moment, before anybody is served.
fn store(journal: &Journal, tasks: &Tasks) -> Result<Arc<dyn Store>, StartError> {
    match journal {
        Journal::Memory => {
            let settings = memory::Settings {
                bytes_max: STORE_BYTES_MAX / 4,
                ..memory::Settings::default()
            };
            Ok(Arc::new(MemoryStore::new(settings)))
        }
        Journal::Folder(folder) => {
            let store = SqliteStore::open(folder, sqlite::Settings::default(), tasks)?;
            Ok(Arc::new(store))
        }
    }
}

fn connect(dial: Dial, tasks: &Tasks) -> Connect {
    let tasks = tasks.clone();
    Arc::new(move |spec: &Spec| {
        let made = GrpcInstance::new(spec, &dial, &tasks);
        made.map(|instance| Arc::new(instance) as Arc<dyn InstanceClient>)
            .map_err(|bad| Failure {
                instance: Some(spec.id.clone()),
                ..Failure::new(Reason::ArgumentInvalid, bad.to_string())
            })
    })
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
                behaviour,
            }) => {
                let address = builtin::start(behaviour, tasks).await?;
                (builtin_spec(id, address, labels, weight), Origin::Builtin)
            }
        });
    }
    Ok(specs)
}

fn builtin_spec(
    id: InstanceId,
    address: SocketAddr,
    labels: std::collections::BTreeMap<String, String>,
    weight: u32,
) -> Spec {
    let endpoint = Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        transport: Transport::Plain,
        pinned: vec![address],
    };
    Spec {
        id,
        endpoint,
        labels,
        weight,
        credential: None,
        tls: tls::Settings::default(),
    }
}
