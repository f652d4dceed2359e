//! One run: the real orchestrator, its instances and its callers, on a network and under a clock of their own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::app::{App, Outside, Stopped};
use orchestrator::chance::Chance;
use orchestrator::config::{Config, Planned, Shutdown};
use orchestrator::domain::health::observed::{self, Standing};
use orchestrator::domain::health::{State, Thresholds};
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::limit::CONNECT_TIMEOUT;
use orchestrator::fleet::view::Member;
use orchestrator::fleet::{Fleet, ProbeSettings};
use orchestrator::ingress::caller::Key;
use orchestrator::ingress::listener::Limits;
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Spec, tls};
use orchestrator::memory::Memory;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_local;
use turmoil::Sim;
use turmoil::net::TcpListener;

use crate::caller::{self, Caller, KEY, Phase};
use crate::history::{Harm, History, Record, Remains, What};
use crate::instance::{self, Instance};
use crate::lie::Lie;
use crate::mood;
use crate::plan::{self, Fault, HEAL, Link, Plan};
use crate::register;
use crate::wire;

/// How long after the faults their last call may end, and everybody be well again: a connection that was lost
/// while it was being made is given up only then.
const CALLS_END: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(1));
/// How long the calls of the calm phase may take.
const CALM_ENDS: Duration = Duration::from_millis(1800);
/// How long everything may take to stop.
const STOP_ENDS: Duration = Duration::from_secs(4);
/// How often an instance is probed, and how long that may take.
pub(crate) const PROBE: ProbeSettings = ProbeSettings {
    interval: Duration::from_millis(150),
    timeout: Duration::from_millis(100),
    thresholds: Thresholds {
        failures_down: 3,
        successes_up: 2,
    },
};

/// How many of a hundred instances may be ejected; one always may.
const EJECTED_PERCENT_MAX: usize = 30;

/// What came of a run.
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    /// What was wrong with the run as a whole.
    pub(crate) complaints: Vec<String>,
}

/// What can be seen of the orchestrator from outside the simulation.
struct Inside {
    fleet: Arc<Fleet>,
    memory: Memory,
}

type Slot = Rc<RefCell<Option<Inside>>>;

struct World<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    history: History,
    inside: Slot,
    phase: watch::Sender<Phase>,
    complaints: Vec<String>,
}

