//! What a Route promises, on a fleet of scripted instances and a clock of our own.

use super::*;
use crate::domain::failure::Status;
use crate::domain::health::observed::{Said, said};
use crate::domain::retry::Fallback;
use crate::domain::retry::Repeat;
use crate::domain::selection::Policy;
use crate::domain::task::AttemptKind;
use crate::instance::scripted::Act;
use crate::orchestrate::stage::{Stage, ms};

async fn run_once(route: Route) -> Result<Answered, Unanswered> {
    run_task(route, &Tries::default()).await
}

/// What came back and the tries, as text: `answered by B: A instance_down, B ok`.
async fn check_route(route: Route, expected: &str) {
    let answer = run_once(route).await;
    let (end, attempts) = match answer {
        Ok(answered) => (
            format!("answered by {}", answered.instance),
            answered.attempts,
        ),
        Err(unanswered) => (
            unanswered.failure.reason.name().to_lowercase(),
            unanswered.attempts,
        ),
    };
    let tries: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let failure = attempt.failure.as_ref();
            let said = failure.map_or("ok".to_owned(), |failure| {
                failure.reason.name().to_lowercase()
            });
            format!("{} {said}", attempt.instance)
        })
        .collect();
    assert_eq!(format!("{end}: {}", tries.join(", ")), expected);
}

async fn check(stage: &Stage, selection: Policy, timeout: Duration, expected: &str) {
    check_route(stage.route(selection, timeout), expected).await;
}

