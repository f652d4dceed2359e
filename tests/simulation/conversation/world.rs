//! One run of sessions: the real orchestrator over a disk that is only told of, instances and clients.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use orchestrator::proto::health::health_server::HealthServer;
use orchestrator::proto::instance::instance_service_server::InstanceServiceServer;
use orchestrator::proto::orchestrator::{Durability, LossPolicy};
use orchestrator::store::memory::{Fault as DiskFault, MemoryStore, Settings};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tonic::service::Routes;
use turmoil::Sim;
use turmoil::net::TcpListener;

use super::client::{Client, Phase};
use super::hall::Hall;
use super::plan::{Disturbance, Fault, Plan};
use super::process::{Orchestrator, Restarts};
use super::told::{Promise, Record, Told};
use crate::history::Harm;
use crate::instance;
use crate::sessions::history::Event;
use crate::sessions::instance::{Instance, Manner, Mind, Tell};
use crate::sessions::judge::{Answering, Beginning, judge};
use crate::wire::Local;

/// How long one step is. Everything that is planned happens at a multiple of it.
const TICK: Duration = Duration::from_millis(4);
/// 14: how long after the faults a session may take to come to its end. A stream over a connection that has died
/// without a word is given up after 10 s, and an instance may have to be given up for another one.
const CALM_ENDS: Duration = Duration::from_secs(45);
/// How far apart the two sides of a session may learn of its end.
const LEARN_WITHIN: Duration = Duration::from_millis(1_500);
/// How long everything may take to stop.
const STOP_ENDS: Duration = Duration::from_secs(9);
const ORCHESTRATOR: &str = "orchestrator";

/// What came of a run.
pub(super) struct Run {
    pub(super) told: Vec<String>,
    pub(super) complaints: Vec<String>,
    pub(super) counts: BTreeMap<&'static str, usize>,
}

impl Run {
    /// A number for the whole history.
    pub(super) fn fingerprint(&self) -> u64 {
        crate::history::fingerprint(&self.told)
    }
}

struct World<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    told: Told,
    minds: Minds,
    phase: watch::Sender<Phase>,
    restarts: watch::Sender<Restarts>,
    /// When every session had come to its end.
    over: Duration,
}

/// What the instances remember, now.
type Minds = Rc<RefCell<Vec<Mind>>>;

/// Plays the plan of a seed.
pub(super) fn run(plan: &Plan) -> Run {
    let mut world = World::new(plan);
    world.play();
    let records = world.told.records();
    let mut complaints = world.told.complaints();
    complaints.extend(judged(plan, &records));
    complaints.extend(silent_partings(plan, &records, world.over));
    Run {
        told: records.iter().map(shown).collect(),
        complaints,
        counts: world.told.counts(),
    }
}

fn shown(record: &Record) -> String {
    let Record { at, session, event } = record;
    format!("{at:>10.3?} {session} {event:?}")
}

/// When a session ends in good order, so does the call of the instance that takes part, with a word.
fn silent_partings(plan: &Plan, records: &[Record], over: Duration) -> Vec<String> {
    let calm = records
        .iter()
        .filter(|one| plan.heal < one.at && one.at < over);
    let mut takes_part = BTreeSet::new();
    let mut silent = Vec::new();
    for record in calm {
        let Record { at, session, event } = record;
        match event {
            Event::Applied { mind, .. } => {
                takes_part.insert((session, mind));
            }
            Event::Parted { mind, last_words } if takes_part.remove(&(session, mind)) => {
                let ends = |other: &Record| {
                    matches!(other.event, Event::Closed(_) | Event::Over(_))
                        && other.session == *session
                        && other.at.abs_diff(*at) < LEARN_WITHIN
                };
                if last_words.is_none() && records.iter().any(ends) {
                    silent.push(format!(
                        "an instance is left without a word: {}",
                        shown(record)
                    ));
                }
            }
            _ => {}
        }
    }
    silent
}