/// Plays the plan of a seed.
pub(crate) fn run(plan: &Plan, lie: Option<Lie>) -> Run {
    let mut plan = plan.clone();
    if lie == Some(Lie::StaysIll) {
        for instance in plan.instances.iter_mut().take(2) {
            instance.moods = vec![(Duration::ZERO, mood::SAYS_IT_IS_OUT)];
        }
    }
    let mut world = World::new(&plan, lie);
    world.play();
    Run {
        records: world.history.records(),
        complaints: world.complaints,
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, lie: Option<Lie>) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .simulation_duration(Duration::from_secs(60))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency_max)
            .tcp_capacity(1024)
            .build();
        let history = History::default();
        let (phase, _) = watch::channel(Phase::Faults);
        let executions = Rc::new(Cell::new(0));
        let mut addresses = BTreeMap::new();
        let seed = plan.seed;
        let address = sim.lookup(ORCHESTRATOR);
        for (at, plan) in plan.instances.iter().enumerate() {
            let (executions, history) = (Rc::clone(&executions), history.clone());
            let (instance, seed) = (plan.clone(), seed.wrapping_mul(1009) + 100 * at as u64);
            let lives = Cell::new(0);
            let own = sim.lookup(host(&plan.id));
            if plan.origin == plan::Origin::Config {
                addresses.insert(plan.id.clone(), own);
            }
            let own = SocketAddr::new(own, instance::PORT).to_string();
            sim.host(host(&plan.id), move || {
                lives.set(lives.get() + 1);
                let known = register::stay_registered(
                    address,
                    instance.id.clone(),
                    own.clone(),
                    lives.get(),
                );
                let registers = instance.origin == plan::Origin::Registered;
                let serving = Rc::new(Instance::new(
                    instance.clone(),
                    seed + lives.get(),
                    Rc::clone(&executions),
                    history.clone(),
                    lie,
                ))
                .serve();
                async move {
                    if registers {
                        spawn_local(known);
                    }
                    serving.await
                }
            });
        }
        let inside = Slot::default();
        let config = move || config(&addresses);
        let (slot, told) = (Rc::clone(&inside), history.clone());
        let phases = phase.subscribe();
        sim.host(ORCHESTRATOR, move || {
            let (slot, told) = (Rc::clone(&slot), told.clone());
            orchestrate(config(), address, seed, slot, told, phases.clone(), lie)
        });
        add_callers(&mut sim, plan, address, &phase, &history, lie);
        Self {
            plan,
            sim,
            history,
            inside,
            phase,
            complaints: Vec::new(),
        }
    }

    fn play(&mut self) {
        let faults_end = HEAL + CALLS_END;
        self.until(HEAL, |_| false);
        self.phase.send_replace(Phase::Recovery);
        let mut is_well = false;
        self.until(faults_end, |world| {
            let (_, open) = world.history.calls();
            is_well = open == 0 && world.is_everybody_well();
            is_well
        });
        if !is_well {
            self.complaints.push("the fleet is not well again".into());
        }
        self.note(What::Calm);
        let (asked_before, _) = self.history.calls();
        self.phase.send_replace(Phase::Calm);
        let last = self.plan.last_asks.len();
        let calm_ends = self.sim.elapsed() + CALM_ENDS;
        self.until(calm_ends, |world| {
            let (asked, open) = world.history.calls();
            asked_before + last <= asked && open == 0
        });
        self.phase.send_replace(Phase::Over);
        let stopped = self.sim.elapsed() + STOP_ENDS;
        let is_over = |world: &Self| {
            let last = world.history.last();
            matches!(last, Some(What::Stopped(_)))
        };
        self.until(stopped, |world| is_over(world));
        if !is_over(self) {
            self.complaints
                .push("the orchestrator does not stop".into());
        }
    }

    /// Goes on until it is `done`, or the time is over.
    fn until(&mut self, end: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        while self.sim.elapsed() < end && !done(self) {
            self.disturb();
            if let Err(error) = self.sim.step() {
                self.complaints.push(format!("a host has ended: {error}"));
                return;
            }
            self.look_inside();
        }
    }

    /// Whether the orchestrator takes everybody for healthy, and not only because it has not looked since. One
    /// probe may still have gone over a connection that is broken.
    fn is_everybody_well(&self) -> bool {
        let looked = |instance: &plan::Instance| 2 <= self.history.probes_since(HEAL, &instance.id);
        if !self.plan.instances.iter().all(looked) {
            return false;
        }
        let inside = self.inside.borrow();
        inside.as_ref().is_some_and(|inside| {
            let view = inside.fleet.view();
            let mut members = view.members().iter();
            members.len() == self.plan.instances.len()
                && members.all(|member| member.health.state == State::Healthy)
        })
    }

    /// 15 and 20: looks after every step at what cannot be told from outside.
    fn look_inside(&mut self) {
        let inside = self.inside.borrow();
        let Some(inside) = inside.as_ref() else {
            return;
        };
        let (held, limit) = (inside.memory.held(), inside.memory.limit());
        if limit < held {
            let at = self.sim.elapsed();
            self.complaints
                .push(format!("{held} bytes are held at {at:?}, {limit} may be"));
        }
        let view = inside.fleet.view();
        let is_ejected = |member: &&Arc<Member>| member.health.observed != Standing::Trusted;
        let ejected = view.members().iter().filter(is_ejected).count();
        let max = (view.members().len() * EJECTED_PERCENT_MAX / 100).max(1);
        if max < ejected {
            let at = self.sim.elapsed();
            self.complaints
                .push(format!("{ejected} are ejected at {at:?}, {max} may be"));
        }
    }

    /// Does to the network and the instances what is due now.
    fn disturb(&mut self) {
        let now = self.sim.elapsed();
        for disturbance in &self.plan.disturbances {
            let what = match &disturbance.what {
                _ if disturbance.from != now && disturbance.to != now => continue,
                Fault::Crash(id) if disturbance.from == now => {
                    self.sim.crash(host(id));
                    What::Crashed(id.clone())
                }
                Fault::Crash(id) => {
                    self.sim.bounce(host(id));
                    What::Restarted(id.clone())
                }
                Fault::Link(link, harm) => {
                    let (peer, orchestrator) = (peer(link), ORCHESTRATOR);
                    let begins = disturbance.from == now;
                    match (harm, begins) {
                        (Harm::Loses, true) => self.sim.partition(peer, orchestrator),
                        (Harm::LosesOneWay, true) => self.sim.partition_oneway(peer, orchestrator),
                        (Harm::Holds, true) => self.sim.hold(peer, orchestrator),
                        (Harm::Holds, false) => self.sim.release(peer, orchestrator),
                        (Harm::Loses | Harm::LosesOneWay, false) => {
                            self.sim.repair(peer, orchestrator);
                        }
                    }
                    if begins {
                        What::Disturbed(link.clone(), *harm)
                    } else {
                        What::Mended(link.clone())
                    }
                }
            };
            self.history.note_at(now, what);
        }
    }

    fn note(&self, what: What) {
        self.history.note_at(self.sim.elapsed(), what);
    }
}

