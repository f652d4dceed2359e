//! Route: one task, one answer, tried again where that is safe and of use.
//!
//! What a failed try means is decided in `domain::retry`; this is the loop around it. A leg of a fan-out is a
//! Route with one candidate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{self, Instant};

use super::attempt::{attempt, report};
use crate::domain::budget::Budget;
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::retry::{self, Facts, Fallback, Means, Place, Stop, Verdict, decide};
use crate::domain::selection::{self, Fitness};
use crate::domain::task::{Attempt, AttemptKind, Task};
use crate::fleet::view::{FleetNow, Member, Members};

/// One task for one of several instances.
#[derive(Clone)]
pub struct Route {
    /// The task.
    pub task: Arc<Task>,
    /// The instances that may have it, in the caller's order.
    pub candidates: Members,
    /// How one is chosen.
    pub selection: selection::Policy,
    /// How often, and where else, it is tried.
    pub retry: retry::Policy,
    /// Who is there, and how, when it is tried again.
    pub fleet_now: FleetNow,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// When the call arrived.
    pub arrived: Instant,
    /// When it ends.
    pub deadline: Deadline,
}

/// The answer to a task.
#[derive(Debug)]
pub struct Answered {
    /// Who answered.
    pub instance: InstanceId,
    /// What.
    pub payload: Payload,
    /// Every try; the last one is the answer.
    pub attempts: Vec<Attempt>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What decided the call.
    pub failure: Failure,
    /// Every try.
    pub attempts: Vec<Attempt>,
    /// Why it was not tried again; `None` when it never was tried.
    pub stop: Option<Stop>,
}

/// Finds an instance for the task and brings back its answer.
pub async fn run_task(route: Route) -> Result<Answered, Unanswered> {
    let mut attempts: Vec<Attempt> = Vec::with_capacity(1);
    lock(&route.retries).call();
    let Some((mut member, listed)) = choose(&route, &attempts) else {
        let failure = nobody(&route.candidates);
        report(&route.task, 0, &failure);
        return Err(Unanswered {
            failure,
            attempts,
            stop: None,
        });
    };
    let mut kind = if listed {
        AttemptKind::First
    } else {
        AttemptKind::Fallback
    };
    member.load.retries().call();
    loop {
        let number = attempts.len() as u32 + 1;
        let started = Instant::now();
        let per_try = route.retry.per_try_timeout;
        let result = attempt(&member, &route.task, number, route.deadline, per_try).await;
        let failure = result.as_ref().err().cloned();
        if let Some(failure) = failure.clone().filter(was_too_late) {
            return Err(Unanswered {
                failure,
                attempts,
                stop: Some(Stop::NoTime),
            });
        }
        attempts.push(Attempt {
            instance: member.id().clone(),
            kind,
            failure,
            offset: started.saturating_duration_since(route.arrived),
            elapsed: started.elapsed(),
        });
        let failure = match result {
            Ok(payload) => {
                return Ok(Answered {
                    instance: member.id().clone(),
                    payload,
                    attempts,
                });
            }
            Err(failure) => failure,
        };
        match follow_up(&route, &member, &failure, &attempts) {
            Ok(next) => {
                time::sleep(next.wait).await;
                (member, kind) = (next.member, next.kind);
            }
            Err(stop) => {
                return Err(Unanswered {
                    failure,
                    attempts,
                    stop: Some(stop),
                });
            }
        }
    }
}

/// There was no time to ask anybody: that is no try.
pub(super) fn was_too_late(failure: &Failure) -> bool {
    failure.reason == Reason::DeadlineExceeded && failure.progress == Progress::NeverSent
}

struct Next {
    member: Arc<Member>,
    kind: AttemptKind,
    wait: Duration,
}

/// What comes after a failed try.
fn follow_up(
    route: &Route,
    failed: &Member,
    failure: &Failure,
    attempts: &[Attempt],
) -> Result<Next, Stop> {
    let now = Instant::now().into_std();
    let (member, listed) = choose(route, attempts).ok_or(Stop::Exhausted)?;
    let tried = attempts
        .iter()
        .any(|attempt| attempt.instance == *member.id());
    // Both budgets at once, so that nobody takes what was just counted; always in this order.
    let (mut all, mut own) = (lock(&route.retries), failed.load.retries());
    let facts = Facts {
        failure,
        made: attempts.len() as u32,
        place: if tried {
            Place::Again
        } else {
            Place::Elsewhere
        },
        means: if all.has(now) && own.has(now) {
            Means::Left
        } else {
            Means::Spent
        },
        left: route.deadline.budget(now).unwrap_or_default(),
        random: rand::random(),
    };
    match decide(&route.retry, facts) {
        Verdict::Stop(stop) => Err(stop),
        Verdict::Again(kind, wait) => {
            if failure.progress != Progress::NeverSent {
                let _ = (all.take(now), own.take(now));
            }
            let kind = if listed { kind } else { AttemptKind::Fallback };
            Ok(Next { member, kind, wait })
        }
    }
}

