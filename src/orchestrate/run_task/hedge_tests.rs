//! What hedging and waiting for an instance promise, on a fleet of scripted instances and a clock of our own.

use super::flying::Beside;
use super::*;
use crate::domain::failure::Status;
use crate::domain::hedge::Policy as Hedge;
use crate::domain::retry::Repeat;
use crate::domain::selection::Policy;
use crate::domain::task::AttemptKind;
use crate::instance::scripted::Act;
use crate::orchestrate::stage::{Stage, ms};

fn hedged(stage: &Stage, hedge: Hedge) -> Route {
    let retry = retry::Policy {
        repeat: Repeat::Idempotent,
        ..retry::Policy::default()
    };
    Route {
        retry,
        hedge,
        ..stage.route(Policy::Ordered, ms(1000))
    }
}

/// What came back, after how long, and the tries.
async fn check(route: Route, expected: &str) {
    let started = Instant::now();
    let outcome = run_task(route, &Tries::default()).await;
    let took = started.elapsed().as_millis();
    let (end, attempts) = match outcome {
        Ok(answered) => (answered.instance.to_string(), answered.attempts),
        Err(Unanswered {
            failure, attempts, ..
        }) => (failure.reason.name().to_lowercase(), attempts),
    };
    let tries = attempts.iter().map(|attempt| {
        let failure = attempt.failure.as_ref();
        let said = failure.map_or("ok".to_owned(), |failure| {
            failure.reason.name().to_lowercase()
        });
        format!("{} {} {said}", attempt.instance, attempt.kind.word())
    });
    let tries: Vec<_> = tries.collect();
    assert_eq!(format!("{end} at {took}: {}", tries.join(", ")), expected);
}

const AFTER: Hedge = Hedge::After(Duration::from_millis(50));

#[tokio::test(start_paused = true)]
async fn a_slow_task_is_sent_to_another_instance_and_the_first_answer_wins() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Echo(ms(10)))]);
    let tries = "A first not_needed, B hedge ok";
    check(hedged(&stage, AFTER), &format!("B at 60: {tries}")).await;
    assert_eq!(stage.running(), 0, "the loser was reset");
    // The slow one may still win.
    let stage = Stage::new([("A", Act::Echo(ms(70))), ("B", Act::Echo(ms(100)))]);
    let tries = "A first ok, B hedge not_needed";
    check(hedged(&stage, AFTER), &format!("A at 70: {tries}")).await;
    assert_eq!(stage.running(), 0, "the loser was reset");
    // A fast one is never hedged.
    let stage = Stage::new([("A", Act::Echo(ms(40))), ("B", Act::Echo(ms(1)))]);
    check(hedged(&stage, AFTER), "A at 40: A first ok").await;
}

