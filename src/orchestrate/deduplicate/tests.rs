//! What idempotency keys promise, on a fleet of scripted instances and a clock of our own.

use super::*;
use crate::domain::admission::{Limits, Quota};
use crate::domain::failure::Status;
use crate::domain::payload::Payload;
use crate::domain::selection::Policy;
use crate::instance::scripted::Act;
use crate::orchestrate::admit::Gate;
use crate::orchestrate::stage::{Stage, ms};

fn identity(word: &str, target: &str) -> Identity {
    let fingerprint = Fingerprint::of(&[target], &Payload::null());
    let caller = Some("caller".into());
    Identity::new(caller, "Route", Word::check(word).unwrap(), fingerprint)
}

fn gate() -> Arc<Gate> {
    let all = Quota {
        in_flight_max: 100,
        rate: None,
    };
    let limits = Limits {
        all,
        each: all,
        legs_max: 0,
        waiting_max: 0,
    };
    Gate::new(limits, [], crate::chance::Chance::default())
}

struct Doors {
    stage: Stage,
    deduplicate: Deduplicate,
    gate: Arc<Gate>,
}

impl Doors {
    fn new(acts: Vec<Act>) -> Self {
        Self {
            stage: Stage::with_scripts([("A", acts)]),
            deduplicate: Deduplicate::new(Tasks::new()),
            gate: gate(),
        }
    }

    async fn run(&self, identity: Identity, route: Route) -> (Outcome, Origin) {
        let caller = "caller".into();
        let admitted = self.gate.admit(&caller, 0, route.deadline).await;
        let place = admitted.unwrap();
        self.deduplicate.run_task(identity, route, place).await
    }

    fn calls(&self) -> usize {
        self.stage.instance("A").calls.lock().unwrap().len()
    }

    /// A call with key `k`, as text: `ok own`, `instance_failed earlier`.
    async fn call(&self, timeout: Duration) -> String {
        self.call_as(timeout, Repeat::Unsafe).await
    }