fn judged(plan: &Plan, records: &[Record]) -> Vec<String> {
    // What is known of answers is read again after a restart and after a failure of the disk.
    let may_forget = |one: &Disturbance| {
        let forgets = [
            Fault::PowerCut,
            Fault::Restart,
            Fault::Rival,
            Fault::SyncFails,
            Fault::NoSpace,
        ];
        forgets.contains(&one.what)
    };
    let is_short = plan.store_bytes_max < 1 << 20;
    let answering = if is_short || plan.disturbances.iter().any(may_forget) {
        Answering::OnceByEachMind
    } else {
        Answering::Once
    };
    let mut complaints = Vec::new();
    for session in &plan.sessions {
        let own = records.iter().filter(|record| record.session == session.id);
        let history: Vec<Event> = own.map(|record| record.event.clone()).collect();
        let beginning = match session.policy {
            LossPolicy::Replay => Beginning::Told,
            LossPolicy::Unspecified | LossPolicy::Fail | LossPolicy::Reassign => {
                Beginning::Anywhere
            }
        };
        let wrong = judge(&history, answering, beginning);
        complaints.extend(wrong.iter().map(|wrong| format!("{}: {wrong}", session.id)));
    }
    complaints
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(120))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency_max)
            .tcp_capacity(1024)
            .build();
        let store = MemoryStore::new(Settings {
            sync_takes: plan.sync_takes,
            bytes_max: plan.store_bytes_max,
            replay_kept: plan.replay_kept,
            ..Settings::default()
        });
        let (told, minds) = (Told::new(store), Minds::default());
        let replayed = plan.sessions.iter();
        let replayed = replayed.filter(|session| session.policy == LossPolicy::Replay);
        replayed.for_each(|session| told.is_replayed(&session.id));
        let (phase, _) = watch::channel(Phase::Faults);
        let (restarts, restarted) = watch::channel(Restarts::default());
        let address = sim.lookup(ORCHESTRATOR);
        let mut addresses = BTreeMap::new();
        for at in 0..plan.instances.len() {
            let id = plan.instances[at].id.clone();
            addresses.insert(id.clone(), sim.lookup(host(at)));
            minds.borrow_mut().push(Mind::new(format!("{id}.0")));
            add_instance(&mut sim, plan, at, &minds, &told);
        }
        let (held, phases, seed) = (told.clone(), phase.subscribe(), plan.seed);
        sim.host(ORCHESTRATOR, move || {
            let orchestrator = Orchestrator {
                address,
                addresses: addresses.clone(),
                told: held.clone(),
                phase: phases.clone(),
                restarts: restarted.clone(),
                seed,
                hall: Hall::default(),
            };
            orchestrator.serve()
        });
        for (at, session) in plan.sessions.iter().enumerate() {
            let client = Client {
                plan: Rc::new(session.clone()),
                to: address,
                told: told.clone(),
                phase: phase.subscribe(),
                knows: Rc::default(),
            };
            sim.client(client_host(at), client.run());
        }
        Self {
            plan,
            sim,
            told,
            minds,
            phase,
            restarts,
            over: Duration::MAX,
        }
    }

    fn play(&mut self) {
        self.until(self.plan.heal, |_| false);
        self.phase.send_replace(Phase::Calm);
        let all = |world: &Self| {
            let mut sessions = world.plan.sessions.iter();
            sessions.all(|session| world.told.is_done(&session.id))
        };
        self.until(self.sim.elapsed() + CALM_ENDS, all);
        for session in &self.plan.sessions {
            if !self.told.is_done(&session.id) {
                self.told
                    .complain(format!("{} does not come to its end", session.id));
            }
        }
        self.told.check_lifetimes(&self.plan.sessions);
        self.over = self.sim.elapsed();
        self.phase.send_replace(Phase::Over);
        self.until(self.sim.elapsed() + STOP_ENDS, |world| {
            world.told.is_stopped()
        });
        if !self.told.is_stopped() {
            self.told
                .complain("the orchestrator does not stop".to_owned());
        }
    }

    fn until(&mut self, end: Duration, done: impl Fn(&Self) -> bool) {
        while self.sim.elapsed() < end && !done(self) {
            self.disturb();
            if let Err(error) = self.sim.step() {
                self.told.complain(format!("a host has ended: {error}"));
                return;
            }
        }
    }

    /// Does what is due now.
    fn disturb(&mut self) {
        let now = self.sim.elapsed();
        for Disturbance { from, to, what } in &self.plan.disturbances {
            if *from == now {
                self.begin(what, *to - *from);
            } else if *to == now {
                self.end(what);
            }
        }
    }

    fn restart(&self, rival: Option<Duration>) {
        self.restarts.send_modify(|restarts| {
            restarts.count += 1;
            restarts.rival = rival;
        });
    }

    fn begin(&mut self, what: &Fault, lasts: Duration) {
        let name = match what {
            Fault::Crash { instance, forgets } => {
                self.sim.crash(host(*instance));
                if *forgets {
                    self.forget(*instance);
                    "crash, forgets"
                } else {
                    "crash, remembers"
                }
            }
            Fault::PowerCut => {
                self.sim.crash(ORCHESTRATOR);
                self.told.crash_store();
                "power cut"
            }
            Fault::Restart => {
                self.restart(None);
                "restart"
            }
            Fault::Rival => {
                self.restart(Some(lasts));
                "rival"
            }
            Fault::Instance(at, harm) => {
                self.harm(&host(*at), *harm);
                match harm {
                    Harm::Loses => "instance loses",
                    Harm::LosesOneWay => "instance loses one way",
                    Harm::Holds => "instance holds",
                }
            }
            Fault::Client(at, harm) => {
                self.harm(&client_host(*at), *harm);
                match harm {
                    Harm::Loses | Harm::LosesOneWay => "client loses",
                    Harm::Holds => "client holds",
                }
            }
            Fault::NoSpace => {
                self.told.store().set_fault(DiskFault::NoSpace);
                "disk full"
            }
            Fault::SyncFails => {
                self.told.store().set_fault(DiskFault::SyncFails);
                "sync fails"
            }
        };
        self.told.count(name);
    }

    fn end(&mut self, what: &Fault) {
        match what {
            Fault::Crash { instance, .. } => self.sim.bounce(host(*instance)),
            Fault::PowerCut => self.sim.bounce(ORCHESTRATOR),
            Fault::Restart | Fault::Rival => {}
            Fault::Instance(at, harm) => self.mend(&host(*at), *harm),
            Fault::Client(at, harm) => self.mend(&client_host(*at), *harm),
            Fault::NoSpace | Fault::SyncFails => self.told.store().set_fault(DiskFault::None),
        }
    }

    fn forget(&mut self, instance: usize) {
        let mind = &mut self.minds.borrow_mut()[instance];
        let (id, lives) = mind.name.split_once('.').unwrap();
        let lives: u32 = lives.parse().unwrap();
        *mind = Mind::new(format!("{id}.{}", lives + 1));
    }

    fn harm(&mut self, peer: &str, harm: Harm) {
        match harm {
            Harm::Loses => self.sim.partition(peer, ORCHESTRATOR),
            Harm::LosesOneWay => self.sim.partition_oneway(peer, ORCHESTRATOR),
            Harm::Holds => self.sim.hold(peer, ORCHESTRATOR),
        }
    }

    fn mend(&mut self, peer: &str, harm: Harm) {
        match harm {
            Harm::Loses | Harm::LosesOneWay => self.sim.repair(peer, ORCHESTRATOR),
            Harm::Holds => self.sim.release(peer, ORCHESTRATOR),
        }
    }
}

