//! Route: one task, one answer.
//!
//! An instance that provably never began the task is left for another at once; anything else ends the call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{attempt, report};
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::ATTEMPTS_MAX;
use crate::domain::payload::Payload;
use crate::domain::selection::{self, Fitness, Policy};
use crate::domain::task::{Attempt, AttemptKind, Task};
use crate::fleet::view::Member;

/// One task for one of several instances.
pub struct Route {
    /// The task.
    pub task: Arc<Task>,
    /// The instances that may have it, in the caller's order.
    pub candidates: Vec<Arc<Member>>,
    /// How one is chosen.
    pub policy: Policy,
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
}

/// Finds an instance for the task and brings back its answer.
pub async fn run_task(route: Route) -> Result<Answered, Unanswered> {
    let mut attempts: Vec<Attempt> = Vec::with_capacity(1);
    loop {
        let member = match choose(&route, &attempts) {
            Ok(member) => member,
            Err(failure) => return Err(Unanswered { failure, attempts }),
        };
        let kind = if attempts.is_empty() {
            AttemptKind::First
        } else {
            AttemptKind::TransparentRetry
        };
        let number = attempts.len() as u32 + 1;
        let started = Instant::now();
        let result = attempt(member, &route.task, number, route.deadline).await;
        let mut made = Attempt {
            instance: member.id().clone(),
            kind,
            failure: None,
            offset: started.saturating_duration_since(route.arrived),
            elapsed: started.elapsed(),
        };
        match result {
            Ok(payload) => {
                let instance = made.instance.clone();
                attempts.push(made);
                return Ok(Answered {
                    instance,
                    payload,
                    attempts,
                });
            }
            Err(failure) => {
                made.failure = Some(failure.clone());
                attempts.push(made);
                let elsewhere = failure.progress == Progress::NeverBegan
                    && failure.reason != Reason::DeadlineExceeded
                    && attempts.len() < ATTEMPTS_MAX;
                if !elsewhere {
                    return Err(Unanswered { failure, attempts });
                }
            }
        }
    }
}

fn choose<'a>(route: &'a Route, attempts: &[Attempt]) -> Result<&'a Arc<Member>, Failure> {
    let candidates = &route.candidates;
    let fitness = |at: usize| {
        let member = &candidates[at];
        let tried = attempts
            .iter()
            .any(|attempt| attempt.instance == *member.id());
        if tried {
            Fitness::Unfit
        } else {
            member.fitness()
        }
    };
    let load = |at: usize| candidates[at].load.compared();
    let chosen = selection::choose(route.policy, candidates.len(), fitness, load, rand::random);
    match (chosen, attempts.last()) {
        (Some(at), _) => Ok(&candidates[at]),
        // Nobody else is left: what the last one said decides.
        (
            None,
            Some(Attempt {
                failure: Some(failure),
                ..
            }),
        ) => Err(failure.clone()),
        (None, _) => {
            let failure = nobody(candidates);
            report(&route.task, 0, &failure);
            Err(failure)
        }
    }
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
        Progress::NeverBegan,
        detail,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::Status;
    use crate::instance::scripted::Act;
    use crate::orchestrate::stage::{Stage, ms};

    /// What came back and the tries, as text: `answered by B: A instance_down, B ok`.
    async fn check(stage: &Stage, policy: Policy, timeout: Duration, expected: &str) {
        let answer = run_task(stage.route(policy, timeout)).await;
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
                let said = attempt.failure.as_ref().map_or("ok".to_owned(), |failure| {
                    failure.reason.name().to_lowercase()
                });
                format!("{} {said}", attempt.instance)
            })
            .collect();
        assert_eq!(format!("{end}: {}", tries.join(", ")), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_never_began_is_left_for_another_at_once() {
        let stage = Stage::new([("A", Act::Refuse), ("B", Act::Echo(ms(1)))]);
        check(
            &stage,
            Policy::Ordered,
            ms(1000),
            "answered by B: A instance_down, B ok",
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_may_have_begun_is_not_repeated() {
        let stage = Stage::new([("A", Act::Break), ("B", Act::Echo(ms(1)))]);
        check(
            &stage,
            Policy::Ordered,
            ms(1000),
            "instance_lost: A instance_lost",
        )
        .await;
        let stage = Stage::new([
            ("A", Act::Fail(Status::Unavailable)),
            ("B", Act::Echo(ms(1))),
        ]);
        check(
            &stage,
            Policy::Ordered,
            ms(1000),
            "instance_failed: A instance_failed",
        )
        .await;
        assert!(stage.instance("B").calls.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_tried_twice_and_tries_are_bounded() {
        let stage = Stage::new([("A", Act::Refuse)]);
        check(
            &stage,
            Policy::Ordered,
            ms(1000),
            "instance_down: A instance_down",
        )
        .await;
        let stage = Stage::new(["A", "B", "C", "D", "E", "F"].map(|id| (id, Act::Refuse)));
        check(
            &stage,
            Policy::Ordered,
            ms(1000),
            "instance_down: A instance_down, B instance_down, C instance_down, D instance_down",
        )
        .await;
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
        check(
            &stage,
            Policy::Ordered,
            ms(4),
            "deadline_exceeded: A deadline_exceeded",
        )
        .await;
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
