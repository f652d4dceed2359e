//! What will happen in one run: everything that a seed decides before the run begins.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::Harm;
use crate::mood::{self, Mood};

/// When callers begin: instances have been probed by then.
const OPENING: Duration = Duration::from_millis(300);
/// When every fault is over.
pub(crate) const HEAL: Duration = Duration::from_millis(2200);
/// Calls from here on are trials.
const TRIALS_FROM: u32 = 10_000;
/// How long callers go on with calls that may fail.
const LAST_ASK: Duration = Duration::from_millis(2000);

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
}

/// An instance, and how it will feel.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) origin: Origin,
    /// From when on, in order; the first begins at once, and the last is a good one.
    pub(crate) moods: Vec<(Duration, Mood)>,
}

/// How an instance comes into the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Config,
    Registered,
}

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) call: u32,
    pub(crate) caller: usize,
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    /// The ids that are named.
    pub(crate) targets: Vec<String>,
    pub(crate) timeout: Duration,
    /// Where the timeout is written.
    pub(crate) timeout_in: TimeoutIn,
    pub(crate) attempts_max: u32,
    pub(crate) idempotent: bool,
    pub(crate) per_try: Option<Duration>,
    /// When its caller goes, counted from its beginning.
    pub(crate) leaves: Option<(Duration, Leaving)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeoutIn {
    Header,
    Field,
}

/// How a caller goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It resets the call.
    Cancels,
    /// It closes its connection.
    Disconnects,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Route {
        selection: Selection,
        anywhere: bool,
    },
    Fanout {
        rule: Rule,
        failures_max: Option<u32>,
        aggregate: bool,
        /// How long it takes over each message.
        reads_for: Duration,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Selection {
    Balanced,
    Ordered,
    Hash(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    All,
    First(u32),
    Quorum(u32),
    Majority,
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
enum Climate {
    /// Instances misbehave now and then; the network does not.
    Mild,
    /// Everything.
    Rough,
    /// Most instances fail most of the time, and everybody tries again.
    Storm,
}

fn ms(range: std::ops::Range<u64>, dice: &mut SmallRng) -> Duration {
    Duration::from_millis(dice.random_range(range))
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
        let asks: Vec<_> = (0..calls)
            .map(|call| ask(call, callers, &ids, climate, dice))
            .collect();
        let last_asks = (0..dice.random_range(6..12))
            .map(|at| last_ask(calls + at, callers, &ids, dice))
            .collect();
        let trials = ids.iter().map(|id| Ask {
            call: TRIALS_FROM,
            caller: 0,
            targets: vec![id.clone()],
            timeout: Duration::from_millis(150),
            kind: Kind::Route {
                selection: Selection::Ordered,
                anywhere: false,
            },
            ..last_ask(0, 1, &ids, dice)
        });
        Self {
            trials: trials.collect(),
            seed,
            callers,
            latency_max,
            asks,
            last_asks,
            instances: ids
                .iter()
                .map(|id| Instance {
                    id: id.clone(),
                    origin: if dice.random_bool(0.25) {
                        Origin::Registered
                    } else {
                        Origin::Config
                    },
                    moods: moods(climate, dice),
                })
                .collect(),
            disturbances: disturbances(climate, callers, &ids, dice),
        }
    }
}

fn moods(climate: Climate, dice: &mut SmallRng) -> Vec<(Duration, Mood)> {
    let mut moods = vec![(Duration::ZERO, mood::WELL)];
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

fn some(ids: &[String], dice: &mut SmallRng) -> Vec<String> {
    let count = dice.random_range(1..=ids.len());
    ids.sample(dice, count).cloned().collect()
}

fn ask(call: u32, callers: usize, ids: &[String], climate: Climate, dice: &mut SmallRng) -> Ask {
    let targets = some(ids, dice);
    let kind = if dice.random_bool(0.7) {
        Kind::Route {
            selection: match dice.random_range(0..4) {
                0 => Selection::Ordered,
                1 => Selection::Hash(format!("key-{}", dice.random_range(0..9))),
                _ => Selection::Balanced,
            },
            anywhere: dice.random_bool(0.3),
        }
    } else {
        let count = targets.len() as u32;
        Kind::Fanout {
            rule: match dice.random_range(0..5) {
                0 => Rule::First(dice.random_range(1..=count)),
                1 => Rule::Quorum(dice.random_range(1..=count)),
                2 => Rule::Majority,
                _ => Rule::All,
            },
            failures_max: dice.random_bool(0.2).then(|| dice.random_range(0..=count)),
            aggregate: dice.random_bool(0.2),
            reads_for: if dice.random_bool(0.1) {
                ms(1..60, dice)
            } else {
                Duration::ZERO
            },
        }
    };
    let leaves = dice.random_bool(0.12).then(|| {
        let how = if dice.random_bool(0.7) {
            Leaving::Cancels
        } else {
            Leaving::Disconnects
        };
        (ms(1..200, dice), how)
    });
    let timeout = if dice.random_bool(0.15) {
        ms(8..60, dice)
    } else {
        ms(60..900, dice)
    };
    Ask {
        call,
        caller: dice.random_range(0..callers),
        at: OPENING + ms(0..(LAST_ASK - OPENING).as_millis() as u64, dice),
        kind,
        targets,
        timeout,
        timeout_in: if dice.random() {
            TimeoutIn::Header
        } else {
            TimeoutIn::Field
        },
        attempts_max: dice.random_range(0..=5),
        idempotent: climate == Climate::Storm || dice.random_bool(0.5),
        per_try: dice.random_bool(0.25).then(|| ms(10..200, dice)),
        leaves,
    }
}

/// A call that has every reason to succeed.
fn last_ask(call: u32, callers: usize, ids: &[String], dice: &mut SmallRng) -> Ask {
    let kind = if dice.random() {
        Kind::Route {
            selection: Selection::Balanced,
            anywhere: false,
        }
    } else {
        Kind::Fanout {
            rule: Rule::All,
            failures_max: None,
            aggregate: dice.random(),
            reads_for: Duration::ZERO,
        }
    };
    Ask {
        call,
        caller: dice.random_range(0..callers),
        at: ms(0..200, dice),
        kind,
        targets: some(ids, dice),
        timeout: Duration::from_secs(1),
        timeout_in: TimeoutIn::Field,
        attempts_max: 0,
        idempotent: false,
        per_try: None,
        leaves: None,
    }
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
        let from = ms(100..1700, dice);
        let to = (from + ms(20..500, dice)).min(HEAL);
        let name = format!("{link:?}");
        if free
            .iter()
            .any(|(taken, until)| *taken == name && from < *until)
        {
            continue;
        }
        free.push((name, to + Duration::from_millis(1)));
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
