//! What will happen in one run: everything that a seed decides before the run begins.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use orchestrator::domain::health::Admin;

use crate::allowance::{self, Allowance};
use crate::ask::{self, Ask, Kind, Selection};
use crate::history::Harm;
use crate::means::{self, Means};
use crate::mood::{self, Mood};
use crate::operator::{self, Upkeep};
use crate::watch::Watched;
use crate::world::TICK;

/// When every fault is over.
pub(crate) const HEAL: Duration = Duration::from_millis(2200);
/// Calls from here on are trials.
const TRIALS_FROM: u32 = 10_000;
/// Between two of the last calls where little is allowed at once.
const APART: Duration = Duration::from_millis(100);

/// What will happen.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) instances: Vec<Instance>,
    pub(crate) callers: usize,
    pub(crate) latency_max: Duration,
    /// During the faults.
    pub(crate) asks: Vec<Ask>,
    /// After them, one for each instance, again and again until all are well.
    pub(crate) trials: Vec<Ask>,
    /// Then; counted from `Calm`. All must succeed.
    pub(crate) last_asks: Vec<Ask>,
    pub(crate) disturbances: Vec<Disturbance>,
    /// How much work is taken at once.
    pub(crate) allowance: Allowance,
    /// How often is tried again.
    pub(crate) means: Means,
    /// What the operator does.
    pub(crate) upkeep: Vec<Upkeep>,
}

/// An instance, and how it will feel.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    /// What its operator wants of it at the start.
    pub(crate) admin: Admin,
    /// How it tells of itself without being asked.
    pub(crate) watched: Watched,
    /// Calls that it may have at once.
    pub(crate) calls_max: Option<u32>,
    /// From when on, in order; the first begins at once, and the last is a good one.
    pub(crate) moods: Vec<(Duration, Mood)>,
}

/// How an instance comes into the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Config,
    Registered,
}

/// A way between two hosts; the orchestrator is always one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    Caller(usize),
    Instance(String),
}

/// A fault of the network or the end of a process.
#[derive(Debug, Clone)]
pub(crate) struct Disturbance {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) what: Fault,
}

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Link(Link, Harm),
    Crash(String),
}

/// How rough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Climate {
    /// Instances misbehave now and then; the network does not.
    Mild,
    /// Everything.
    Rough,
    /// Most instances fail most of the time, and everybody tries again.
    Storm,
}

pub(crate) fn ms(range: std::ops::Range<u64>, dice: &mut SmallRng) -> Duration {
    Duration::from_millis(dice.random_range(range))
}

/// A time at which something can be done to a host.
fn step(range: std::ops::Range<u64>, dice: &mut SmallRng) -> Duration {
    let tick = TICK.as_millis() as u64;
    Duration::from_millis(dice.random_range(range) / tick * tick)
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = &mut SmallRng::seed_from_u64(seed);
        let climates = [
            Climate::Mild,
            Climate::Rough,
            Climate::Rough,
            Climate::Storm,
        ];
        let climate = *climates.choose(dice).unwrap();
        let ids = ["A", "B", "C", "D", "E", "F", "G", "H"];
        let ids: Vec<_> = ids[..dice.random_range(3..=6)]
            .iter()
            .map(|id| (*id).to_owned())
            .collect();
        let callers = dice.random_range(1..=2);
        let latency_max = ms(2..12, dice);
        let calls = match climate {
            Climate::Mild | Climate::Rough => dice.random_range(30..70),
            Climate::Storm => dice.random_range(80..120),
        };
        let asks = ask::asks(calls, callers, &ids, climate, dice);
        let allowance = allowance::draw(callers, dice);
        let apart = allowance.is_tight().then_some(APART);
        let last_asks = ask::last_asks(asks.len() as u32, callers, &ids, apart, dice);
        let instances: Vec<_> = ids
            .iter()
            .map(|id| instance(id, climate, &allowance, dice))
            .collect();
        let disturbances = disturbances(climate, callers, &ids, dice);
        Self {
            trials: ids.iter().map(|id| trial(id, dice)).collect(),
            seed,
            callers,
            latency_max,
            asks,
            last_asks,
            upkeep: operator::draw(&instances, &disturbances, dice),
            disturbances,
            allowance,
            instances,
            means: means::draw(dice),
        }
    }
}

