//! Short histories of drains, watches and limits that are not as they should be.

use orchestrator::domain::admission::{Quota, Rate};
use orchestrator::domain::health::{Admin, probed};

use super::tests::{REMAINS, answered, arrived, check, check_in, failed, left, plan, route, tried};
use crate::ask::Ask;
use crate::history::{End, Left, Looks, Said, What};
use crate::operator::Order;
use crate::plan::Plan;

fn ordered(order: Order) -> What {
    let instance = "A".to_owned();
    What::Ordered { instance, order }
}

fn heard(admin: &str, outstanding: u32) -> What {
    What::Heard {
        instance: "A".to_owned(),
        order: Order::Drain,
        admin: format!("ADMIN_STATE_{admin}"),
        drained: outstanding == 0,
        outstanding,
    }
}

/// A has a call until 70 ms, and gets another one at some time.
fn drained(second: u64) -> Vec<(u64, What)> {
    let call = |number: u32, at: u64, over: u64| {
        let ask = Ask {
            timeout: super::tests::ms(500),
            ..route(number)
        };
        [
            (at - 5, What::Asked(ask)),
            (at, What::Arrived(arrived(number, number, "A", 1))),
            (over, left(number, Left::Answered)),
            (over + 2, answered(number, "A", vec![tried("A", None)])),
        ]
    };
    let mut events: Vec<_> = call(1, 30, 70)
        .into_iter()
        .chain(call(2, second, second + 3))
        .collect();
    // What is taken as the answer is not what this is about.
    for (_, what) in &mut events {
        if let What::Ended {
            call,
            end: End::Answered { payload, .. },
        } = what
        {
            *payload = crate::payload::answered(*call, "A", *call);
        }
    }
    events.extend([
        (40, ordered(Order::Drain)),
        (44, heard("DRAINING", 1)),
        (80, heard("DRAINING", 0)),
        (300, ordered(Order::Undrain)),
    ]);
    events.sort_by_key(|(at, _)| *at);
    events
}

#[test]
fn work_for_an_instance_that_drains_is_seen() {
    check(drained(43), "");
    check(drained(65), "came to A, which is set aside");
    check(drained(100), "came to A, which is set aside");
    check(drained(302), "");
    let mut out_of_use = plan();
    out_of_use.instances[0].admin = Admin::Disabled;
    check_in(
        &out_of_use,
        drained(302),
        REMAINS,
        "came to A, which is set aside",
    );
    let mut active = drained(43);
    active.push((90, heard("ACTIVE", 0)));
    active.sort_by_key(|(at, _)| *at);
    check(active, "active after it was drained");
}

