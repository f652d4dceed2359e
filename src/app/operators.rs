//! What operators see on their own port.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::App;
use crate::domain::health::State;
use crate::ingress::admin::{self, View};
use crate::ingress::{listener, methods};
use crate::memory::Memory;
use crate::tasks::Tasks;
use crate::telemetry::metric::{Exposition, Levels, note};

/// How often samples are taken into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

impl App {
    /// Shows metrics, health and the config on a port of their own, until the orchestrator stops. Returns where.
    pub async fn show_operators(
        &self,
        address: SocketAddr,
        exposition: Exposition,
    ) -> io::Result<SocketAddr> {
        let listener = listener::bind(address).await?;
        let address = listener.local_addr()?;
        // Where the config leaves the port to the system, it is known only now.
        self.house.fleet.add_own_door(address);
        let tasks = &self.house.tasks;
        let (upkeep, levels) = (exposition.clone(), self.levels());
        tasks.spawn(tasks.until_stop(async move {
            loop {
                time::sleep(UPKEEP_INTERVAL).await;
                upkeep.upkeep();
            }
        }));
        let (fallen, draining) = (self.fallen(), self.house.draining.clone());
        let settings = self.house.settings.clone();
        let journal = self.house.sessions.readiness();
        let view = View {
            metrics: Arc::new(move || {
                note(&levels());
                exposition.render()
            }),
            is_alive: Arc::new(move || !fallen()),
            is_ready: Arc::new(move || !draining.is_cancelled()),
            sessions_complaint: Arc::new(move || journal.borrow().complaint()),
            config: Arc::new(move || settings.load().shown.to_string()),
        };
        tasks.spawn(tasks.until_stop(admin::serve(listener, view, tasks.clone())));
        Ok(address)
    }

    fn levels(&self) -> impl Fn() -> Levels + Send + Sync + use<> {
        let (house, memory) = (self.house.clone(), self.memory.clone());
        let (connections, secure) = (self.connections.clone(), self.secure.clone());
        move || Levels {
            tls_ends: secure
                .as_ref()
                .map(|keeper| keeper.terms().ends())
                .unwrap_or_default(),
            ..levels(&house, &memory, &connections)
        }
    }
}

fn levels(house: &methods::House, memory: &Memory, connections: &Tasks) -> Levels {
    let view = house.fleet.view();
    let members = view.members();
    let in_state = |state: &State| {
        let members = members.iter();
        let count = members.filter(|member| member.health.state == *state);
        (state.word(), count.count())
    };
    let (running, waiting, legs) = house.gate.load();
    let now = Instant::now().into_std();
    let mut retries = house.retries.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hedges = house.hedges.lock().unwrap_or_else(PoisonError::into_inner);
    Levels {
        instances: State::ALL.iter().map(in_state).collect(),
        calls_in_flight: running,
        calls_waiting: waiting,
        legs_in_flight: legs,
        instance_calls: members
            .iter()
            .map(|member| u64::from(member.load.outstanding()))
            .sum(),
        connections: connections.left(),
        sessions: house.sessions.known(),
        message_bytes: (memory.held(), memory.limit()),
        retry_tokens: retries.tokens(now),
        hedge_tokens: hedges.tokens(now),
        is_draining: house.draining.is_cancelled(),
        is_journal_ready: house.sessions.readiness().borrow().complaint().is_none(),
        // Known to whoever keeps the files.
        tls_ends: Vec::new(),
    }
}
