//! One run: the real orchestrator, its instances and its callers, on a network and under a clock of their own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use orchestrator::domain::health::State;
use orchestrator::domain::limit::CONNECT_TIMEOUT;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_local;
use turmoil::Sim;

use crate::caller::{Caller, Phase};
use crate::history::{Harm, History, Record, What};
use crate::house::{self, Slot};
use crate::inside::Looked;
use crate::instance::{self, Instance};
use crate::lie::Lie;
use crate::mood;
use crate::operator;
use crate::plan::{self, Fault, HEAL, Link, Plan};
use crate::register;

/// How long one step is. Within a host everything happens at its own time; between hosts, and to them, at a multiple
/// of this.
pub(crate) const TICK: Duration = Duration::from_millis(2);
/// How long after the faults their last call may end, and everybody be well again: a connection that was lost
/// while it was being made is given up only then.
const CALLS_END: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(1));
/// How long the calls of the calm phase may take.
const CALM_ENDS: Duration = Duration::from_millis(1800);
/// How long everything may take to stop.
const STOP_ENDS: Duration = Duration::from_secs(4);

/// What came of a run.
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    /// What was wrong with the run as a whole.
    pub(crate) complaints: Vec<String>,
}

struct World<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    history: History,
    inside: Slot,
    phase: watch::Sender<Phase>,
    looked: Looked,
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
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(60))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency_max)
            .tcp_capacity(1024)
            .build();
        let history = History::default();
        let (phase, _) = watch::channel(Phase::Faults);
        let numbers = Rc::new(Cell::new(0));
        let mut addresses = BTreeMap::new();
        let seed = plan.seed;
        let address = sim.lookup(ORCHESTRATOR);
        for (at, plan) in plan.instances.iter().enumerate() {
            let (numbers, history) = (Rc::clone(&numbers), history.clone());
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
                    Rc::clone(&numbers),
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
        let planned = plan.clone();
        let config = move || house::config(&planned, &addresses, lie);
        let (slot, told) = (Rc::clone(&inside), history.clone());
        let phases = phase.subscribe();
        sim.host(ORCHESTRATOR, move || {
            let (slot, told) = (Rc::clone(&slot), told.clone());
            house::orchestrate(config(), address, seed, slot, told, phases.clone(), lie)
        });
        add_callers(&mut sim, plan, address, &phase, &history, lie);
        let operator = operator::work(address, plan.upkeep.clone(), history.clone(), lie);
        sim.client("operator", operator);
        Self {
            plan,
            looked: Looked::default(),
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
        self.history.note_stopping();
        self.phase.send_replace(Phase::Over);
        let stopped = self.sim.elapsed() + STOP_ENDS;
        let is_over = |world: &Self| world.history.has_stopped();
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
            let inside = self.inside.borrow();
            if let Some(inside) = inside.as_ref() {
                let now = self.sim.elapsed();
                let found = self.looked.look(inside, self.plan, now, &self.history);
                self.complaints.extend(found);
            }
        }
    }

    /// Whether the orchestrator takes everybody for healthy, and not only because it has not looked since. One
    /// probe may still have gone over a connection that is broken.
    fn is_everybody_well(&self) -> bool {
        let inside = self.inside.borrow();
        let looks_well = inside.as_ref().is_some_and(|inside| {
            let view = inside.fleet.view();
            let mut members = view.members().iter();
            members.len() == self.plan.instances.len()
                && members.all(|member| member.health.state == State::Healthy)
        });
        let looked = |instance: &plan::Instance| 2 <= self.history.probes_since(HEAL, &instance.id);
        looks_well && self.plan.instances.iter().all(looked)
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
        let own = |asks: &[crate::ask::Ask]| {
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
