//! The orchestrator of a run: started again after each end, and sometimes beside one that does not know yet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use orchestrator::app::{App, Outside, Stopped};
use orchestrator::chance::Chance;
use orchestrator::config::{Config, Planned, Shutdown};
use orchestrator::domain::health::Thresholds;
use orchestrator::domain::id::InstanceId;
use orchestrator::fleet::ProbeSettings;
use orchestrator::ingress::caller::Key;
use orchestrator::ingress::listener::Address;
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Spec, tls};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::client::Phase;
use super::hall::Hall;
use super::told::Told;
use crate::{caller, instance, wire};

/// How often an instance is probed, and how long that may take.
const PROBE: ProbeSettings = ProbeSettings {
    interval: Duration::from_millis(400),
    timeout: Duration::from_millis(300),
    thresholds: Thresholds {
        failures_down: 3,
        successes_up: 2,
    },
};

/// How often the orchestrator was to begin anew, and how.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Restarts {
    pub(super) count: u32,
    /// Whether the one before goes on for a while.
    pub(super) rival: Option<Duration>,
}

/// Whoever keeps the orchestrator running.
pub(super) struct Orchestrator {
    pub(super) address: IpAddr,
    pub(super) addresses: BTreeMap<String, IpAddr>,
    pub(super) told: Told,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) restarts: watch::Receiver<Restarts>,
    pub(super) seed: u64,
    /// Where those who come are sent.
    pub(super) hall: Hall,
}

impl Orchestrator {
    /// Serves, again after each restart, until the run is over.
    pub(super) async fn serve(mut self) -> turmoil::Result {
        self.restarts.mark_unchanged();
        spawn_local(self.hall.clone().receive());
        loop {
            let Some(mut app) = self.start().await? else {
                // As whoever watches over it would.
                self.told.crash_store();
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let is_over = loop {
                let is_over = tokio::select! {
                    biased;
                    _ = self.phase.wait_for(|phase| Phase::Over <= *phase) => true,
                    _ = self.restarts.changed() => false,
                };
                let rival = self.restarts.borrow_and_update().rival;
                let Some(lasts) = rival.filter(|_| !is_over) else {
                    break is_over;
                };
                let Some(rival) = self.rival(lasts).await else {
                    // It may have taken sessions over before it failed.
                    break false;
                };
                app.stop().await;
                self.told.set_rival(false);
                app = rival;
            };
            let (tasks_left, memory, gate) = (
                app.tasks_left(),
                app.memory().clone(),
                Arc::clone(app.gate()),
            );
            let stopped = app.stop().await;
            if is_over {
                let left = (tasks_left(), memory.held(), gate.load());
                if stopped != Stopped::Clean || left != (0, 0, (0, 0, 0)) {
                    self.told
                        .complain(format!("{stopped:?}, left behind: {left:?}"));
                }
                self.told.stopped();
                return std::future::pending().await;
            }
            self.told.crash_store();
        }
    }

    /// Another one takes over the same store, while the one before does not know it yet.
    async fn rival(&self, lasts: Duration) -> Option<App> {
        self.told.set_rival(true);
        let rival = self.start_over_store().await;
        sleep(lasts).await;
        rival
    }

    /// Nothing when its disk does not let it start.
    async fn start(&self) -> Result<Option<App>, Box<dyn std::error::Error>> {
        self.told.begin_run();
        self.told.set_rival(false);
        Ok(self.start_over_store().await)
    }

    async fn start_over_store(&self) -> Option<App> {
        let run = self.told.begin_life();
        let outside = Outside {
            listener: self.hall.door(),
            address: Address::Tcp(SocketAddr::new(self.address, caller::PORT)),
            dial: wire::dial(),
            chance: Chance::seeded(self.seed.wrapping_mul(1009) + run),
            wall_clock: wire::wall_clock,
        };
        let store = Arc::new(self.told.store().for_another_process());
        App::start_over(outside, self.config(), store).await.ok()
    }

    fn config(&self) -> Config {
        let mut config = Config::empty();
        config.keys.keys = vec![Key::with_all_rights("simulation", caller::KEYS[0])];
        config.probe = PROBE;
        config.limits.keepalive_interval = Duration::from_millis(400);
        config.limits.keepalive_timeout = Duration::from_millis(400);
        config.shutdown = Shutdown {
            not_ready_for: Duration::ZERO,
            grace: Duration::from_secs(2),
        };
        config.instances = self.addresses.iter().map(planned).collect();
        config
    }
}

fn planned((id, ip): (&String, &IpAddr)) -> Planned {
    let address = SocketAddr::new(*ip, instance::PORT).to_string();
    Planned::Remote(Spec {
        id: InstanceId::parse(id).unwrap(),
        endpoint: Endpoint::parse(&address).unwrap(),
        labels: BTreeMap::new(),
        weight: 1,
        credential: None,
        calls_in_flight_max: None,
        tls: tls::Settings::default(),
    })
}
