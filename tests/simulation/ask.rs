//! The calls of a run: what callers ask for, and when.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use crate::plan::{Climate, ms};

/// When callers begin: instances have been probed by then.
const OPENING: Duration = Duration::from_millis(300);
/// How long whoever comes together with others wants to wait.
const CROWD_WAITS: Duration = Duration::from_millis(300);
/// How long callers go on with calls that may fail.
const LAST_ASK: Duration = Duration::from_millis(2000);

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) call: u32,
    /// The call that began what this one asks for: itself, unless it repeats an earlier one under its key.
    pub(crate) task: u32,
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
    pub(crate) hedge: Hedge,
    pub(crate) waits_for_ready: bool,
    /// Its idempotency key.
    pub(crate) word: Option<String>,
    /// In which order its payload is written.
    pub(crate) order: Order,
    /// When its caller goes, counted from its beginning.
    pub(crate) leaves: Option<(Duration, Leaving)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeoutIn {
    Header,
    Field,
}

/// When a second instance is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedge {
    Never,
    After(Duration),
    /// After as long as nearly all answers take.
    Usual,
}

/// The order of the keys of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Straight,
    Reversed,
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

impl Ask {
    /// Whether its hedge contradicts the rest of its policy, so that it must be refused.
    pub(crate) fn contradicts_itself(&self) -> bool {
        self.hedge != Hedge::Never && (!self.idempotent || self.attempts_max == 1)
    }

    pub(crate) fn is_fan_out(&self) -> bool {
        matches!(self.kind, Kind::Fanout { .. })
    }
}

/// What callers of one run like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taste {
    Mixed,
    /// Hedges, and at once: more of them than there may be.
    Hedges,
    /// Hedges for whatever takes longer than usual.
    UsualHedges,
}

/// The calls during the faults. Some are repeated under their idempotency keys.
pub(crate) fn asks(
    count: u32,
    callers: usize,
    ids: &[String],
    climate: Climate,
    dice: &mut SmallRng,
) -> Vec<Ask> {
    let mut asks: Vec<Ask> = Vec::new();
    let taste = match dice.random_range(0..100) {
        0..15 => Taste::Hedges,
        15..27 => Taste::UsualHedges,
        _ => Taste::Mixed,
    };
    while asks.len() < count as usize {
        let call = asks.len() as u32;
        let mut first = ask(call, callers, ids, (climate, taste), dice);
        let has_word = !first.is_fan_out() && dice.random_bool(0.15);
        if !has_word {
            let crowd = if dice.random_bool(0.06) {
                dice.random_range(1..4)
            } else {
                0
            };
            if 0 < crowd {
                wanted_by_many(&mut first, ids);
            }
            asks.push(first.clone());
            for _ in 0..crowd {
                let call = asks.len() as u32;
                asks.push(Ask {
                    call,
                    task: call,
                    ..first.clone()
                });
            }
            continue;
        }
        first.word = Some(format!("word-{call}"));
        asks.push(first.clone());
        for _ in 0..dice.random_range(0..=3) {
            asks.push(again(asks.len() as u32, &first, callers, ids, dice));
        }
    }
    asks
}

/// A call with the key of another: the same one once more, mostly.
fn again(call: u32, first: &Ask, callers: usize, ids: &[String], dice: &mut SmallRng) -> Ask {
    let at = if dice.random_bool(0.5) {
        // While the first one runs, perhaps.
        ms(0..40, dice)
    } else {
        ms(0..600, dice)
    };
    let mut again = Ask {
        call,
        at: (first.at + at).min(LAST_ASK),
        order: order(dice),
        timeout: timeout(dice),
        leaves: leaves(dice),
        ..first.clone()
    };
    again.targets.shuffle(dice);
    match dice.random_range(0..10) {
        // The word of another caller, which is another word.
        0 => {
            again.caller = dice.random_range(0..callers);
            if again.caller != first.caller {
                again.task = call;
            }
        }
        // What is asked for is not the same.
        1 => again.task = call,
        2 => {
            again.task = call;
            again.targets = some(ids, dice);
        }
        _ => {}
    }
    again
}

/// A call that comes at the same moment as others, and for the same instance.
fn wanted_by_many(one: &mut Ask, ids: &[String]) {
    one.kind = Kind::Route {
        selection: Selection::Hash(format!("crowd-{}", one.call)),
        anywhere: false,
    };
    one.targets = ids.to_vec();
    one.timeout = one.timeout.max(CROWD_WAITS);
    (one.hedge, one.per_try, one.leaves) = (Hedge::Never, None, None);
}

fn some(ids: &[String], dice: &mut SmallRng) -> Vec<String> {
    let count = dice.random_range(1..=ids.len());
    ids.sample(dice, count).cloned().collect()
}

