//! The orchestrator of a run: the real one, with what it is told, and with a way to look inside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::app::{App, Outside, Stopped};
use orchestrator::chance::Chance;
use orchestrator::config::{Config, Planned, Shutdown};
use orchestrator::domain::budget::Share;
use orchestrator::domain::health::{Admin, Panic, Thresholds, observed};
use orchestrator::domain::id::InstanceId;
use orchestrator::fleet::{Fleet, ProbeSettings};
use orchestrator::ingress::caller::Key;
use orchestrator::ingress::listener::{Address, Limits};
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Spec, tls};
use orchestrator::memory::Memory;
use orchestrator::orchestrate::admit;
use tokio::sync::watch;
use turmoil::net::TcpListener;

use crate::caller::{self, HOUSE_KEY, KEYS, Phase};
use crate::history::{History, Remains, What};
use crate::instance;
use crate::lie::Lie;
use crate::plan::Plan;
use crate::wire;

/// How often an instance is probed, and how long that may take.
pub(crate) const PROBE: ProbeSettings = ProbeSettings {
    interval: Duration::from_millis(150),
    timeout: Duration::from_millis(100),
    thresholds: Thresholds {
        failures_down: 3,
        successes_up: 2,
    },
};

/// When an instance is ejected.
pub(crate) fn ejection() -> observed::Settings {
    observed::Settings {
        window: Duration::from_secs(1),
        calls_min: 10,
        time: Duration::from_millis(200),
        time_max: Duration::from_millis(800),
        ..observed::Settings::default()
    }
}

/// More retries than there are.
const AMPLE: Share = Share {
    per_call: 10.0,
    floor: 1000.0,
    per_second: 1000.0,
    kept_max: 1000.0,
};

/// How many of a hundred instances may be ejected; one always may.
pub(crate) const EJECTED_PERCENT_MAX: usize = 30;

/// What can be seen of the orchestrator from outside the simulation.
pub(crate) struct Inside {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) memory: Memory,
    pub(crate) gate: Arc<admit::Gate>,
}

/// There is something to see once it has started.
pub(crate) type Slot = Rc<RefCell<Option<Inside>>>;

/// Its life, from its start to its stop.
pub(crate) async fn orchestrate(
    config: Config,
    address: IpAddr,
    seed: u64,
    slot: Slot,
    history: History,
    mut phase: watch::Receiver<Phase>,
    lie: Option<Lie>,
) -> turmoil::Result {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, caller::PORT)).await?;
    let outside = Outside {
        listener: wire::Door(listener),
        address: Address::Tcp(SocketAddr::new(address, caller::PORT)),
        dial: wire::dial(),
        chance: Chance::seeded(seed),
        wall_clock: wire::wall_clock,
    };
    let app = App::start_in(outside, config).await?;
    let (fleet, tasks_left) = (Arc::clone(app.fleet()), app.tasks_left());
    let (memory, gate) = (app.memory().clone(), Arc::clone(app.gate()));
    if lie == Some(Lie::LeaksACall) {
        let now = tokio::time::Instant::now();
        std::mem::forget(fleet.view().members()[0].load.admit(Panic::Off, now));
    }
    slot.replace(Some(Inside {
        fleet: Arc::clone(&fleet),
        memory: memory.clone(),
        gate: Arc::clone(&gate),
    }));
    phase.wait_for(|phase| Phase::Over <= *phase).await?;
    let stopped = app.stop().await;
    let view = fleet.view();
    let outstanding = view.members().iter();
    history.note(What::Stopped(Remains {
        clean: stopped == Stopped::Clean,
        tasks: tasks_left(),
        bytes_held: memory.held(),
        admitted: gate.load() != (0, 0, 0),
        outstanding: outstanding.map(|member| member.load.outstanding()).sum(),
    }));
    std::future::pending().await
}

/// What it is told.
pub(crate) fn config(
    plan: &Plan,
    addresses: &BTreeMap<String, IpAddr>,
    lie: Option<Lie>,
) -> Config {
    let mut config = Config::empty();
    config.keys.keys = keys(plan);
    config.admission = plan.allowance.admission;
    if lie == Some(Lie::AllowsMore) {
        config.admission = Default::default();
    }
    (config.retry, config.hedging) = (plan.means.retry, plan.means.hedging);
    if lie == Some(Lie::AllowsMoreRetries) {
        config.retry.budget = AMPLE;
        config.retry.instance_budget = AMPLE;
    }
    config.probe = PROBE;
    config.health.ejected_percent_max = EJECTED_PERCENT_MAX as u32;
    config.health.ejection = ejection();
    if lie == Some(Lie::EjectsEarly) {
        config.health.ejection.failures_in_a_row = 1;
    }
    if lie == Some(Lie::ForgivesEarly) {
        config.health.ejection.time = Duration::from_millis(10);
    }
    config.networks = vec!["192.168.0.0/16".parse().unwrap()];
    config.limits = Limits {
        keepalive_interval: Duration::from_millis(150),
        keepalive_timeout: Duration::from_millis(150),
        ..Limits::default()
    };
    config.shutdown = Shutdown {
        not_ready_for: Duration::ZERO,
        grace: Duration::from_secs(2),
    };
    for instance in &plan.instances {
        let Some(ip) = addresses.get(&instance.id) else {
            continue;
        };
        let id = InstanceId::parse(&instance.id).unwrap();
        if instance.admin != Admin::Active {
            config.admin.insert(id.clone(), instance.admin);
        }
        let address = SocketAddr::new(*ip, instance::PORT).to_string();
        config.instances.push(Planned::Remote(Spec {
            id,
            endpoint: Endpoint::parse(&address).unwrap(),
            labels: BTreeMap::new(),
            weight: 1,
            credential: None,
            calls_in_flight_max: instance.calls_max.filter(|_| lie != Some(Lie::AllowsMore)),
            tls: tls::Settings::default(),
        }));
    }
    config
}

/// One for the house, which has no part in the load, and one for each caller.
fn keys(plan: &Plan) -> Vec<Key> {
    let of_callers = KEYS.iter().zip(&plan.allowance.quotas).enumerate();
    let of_callers = of_callers.map(|(at, (key, quota))| Key {
        quota: *quota,
        ..Key::with_all_rights(&format!("caller-{at}"), key)
    });
    let of_house = Key::with_all_rights("house", HOUSE_KEY);
    of_callers.chain([of_house]).collect()
}