#[tokio::test(start_paused = true)]
async fn hedges_count_as_tries_and_go_only_where_nobody_was_asked() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Silent), ("C", Act::Silent)]);
    let mut route = hedged(&stage, AFTER);
    let late = "deadline_exceeded";
    check(
        route.clone(),
        &format!("{late} at 950: A first {late}, B hedge {late}, C hedge {late}"),
    )
    .await;
    route = hedged(&stage, AFTER);
    route.retry.attempts_max = 2;
    check(
        route,
        &format!("{late} at 950: A first {late}, B hedge {late}"),
    )
    .await;
    // Without a hedge nothing is sent beside the first.
    check(
        hedged(&stage, Hedge::Off),
        &format!("{late} at 950: A first {late}"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_can_be_repeated_does_not_end_a_call_whose_hedge_runs() {
    let stage = Stage::new([
        ("A", Act::FailAfter(ms(60), Status::Unavailable)),
        ("B", Act::Echo(ms(30))),
    ]);
    let mut route = hedged(&stage, AFTER);
    route.retry.attempts_max = 2;
    check(route, "B at 80: A first instance_failed, B hedge ok").await;
}

#[tokio::test(start_paused = true)]
async fn a_fatal_failure_ends_the_call_and_every_other_try() {
    let stage = Stage::new([
        ("A", Act::Silent),
        ("B", Act::FailAfter(ms(10), Status::InvalidArgument)),
    ]);
    check(
        hedged(&stage, AFTER),
        "instance_failed at 60: A first not_needed, B hedge instance_failed",
    )
    .await;
    assert_eq!(stage.running(), 0, "the other was reset");
    // Also while another one is planned.
    let stage = Stage::new([
        ("A", Act::FailAfter(ms(100), Status::InvalidArgument)),
        ("B", Act::PushBack(ms(200))),
        ("C", Act::Echo(ms(1))),
    ]);
    check(
        hedged(&stage, AFTER),
        "instance_failed at 100: A first instance_failed, B hedge instance_failed",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_task_is_not_sent_again_to_one_of_two_while_the_other_works_on_it() {
    let stage = Stage::new([
        ("A", Act::FailAfter(ms(60), Status::Unavailable)),
        ("B", Act::Echo(ms(500))),
    ]);
    check(
        hedged(&stage, AFTER),
        "B at 550: A first instance_failed, B hedge ok",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hedge_never_goes_to_a_full_instance_and_costs_nothing_then() {
    let mut stage = Stage::new([("A", Act::Echo(ms(70))), ("B", Act::Echo(ms(1)))]);
    stage.limit("B", 0);
    let route = hedged(&stage, AFTER);
    let (retries, hedges) = (Arc::clone(&route.retries), route.hedges.clone().unwrap());
    check(route.clone(), "A at 70: A first ok").await;
    let now = Instant::now().into_std();
    let left = |take: &mut dyn FnMut() -> bool| (0..20).filter(|_| take()).count();
    assert_eq!(left(&mut || lock(&retries).take(now)), 10);
    assert_eq!(left(&mut || lock(&hedges).take(now)), 5);
    // Nor when it was filled since it was chosen.
    let choice = choose::Choice {
        member: Arc::clone(&route.candidates[1]),
        is_listed: true,
    };
    let hedge = Next::now(choice, AttemptKind::Hedge, Instant::now());
    let refused = route
        .enter(hedge, &Tries::default(), Beside::Others, Instant::now())
        .err()
        .unwrap();
    assert_eq!(refused.reason, Reason::InstanceBusy);
}

#[tokio::test(start_paused = true)]
async fn what_any_of_several_tries_asks_for_is_obeyed() {
    use retry::Pushback::{Stop, Wait};
    let stage = |of_a: retry::Pushback, of_b: retry::Pushback| {
        Stage::new([
            ("A", Act::PushBackAfter(ms(60), of_a)),
            ("B", Act::PushBackAfter(ms(30), of_b)),
            ("C", Act::Echo(ms(1))),
        ])
    };
    let tries = "A first instance_failed, B hedge instance_failed";
    // B fails at 80, while the next try is planned for 160.
    check(
        hedged(&stage(Wait(ms(100)), Wait(ms(200))), AFTER),
        &format!("C at 281: {tries}, C retry ok"),
    )
    .await;
    check(
        hedged(&stage(Wait(ms(100)), Wait(ms(20))), AFTER),
        &format!("C at 161: {tries}, C retry ok"),
    )
    .await;
    for of_b in [Stop, Wait(ms(900))] {
        check(
            hedged(&stage(Wait(ms(100)), of_b), AFTER),
            &format!("instance_failed at 80: {tries}"),
        )
        .await;
    }
    // Also where there was nowhere to go while the other one ran.
    let stage = Stage::with_scripts([
        (
            "A",
            vec![Act::PushBackAfter(ms(60), Wait(ms(500))), Act::Echo(ms(1))],
        ),
        ("B", vec![Act::FailAfter(ms(100), Status::Unavailable)]),
    ]);
    check(
        hedged(&stage, AFTER),
        &format!("A at 561: {tries}, A retry ok"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn hedges_over_all_callers_are_a_twentieth_of_the_calls() {
    let stage = Stage::new([("A", Act::Echo(ms(100))), ("B", Act::Echo(ms(100)))]);
    let template = hedged(&stage, AFTER);
    for _ in 0..1000 {
        let route = Route {
            deadline: stage.route(Policy::Ordered, ms(1000)).deadline,
            ..template.clone()
        };
        run_task(route, &Tries::default()).await.unwrap();
    }
    let hedges = stage.instance("B").calls.lock().unwrap().len();
    assert!((50..=55).contains(&hedges), "{hedges}");
}

#[tokio::test(start_paused = true)]
async fn without_a_delay_a_hedge_comes_when_nearly_all_others_had_answered() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Echo(ms(10)))]);
    let route = hedged(&stage, Hedge::Usual);
    let late = "deadline_exceeded";
    check(route, &format!("{late} at 950: A first {late}")).await;
    let route = hedged(&stage, Hedge::Usual);
    for _ in 0..100 {
        route.observe(ms(20));
    }
    let answered = run_task(route, &Tries::default()).await.unwrap();
    let hedge = &answered.attempts[1];
    assert_eq!(hedge.kind, AttemptKind::Hedge);
    assert!(
        (ms(20)..ms(25)).contains(&hedge.offset),
        "{:?}",
        hedge.offset
    );
}

/// A fleet that changes, and a route that waits for it.
fn waiting(before: &Stage, now: impl Fn() -> FleetNow + Send + Sync + 'static) -> Route {
    Route {
        fleet_now: Arc::new(move || now()()),
        ..before.route(Policy::Ordered, ms(1000))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_an_instance_when_its_caller_asked_for_that() {
    let mut stage = Stage::new([("A", Act::Echo(ms(1)))]);
    let up = stage.route(Policy::Ordered, ms(1000)).fleet_now;
    stage.set_down("A", "connection refused");
    check(
        stage.route(Policy::Ordered, ms(1000)),
        "instance_down at 0: ",
    )
    .await;
    let changes = tokio::sync::watch::Sender::new(0);
    let readiness = Some(Arc::new(Readiness::new(changes.subscribe())));
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (down, looks) = (
        stage.route(Policy::Ordered, ms(1000)).fleet_now,
        Arc::clone(&is_up),
    );
    let route = Route {
        readiness,
        ..waiting(&stage, move || {
            if looks.load(std::sync::atomic::Ordering::SeqCst) {
                Arc::clone(&up)
            } else {
                Arc::clone(&down)
            }
        })
    };
    let ready = async {
        time::sleep(ms(300)).await;
        // A change that brings nothing, then the one that does.
        changes.send_modify(|version| *version += 1);
        time::sleep(ms(200)).await;
        is_up.store(true, std::sync::atomic::Ordering::SeqCst);
        changes.send_modify(|version| *version += 1);
    };
    tokio::join!(check(route.clone(), "A at 501: A first ok"), ready);
    is_up.store(false, std::sync::atomic::Ordering::SeqCst);
    let deadline = stage.route(Policy::Ordered, ms(1000)).deadline;
    let late = Route { deadline, ..route };
    let unanswered = run_task(late, &Tries::default()).await.unwrap_err();
    assert_eq!(unanswered.failure.reason, Reason::DeadlineExceeded);
    let detail = &unanswered.failure.detail;
    assert!(
        detail.starts_with("no instance was ready in time: down for"),
        "{detail}"
    );
    assert!(detail.ends_with("connection refused"), "{detail}");
}
