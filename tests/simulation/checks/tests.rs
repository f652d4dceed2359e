//! Short histories that are not as they should be: each check must see what is wrong with its own.

use std::time::Duration;

use orchestrator::domain::health::Admin;

use super::complaints;
use crate::allowance;
use crate::ask::{Ask, Hedge, Kind, Order, Rule, Selection, TimeoutIn};
use crate::history::{
    Arrival, Begun, End, Left, Part, Record, Remains, Said, Stream, Sum, Tried, Verdict, What,
};
use crate::means;
use crate::payload;
use crate::plan::Plan;

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Links of at most 2 ms, and nothing else that a check asks of a plan.
pub(super) fn plan() -> Plan {
    let mut plan = Plan {
        latency_max: ms(0),
        callers: 2,
        allowance: allowance::ample(2),
        means: means::usual(),
        ..Plan::of(0)
    };
    for instance in &mut plan.instances {
        (instance.admin, instance.calls_max) = (Admin::Active, None);
    }
    plan
}

pub(super) fn ask(call: u32, targets: &[&str], kind: Kind) -> Ask {
    Ask {
        call,
        task: call,
        caller: 0,
        at: ms(0),
        kind,
        targets: targets.iter().map(|id| (*id).to_owned()).collect(),
        timeout: ms(100),
        timeout_in: TimeoutIn::Field,
        attempts_max: 0,
        idempotent: false,
        per_try: None,
        hedge: Hedge::Never,
        waits_for_ready: false,
        word: None,
        order: Order::Straight,
        leaves: None,
    }
}

pub(super) fn route(call: u32) -> Ask {
    let kind = Kind::Route {
        selection: Selection::Ordered,
        anywhere: false,
    };
    ask(call, &["A", "B"], kind)
}

pub(super) fn fan_out(call: u32) -> Ask {
    let kind = Kind::Fanout {
        rule: Rule::All,
        failures_max: None,
        aggregate: false,
        reads_for: Duration::ZERO,
    };
    ask(call, &["A", "B"], kind)
}

pub(super) fn arrived(execution: u32, call: u32, instance: &str, attempt: u32) -> Arrival {
    Arrival {
        execution,
        instance: instance.to_owned(),
        task: call,
        word: None,
        attempt,
        budget: Some(ms(50)),
        begun: Begun::Yes,
    }
}

pub(super) fn left(execution: u32, how: Left) -> What {
    What::Left { execution, how }
}

pub(super) fn tried(instance: &str, failure: Option<&str>) -> Tried {
    Tried {
        instance: instance.to_owned(),
        kind: "ATTEMPT_KIND_FIRST".to_owned(),
        offset: Duration::ZERO,
        elapsed: Duration::ZERO,
        failure: failure.map(str::to_owned),
    }
}

pub(super) fn answered(call: u32, by: &str, attempts: Vec<Tried>) -> What {
    let end = End::Answered {
        by: by.to_owned(),
        payload: payload::answered(call, by, 1),
        attempts,
        deduplicated: false,
        panic: false,
    };
    What::Ended { call, end }
}

pub(super) fn failed(call: u32, code: &str, reason: &str, attempts: Vec<Tried>) -> What {
    let end = End::Failed {
        code: code.to_owned(),
        reason: reason.to_owned(),
        attempts,
        pushback: None,
        too_late: false,
    };
    What::Ended { call, end }
}

pub(super) fn part(call: u32, instance: &str) -> Part {
    Part {
        instance: instance.to_owned(),
        outcome: "OUTCOME_ANSWERED".to_owned(),
        payload: Some(payload::answered(call, instance, 1)),
        failure: None,
        attempts: vec![tried(instance, None)],
    }
}

pub(super) fn streamed(call: u32) -> Stream {
    Stream {
        roster: Some(vec!["A".to_owned(), "B".to_owned()]),
        partials: vec![part(call, "A"), part(call, "B")],
        summary: Some(Sum {
            counts: [2, 0, 0, 0, 0],
            missing: Vec::new(),
            aggregate: Vec::new(),
            stop: "STOP_REASON_ALL_TERMINAL".to_owned(),
        }),
        misplaced: Vec::new(),
        verdict: Verdict::Ok,
    }
}

pub(super) const REMAINS: Remains = Remains {
    clean: true,
    tasks: 0,
    bytes_held: 0,
    admitted: false,
    outstanding: 0,
};

/// The events, in milliseconds, then the end of the run; what is said of it must contain `expected`, or be nothing.
fn check_all(events: Vec<(u64, What)>, remains: Remains, expected: &str) {
    check_in(&plan(), events, remains, expected);
}

/// The same under a plan of its own.
pub(super) fn check_in(plan: &Plan, events: Vec<(u64, What)>, remains: Remains, expected: &str) {
    let after = [(9000, What::Calm), (9999, What::Stopped(remains))];
    let records: Vec<_> = events
        .into_iter()
        .chain(after)
        .map(|(at, what)| Record { at: ms(at), what })
        .collect();
    let found = complaints(&records, plan);
    if expected.is_empty() {
        assert!(found.is_empty(), "{found:?}");
    } else {
        let is_seen = found.iter().any(|complaint| complaint.contains(expected));
        assert!(is_seen, "{expected} is not among {found:?}");
    }
}

