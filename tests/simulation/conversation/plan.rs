//! What will happen to sessions in one run: everything that a seed decides before the run begins.

use std::time::Duration;

use orchestrator::proto::orchestrator::{Durability, LossPolicy};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::Harm;
use crate::sessions::instance::{Manner, Tells};

/// When clients begin: instances have been probed by then.
const OPENING: u64 = 400;
/// Longer than a session waits for its instance.
const GIVEN_UP_AFTER: u64 = 11_000;
/// Longer than it takes until probes say that an instance is down.
const NOTICED_AFTER: u64 = 2_500;
/// Bytes that the store has room for where it is short of it.
const SHORT_OF_ROOM: usize = 12_000;

/// What will happen.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Their names are A, B, …
    pub(super) instances: Vec<Instance>,
    pub(super) sessions: Vec<Session>,
    pub(super) latency_max: Duration,
    /// How long the disk takes for a sync.
    pub(super) sync_takes: Duration,
    /// How many bytes of all sessions it keeps.
    pub(super) store_bytes_max: usize,
    /// How many acknowledged messages of a session that may be replayed.
    pub(super) replay_kept: usize,
    pub(super) disturbances: Vec<Disturbance>,
    /// When every fault is over.
    pub(super) heal: Duration,
}

/// How an instance behaves during the faults.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) manner: Manner,
}

/// A session, and what its client does with it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) policy: LossPolicy,
    pub(super) durability: Durability,
    pub(super) idle_ttl: Duration,
    /// How long it lasts at most.
    pub(super) lifetime: Option<Duration>,
    /// How many messages its client sends during the faults, and then.
    pub(super) messages: u64,
    pub(super) messages_after: u64,
    /// How long each of them is, besides its words.
    pub(super) padding: usize,
    pub(super) window: u64,
    pub(super) pause: Duration,
    pub(super) acks_every: u64,
    pub(super) attachments: Vec<Attachment>,
    pub(super) posts: Vec<Post>,
    pub(super) end: End,
}

/// One stream of a client. The last one of a plan is used for as long as it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attachment {
    /// After how many bytes it is cut, and in which direction, from its first answer on.
    pub(super) cut: Cut,
    /// How many messages that were safe are sent again.
    pub(super) again: u64,
    /// Whether it says how much it has.
    pub(super) tells_what_it_has: bool,
    /// How long the client is away after it.
    pub(super) away: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Never,
    AfterBytesRead(usize),
    AfterBytesWritten(usize),
    /// The connection is closed.
    After(Duration),
    /// The client has no more to say, reads what is said, and comes again.
    SaysNoMore(Duration),
    /// Another stream attaches, while this one goes on sending what it has not heard to be safe.
    Superseded(Duration),
}

/// One message without a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Post {
    pub(super) at: Duration,
    pub(super) waits: bool,
    /// The first try is given up after this long.
    pub(super) patience: Duration,
}

/// What becomes of a session at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It stays open.
    Stays,
    /// The client closes it over its stream, once everything is answered.
    ClosedByFrame,
    /// The client closes it by a call, at any time.
    ClosedByCall(Duration),
    /// The client goes away at any time, for longer than the session lasts.
    LeftAlone(Duration),
    /// The client goes away at any time, until what is safe was delivered without it. Then it stays open.
    Trusts(Duration),
    /// Its time is over, whatever is said in it.
    Outlived,
}

/// A fault, from when to when.
#[derive(Debug, Clone)]
pub(super) struct Disturbance {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) what: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// An instance is gone, and comes back.
    Crash {
        instance: usize,
        forgets: bool,
    },
    /// The orchestrator loses its power, and comes back.
    PowerCut,
    /// The orchestrator is stopped and started again.
    Restart,
    /// Another one takes over what the orchestrator has, which goes on for a while.
    Rival,
    Instance(usize, Harm),
    Client(usize, Harm),
    NoSpace,
    SyncFails,
}

