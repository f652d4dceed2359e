//! Short histories of hedges, keys and waiting that are not as they should be.

use std::time::Duration;

use orchestrator::domain::health::{Admin, probed};

use super::tests::{
    REMAINS, answered, arrived, check, check_in, failed, left, ms, plan, route, tried,
};
use crate::ask::{Ask, Hedge};
use crate::history::{Arrival, End, Left, Looks, Tried, What};
use crate::payload;

fn at(mut tried: Tried, kind: &str, offset: u64, elapsed: u64) -> Tried {
    tried.kind = format!("ATTEMPT_KIND_{kind}");
    (tried.offset, tried.elapsed) = (ms(offset), ms(elapsed));
    tried
}

fn hedged(call: u32) -> Ask {
    Ask {
        idempotent: true,
        hedge: Hedge::After(ms(10)),
        ..route(call)
    }
}

/// A works on it for 30 ms, B answers after 16.
fn won_by_b(ask: Ask, tries: Vec<Tried>) -> Vec<(u64, What)> {
    let call = ask.call;
    vec![
        (0, What::Asked(ask)),
        (5, What::Arrived(arrived(0, call, "A", 1))),
        (15, What::Arrived(arrived(1, call, "B", 2))),
        (21, left(1, Left::Answered)),
        (24, left(0, Left::Reset)),
        (24, answered(call, "B", tries)),
    ]
}

fn hedge(instance: &str, offset: u64) -> Tried {
    at(tried(instance, None), "HEDGE", offset, 9)
}

fn slow() -> Tried {
    at(tried("A", Some("NOT_NEEDED")), "FIRST", 1, 21)
}

#[test]
fn a_hedge_that_should_not_be_is_seen() {
    check(won_by_b(hedged(1), vec![slow(), hedge("B", 12)]), "");
    let early = vec![slow(), hedge("B", 8)];
    check(won_by_b(hedged(1), early), "was hedged too early");
    let alone = vec![at(slow(), "FIRST", 1, 10), hedge("B", 12)];
    check(won_by_b(hedged(1), alone), "was hedged beside nothing");
    let there = vec![slow(), at(slow(), "RETRY", 2, 20), hedge("A", 12)];
    check(won_by_b(hedged(1), there), "where it had been tried");
    let unasked = Ask {
        hedge: Hedge::Never,
        ..hedged(1)
    };
    let tries = || vec![slow(), hedge("B", 12)];
    check(won_by_b(unasked, tries()), "was hedged unasked");
    let usual = Ask {
        hedge: Hedge::Usual,
        ..hedged(1)
    };
    check(won_by_b(usual, tries()), "a time that nobody knew");
    let not_twice = Ask {
        idempotent: false,
        ..hedged(1)
    };
    check(won_by_b(not_twice, tries()), "contradicts itself");
    let once = Ask {
        attempts_max: 1,
        ..hedged(1)
    };
    check(won_by_b(once, tries()), "contradicts itself");
    let invalid = failed(1, "InvalidArgument", "ARGUMENT_INVALID", Vec::new());
    check(
        vec![(0, What::Asked(hedged(1))), (5, invalid)],
        "was refused as invalid",
    );
}