#[test]
fn a_drain_that_is_told_wrongly_is_seen() {
    let told = |at: u64, told: What| {
        let mut events = drained(43);
        events.push((at, told));
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(told(60, heard("DRAINING", 1)), "");
    check(told(60, heard("DRAINING", 0)), "is said to be drained at");
    let contradicts_itself = What::Heard {
        instance: "A".to_owned(),
        order: Order::Drain,
        admin: "ADMIN_STATE_DRAINING".to_owned(),
        drained: true,
        outstanding: 1,
    };
    check(told(200, contradicts_itself), "and to have 1 calls");
    let mut never = drained(43);
    never.retain(|(at, _)| *at != 80);
    never.extend([(150, heard("DRAINING", 1)), (190, heard("DRAINING", 1))]);
    never.sort_by_key(|(at, _)| *at);
    check(never, "is said to have work at");
}

#[test]
fn work_for_an_instance_that_tells_it_is_out_is_seen() {
    let events = |told: u64, over: u64| {
        let [instance, same] = [(); 2].map(|()| "A".to_owned());
        let mut events = vec![
            (
                told,
                What::Told {
                    instance,
                    watch: 7,
                    said: Said::NotServing,
                },
            ),
            (
                over,
                What::WatchOver {
                    instance: same,
                    watch: 7,
                },
            ),
            (40, What::Asked(route(1))),
            (50, What::Arrived(arrived(1, 1, "A", 1))),
            (51, left(1, Left::Answered)),
            (53, answered(1, "A", vec![tried("A", None)])),
        ];
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(events(20, 90), "came to A, which is down");
    check(events(45, 90), "");
    check(events(20, 22), "");
    let looks = Looks {
        admin: Admin::Active,
        probed: probed::State::Down,
        ejected: false,
    };
    let looks_down = |at| {
        let mut events = events(20, 22);
        events.push((
            at,
            What::Seen {
                instance: "A".to_owned(),
                looks,
            },
        ));
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(looks_down(20), "came to A, which looks down");
    check(looks_down(45), "");
}

fn limited(change: impl Fn(&mut Plan)) -> Plan {
    let mut plan = plan();
    change(&mut plan);
    plan
}

/// Two calls of one caller that are with A at once, for 30 ms.
fn at_once() -> Vec<(u64, What)> {
    let calls = (1..=2).flat_map(|call| {
        [
            (0, What::Asked(route(call))),
            (5, What::Arrived(arrived(call, call, "A", 1))),
            (35, left(call, Left::Answered)),
            (38, answered(call, "A", vec![tried("A", None)])),
        ]
    });
    let mut events: Vec<_> = calls.collect();
    events.sort_by_key(|(at, _)| *at);
    events
}

#[test]
fn more_than_may_be_is_seen() {
    let calls = |in_flight_max| Quota {
        in_flight_max,
        rate: None,
    };
    check(at_once(), "");
    for (max, expected) in [(1, "2 calls in all at once"), (2, "")] {
        let few = limited(|plan| plan.allowance.admission.calls.all = calls(max));
        check_in(&few, at_once(), REMAINS, expected);
    }
    for (max, expected) in [(1, "2 calls of one caller at once"), (2, "")] {
        let few = limited(|plan| plan.allowance.quotas[0] = Some(calls(max)));
        check_in(&few, at_once(), REMAINS, expected);
    }
    for (max, expected) in [(1, "A has 2 calls at once"), (2, "")] {
        let few = limited(|plan| plan.allowance.admission.instance_calls_max = max);
        check_in(&few, at_once(), REMAINS, expected);
        let few = limited(|plan| plan.instances[0].calls_max = Some(max));
        check_in(&few, at_once(), REMAINS, expected);
    }
    for (burst, expected) in [(1, "2 calls are let in"), (2, "")] {
        let rate = Some(Rate {
            per_second: 10,
            burst,
        });
        let slow = limited(|plan| plan.allowance.admission.calls.all.rate = rate);
        check_in(&slow, at_once(), REMAINS, expected);
        let in_flight_max = 9;
        let slow = limited(|plan| {
            plan.allowance.quotas[0] = Some(Quota {
                in_flight_max,
                rate,
            });
        });
        check_in(&slow, at_once(), REMAINS, expected);
    }
}

#[test]
fn a_refusal_that_should_not_be_is_seen() {
    let refused = |reason: &str, pushback: Option<i64>, tries| {
        let mut end = failed(3, "ResourceExhausted", reason, tries);
        if let What::Ended {
            end: End::Failed { pushback: told, .. },
            ..
        } = &mut end
        {
            *told = pushback;
        }
        let mut events = at_once();
        events.extend([(10, What::Asked(route(3))), (14, end)]);
        events.sort_by_key(|(at, _)| *at);
        events
    };
    let full = |max: u32| limited(|plan| plan.allowance.admission.calls.all.in_flight_max = max);
    let in_order = || refused("OVERLOADED", Some(60), Vec::new());
    check_in(&full(2), in_order(), REMAINS, "");
    check_in(&full(3), in_order(), REMAINS, "was refused beside 2 others");
    check(in_order(), "and everything is allowed");
    let silent = refused("OVERLOADED", None, Vec::new());
    check_in(&full(2), silent, REMAINS, "without a word of when");
    let for_good = refused("CALLER_LIMIT", Some(-1), Vec::new());
    check_in(&full(2), for_good, REMAINS, "without a word of when");
    let tried = refused(
        "OVERLOADED",
        Some(60),
        vec![tried("A", Some("INSTANCE_LOST"))],
    );
    check_in(&full(2), tried, REMAINS, "was refused, and sent");
    let mut sent = in_order();
    sent.extend([
        (12, What::Arrived(arrived(3, 3, "B", 1))),
        (13, left(3, Left::Answered)),
    ]);
    sent.sort_by_key(|(at, _)| *at);
    check_in(&full(2), sent, REMAINS, "was refused, and sent");
}