pub(super) fn check(events: Vec<(u64, What)>, expected: &str) {
    check_all(events, REMAINS, expected);
}

/// A Route that is tried at A, then at B.
fn tried_twice(ask: Ask, first: Arrival, reason: &str) -> Vec<(u64, What)> {
    let call = ask.call;
    vec![
        (0, What::Asked(ask)),
        (5, What::Arrived(first)),
        (6, left(0, Left::Failed)),
        (10, What::Arrived(arrived(1, call, "B", 2))),
        (11, left(1, Left::Answered)),
        (
            14,
            answered(call, "B", vec![tried("A", Some(reason)), tried("B", None)]),
        ),
    ]
}

#[test]
fn a_task_that_is_executed_twice_is_seen() {
    let begun = arrived(0, 1, "A", 1);
    let refused = Arrival {
        begun: Begun::No,
        ..begun.clone()
    };
    let repeatable = Ask {
        idempotent: true,
        ..route(1)
    };
    check(tried_twice(repeatable, begun.clone(), "INSTANCE_LOST"), "");
    check(tried_twice(route(1), refused, "INSTANCE_DOWN"), "");
    check(
        tried_twice(route(1), begun.clone(), "INSTANCE_LOST"),
        "executed 2 times",
    );
    let repeatable = Ask {
        idempotent: true,
        ..route(1)
    };
    check(
        tried_twice(repeatable, begun, "INSTANCE_DOWN"),
        "never to have begun, and was executed",
    );
}

#[test]
fn too_many_tries_are_seen() {
    let once = Ask {
        attempts_max: 1,
        idempotent: true,
        ..route(1)
    };
    check(
        tried_twice(once, arrived(0, 1, "A", 1), "INSTANCE_LOST"),
        "try 2, 1 tries are allowed",
    );
    let repeatable = Ask {
        idempotent: true,
        ..route(1)
    };
    check(
        tried_twice(repeatable, arrived(0, 1, "A", 2), "INSTANCE_LOST"),
        "try 2 was made twice",
    );
}

fn sent_at(at: u64, budget: Option<u64>) -> Vec<(u64, What)> {
    let arrival = Arrival {
        budget: budget.map(ms),
        ..arrived(0, 1, "A", 1)
    };
    vec![
        (0, What::Asked(route(1))),
        (at, What::Arrived(arrival)),
        (at, left(0, Left::Answered)),
        (at.min(105), answered(1, "A", vec![tried("A", None)])),
    ]
}

#[test]
fn what_is_sent_late_or_with_too_much_time_is_seen() {
    check(sent_at(5, Some(90)), "");
    check(sent_at(120, Some(1)), "after its deadline");
    check(sent_at(5, Some(120)), "more time than is left");
    check(sent_at(5, None), "without a deadline");
}

#[test]
fn a_call_that_does_not_end_as_it_should_is_seen() {
    let ends = |at, end| vec![(0, What::Asked(route(1))), (at, end)];
    let late = |code, reason| failed(1, code, reason, Vec::new());
    check(ends(98, late("DeadlineExceeded", "DEADLINE_EXCEEDED")), "");
    check(
        ends(50, late("DeadlineExceeded", "DEADLINE_EXCEEDED")),
        "before its deadline",
    );
    check(
        ends(300, late("DeadlineExceeded", "DEADLINE_EXCEEDED")),
        "ended 200ms after",
    );
    check(
        ends(98, late("Cancelled", "CALLER_GONE")),
        "ended as Cancelled",
    );
    check(ends(9, late("Internal", "INTERNAL")), "ended as Internal");
    let broken = What::Ended {
        call: 1,
        end: End::Broken,
    };
    check(ends(9, broken), "dropped without a word");
    check(vec![(0, What::Asked(route(1)))], "never ended");
    let again = failed(1, "Unavailable", "NO_INSTANCE", Vec::new());
    let mut twice = ends(9, again.clone());
    twice.push((10, again));
    check(twice, "ended twice");
}

#[test]
fn what_goes_on_is_seen() {
    let goes_on = |reset| {
        vec![
            (0, What::Asked(route(1))),
            (5, What::Arrived(arrived(0, 1, "A", 1))),
            (
                20,
                What::Ended {
                    call: 1,
                    end: End::LeftEarly,
                },
            ),
            (reset, left(0, Left::Reset)),
        ]
    };
    check(goes_on(25), "");
    check(goes_on(200), "goes on at A");
    let mut for_ever = goes_on(25);
    for_ever.pop();
    check(for_ever, "goes on at A");
}

#[test]
fn a_storm_of_tries_is_seen() {
    let storm = |calls: u32| {
        let calls = (0..calls).flat_map(|call| {
            let repeatable = Ask {
                idempotent: true,
                ..route(call)
            };
            let mut events = tried_twice(repeatable, arrived(0, call, "A", 1), "INSTANCE_LOST");
            for (_, what) in &mut events {
                match what {
                    What::Arrived(arrival) => arrival.execution += call * 2,
                    What::Left { execution, .. } => *execution += call * 2,
                    _ => {}
                }
            }
            events
        });
        let mut events: Vec<_> = calls.collect();
        events.sort_by_key(|(at, _)| *at);
        events
    };
    check(storm(12), "");
    check(storm(13), "beyond the budget");
}