/// In the order given, for a task that may be repeated.
fn idempotent(stage: &Stage, attempts_max: u32) -> Route {
    let retry = retry::Policy {
        attempts_max,
        repeat: Repeat::Idempotent,
        ..retry::Policy::default()
    };
    Route {
        retry,
        ..stage.route(Policy::Ordered, ms(1000))
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_never_began_is_left_for_another_at_once() {
    let stage = Stage::new([("A", Act::Refuse), ("B", Act::Echo(ms(0)))]);
    let started = Instant::now();
    check(
        &stage,
        Policy::Ordered,
        ms(1000),
        "answered by B: A instance_down, B ok",
    )
    .await;
    assert!(
        started.elapsed() < ms(5),
        "no delay: the clock is the test's own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_may_have_begun_is_repeated_only_when_that_does_no_harm() {
    for act in [Act::Break, Act::Fail(Status::Unavailable)] {
        let stage = Stage::new([("A", act), ("B", Act::Echo(ms(1)))]);
        let unanswered = run_once(stage.route(Policy::Ordered, ms(1000)))
            .await
            .unwrap_err();
        assert_eq!(unanswered.attempts.len(), 1);
        assert!(stage.instance("B").calls.lock().unwrap().is_empty());
        let answered = run_once(idempotent(&stage, 4)).await.unwrap();
        assert_eq!(answered.instance.as_str(), "B");
        assert_eq!(answered.attempts[1].kind, AttemptKind::Retry);
    }
    let stage = Stage::new([("A", Act::Fail(Status::NotFound)), ("B", Act::Echo(ms(1)))]);
    check_route(idempotent(&stage, 4), "instance_failed: A instance_failed").await;
}

#[tokio::test(start_paused = true)]
async fn the_untried_come_first_and_tries_are_bounded() {
    let stage = Stage::new([("A", Act::Refuse), ("B", Act::Refuse), ("C", Act::Refuse)]);
    let down = "instance_down";
    check(
        &stage,
        Policy::Ordered,
        ms(1000),
        &format!("{down}: A {down}, B {down}, C {down}, A {down}"),
    )
    .await;
    check_route(idempotent(&stage, 1), &format!("{down}: A {down}")).await;
    check_route(
        idempotent(&stage, 9),
        &format!("{down}: A {down}, B {down}, C {down}, A {down}, B {down}"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_try_that_takes_too_long_leaves_time_for_another() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Echo(ms(1)))]);
    let mut route = idempotent(&stage, 4);
    route.retry.per_try_timeout = Some(ms(100));
    check_route(route, "answered by B: A deadline_exceeded, B ok").await;
    let (_, ends) = stage.instance("A").calls.lock().unwrap()[0];
    assert!(
        ends - Instant::now() < ms(100),
        "the instance was told of its own limit"
    );
    let mut route = stage.route(Policy::Ordered, ms(1000));
    route.retry.per_try_timeout = Some(ms(100));
    check_route(route, "deadline_exceeded: A deadline_exceeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_goes_to_the_healthy_once_those_named_were_tried() {
    let mut stage = Stage::new([
        ("A", Act::Refuse),
        ("B", Act::Echo(ms(1))),
        ("C", Act::Echo(ms(1))),
    ]);
    stage.set_down("B", "refused");
    let mut route = stage.route(Policy::Ordered, ms(1000));
    route.candidates = route.candidates[..1].into();
    route.retry.fallback = Fallback::AnyHealthy;
    let answered = run_once(route).await.unwrap();
    assert_eq!(answered.instance.as_str(), "C");
    assert_eq!(answered.attempts[1].kind, AttemptKind::Fallback);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_serves_a_call_whose_named_instances_are_down() {
    let mut stage = Stage::new([("A", Act::Echo(ms(1))), ("B", Act::Echo(ms(1)))]);
    stage.set_down("A", "refused");
    let mut route = stage.route(Policy::Balanced, ms(1000));
    route.candidates = route.candidates[..1].into();
    let refused = run_once(route.clone()).await.unwrap_err();
    assert_eq!(refused.failure.reason, Reason::InstanceDown);
    route.retry.fallback = Fallback::AnyHealthy;
    let answered = run_once(route).await.unwrap();
    assert_eq!(answered.instance.as_str(), "B");
    assert_eq!(answered.attempts[0].kind, AttemptKind::Fallback);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_went_down_meanwhile_is_not_tried_again() {
    let mut stage = Stage::new([("A", Act::Break), ("B", Act::Echo(ms(1)))]);
    let before = idempotent(&stage, 4);
    stage.set_down("B", "refused");
    // B was well when the call began, and is not when A has failed.
    let route = Route {
        fleet_now: idempotent(&stage, 4).fleet_now,
        ..before
    };
    let lost = "instance_lost";
    check_route(
        route,
        &format!("{lost}: A {lost}, A {lost}, A {lost}, A {lost}"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_goes_down_while_its_try_waits_is_not_tried() {
    let mut stage = Stage::new([("A", Act::PushBack(ms(100))), ("B", Act::Echo(ms(1)))]);
    let before = idempotent(&stage, 2);
    stage.set_down("B", "refused");
    let (well, down) = (before.fleet_now.clone(), idempotent(&stage, 2).fleet_now);
    let change = Instant::now() + ms(50);
    let route = Route {
        // B is well when it is chosen for the second try, and down when that is due.
        fleet_now: Arc::new(move || {
            if Instant::now() < change {
                well()
            } else {
                down()
            }
        }),
        ..before
    };
    let failed = "instance_failed";
    check_route(route, &format!("{failed}: A {failed}, A {failed}")).await;
    assert_eq!(stage.instance("B").calls.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn retries_over_all_callers_are_a_fifth_of_the_calls() {
    let stage = Stage::new([("A", Act::Break), ("B", Act::Break)]);
    let template = idempotent(&stage, 4);
    for _ in 0..1000 {
        let unanswered = run_once(template.clone()).await.unwrap_err();
        assert!(unanswered.stop.is_some());
    }
    let reached: usize = ["A", "B"]
        .map(|id| stage.instance(id).calls.lock().unwrap().len())
        .iter()
        .sum();
    assert!((1200..=1215).contains(&reached), "{reached}");
}

#[tokio::test(start_paused = true)]
async fn one_bad_instance_cannot_spend_what_all_have() {
    let stage = Stage::new([("A", Act::Break), ("B", Act::Echo(ms(0)))]);
    let template = idempotent(&stage, 2);
    for _ in 0..1000 {
        lock(&template.retries).call();
    }
    let mut repeated = 0;
    for _ in 0..100 {
        repeated += usize::from(run_once(template.clone()).await.is_ok());
    }
    // Ten at once, and a fifth of the calls that went to it first.
    assert!((29..=31).contains(&repeated), "{repeated}");
    let now = Instant::now().into_std();
    let left = (0..200).filter(|_| lock(&template.retries).take(now));
    assert!(70 <= left.count(), "the others have theirs");
}

#[tokio::test(start_paused = true)]
async fn time_that_runs_out_is_a_deadline_and_the_instance_is_told() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Echo(ms(1)))]);
    let started = Instant::now();
    check(
        &stage,
        Policy::Ordered,
        ms(1000),
        "deadline_exceeded: A deadline_exceeded",
    )
    .await;
    assert_eq!(
        started.elapsed().as_millis(),
        950,
        "the reserve is kept for the way back"
    );
    assert_eq!(stage.instance("A").running(), 0, "the call was dropped");
    let (_, ends) = stage.instance("A").calls.lock().unwrap()[0];
    assert_eq!(ends - started, ms(950));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dispatched_after_the_deadline() {
    let stage = Stage::new([("A", Act::Echo(ms(1)))]);
    check(&stage, Policy::Ordered, ms(4), "deadline_exceeded: ").await;
    assert!(stage.instance("A").calls.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_ends_the_call_at_the_instance() {
    let stage = Stage::new([("A", Act::Silent)]);
    let call = run_once(stage.route(Policy::Balanced, ms(1000)));
    let _left = tokio::time::timeout(ms(10), call).await;
    assert_eq!(stage.instance("A").calls.lock().unwrap().len(), 1);
    assert_eq!(stage.instance("A").running(), 0);
}

#[tokio::test(start_paused = true)]
async fn down_instances_get_no_work_and_the_caller_learns_why() {
    let mut stage = Stage::new([("A", Act::Echo(ms(1))), ("B", Act::Echo(ms(1)))]);
    stage.set_down("A", "connection refused");
    check(&stage, Policy::Ordered, ms(1000), "answered by B: B ok").await;
    stage.set_down("B", "says that it does not serve");
    check(&stage, Policy::Balanced, ms(1000), "no_instance: ").await;
    let failure = run_once(stage.route(Policy::Balanced, ms(1000)))
        .await
        .unwrap_err()
        .failure;
    assert_eq!(
        failure.detail,
        "all 2 candidates are down (A: connection refused; B: says that it does not serve)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_begun_somewhere_is_not_called_retryable() {
    let stage = Stage::new([("A", Act::Break), ("B", Act::Refuse)]);
    let unanswered = run_once(idempotent(&stage, 2)).await.unwrap_err();
    assert_eq!(unanswered.failure.reason, Reason::InstanceDown);
    assert!(!unanswered.failure.is_retryable(), "A may have begun it");
    let stage = Stage::new([("A", Act::Refuse), ("B", Act::Refuse)]);
    let unanswered = run_once(idempotent(&stage, 2)).await.unwrap_err();
    assert!(unanswered.failure.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_try_that_never_got_a_connection_is_told_too() {
    let stage = Stage::new([("A", Act::Unconnected)]);
    let unanswered = run_once(stage.route(Policy::Ordered, ms(1000)))
        .await
        .unwrap_err();
    assert_eq!(unanswered.failure.reason, Reason::DeadlineExceeded);
    assert!(unanswered.failure.is_retryable(), "nothing has left");
    assert_eq!(unanswered.attempts.len(), 1);
    assert_eq!(unanswered.attempts[0].elapsed, ms(950));
}

#[tokio::test(start_paused = true)]
async fn a_try_that_waits_for_room_until_its_time_is_over_says_nothing_about_its_instance() {
    for (act, reason, expected) in [
        (Act::NoRoom, Reason::InstanceBusy, Said::Nothing),
        (Act::Unconnected, Reason::InstanceDown, Said::Failure),
    ] {
        let stage = Stage::new([("A", act.clone())]);
        let mut route = stage.route(Policy::Ordered, ms(1000));
        route.retry.per_try_timeout = Some(ms(100));
        route.retry.attempts_max = 1;
        let failure = run_once(route).await.unwrap_err().failure;
        assert_eq!(failure.reason, reason);
        assert_eq!(failure.progress, Progress::NeverSent);
        assert_eq!(said(&failure, ms(100)), expected, "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_instance_is_passed_over_and_asking_it_costs_no_budget() {
    let mut stage = Stage::new([("A", Act::Echo(ms(10))), ("B", Act::Echo(ms(10)))]);
    stage.limit("A", 0);
    for selection in [Policy::Ordered, Policy::Balanced, Policy::Hash("k".into())] {
        let answered = run_once(stage.route(selection, ms(1000))).await.unwrap();
        assert_eq!(
            (answered.instance.as_str(), answered.attempts.len()),
            ("B", 1)
        );
    }
    stage.limit("B", 0);
    let route = stage.route(Policy::Ordered, ms(1000));
    let retries = Arc::clone(&route.retries);
    let unanswered = run_once(route).await.unwrap_err();
    assert_eq!(unanswered.failure.reason, Reason::InstanceBusy);
    assert_eq!(unanswered.failure.progress, Progress::NeverSent);
    let ids = |id: &str| {
        unanswered
            .attempts
            .iter()
            .filter(|attempt| attempt.instance.as_str() == id)
            .count()
    };
    assert!(
        0 < ids("A") && 0 < ids("B"),
        "both are asked before it is given up"
    );
    assert_eq!(stage.instance("A").calls.lock().unwrap().len(), 0);
    let now = Instant::now().into_std();
    let left = (0..20)
        .filter(|_| retries.lock().unwrap().take(now))
        .count();
    assert_eq!(left, 10, "nothing was taken");
}

#[tokio::test(start_paused = true)]
async fn panic_about_those_who_are_named_lifts_no_ejection_of_anybody_else() {
    let stage = Stage::new([("A", Act::Echo(ms(1))), ("B", Act::Echo(ms(1)))]);
    let mut route = stage.route(Policy::Ordered, ms(1000));
    let (a, b) = (
        Arc::clone(&route.candidates[0]),
        Arc::clone(&route.candidates[1]),
    );
    route.candidates = route.candidates[..1].into();
    route.panic = Panic::On;
    route.retry.fallback = Fallback::AnyHealthy;
    // Both are ejected after they were chosen.
    a.load.eject(Instant::now());
    b.load.eject(Instant::now());
    let enter = |member: &Arc<Member>, is_listed| {
        let member = Arc::clone(member);
        let choice = choose::Choice { member, is_listed };
        let (entered, _pass) = choose::enter(&route, choice, &[], Instant::now()).unwrap();
        entered.member.id().to_string()
    };
    assert_eq!(enter(&b, false), "A");
    assert_eq!(enter(&a, true), "A", "panic is about A");
}

#[tokio::test(start_paused = true)]
async fn a_full_instance_that_is_named_costs_no_try_while_a_fallback_is_free() {
    let mut stage = Stage::new([("A", Act::Echo(ms(1))), ("B", Act::Echo(ms(1)))]);
    stage.limit("A", 0);
    let mut route = stage.route(Policy::Ordered, ms(1000));
    route.candidates = route.candidates[..1].into();
    check_route(
        route.clone(),
        "instance_busy: A instance_busy, A instance_busy, A instance_busy, A instance_busy",
    )
    .await;
    route.retry.fallback = Fallback::AnyHealthy;
    let answered = run_once(route).await.unwrap();
    assert_eq!(answered.instance.as_str(), "B");
    assert_eq!(answered.attempts.len(), 1);
    assert_eq!(answered.attempts[0].kind, AttemptKind::Fallback);
}

#[tokio::test(start_paused = true)]
async fn an_instance_gets_no_more_calls_a_second_than_it_may() {
    let mut stage = Stage::new([("A", Act::Echo(ms(0))), ("B", Act::Echo(ms(0)))]);
    let rate = crate::domain::admission::Rate {
        per_second: 10,
        burst: 2,
    };
    stage.slow("A", rate);
    let both = stage.route(Policy::Ordered, ms(100_000));
    let mut alone = both.clone();
    alone.candidates = alone.candidates[..1].into();
    alone.retry.attempts_max = 1;
    let asked = |id: &str| stage.instance(id).calls.lock().unwrap().len();
    for _ in 0..10 {
        run_once(both.clone()).await.unwrap();
    }
    assert_eq!((asked("A"), asked("B")), (2, 8), "the others go elsewhere");
    let unanswered = run_once(alone.clone()).await.unwrap_err();
    assert_eq!(unanswered.failure.reason, Reason::InstanceBusy);
    assert_eq!(
        unanswered.failure.detail,
        "at its limit: it may have 10 calls a second"
    );
    for _ in 0..1000 {
        time::advance(ms(10)).await;
        let _ = run_once(alone.clone()).await;
    }
    assert!((101..=103).contains(&asked("A")), "{}", asked("A"));
}