const ORCHESTRATOR: &str = "orchestrator";

fn host(id: &str) -> String {
    format!("instance-{}", id.to_lowercase())
}

fn caller_host(index: usize) -> String {
    format!("caller-{index}")
}

fn peer(link: &Link) -> String {
    match link {
        Link::Caller(index) => caller_host(*index),
        Link::Instance(id) => host(id),
    }
}

fn add_callers(
    sim: &mut Sim<'_>,
    plan: &Plan,
    address: IpAddr,
    phase: &watch::Sender<Phase>,
    history: &History,
    lie: Option<Lie>,
) {
    for index in 0..plan.callers {
        let caller = Caller {
            orchestrator: address,
            history: history.clone(),
            lie,
            shared: Mutex::default(),
        };
        let own = |asks: &[crate::plan::Ask]| {
            let own = asks.iter().filter(|ask| ask.caller == index);
            own.cloned().collect()
        };
        let running = caller.run(
            own(&plan.asks),
            own(&plan.trials),
            own(&plan.last_asks),
            phase.subscribe(),
        );
        sim.client(caller_host(index), running);
    }
}

/// The orchestrator, from its start to its stop.
async fn orchestrate(
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
        address: SocketAddr::new(address, caller::PORT),
        dial: wire::dial(),
        chance: Chance::seeded(seed),
    };
    let app = App::start_in(outside, config).await?;
    let (fleet, tasks_left) = (Arc::clone(app.fleet()), app.tasks_left());
    let (memory, gate) = (app.memory().clone(), Arc::clone(app.gate()));
    if lie == Some(Lie::LeaksACall) {
        std::mem::forget(fleet.view().members()[0].load.begin());
    }
    slot.replace(Some(Inside {
        fleet: Arc::clone(&fleet),
        memory: memory.clone(),
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

pub(crate) fn config(addresses: &BTreeMap<String, IpAddr>) -> Config {
    let mut config = Config::empty();
    config.keys.keys = vec![Key::with_all_rights("simulation", KEY)];
    config.probe = PROBE;
    config.health.ejected_percent_max = EJECTED_PERCENT_MAX as u32;
    config.health.ejection = observed::Settings {
        window: Duration::from_secs(1),
        calls_min: 10,
        time: Duration::from_millis(200),
        time_max: Duration::from_millis(800),
        ..observed::Settings::default()
    };
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
    let planned = |(id, ip): (&String, &IpAddr)| {
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
    };
    config.instances = addresses.iter().map(planned).collect();
    config
}