#[test]
fn too_many_hedges_are_seen() {
    let many = |count: u32| {
        let calls = (0..count).flat_map(|call| {
            let tries = vec![slow(), hedge("B", 12)];
            let mut events = won_by_b(hedged(call), tries);
            for (_, what) in &mut events {
                match what {
                    What::Arrived(arrival) => arrival.execution += call * 2,
                    What::Left { execution, .. } => *execution += call * 2,
                    What::Ended {
                        end: End::Answered { payload, .. },
                        ..
                    } => *payload = payload::answered(call, "B", call * 2 + 1),
                    _ => {}
                }
            }
            events
        });
        let mut events: Vec<_> = calls.collect();
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(many(5), "");
    check(many(6), "6 hedges at");
}

#[test]
fn a_later_answer_than_the_first_is_seen() {
    let taken = |other: u64| {
        let mut events = won_by_b(hedged(1), vec![slow(), hedge("B", 12)]);
        events[4] = (other, left(0, Left::Answered));
        events[3].0 = 30;
        events[5].0 = 35;
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(taken(24), "");
    check(taken(10), "a later answer than that of A");
}

fn keyed(call: u32, task: u32) -> Ask {
    Ask {
        task,
        word: Some("once".to_owned()),
        ..route(call)
    }
}

fn came(execution: u32, task: u32) -> What {
    What::Arrived(Arrival {
        word: Some("once".to_owned()),
        ..arrived(execution, task, "A", 1)
    })
}

fn told(call: u32, task: u32, execution: u32, is_earlier: bool) -> What {
    let end = End::Answered {
        by: "A".to_owned(),
        payload: payload::answered(task, "A", execution),
        attempts: vec![tried("A", None)],
        deduplicated: is_earlier,
        panic: false,
    };
    What::Ended { call, end }
}

#[test]
fn a_key_that_is_carried_out_twice_is_seen() {
    let joined = || {
        vec![
            (0, What::Asked(keyed(1, 1))),
            (2, What::Asked(keyed(2, 1))),
            (5, came(1, 1)),
            (9, left(1, Left::Answered)),
            (12, told(1, 1, 1, false)),
            (12, told(2, 1, 1, true)),
            (20, What::Asked(keyed(3, 1))),
            (24, told(3, 1, 1, true)),
        ]
    };
    check(joined(), "");
    let mut again = joined();
    again.extend([(22, came(2, 1)), (23, left(2, Left::Answered))]);
    check(again, "was sent once more");
    let for_nobody = vec![
        (0, What::Asked(keyed(1, 1))),
        (2, What::Asked(keyed(2, 1))),
        (8, came(1, 1)),
        (9, left(1, Left::Failed)),
        (12, came(2, 1)),
        (13, left(2, Left::Answered)),
        (16, told(1, 1, 2, false)),
        (16, told(2, 1, 2, true)),
    ];
    check(for_nobody, "once more for nobody");
    let mut beside = joined();
    beside[3].0 = 19;
    beside.splice(3..3, [(8, came(2, 1)), (9, left(2, Left::Failed))]);
    beside.sort_by_key(|(at, _)| *at);
    check(beside, "once more beside itself");
    let mut without = joined();
    without[2].1 = What::Arrived(arrived(1, 1, "A", 1));
    check(without, "came with the key None");
}

#[test]
fn a_key_that_is_answered_in_two_ways_is_seen() {
    let later = |told| {
        vec![
            (0, What::Asked(keyed(1, 1))),
            (5, came(1, 1)),
            (9, left(1, Left::Answered)),
            (12, self::told(1, 1, 1, false)),
            (20, What::Asked(keyed(2, 1))),
            (24, told),
        ]
    };
    check(later(told(2, 1, 1, true)), "");
    check(later(told(2, 1, 7, true)), "call 1 has two answers");
    check(later(told(2, 1, 1, false)), "call 2 is said to be its own");
    let mut nobody = later(told(2, 1, 1, true));
    nobody[3].1 = told(1, 1, 1, true);
    check(nobody, "nobody has made the first call");
    let stranger = vec![
        (0, What::Asked(route(1))),
        (5, What::Arrived(arrived(1, 1, "A", 1))),
        (9, left(1, Left::Answered)),
        (12, told(1, 1, 1, true)),
    ];
    check(stranger, "has no key");
}

#[test]
fn a_key_of_two_tasks_is_seen() {
    let conflict = |end| {
        vec![
            (0, What::Asked(keyed(1, 1))),
            (5, came(1, 1)),
            (9, left(1, Left::Answered)),
            (12, told(1, 1, 1, false)),
            (20, What::Asked(keyed(2, 2))),
            (22, came(2, 2)),
            (23, left(2, Left::Answered)),
            (25, end),
        ]
    };
    let refused = || failed(2, "InvalidArgument", "IDEMPOTENCY_CONFLICT", Vec::new());
    let mut right = conflict(refused());
    right.drain(5..7);
    check(right, "");
    let answered = conflict(told(2, 2, 2, false));
    check(answered, "answered for two tasks");
    let of_whom = vec![(0, What::Asked(keyed(2, 2))), (5, refused())];
    check(of_whom, "in conflict with nobody");
}

#[test]
fn a_failure_that_is_kept_though_it_may_pass_is_seen() {
    let lost = |offset: u64| vec![at(tried("A", Some("INSTANCE_FAILED")), "FIRST", offset, 3)];
    let later = |code: &str, offset: u64| {
        vec![
            (0, What::Asked(keyed(1, 1))),
            (3, came(1, 1)),
            (5, left(1, Left::Failed)),
            (7, failed(1, code, "INSTANCE_FAILED", lost(1))),
            (20, What::Asked(keyed(2, 1))),
            (24, failed(2, code, "INSTANCE_FAILED", lost(offset))),
        ]
    };
    check(later("Unavailable", 1), "a failure that may pass once more");
    let mut anew = later("Unavailable", 1);
    anew.splice(5..5, [(22, came(2, 1)), (23, left(2, Left::Failed))]);
    check(anew, "");
    check(later("Unavailable", 2), "");
    check(later("NotFound", 1), "");
}

#[test]
fn who_does_not_wait_or_waits_in_vain_is_seen() {
    let waiting = || {
        What::Asked(Ask {
            waits_for_ready: true,
            timeout: ms(1000),
            ..route(1)
        })
    };
    let seen = |state| {
        let looks = Looks {
            admin: Admin::Active,
            probed: state,
            ejected: false,
        };
        let instance = "B".to_owned();
        What::Seen { instance, looks }
    };
    let late = || failed(1, "DeadlineExceeded", "DEADLINE_EXCEEDED", Vec::new());
    check(vec![(0, waiting()), (950, late())], "");
    let turned_away = failed(1, "Unavailable", "NO_INSTANCE", Vec::new());
    check(vec![(0, waiting()), (5, turned_away)], "did not wait");
    let spell = |to: u64| {
        vec![
            (0, waiting()),
            (300, seen(probed::State::Healthy)),
            (to, seen(probed::State::Down)),
            (950, late()),
        ]
    };
    check(spell(450), "");
    check(spell(650), "waited, and B was well");
}

#[test]
fn what_is_reset_though_it_is_waited_for_is_seen() {
    let reset = |at: u64, ended: u64| {
        let mut events = vec![
            (0, What::Asked(route(1))),
            (5, What::Arrived(arrived(0, 1, "A", 1))),
            (at, left(0, Left::Reset)),
            (
                ended,
                failed(
                    1,
                    "Unavailable",
                    "INSTANCE_LOST",
                    vec![tried("A", Some("INSTANCE_LOST"))],
                ),
            ),
        ];
        events.sort_by_key(|(at, _)| *at);
        events
    };
    // Its time is over, or the call is.
    check(reset(56, 70), "");
    check(reset(20, 22), "");
    check(reset(20, 60), "was reset at A, and is waited for");
    let by_plan = Duration::from_millis(95);
    let mut planned = plan();
    planned.latency_max = by_plan;
    check_in(&planned, reset(20, 60), REMAINS, "");
}