fn order(dice: &mut SmallRng) -> Order {
    if dice.random() {
        Order::Straight
    } else {
        Order::Reversed
    }
}

fn timeout(dice: &mut SmallRng) -> Duration {
    if dice.random_bool(0.15) {
        ms(8..60, dice)
    } else {
        ms(60..900, dice)
    }
}

fn leaves(dice: &mut SmallRng) -> Option<(Duration, Leaving)> {
    dice.random_bool(0.12).then(|| {
        let how = if dice.random_bool(0.7) {
            Leaving::Cancels
        } else {
            Leaving::Disconnects
        };
        (ms(1..200, dice), how)
    })
}

fn hedge(kind: &Kind, idempotent: bool, taste: Taste, dice: &mut SmallRng) -> Hedge {
    let share = match (taste, idempotent) {
        (Taste::Hedges | Taste::UsualHedges, true) => 1.0,
        (Taste::Mixed, true) => 0.25,
        // What contradicts itself is refused, which tells little.
        (Taste::Hedges | Taste::UsualHedges | Taste::Mixed, false) => 0.04,
    };
    let usual = match taste {
        Taste::UsualHedges => 1.0,
        Taste::Hedges | Taste::Mixed => 0.3,
    };
    if matches!(kind, Kind::Fanout { .. }) || !dice.random_bool(share) {
        Hedge::Never
    } else if dice.random_bool(usual) {
        Hedge::Usual
    } else if taste == Taste::Hedges {
        Hedge::After(ms(1..10, dice))
    } else {
        Hedge::After(ms(3..60, dice))
    }
}

fn ask(
    call: u32,
    callers: usize,
    ids: &[String],
    (climate, taste): (Climate, Taste),
    dice: &mut SmallRng,
) -> Ask {
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
    let is_wild = climate == Climate::Storm || taste != Taste::Mixed;
    let idempotent = is_wild || dice.random_bool(0.5);
    let hedge = hedge(&kind, idempotent, taste, dice);
    let is_patient = hedge == Hedge::Usual && dice.random_bool(0.8);
    let ask = Ask {
        call,
        task: call,
        caller: dice.random_range(0..callers),
        at: OPENING + ms(0..(LAST_ASK - OPENING).as_millis() as u64, dice),
        hedge,
        waits_for_ready: matches!(kind, Kind::Route { .. }) && dice.random_bool(0.2),
        kind,
        targets,
        timeout: timeout(dice),
        timeout_in: if dice.random() {
            TimeoutIn::Header
        } else {
            TimeoutIn::Field
        },
        attempts_max: dice.random_range(0..=5),
        idempotent,
        per_try: dice.random_bool(0.25).then(|| ms(10..200, dice)),
        word: None,
        order: order(dice),
        leaves: leaves(dice),
    };
    if !is_patient {
        return ask;
    }
    // Longer than nearly all answers take: only then is it sent to a second one.
    Ask {
        timeout: ms(500..1100, dice),
        per_try: None,
        leaves: None,
        ..ask
    }
}

/// The calls of the end, from `first` on, `apart` from each other when that is said. One of them may come twice.
pub(crate) fn last_asks(
    first: u32,
    callers: usize,
    ids: &[String],
    apart: Option<Duration>,
    dice: &mut SmallRng,
) -> Vec<Ask> {
    let count = if apart.is_some() { 4..7 } else { 6..12 };
    let mut asks: Vec<_> = (0..dice.random_range(count))
        .map(|at| last_ask(first + at, callers, ids, dice))
        .collect();
    let last = first + asks.len() as u32;
    if let Some(ask) = asks.iter_mut().find(|ask| !ask.is_fan_out()) {
        ask.word = Some("last-word".to_owned());
        let again = Ask {
            call: last,
            order: Order::Reversed,
            at: ms(0..200, dice),
            ..ask.clone()
        };
        asks.push(again);
    }
    for (ask, at) in asks.iter_mut().zip(1..) {
        if let Some(apart) = apart {
            // Those who have used up what they may have in a second get some of it back first.
            ask.at = Duration::from_millis(200) + apart * at;
        }
    }
    asks
}

/// A call that has every reason to succeed.
pub(crate) fn last_ask(call: u32, callers: usize, ids: &[String], dice: &mut SmallRng) -> Ask {
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
        task: call,
        caller: dice.random_range(0..callers),
        at: ms(0..200, dice),
        waits_for_ready: matches!(kind, Kind::Route { .. }) && dice.random_bool(0.2),
        kind,
        targets: some(ids, dice),
        timeout: Duration::from_secs(1),
        timeout_in: TimeoutIn::Field,
        attempts_max: 0,
        idempotent: false,
        per_try: None,
        hedge: Hedge::Never,
        word: None,
        order: Order::Straight,
        leaves: None,
    }
}
