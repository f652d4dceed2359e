//! Everything that a run can show has to show often enough in the fixed seeds: a check of what never happens
//! checks nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ask::Hedge;
use crate::history::{End, Record, Tried, What};
use crate::operator::Order;

/// Words of histories, each with the number of records that must have it.
const WORDS: [(&str, u64); 66] = [
    // What instances do.
    ("begun: No", 500),
    ("how: Answered", 10_000),
    ("how: Failed", 2000),
    ("how: Refused", 500),
    ("how: Reset", 1000),
    ("how: Lost", 100),
    ("said: Serving", 10_000),
    ("said: NotServing", 500),
    ("said: Nothing", 200),
    ("HungUp(", 500),
    // How they tell of themselves.
    ("watched: Follows", 500),
    ("watched: Stalls", 50),
    ("watched: Lies", 50),
    ("watched: Breaks", 50),
    ("watched: Garbles", 50),
    ("WatchOver {", 500),
    // What the world does.
    ("Crashed(", 50),
    ("Restarted(", 50),
    ("Loses)", 40),
    ("LosesOneWay)", 40),
    ("Holds)", 40),
    ("Mended(", 150),
    // How instances look from within.
    ("looks: Looks { admin: Draining", 200),
    ("looks: Looks { admin: Disabled", 50),
    ("probed: Busy", 50),
    ("probed: Starting", 50),
    ("probed: Down", 300),
    ("ejected: true", 100),
    // What callers get.
    ("end: Answered", 5000),
    ("end: Broken", 20),
    ("end: LeftEarly", 200),
    ("verdict: Ok", 2000),
    ("verdict: LeftEarly", 80),
    ("OUTCOME_FAILED", 500),
    ("OUTCOME_TIMED_OUT", 200),
    ("OUTCOME_CANCELLED", 200),
    ("ATTEMPT_KIND_TRANSPARENT_RETRY", 500),
    ("ATTEMPT_KIND_RETRY", 500),
    ("ATTEMPT_KIND_FALLBACK", 50),
    ("ATTEMPT_KIND_HEDGE", 250),
    ("deduplicated: true", 800),
    ("STOP_REASON_ALL_TERMINAL", 1000),
    ("STOP_REASON_COMPLETION_MET", 500),
    ("STOP_REASON_COMPLETION_IMPOSSIBLE", 50),
    ("STOP_REASON_FAILURES_MAX", 50),
    ("STOP_REASON_DEADLINE", 100),
    ("reason: \"INSTANCE_LOST\"", 100),
    ("reason: \"INSTANCE_FAILED\"", 500),
    ("reason: \"INSTANCE_DRAINING\"", 50),
    ("reason: \"DEADLINE_EXCEEDED\"", 500),
    ("reason: \"ANSWER_MALFORMED\"", 20),
    ("reason: \"COMPLETION_UNMET\"", 100),
    ("reason: \"ARGUMENT_INVALID\"", 50),
    ("reason: \"IDEMPOTENCY_CONFLICT\"", 250),
    ("reason: \"OVERLOADED\"", 200),
    ("reason: \"CALLER_LIMIT\"", 100),
    ("failure: Some(\"INSTANCE_BUSY\")", 80),
    ("failure: Some(\"NOT_NEEDED\")", 100),
    ("pushback: Some(-1)", 500),
    ("order: Reversed", 5000),
    ("waits_for_ready: true", 1000),
    ("ADMIN_STATE_DRAINING", 500),
    ("ADMIN_STATE_DISABLED", 20),
    ("ADMIN_STATE_ACTIVE", 300),
    ("hedge: Usual", 200),
    ("PushedBack {", 200),
];

const _: () = assert!(WORDS.len() <= u128::BITS as usize);

/// What takes more than a word to see.
const SIGHTS: [(&str, u64); 14] = [
    ("a drain that found calls running", 30),
    ("a drain that waited until they were over", 20),
    ("a hedge that brought the answer", 100),
    ("a hedge that would contradict itself", 50),
    ("a key that was joined while its call ran", 100),
    ("a key whose answer was kept", 100),
    ("a call that waited for an instance and got one", 20),
    ("a call that waited for its turn and got it", 20),
    (
        "a call that was turned away because its turn would come too late",
        20,
    ),
    ("a hedge at the usual time", 3),
    ("a hedge that the caller has timed", 100),
    ("an answer for which ejections were ignored", 20),
    ("health that was told while calls were refused", 20),
    ("a drain that was told while calls were refused", 5),
];

/// What a call waits beyond the time in which its request arrives whole.
const LONG: Duration = Duration::from_millis(50);

/// How often each was seen, words first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts(Vec<u64>);

impl Counts {
    pub(crate) fn none() -> Self {
        Self(vec![0; WORDS.len() + SIGHTS.len()])
    }

