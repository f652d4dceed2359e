//! What is remembered of calls with a key, over histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::payload::Payload;

fn key(word: &str) -> Arc<Key> {
    key_of("caller", word)
}

fn key_of(caller: &str, word: &str) -> Arc<Key> {
    Arc::new(Key {
        caller: Some(caller.into()),
        method: "Route",
        word: Word::check(word).unwrap(),
    })
}

fn request(target: &str) -> Fingerprint {
    Fingerprint::of(&[target], &Payload::null())
}

fn memory(entries_max: usize, bytes_max: usize) -> Memory<u32, u32> {
    Memory::new(Bounds {
        entries_max,
        bytes_max,
        kept_for: Duration::from_secs(600),
    })
}

#[allow(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_word_can_travel_as_metadata() {
    for good in ["a", "order-1:2/3", &"x".repeat(IDEMPOTENCY_KEY_BYTES_MAX)] {
        assert_eq!(Word::check(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        " a",
        "a b",
        "ä",
        "a\n",
        &"x".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1),
    ] {
        assert_eq!(Word::check(bad), Err(BadWord), "{bad:?}");
    }
}

#[test]
fn a_call_is_joined_then_replayed_then_forgotten() {
    let (now, key, a) = (start(), key("k"), request("A"));
    let mut memory = memory(10, 100);
    assert_eq!(memory.find(&key, a, now), Found::Nothing);
    memory.begin(Arc::clone(&key), a, 1).unwrap();
    assert_eq!(memory.find(&key, a, now), Found::Running(&1));
    assert_eq!(memory.find(&key, request("B"), now), Found::Conflict);
    memory.end(&key, Some((2, 10)), now);
    assert_eq!(memory.find(&key, a, now), Found::Kept(&2));
    assert_eq!(memory.find(&key, request("B"), now), Found::Conflict);
    let minutes = |count: u64| now + Duration::from_secs(count * 60);
    assert_eq!(memory.find(&key, a, minutes(9)), Found::Kept(&2));
    // Being asked for does not make it younger.
    assert_eq!(memory.find(&key, a, minutes(10)), Found::Nothing);
}

#[test]
fn another_caller_or_method_has_words_of_its_own() {
    let (now, a) = (start(), request("A"));
    let mut memory = memory(10, 100);
    memory.begin(key("k"), a, 1).unwrap();
    let mut other = Key::clone(&key("k"));
    other.caller = Some("other".into());
    assert_eq!(memory.find(&other, a, now), Found::Nothing);
    other = Key::clone(&key("k"));
    other.method = "SessionPost";
    assert_eq!(memory.find(&other, a, now), Found::Nothing);
}

#[test]
fn the_least_recently_used_outcome_makes_room_and_a_running_call_never_does() {
    let (now, a) = (start(), request("A"));
    let mut memory = memory(3, 100);
    for word in ["1", "2", "3"] {
        memory.begin(key(word), a, 0).unwrap();
    }
    assert_eq!(memory.begin(key("4"), a, 0), Err(Full));
    for word in ["1", "2"] {
        memory.end(&key(word), Some((0, 50)), now);
    }
    assert_eq!(memory.find(&key("1"), a, now), Found::Kept(&0));
    memory.begin(key("4"), a, 0).unwrap();
    assert_eq!(memory.find(&key("2"), a, now), Found::Nothing);
    memory.end(&key("4"), Some((0, 60)), now);
    assert_eq!(memory.find(&key("1"), a, now), Found::Nothing, "by bytes");
    assert_eq!(memory.find(&key("4"), a, now), Found::Kept(&0));
    memory.end(&key("3"), Some((0, 101)), now);
    assert_eq!(memory.find(&key("3"), a, now), Found::Nothing, "too heavy");
    assert_eq!(memory.find(&key("4"), a, now), Found::Kept(&0));
}

#[test]
fn nobody_is_pushed_out_by_a_caller_who_holds_more() {
    let (now, a) = (start(), request("A"));
    let mut memory = memory(8, 100);
    let keep = |memory: &mut Memory<u32, u32>, caller: &str, word: &str, bytes| {
        let key = key_of(caller, word);
        memory.begin(Arc::clone(&key), a, 0)?;
        memory.end(&key, Some((0, bytes)), now);
        Ok::<_, Full>(())
    };
    let held = |memory: &mut Memory<u32, u32>, caller: &str, words: &str| {
        let words = words.chars().filter(|word| {
            let found = memory.find(&key_of(caller, &word.to_string()), a, now);
            found == Found::Kept(&0)
        });
        words.collect::<String>()
    };
    // By entries: the greedy one gets what is free, and then has to forget its own.
    for word in "ab".chars() {
        keep(&mut memory, "modest", &word.to_string(), 1).unwrap();
    }
    for word in "abcdefghi".chars() {
        keep(&mut memory, "greedy", &word.to_string(), 1).unwrap();
    }
    assert_eq!(held(&mut memory, "modest", "ab"), "ab");
    assert_eq!(held(&mut memory, "greedy", "abcdefghi"), "defghi");
    // Room for the modest one is made by who holds most.
    keep(&mut memory, "modest", "c", 1).unwrap();
    assert_eq!(held(&mut memory, "modest", "abc"), "abc");
    assert_eq!(held(&mut memory, "greedy", "abcdefghi"), "efghi");
    // By bytes.
    keep(&mut memory, "greedy", "x", 60).unwrap();
    keep(&mut memory, "greedy", "y", 60).unwrap();
    assert_eq!(held(&mut memory, "modest", "abc"), "abc");
    assert_eq!(held(&mut memory, "greedy", "efghixy"), "y");
    // Calls that run are forgotten for nobody; whoever has most of them gets no more.
    for word in "12345".chars() {
        let key = key_of("greedy", &word.to_string());
        memory.begin(key, a, 0).unwrap();
    }
    assert_eq!(memory.begin(key_of("greedy", "6"), a, 0), Err(Full));
    assert_eq!(held(&mut memory, "modest", "abc"), "abc");
}