    async fn call_as(&self, timeout: Duration, repeat: Repeat) -> String {
        let mut route = self.stage.route(Policy::Ordered, timeout);
        route.retry.repeat = repeat;
        let (outcome, origin) = self.run(identity("k", "A"), route).await;
        let word = match outcome {
            Ok(_) => "ok".to_owned(),
            Err(unanswered) => unanswered.failure.reason.name().to_lowercase(),
        };
        let origin = match origin {
            Origin::Own => "own",
            Origin::Earlier => "earlier",
        };
        format!("{word} {origin}")
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_joins_the_call_that_runs_and_later_ones_get_its_answer() {
    let doors = Doors::new(vec![Act::Echo(ms(100))]);
    let later = async {
        time::sleep(ms(50)).await;
        doors.call(ms(1000)).await
    };
    let (one, other) = tokio::join!(doors.call(ms(1000)), later);
    assert_eq!((one.as_str(), other.as_str()), ("ok own", "ok earlier"));
    assert_eq!(doors.call(ms(1000)).await, "ok earlier");
    assert_eq!(doors.calls(), 1);
    time::sleep(IDEMPOTENCY_KEPT_FOR).await;
    assert_eq!(doors.call(ms(1000)).await, "ok own");
    assert_eq!(doors.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_definitive_failure_is_an_outcome_and_one_that_may_pass_is_not() {
    let doors = Doors::new(vec![
        Act::Fail(Status::Unavailable),
        Act::Fail(Status::NotFound),
    ]);
    assert_eq!(doors.call(ms(1000)).await, "instance_failed own");
    assert_eq!(doors.call(ms(1000)).await, "instance_failed own");
    assert_eq!(doors.call(ms(1000)).await, "instance_failed earlier");
    assert_eq!(doors.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_key_with_another_request_is_refused() {
    let doors = Doors::new(vec![Act::Echo(ms(100))]);
    let other = async {
        time::sleep(ms(50)).await;
        let route = doors.stage.route(Policy::Ordered, ms(1000));
        doors.run(identity("k", "B"), route).await.0
    };
    let (one, other) = tokio::join!(doors.call(ms(1000)), other);
    assert_eq!(one, "ok own");
    let failure = other.unwrap_err().failure;
    assert_eq!(failure.reason, Reason::IdempotencyConflict);
    assert!(!failure.is_retryable());
    assert_eq!(doors.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_call_outlives_the_caller_who_began_it_and_ends_when_nobody_waits() {
    let doors = Doors::new(vec![Act::Echo(ms(100)), Act::Silent]);
    let first = time::timeout(ms(50), doors.call(ms(1000)));
    let second = async {
        time::sleep(ms(20)).await;
        doors.call(ms(1000)).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err(), "the first has left");
    assert_eq!((second.as_str(), doors.calls()), ("ok earlier", 1));
    time::sleep(IDEMPOTENCY_KEPT_FOR).await;
    let left = time::timeout(ms(50), doors.call(ms(1000)));
    assert!(left.await.is_err());
    // Joined before the call could notice that nobody waited.
    let left = time::timeout(ms(50), doors.call(ms(1000)));
    assert!(left.await.is_err(), "it still runs");
    assert_eq!(doors.calls(), 2);
    while doors.stage.running() != 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(doors.calls(), 2);
    let Identity { key, fingerprint } = identity("k", "A");
    let now = Instant::now().into_std();
    let mut known = doors.deduplicate.calls.lock().unwrap();
    let found = known.find(&key, fingerprint, now);
    assert!(matches!(found, Found::Nothing), "it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn everybody_waits_no_longer_than_their_own_deadline() {
    let doors = Doors::new(vec![Act::Echo(ms(500))]);
    let started = Instant::now();
    let hurried = async {
        time::sleep(ms(10)).await;
        let said = doors.call(ms(100)).await;
        (said, started.elapsed())
    };
    let (patient, (said, after)) = tokio::join!(doors.call(ms(1000)), hurried);
    assert_eq!(patient, "ok own");
    assert_eq!(
        (said.as_str(), after),
        ("deadline_exceeded earlier", ms(105))
    );
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_the_call_begins_it_anew_only_where_that_does_no_harm() {
    let check = async |repeat, expected: &str, calls| {
        let doors = Doors::new(vec![Act::Silent, Act::Echo(ms(1))]);
        let patient = async {
            time::sleep(ms(10)).await;
            doors.call_as(ms(5000), repeat).await
        };
        let (first, second) = tokio::join!(doors.call(ms(1000)), patient);
        assert_eq!(first, "deadline_exceeded own");
        assert_eq!((second.as_str(), doors.calls()), (expected, calls));
    };
    check(Repeat::Idempotent, "ok own", 2).await;
    check(Repeat::Unsafe, "deadline_exceeded earlier", 1).await;
}

#[tokio::test(start_paused = true)]
async fn who_begins_a_call_anew_goes_by_the_fleet_as_it_is_by_then() {
    let mut doors = Doors::new(Vec::new());
    let scripts = [("A", vec![Act::Silent]), ("B", vec![Act::Echo(ms(1))])];
    doors.stage = Stage::with_scripts(scripts);
    let mut patient = doors.stage.route(Policy::Ordered, ms(5000));
    patient.retry.repeat = Repeat::Idempotent;
    let first = doors.stage.route(Policy::Ordered, ms(1000));
    // Since both have come, A has gone down.
    doors.stage.set_down("A", "gone");
    let later = doors.stage.view();
    patient.fleet_now = Arc::new(move || Arc::clone(&later));
    let patient = async {
        time::sleep(ms(10)).await;
        doors.run(identity("k", "A"), patient).await
    };
    let (_, (outcome, origin)) = tokio::join!(doors.run(identity("k", "A"), first), patient);
    assert_eq!(outcome.unwrap().instance.as_str(), "B");
    assert_eq!((origin, doors.calls()), (Origin::Own, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_does_not_hold_on_to_the_buffer_it_came_in() {
    let doors = Doors::new(vec![Act::Echo(ms(1))]);
    doors.call(ms(1000)).await;
    let route = doors.stage.route(Policy::Ordered, ms(1000));
    let sent = route.task.payload.encoded().as_ptr();
    let (outcome, _) = doors.run(identity("k", "A"), route).await;
    assert_ne!(outcome.unwrap().payload.encoded().as_ptr(), sent);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_first_caller_has_left_still_counts_as_one_that_runs() {
    let doors = Doors::new(vec![Act::Echo(ms(100))]);
    let first = time::timeout(ms(50), doors.call(ms(1000)));
    let second = async {
        time::sleep(ms(20)).await;
        doors.call(ms(1000)).await
    };
    let look = async {
        time::sleep(ms(60)).await;
        assert_eq!(
            doors.gate.load(),
            (2, 0, 0),
            "one runs, and one waits for it"
        );
    };
    let (first, second, ()) = tokio::join!(first, second, look);
    assert!(first.is_err(), "the first has left");
    assert_eq!(second, "ok earlier");
    assert_eq!(doors.gate.load(), (0, 0, 0));
}
