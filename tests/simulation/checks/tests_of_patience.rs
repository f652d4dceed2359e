//! Short histories of tries that come too early, go to the wrong place or cost too much, and of ejections, that are
//! not as they should be.

use orchestrator::domain::health::{Admin, probed};

use super::tests::{
    REMAINS, answered, arrived, check, check_in, failed, left, ms, plan, route, tried,
};
use crate::ask::{Ask, Hedge};
use crate::history::{Arrival, End, Left, Looks, Tried, What};
use crate::payload;

fn repeatable(call: u32) -> Ask {
    Ask {
        idempotent: true,
        timeout: ms(1000),
        ..route(call)
    }
}

/// With more time than a test needs.
fn came(execution: u32, call: u32, instance: &str, attempt: u32) -> What {
    What::Arrived(Arrival {
        budget: Some(ms(450)),
        ..arrived(execution, call, instance, attempt)
    })
}

/// The execution that brought the answer is the right one.
fn answered_by(execution: u32, call: u32, instance: &str, tries: Vec<Tried>) -> What {
    let mut told = answered(call, instance, tries);
    if let What::Ended {
        end: End::Answered { payload, .. },
        ..
    } = &mut told
    {
        *payload = payload::answered(call, instance, execution);
    }
    told
}

fn at(mut tried: Tried, offset: u64, elapsed: u64) -> Tried {
    (tried.offset, tried.elapsed) = (ms(offset), ms(elapsed));
    tried
}

fn seen(instance: &str, is_ejected: bool) -> What {
    let looks = Looks {
        admin: Admin::Active,
        probed: probed::State::Healthy,
        ejected: is_ejected,
    };
    let instance = instance.to_owned();
    What::Seen { instance, looks }
}

#[test]
fn a_try_before_the_time_that_an_instance_has_asked_for_is_seen() {
    let again = |at: u64, instance: &str, millis: i64| {
        let tries = vec![tried("A", Some("INSTANCE_FAILED")), tried(instance, None)];
        vec![
            (0, What::Asked(repeatable(1))),
            (5, came(0, 1, "A", 1)),
            (
                6,
                What::PushedBack {
                    execution: 0,
                    millis,
                },
            ),
            (6, left(0, Left::Failed)),
            (at, came(1, 1, instance, 2)),
            (at + 1, left(1, Left::Answered)),
            (at + 4, answered_by(1, 1, instance, tries)),
        ]
    };
    check(again(107, "A", 100), "");
    check(again(100, "A", 100), "though A had asked at 6ms for 100 ms");
    check(again(100, "B", 100), "tried at B though A had asked");
    // It may have been on its way.
    check(again(15, "B", 100), "");
    check(again(300, "B", -1), "for -1 ms");
    let mut late = again(100, "A", 100);
    late[1].1 = What::Arrived(Arrival {
        budget: Some(ms(4)),
        ..arrived(0, 1, "A", 1)
    });
    check(late, "");
}