fn ms(range: std::ops::Range<u64>, dice: &mut SmallRng) -> Duration {
    // A tick is four of them.
    Duration::from_millis(dice.random_range(range) / 4 * 4)
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let dice = &mut SmallRng::seed_from_u64(seed ^ 0x5e55_1045);
        let is_long = dice.random_bool(0.15);
        let ends = if is_long { 15_000 } else { 4_000 };
        let instances: Vec<_> = ["A", "B", "C"][..dice.random_range(2..=3)]
            .iter()
            .map(|id| Instance {
                id: (*id).to_owned(),
                manner: manner(dice),
            })
            .collect();
        let count = dice.random_range(2..=3);
        let syncs = [0, 0, 3, 12, 12, 60];
        let is_short = dice.random_bool(0.15);
        let mut sessions: Vec<_> = (0..count).map(|at| session(at, is_long, dice)).collect();
        for session in sessions.iter_mut().filter(|_| is_short) {
            // A session that keeps everything would have all the room for ever.
            if session.policy == LossPolicy::Replay {
                session.policy = LossPolicy::Reassign;
            }
        }
        Self {
            seed,
            latency_max: ms(4..40, dice),
            sync_takes: Duration::from_millis(*syncs.choose(dice).unwrap()),
            replay_kept: if dice.random_bool(0.6) {
                dice.random_range(0..3)
            } else {
                5_000
            },
            store_bytes_max: if is_short { SHORT_OF_ROOM } else { 1 << 20 },
            disturbances: disturbances(instances.len(), count, is_long, ends, dice),
            instances,
            sessions,
            heal: Duration::from_millis(ends + 200),
        }
    }
}

fn manner(dice: &mut SmallRng) -> Manner {
    Manner {
        works_for: Duration::from_millis([0, 2, 30, 90][dice.random_range(0..4)]),
        leaves_every: if dice.random_bool(0.15) { 7 } else { 0 },
        breaks_every: if dice.random_bool(0.15) { 5 } else { 0 },
        tells: if dice.random_bool(0.5) {
            Tells::Nothing
        } else {
            Tells::WhatItHas
        },
    }
}

fn session(at: usize, is_long: bool, dice: &mut SmallRng) -> Session {
    let policies = [LossPolicy::Fail, LossPolicy::Reassign, LossPolicy::Replay];
    let messages = dice.random_range(4..20);
    let ends = if is_long { 12_000 } else { 3_200 };
    let pause = ends / (messages + 1);
    let (mut end, mut idle_ttl, mut lifetime) = (End::Stays, 60, None);
    match dice.random_range(0..11) {
        0 | 1 => end = End::ClosedByFrame,
        2 => end = End::ClosedByCall(ms(OPENING..ends, dice)),
        3 => (end, idle_ttl) = (End::LeftAlone(ms(OPENING..ends, dice)), 2),
        4 => (end, lifetime) = (End::Outlived, Some(ms(2_000..ends + 7_000, dice))),
        5 => end = End::Trusts(ms(OPENING..ends, dice)),
        _ => {}
    }
    let mut attachments: Vec<_> = (0..dice.random_range(0..6))
        .map(|_| attachment(dice))
        .collect();
    attachments.push(Attachment {
        cut: Cut::Never,
        ..attachment(dice)
    });
    Session {
        id: format!("s{at}"),
        policy: policies[dice.random_range(0..3)],
        durability: if dice.random_bool(0.15) {
            Durability::None
        } else {
            Durability::Durable
        },
        idle_ttl: Duration::from_secs(idle_ttl),
        lifetime,
        messages,
        messages_after: dice.random_range(1..4),
        padding: if dice.random_bool(0.1) { 900 } else { 0 },
        window: dice.random_range(1..12),
        pause: Duration::from_millis(dice.random_range(0..=pause)),
        acks_every: dice.random_range(1..5),
        attachments,
        // Whoever posts is not away.
        posts: (0..dice.random_range(0..4))
            .filter(|_| !matches!(end, End::Trusts(_)))
            .map(|_| Post {
                at: ms(OPENING..ends, dice),
                waits: dice.random_bool(0.7),
                patience: ms(20..2_000, dice),
            })
            .collect(),
        end,
    }
}