/// The next instance, and whether it was named. None is tried twice while another that may be used is not.
fn choose(route: &Route, attempts: &[Attempt]) -> Option<(Arc<Member>, bool)> {
    if attempts.is_empty()
        && let Some(member) = pick(route, &route.candidates, Member::fitness)
    {
        return Some((member, true));
    }
    // Time has passed: whoever has left or gone down since gets nothing more.
    let fleet = (route.fleet_now)();
    let candidates: Members = match attempts {
        [] => Arc::clone(&route.candidates),
        [..] => route
            .candidates
            .iter()
            .filter_map(|member| fleet.find(member.id()).cloned())
            .collect(),
    };
    let tries = |member: &Member| {
        attempts
            .iter()
            .filter(|attempt| attempt.instance == *member.id())
            .count()
    };
    let usable = |member: &&Arc<Member>| member.fitness() != Fitness::Unfit;
    let fewest = candidates
        .iter()
        .filter(usable)
        .map(|member| tries(member))
        .min();
    if fewest != Some(0) && route.retry.fallback == Fallback::AnyHealthy {
        let untried = |member: &Member| match (member.fitness(), tries(member)) {
            (Fitness::Fit, 0) => Fitness::Fit,
            (Fitness::Fit | Fitness::Unknown | Fitness::Unfit, _) => Fitness::Unfit,
        };
        if let Some(member) = pick(route, fleet.members(), untried) {
            return Some((member, false));
        }
    }
    let fewest = fewest?;
    let least_tried = |member: &Member| {
        if tries(member) == fewest {
            member.fitness()
        } else {
            Fitness::Unfit
        }
    };
    pick(route, &candidates, least_tried).map(|member| (member, true))
}

fn pick(
    route: &Route,
    members: &[Arc<Member>],
    fitness: impl Fn(&Member) -> Fitness,
) -> Option<Arc<Member>> {
    let chosen = selection::choose(
        &route.selection,
        members.len(),
        |at| members[at].id().as_str(),
        |at| fitness(&members[at]),
        |at| members[at].load.compared(),
        rand::random,
    )?;
    Some(Arc::clone(&members[chosen]))
}

fn lock(budget: &Mutex<Budget>) -> std::sync::MutexGuard<'_, Budget> {
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nobody(candidates: &[Arc<Member>]) -> Failure {
    if let [only] = candidates {
        return down(only);
    }
    let reasons: Vec<_> = candidates
        .iter()
        .take(3)
        .map(|member| format!("{}: {}", member.id(), member.health.reason))
        .collect();
    let detail = format!(
        "all {} candidates are down ({})",
        candidates.len(),
        reasons.join("; ")
    );
    Failure::new(Reason::NoInstance, detail)
}

/// What is said of an instance that is not asked because its probes fail.
pub(super) fn down(member: &Member) -> Failure {
    let since = member.health.since.elapsed().unwrap_or(Duration::ZERO);
    let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
    let detail = format!("down for {since}: {}", member.health.reason);
    Failure::at(
        member.id(),
        Reason::InstanceDown,
        Progress::NeverSent,
        detail,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::Status;
    use crate::domain::retry::Repeat;
    use crate::domain::selection::Policy;
    use crate::instance::scripted::Act;
    use crate::orchestrate::stage::{Stage, ms};

    /// What came back and the tries, as text: `answered by B: A instance_down, B ok`.
    async fn check_route(route: Route, expected: &str) {
        let answer = run_task(route).await;
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
            let unanswered = run_task(stage.route(Policy::Ordered, ms(1000)))
                .await
                .unwrap_err();
            assert_eq!(unanswered.attempts.len(), 1);
            assert!(stage.instance("B").calls.lock().unwrap().is_empty());
            let answered = run_task(idempotent(&stage, 4)).await.unwrap();
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
        let answered = run_task(route).await.unwrap();
        assert_eq!(answered.instance.as_str(), "C");
        assert_eq!(answered.attempts[1].kind, AttemptKind::Fallback);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fallback_serves_a_call_whose_named_instances_are_down() {
        let mut stage = Stage::new([("A", Act::Echo(ms(1))), ("B", Act::Echo(ms(1)))]);
        stage.set_down("A", "refused");
        let mut route = stage.route(Policy::Balanced, ms(1000));
        route.candidates = route.candidates[..1].into();
        let refused = run_task(route.clone()).await.unwrap_err();
        assert_eq!(refused.failure.reason, Reason::InstanceDown);
        route.retry.fallback = Fallback::AnyHealthy;
        let answered = run_task(route).await.unwrap();
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
    async fn retries_over_all_callers_are_a_fifth_of_the_calls() {
        let stage = Stage::new([("A", Act::Break), ("B", Act::Break)]);
        let template = idempotent(&stage, 4);
        for _ in 0..1000 {
            let unanswered = run_task(template.clone()).await.unwrap_err();
            assert!(unanswered.stop.is_some());
        }
        let reached: usize = ["A", "B"]
            .map(|id| stage.instance(id).calls.lock().unwrap().len())
            .iter()
            .sum();
        assert!((1200..=1215).contains(&reached), "{reached}");
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
        let call = run_task(stage.route(Policy::Balanced, ms(1000)));
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
        let failure = run_task(stage.route(Policy::Balanced, ms(1000)))
            .await
            .unwrap_err()
            .failure;
        assert_eq!(
            failure.detail,
            "all 2 candidates are down (A: connection refused; B: says that it does not serve)"
        );
    }
}