#[test]
fn work_for_an_instance_that_is_down_is_seen() {
    let probed = |said: Said| What::Probed {
        instance: "A".to_owned(),
        said,
    };
    let history = |says: [Said; 3], at: u64| {
        let mut events: Vec<_> = (0..)
            .zip(says)
            .map(|(at, said)| (at, probed(said)))
            .collect();
        let call = [
            (10, What::Asked(route(1))),
            (at, What::Arrived(arrived(0, 1, "A", 1))),
            (at, left(0, Left::Answered)),
            (at + 1, answered(1, "A", vec![tried("A", None)])),
        ];
        events.extend(call);
        events
    };
    let no = Said::NotServing;
    check(history([no; 3], 30), "came to A, which is down");
    check(history([no; 3], 13), "");
    check(history([no, Said::Serving, no], 30), "");
}

pub(super) fn told(change: impl Fn(&mut Stream)) -> Vec<(u64, What)> {
    let mut stream = streamed(1);
    change(&mut stream);
    vec![
        (0, What::Asked(fan_out(1))),
        (5, What::Arrived(arrived(0, 1, "A", 1))),
        (5, What::Arrived(arrived(1, 1, "B", 1))),
        (6, left(0, Left::Answered)),
        (6, left(1, Left::Answered)),
        (
            9,
            What::Ended {
                call: 1,
                end: End::Streamed(stream),
            },
        ),
    ]
}

#[test]
fn a_fan_out_that_does_not_add_up_is_seen() {
    check(told(|_| {}), "");
    let twice = told(|stream| stream.partials.push(part(1, "A")));
    check(twice, "A has two outcomes");
    let lost = told(|stream| drop(stream.partials.pop()));
    check(lost, "1 outcomes for 2 targets");
    check(told(|stream| stream.summary = None), "no summary");
    let other = told(|stream| stream.partials[0].payload = Some("2@A".to_owned()));
    check(other, "A has the answer of another");
    let uninvited = told(|stream| stream.partials.push(part(1, "C")));
    check(uninvited, "C was not asked");
    let late = told(|stream| stream.misplaced.push("an outcome".to_owned()));
    check(late, "an outcome at the wrong place");
    let miscounted = told(|stream| stream.summary.as_mut().unwrap().counts = [1, 1, 0, 0, 0]);
    check(miscounted, "are counted as");
    let missing = told(|stream| stream.summary.as_mut().unwrap().missing = vec!["A".to_owned()]);
    check(missing, "are missing");
    let aggregate = |stream: &mut Stream| {
        let mut wrong = part(1, "A");
        wrong.payload = None;
        stream.summary.as_mut().unwrap().aggregate = vec![wrong];
    };
    check(told(aggregate), "is collected wrongly");
}

#[test]
fn a_report_that_is_not_what_was_seen_is_seen() {
    let reported = |attempts: Vec<Tried>| {
        vec![
            (0, What::Asked(route(1))),
            (5, What::Arrived(arrived(0, 1, "A", 1))),
            (6, left(0, Left::Answered)),
            (9, answered(1, "A", attempts)),
        ]
    };
    check(reported(vec![tried("A", None)]), "");
    check(reported(Vec::new()), "was not reported");
    check(reported(vec![tried("B", None)]), "was not reported");
    let invented = vec![tried("A", Some("INSTANCE_FAILED")), tried("A", None)];
    check(reported(invented), "A has not answered");
    let unseen = vec![
        (0, What::Asked(route(1))),
        (
            9,
            failed(
                1,
                "Unavailable",
                "INSTANCE_LOST",
                vec![tried("A", Some("INSTANCE_LOST"))],
            ),
        ),
    ];
    check(unseen, "has never seen the try");
}

#[test]
fn what_is_left_behind_is_seen() {
    check_all(Vec::new(), REMAINS, "");
    for remains in [
        Remains {
            clean: false,
            ..REMAINS
        },
        Remains {
            tasks: 1,
            ..REMAINS
        },
        Remains {
            bytes_held: 1,
            ..REMAINS
        },
        Remains {
            admitted: true,
            ..REMAINS
        },
        Remains {
            outstanding: 1,
            ..REMAINS
        },
    ] {
        check_all(Vec::new(), remains, "left behind");
    }
}

#[test]
fn a_failure_when_all_is_well_is_seen() {
    let fails = failed(1, "Unavailable", "NO_INSTANCE", Vec::new());
    let records: Vec<_> = [
        (0, What::Calm),
        (1, What::Asked(route(1))),
        (2, fails),
        (3, What::Stopped(REMAINS)),
    ]
    .into_iter()
    .map(|(at, what)| Record { at: ms(at), what })
    .collect();
    let found = complaints(&records, &plan());
    assert!(found[0].contains("failed when all was well"), "{found:?}");
}