fn attachment(dice: &mut SmallRng) -> Attachment {
    let cut = match dice.random_range(0..6) {
        0 | 1 => Cut::AfterBytesRead(dice.random_range(0..700)),
        2 => Cut::AfterBytesWritten(dice.random_range(0..700)),
        3 => Cut::After(ms(20..800, dice)),
        4 => Cut::SaysNoMore(ms(20..800, dice)),
        _ => Cut::Superseded(ms(20..800, dice)),
    };
    Attachment {
        cut,
        again: if dice.random() {
            dice.random_range(0..6)
        } else {
            0
        },
        tells_what_it_has: dice.random_bool(0.8),
        away: if dice.random() {
            Duration::ZERO
        } else {
            ms(0..400, dice)
        },
    }
}

fn disturbances(
    instances: usize,
    sessions: usize,
    is_long: bool,
    ends: u64,
    dice: &mut SmallRng,
) -> Vec<Disturbance> {
    let mut disturbances = Vec::<Disturbance>::new();
    if is_long {
        let instance = dice.random_range(0..instances);
        let forgets = dice.random();
        let from = dice.random_range(700..2_500) / 4 * 4;
        disturbances.push(Disturbance {
            from: Duration::from_millis(from),
            to: Duration::from_millis(from + GIVEN_UP_AFTER),
            what: Fault::Crash { instance, forgets },
        });
    }
    for _ in 0..dice.random_range(0..6) {
        let kind = dice.random_range(0..14);
        // What has to last for a while begins early.
        let begins = if LASTING.contains(&kind) {
            700..1_200
        } else {
            700..ends - 600
        };
        let from = dice.random_range(begins) / 4 * 4;
        let (what, lasts) = fault(kind, instances, sessions, dice);
        let one = Disturbance {
            from: Duration::from_millis(from),
            to: (Duration::from_millis(from) + ms(lasts, dice)).min(Duration::from_millis(ends)),
            what,
        };
        // A thing has one fault at a time.
        let touches = |other: &Disturbance| {
            target(&other.what) == target(&one.what) && one.from <= other.to && other.from <= one.to
        };
        let is_too_short = matches!(
            one.what,
            Fault::Instance(_, Harm::Loses | Harm::LosesOneWay)
        ) && one.to - one.from < Duration::from_millis(NOTICED_AFTER);
        if !disturbances.iter().any(touches) && !is_too_short {
            disturbances.push(one);
        }
    }
    // One that waits for room to take over would do so after its successor has: with a journal of one's own, which is
    // locked, there are no two.
    if disturbances
        .iter()
        .any(|one| matches!(one.what, Fault::NoSpace))
    {
        disturbances.retain(|one| !matches!(one.what, Fault::Rival));
    }
    disturbances
}

/// Of the kinds of faults, those that are noticed only after a while.
const LASTING: std::ops::Range<u32> = 11..13;

/// A fault of this kind, and how long it may last.
fn fault(
    kind: u32,
    instances: usize,
    sessions: usize,
    dice: &mut SmallRng,
) -> (Fault, std::ops::Range<u64>) {
    let short = || 20..600;
    match kind {
        0..=2 => {
            let (instance, forgets) = (dice.random_range(0..instances), dice.random());
            (Fault::Crash { instance, forgets }, short())
        }
        3 | 4 => (Fault::PowerCut, short()),
        5 => (Fault::Restart, short()),
        13 => (Fault::Rival, short()),
        6 => (
            Fault::Instance(dice.random_range(0..instances), Harm::Holds),
            short(),
        ),
        7 => (
            Fault::Client(dice.random_range(0..sessions), Harm::Holds),
            short(),
        ),
        8 => (
            Fault::Client(dice.random_range(0..sessions), Harm::Loses),
            short(),
        ),
        9 => (Fault::NoSpace, 20..1_500),
        10 => (Fault::SyncFails, short()),
        _ => {
            let harm = if dice.random() {
                Harm::Loses
            } else {
                Harm::LosesOneWay
            };
            let lasts = NOTICED_AFTER..NOTICED_AFTER + 600;
            (
                Fault::Instance(dice.random_range(0..instances), harm),
                lasts,
            )
        }
    }
}

/// What a fault befalls.
fn target(fault: &Fault) -> (u8, usize) {
    match fault {
        Fault::Crash { instance, .. } | Fault::Instance(instance, _) => (0, *instance),
        Fault::Client(client, _) => (1, *client),
        Fault::PowerCut | Fault::Restart | Fault::Rival => (2, 0),
        Fault::NoSpace | Fault::SyncFails => (3, 0),
    }
}