#[test]
fn what_may_pass_is_not_definitive() {
    let failed = |status| Failure::new(Reason::InstanceFailed(status), "");
    assert!(is_definitive(&failed(Status::NotFound)));
    assert!(is_definitive(&failed(Status::Internal)));
    assert!(!is_definitive(&failed(Status::Unavailable)));
    assert!(!is_definitive(&failed(Status::ResourceExhausted)));
    for reason in [
        Reason::InstanceLost,
        Reason::InstanceDown,
        Reason::DeadlineExceeded,
        Reason::NoInstance,
    ] {
        assert!(!is_definitive(&Failure::new(reason, "")), "{reason:?}");
    }
}

/// One step of a history: a key and a request, and what happens to them.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(u8, u8),
    Keep(u8, usize),
    Drop(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_u8..8, 0_u8..2).prop_map(|(key, request)| Step::Ask(key, request)),
        (0_u8..8, 0_usize..60).prop_map(|(key, bytes)| Step::Keep(key, bytes)),
        (0_u8..8).prop_map(Step::Drop),
        (0_u64..400).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Even words are one caller's, odd ones another's.
fn key_in_history(word: u8) -> Arc<Key> {
    key_of(["even", "odd"][usize::from(word % 2)], &word.to_string())
}

/// Entries, bytes and outcomes that a caller holds.
fn held(memory: &Memory<u32, u32>, key: &Key) -> (usize, usize, usize) {
    let held = memory.callers.get(&key.caller);
    held.map_or((0, 0, 0), |held| {
        (held.entries, held.bytes, held.used.len())
    })
}

proptest! {
    /// Against a plain model that only knows which request runs and what was kept when.
    #[test]
    fn no_history_mixes_requests_up_or_outgrows_its_bounds(steps in steps()) {
        let (start, mut passed) = (start(), Duration::ZERO);
        let mut memory = memory(5, 100);
        let mut running: BTreeMap<u8, u8> = BTreeMap::new();
        let mut kept: BTreeMap<u8, (u8, u32, Duration)> = BTreeMap::new();
        let mut outcomes = 0;
        for step in steps {
            let now = start + passed;
            match step {
                Step::Wait(seconds) => passed += Duration::from_secs(seconds),
                Step::Ask(word, asked) => {
                    let (name, other) = (key_in_history(word), key_in_history(word + 1));
                    let asked_for = request(&asked.to_string());
                    kept.retain(|_, (.., at)| passed < *at + Duration::from_secs(600));
                    match memory.find(&name, asked_for, now) {
                        Found::Running(_) => prop_assert_eq!(running.get(&word), Some(&asked)),
                        Found::Kept(outcome) => {
                            prop_assert_eq!(kept.get(&word).map(|(request, outcome, _)| (*request, *outcome)), Some((asked, *outcome)));
                        }
                        Found::Conflict => {
                            let known = running.get(&word).or(kept.get(&word).map(|(request, ..)| request));
                            prop_assert!(known.is_some_and(|known| *known != asked));
                        }
                        Found::Nothing => {
                            prop_assert_eq!(running.get(&word), None, "a running call is never forgotten");
                            let ((own, ..), (others, _, kept_by_other)) = (held(&memory, &name), held(&memory, &other));
                            if memory.begin(Arc::clone(&name), asked_for, u32::from(asked)).is_ok() {
                                running.insert(word, asked);
                                kept.remove(&word);
                                prop_assert!(own <= others || held(&memory, &other).0 == others, "pushed out by who holds more");
                            } else {
                                prop_assert_eq!(own + others, 5);
                                prop_assert_eq!(held(&memory, &name).2, 0, "its own would have made room");
                                prop_assert!(kept_by_other == 0 || others < own);
                            }
                        }
                    }
                }
                Step::Keep(word, bytes) => if let Some(asked) = running.remove(&word) {
                    outcomes += 1;
                    let (name, other) = (key_in_history(word), key_in_history(word + 1));
                    // Whoever is too old goes anyway.
                    memory.find(&name, request(&asked.to_string()), now);
                    let others = held(&memory, &other).1;
                    memory.end(&name, Some((outcomes, bytes)), now);
                    // Beside the new outcome: one after the other makes room, and always who holds most.
                    let own = held(&memory, &name).1.saturating_sub(bytes);
                    prop_assert!(own <= others || held(&memory, &other).1 == others, "pushed out by who holds more");
                    kept.insert(word, (asked, outcomes, passed));
                },
                Step::Drop(word) => if running.remove(&word).is_some() {
                    memory.end(&key_in_history(word), None, now);
                },
            }
            prop_assert!(memory.entries.len() <= 5 && memory.bytes <= 100);
            let (even, odd) = (held(&memory, &key_in_history(0)), held(&memory, &key_in_history(1)));
            prop_assert_eq!(even.2 + odd.2, memory.ages.len());
            prop_assert_eq!(memory.ages.len() + running.len(), memory.entries.len());
            prop_assert_eq!((even.0 + odd.0, even.1 + odd.1), (memory.entries.len(), memory.bytes));
        }
    }
}