    /// Of one history, whose records are also given as text.
    pub(crate) fn of(records: &[Record], lines: &[String]) -> Self {
        let mut seen = words(lines);
        seen.extend(sights(records));
        Self(seen)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    pub(crate) fn write(&self) -> String {
        let counts: Vec<_> = self.0.iter().map(u64::to_string).collect();
        counts.join(" ")
    }

    pub(crate) fn read(text: &str) -> Self {
        let counts = text.split_whitespace().map(|count| count.parse().unwrap());
        Self(counts.collect())
    }

    /// Each with what it counts and what it must be.
    pub(crate) fn table(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let rows = WORDS.iter().chain(&SIGHTS).zip(&self.0);
        rows.map(|((what, least), count)| (*what, *count, *least))
    }
}

/// In how many lines each word stands. Every line is read once, whatever the number of words.
fn words(lines: &[String]) -> Vec<u64> {
    let mut by_first = [const { Vec::new() }; 256];
    for (at, (word, _)) in WORDS.iter().enumerate() {
        by_first[usize::from(word.as_bytes()[0])].push((at, word.as_bytes()));
    }
    let mut seen = vec![0; WORDS.len()];
    for line in lines {
        let line = line.as_bytes();
        let mut found = 0_u128;
        for (from, first) in line.iter().enumerate() {
            for (at, word) in &by_first[usize::from(*first)] {
                if line[from..].starts_with(word) {
                    found |= 1 << at;
                }
            }
        }
        for (at, seen) in seen.iter_mut().enumerate() {
            *seen += u64::from(found >> at & 1 == 1);
        }
    }
    seen
}

fn sights(records: &[Record]) -> [u64; SIGHTS.len()] {
    let mut seen = [0; SIGHTS.len()];
    let [
        found_work,
        waited,
        won,
        refused,
        joined,
        kept,
        ready,
        turned,
        hopeless,
        usual,
        timed,
        panicked,
        health,
        drain,
    ] = &mut seen;
    let mut busy: BTreeMap<&str, bool> = BTreeMap::new();
    let mut asks = BTreeMap::new();
    // When a call was refused for load last.
    let mut refused_at = None::<Duration>;
    // When a task was answered first.
    let mut answered: BTreeMap<u32, Duration> = BTreeMap::new();
    for Record { at, what } in records {
        match what {
            What::Asked(ask) => drop(asks.insert(ask.call, (*at, ask))),
            What::Heard {
                instance,
                order: Order::Drain,
                drained,
                ..
            } => {
                let was_busy = busy.insert(instance, !drained);
                *found_work += u64::from(!drained && was_busy.is_none());
                *waited += u64::from(*drained && was_busy == Some(true));
            }
            What::Desk {
                what,
                refused: None,
                ..
            } => {
                let is_busy = refused_at.is_some_and(|last| *at <= last + LONG);
                *health += u64::from(is_busy && *what == "health");
                *drain += u64::from(is_busy && *what == "drain");
            }
            What::Ended { call, end } => {
                let Some((asked, ask)) = asks.get(call) else {
                    continue;
                };
                let is_hedge = |tried: &&Tried| tried.kind == "ATTEMPT_KIND_HEDGE";
                if let End::Answered { attempts, .. } | End::Failed { attempts, .. } = end
                    && attempts.iter().any(|tried| is_hedge(&tried))
                {
                    *usual += u64::from(ask.hedge == Hedge::Usual);
                    *timed += u64::from(ask.hedge != Hedge::Usual);
                }
                if let End::Failed {
                    reason, too_late, ..
                } = end
                {
                    *hopeless += u64::from(*too_late);
                    if matches!(reason.as_str(), "OVERLOADED" | "CALLER_LIMIT") {
                        refused_at = Some(*at);
                    }
                }
                *panicked += u64::from(matches!(end, End::Answered { panic: true, .. }));
                match end {
                    End::Answered {
                        attempts,
                        deduplicated,
                        ..
                    } => {
                        let won_by = |tried: &Tried| is_hedge(&tried) && tried.failure.is_none();
                        *won += u64::from(attempts.iter().any(won_by));
                        let before = answered.get(&ask.task).is_some_and(|first| first < asked);
                        *joined += u64::from(*deduplicated && !before);
                        *kept += u64::from(*deduplicated && before);
                        answered.entry(ask.task).or_insert(*at);
                        let first = attempts
                            .first()
                            .map_or(Duration::ZERO, |first| first.offset);
                        let is_own = !deduplicated;
                        let waits = ask.waits_for_ready;
                        *ready += u64::from(is_own && waits && LONG <= first);
                        *turned += u64::from(is_own && !waits && LONG <= first);
                    }
                    End::Failed { reason, .. } if reason == "ARGUMENT_INVALID" => {
                        *refused += u64::from(ask.contradicts_itself());
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    seen
}