#[test]
fn a_second_try_at_one_instance_while_another_is_untried_is_seen() {
    let again = |since: u64, is_well: bool| {
        let tries = vec![
            at(tried("A", Some("INSTANCE_FAILED")), 20, 4),
            at(tried("A", None), 40, 4),
        ];
        let mut events = vec![
            (since, seen("B", !is_well)),
            (0, What::Asked(repeatable(1))),
            (24, came(0, 1, "A", 1)),
            (25, left(0, Left::Failed)),
            (44, came(1, 1, "A", 2)),
            (45, left(1, Left::Answered)),
            (48, answered_by(1, 1, "A", tries)),
        ];
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(again(0, true), "twice at A, and B is untried");
    check(again(30, true), "");
    let mut narrow = plan();
    narrow.instances[1].calls_max = Some(1);
    check_in(&narrow, again(0, true), REMAINS, "");
}

#[test]
fn an_instance_that_spends_what_all_have_is_seen() {
    let failing = |calls: u32| {
        let calls = (0..calls).flat_map(|call| {
            let (one, other) = (call * 2, call * 2 + 1);
            let tries = vec![tried("A", Some("INSTANCE_FAILED")), tried("B", None)];
            vec![
                (0, What::Asked(repeatable(call))),
                (5, came(one, call, "A", 1)),
                (6, left(one, Left::Failed)),
                (10, came(other, call, "B", 2)),
                (11, left(other, Left::Answered)),
                (14, answered_by(other, call, "B", tries)),
            ]
        });
        let mut events: Vec<_> = calls.collect();
        events.sort_by_key(|(at, _)| *at);
        events
    };
    let mut strict = plan();
    strict.means.retry.instance_budget.floor = 3.0;
    check_in(&strict, failing(3), REMAINS, "");
    check_in(&strict, failing(4), REMAINS, "beyond the budget of A");
}

#[test]
fn a_hedge_long_before_its_usual_time_is_seen() {
    let hedged = |offset: u64| {
        let mut events = Vec::new();
        for call in 10..20 {
            let number = call;
            events.extend([
                (0, What::Asked(repeatable(call))),
                (5, came(number, call, "A", 1)),
                (45, left(number, Left::Answered)),
                (48, answered_by(number, call, "A", vec![tried("A", None)])),
            ]);
        }
        let ask = Ask {
            hedge: Hedge::Usual,
            ..repeatable(1)
        };
        let mut hedge = at(tried("B", None), offset, 9);
        hedge.kind = "ATTEMPT_KIND_HEDGE".to_owned();
        let slow = at(tried("A", Some("NOT_NEEDED")), 1, offset + 8);
        events.extend([
            (100, What::Asked(ask)),
            (105, came(0, 1, "A", 1)),
            (100 + offset + 3, came(1, 1, "B", 2)),
            (100 + offset + 6, left(1, Left::Answered)),
            (100 + offset + 9, left(0, Left::Reset)),
            (100 + offset + 9, answered_by(1, 1, "B", vec![slow, hedge])),
        ]);
        events.sort_by_key(|(at, _)| *at);
        events
    };
    let mut quick = plan();
    quick.means.hedging.samples_min = 10;
    check_in(&quick, hedged(46), REMAINS, "");
    check_in(&quick, hedged(20), REMAINS, "before its usual time");
    check_in(&plan(), hedged(46), REMAINS, "a time that nobody knew");
}

/// Calls of A that end one after the other, 10 ms apart, then its ejection.
fn ejected_after(ends: &str) -> Vec<(u64, What)> {
    let mut events = Vec::new();
    for (number, end) in (0_u32..).zip(ends.chars()) {
        let from = 1000 + u64::from(number) * 10;
        let (how, told) = if end == '+' {
            let told = answered_by(number, number, "A", vec![tried("A", None)]);
            (Left::Answered, told)
        } else {
            let tries = vec![tried("A", Some("INSTANCE_FAILED"))];
            let told = failed(number, "Unavailable", "INSTANCE_FAILED", tries);
            (Left::Failed, told)
        };
        events.extend([
            (from, What::Asked(repeatable(number))),
            (from + 3, came(number, number, "A", 1)),
            (from + 4, left(number, how)),
            (from + 6, told),
        ]);
    }
    let at = 1000 + ends.len() as u64 * 10;
    events.extend([(at, seen("A", true)), (at + 200, seen("A", false))]);
    events
}

#[test]
fn an_ejection_without_a_cause_is_seen() {
    check(ejected_after("+-----"), "");
    check(
        ejected_after("++----"),
        "ejected at 1.06s after 4 failures in a row",
    );
    check(ejected_after("--+--+--+"), "after 0 failures in a row");
    // More than half of ten.
    check(ejected_after("++-+-+-+--+---"), "");
}

#[test]
fn what_an_ejected_instance_gets_beside_its_trial_is_seen() {
    let tried_again = |calls: &[(u64, u64)], is_panic: bool| {
        let mut events = ejected_after("-----");
        for (number, (from, to)) in (10_u32..).zip(calls) {
            let mut told = answered_by(number, number, "A", vec![tried("A", None)]);
            if let What::Ended {
                end: End::Answered { panic, .. },
                ..
            } = &mut told
            {
                *panic = is_panic;
            }
            events.extend([
                (from - 3, What::Asked(repeatable(number))),
                (*from, came(number, number, "A", 1)),
                (*to, left(number, Left::Answered)),
                (to + 2, told),
            ]);
        }
        // It stays so for longer.
        events.retain(|(_, what)| *what != seen("A", false));
        events.push((1500, seen("A", false)));
        events.sort_by_key(|(at, _)| *at);
        events
    };
    // It is ejected at 1050 ms, for at least 180 ms.
    check(tried_again(&[(1240, 1250)], false), "");
    check(tried_again(&[(1150, 1160)], false), "which is ejected");
    check(tried_again(&[(1150, 1160)], true), "");
    check(tried_again(&[(1240, 1260), (1262, 1270)], false), "");
    let both = [(1240, 1260), (1250, 1270)];
    check(
        tried_again(&both, false),
        "A is tried by calls 10 and 11 at once",
    );
    check(tried_again(&both, true), "");
}

#[test]
fn a_question_that_is_refused_for_load_is_seen() {
    let told = |took: u64, refused: Option<&str>| {
        let what = What::Desk {
            what: "health",
            took: ms(took),
            refused: refused.map(str::to_owned),
        };
        vec![(50, what)]
    };
    check(told(10, None), "");
    check(told(60, None), "health took 60ms");
    check(
        told(5, Some("OVERLOADED")),
        "health was refused at 50ms: OVERLOADED",
    );
    check(told(100, Some("no answer")), "no answer");
    check(told(5, Some("TARGET_UNKNOWN")), "");
}