fn host(instance: usize) -> String {
    format!("instance-{instance}")
}

fn client_host(session: usize) -> String {
    format!("client-{session}")
}

/// An instance: each of its lives takes up what is remembered then.
fn add_instance(sim: &mut Sim<'_>, plan: &Plan, at: usize, minds: &Minds, told: &Told) {
    let (minds, told, heal) = (Rc::clone(minds), told.clone(), plan.heal);
    let manner = plan.instances[at].manner;
    let durable = plan.sessions.iter();
    let durable = durable.filter(|session| session.durability != Durability::None);
    let durable: Arc<BTreeSet<String>> = Arc::new(durable.map(|one| one.id.clone()).collect());
    sim.host(host(at), move || {
        let (told, durable) = (told.clone(), Arc::clone(&durable));
        let tell: Tell = Arc::new(move |session, event| {
            let promise = if durable.contains(session) {
                Promise::Durable
            } else {
                Promise::Nothing
            };
            // A call that is over because its host is gone tells nothing.
            if turmoil::sim_elapsed().is_some() {
                told.tell(session, promise, event);
            }
        });
        serve(Instance {
            mind: minds.borrow()[at].clone(),
            manner: Arc::new(move || {
                let is_calm = turmoil::sim_elapsed().is_none_or(|now| heal <= now);
                if is_calm { Manner::default() } else { manner }
            }),
            tell,
        })
    });
}

async fn serve(instance: Instance) -> turmoil::Result {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, instance::PORT)).await?;
    let routes = Routes::new(InstanceServiceServer::new(instance.clone()))
        .add_service(HealthServer::new(instance));
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(routes.clone());
        let serving = http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service);
        spawn_local(async move {
            // How it ends is seen by the orchestrator.
            let _ = serving.await;
        });
    }
}
