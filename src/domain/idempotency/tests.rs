//! What is remembered of calls with a key, over histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::payload::Payload;

fn key(word: &str) -> Arc<Key> {
    Arc::new(Key {
        caller: Some("caller".into()),
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
                    let name = key(&word.to_string());
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
                            if memory.begin(name, asked_for, u32::from(asked)).is_ok() {
                                running.insert(word, asked);
                                kept.remove(&word);
                            } else {
                                prop_assert_eq!(running.len(), 5);
                            }
                        }
                    }
                }
                Step::Keep(word, bytes) => if let Some(asked) = running.remove(&word) {
                    outcomes += 1;
                    memory.end(&key(&word.to_string()), Some((outcomes, bytes)), now);
                    kept.insert(word, (asked, outcomes, passed));
                },
                Step::Drop(word) => if running.remove(&word).is_some() {
                    memory.end(&key(&word.to_string()), None, now);
                },
            }
            prop_assert!(memory.entries.len() <= 5 && memory.bytes <= 100);
            prop_assert_eq!(memory.used.len(), memory.ages.len());
            prop_assert_eq!(memory.used.len() + running.len(), memory.entries.len());
        }
    }
}