fn instance(id: &str, climate: Climate, allowance: &Allowance, dice: &mut SmallRng) -> Instance {
    let origin = if dice.random_bool(0.25) {
        Origin::Registered
    } else {
        Origin::Config
    };
    let is_configured = origin == Origin::Config;
    let admins = [Admin::Draining, Admin::Disabled];
    Instance {
        id: id.to_owned(),
        origin,
        admin: if is_configured && dice.random_bool(0.06) {
            *admins.choose(dice).unwrap()
        } else {
            Admin::Active
        },
        watched: Watched::draw(dice),
        calls_max: (is_configured && allowance.is_tight() && dice.random_bool(0.2))
            .then(|| dice.random_range(1..4)),
        moods: moods(climate, dice),
    }
}

/// A call that tries how one instance is.
fn trial(id: &str, dice: &mut SmallRng) -> Ask {
    let ids = [id.to_owned()];
    Ask {
        call: TRIALS_FROM,
        timeout: Duration::from_millis(150),
        waits_for_ready: false,
        kind: Kind::Route {
            selection: Selection::Ordered,
            anywhere: false,
        },
        ..ask::last_ask(0, 1, &ids, dice)
    }
}

fn moods(climate: Climate, dice: &mut SmallRng) -> Vec<(Duration, Mood)> {
    // Some take their time to begin.
    let first = if dice.random_bool(0.12) {
        *mood::NOT_READY.choose(dice).unwrap()
    } else {
        mood::WELL
    };
    let mut moods = vec![(Duration::ZERO, first)];
    let mut from = ms(0..800, dice);
    while from < HEAL {
        let bad = dice.random_bool(match climate {
            Climate::Mild => 0.35,
            Climate::Rough => 0.6,
            Climate::Storm => 0.9,
        });
        let choice: &[Mood] = match (bad, climate) {
            (false, _) => &[mood::WELL, mood::SLOW],
            (true, Climate::Storm) => &mood::STORMY,
            (true, Climate::Mild | Climate::Rough) => &mood::BAD,
        };
        moods.push((from, *choice.choose(dice).unwrap()));
        from += ms(150..900, dice);
    }
    moods.push((HEAL, mood::WELL));
    moods
}

fn disturbances(
    climate: Climate,
    callers: usize,
    ids: &[String],
    dice: &mut SmallRng,
) -> Vec<Disturbance> {
    let count = match climate {
        Climate::Mild => 0,
        Climate::Rough => dice.random_range(1..5),
        Climate::Storm => dice.random_range(0..2),
    };
    let mut disturbances: Vec<Disturbance> = Vec::new();
    // One after the other for each host: a link has one state.
    let mut free: Vec<(String, Duration)> = Vec::new();
    for _ in 0..count {
        let id = ids.choose(dice).unwrap().clone();
        let link = if dice.random_bool(0.25) {
            Link::Caller(dice.random_range(0..callers))
        } else {
            Link::Instance(id.clone())
        };
        let from = step(100..1700, dice);
        let to = (from + step(20..500, dice)).min(HEAL);
        let name = format!("{link:?}");
        if free
            .iter()
            .any(|(taken, until)| *taken == name && from < *until)
        {
            continue;
        }
        free.push((name, to + TICK));
        let what = match (dice.random_range(0..5), &link) {
            (0 | 1, Link::Instance(id)) => Fault::Crash(id.clone()),
            (2, _) => Fault::Link(link, Harm::LosesOneWay),
            (3, _) => Fault::Link(link, Harm::Holds),
            (_, _) => Fault::Link(link, Harm::Loses),
        };
        disturbances.push(Disturbance { from, to, what });
    }
    disturbances
}
