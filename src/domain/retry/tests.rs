//! What is decided of a failed try, by examples and for any history.

use proptest::prelude::*;

use super::*;
use crate::domain::limit::TIMEOUT_MAX;

fn failure(reason: Reason, progress: Progress) -> Failure {
    Failure {
        progress,
        ..Failure::new(reason, "")
    }
}

fn facts(failure: &Failure) -> Facts<'_> {
    Facts {
        failure,
        made: 1,
        place: Place::Elsewhere,
        means: Means::Left,
        left: Duration::from_secs(10),
        random: u32::MAX,
    }
}

fn idempotent() -> Policy {
    Policy {
        repeat: Repeat::Idempotent,
        ..Policy::default()
    }
}

#[test]
fn what_is_known_of_the_try_decides() {
    let check = |policy: Policy, reason, progress, expected: Result<AttemptKind, Stop>| {
        let failure = failure(reason, progress);
        let found = match decide(&policy, facts(&failure)) {
            Verdict::Again(kind, _) => Ok(kind),
            Verdict::Stop(stop) => Err(stop),
        };
        assert_eq!(found, expected, "{reason:?} {progress:?}");
    };
    let unsafe_ = Policy::default();
    check(
        unsafe_,
        Reason::InstanceDown,
        Progress::NeverSent,
        Ok(AttemptKind::TransparentRetry),
    );
    check(
        unsafe_,
        Reason::InstanceDown,
        Progress::NeverBegan,
        Ok(AttemptKind::TransparentRetry),
    );
    check(
        unsafe_,
        Reason::InstanceLost,
        Progress::MayHaveBegun,
        Err(Stop::NotRepeatable),
    );
    check(
        idempotent(),
        Reason::InstanceLost,
        Progress::MayHaveBegun,
        Ok(AttemptKind::Retry),
    );
    check(
        idempotent(),
        Reason::InstanceLost,
        Progress::Answered,
        Err(Stop::NotRepeatable),
    );
    let failed = Reason::InstanceFailed;
    check(
        idempotent(),
        failed(Status::Unavailable),
        Progress::MayHaveBegun,
        Ok(AttemptKind::Retry),
    );
    check(
        unsafe_,
        failed(Status::Unavailable),
        Progress::MayHaveBegun,
        Err(Stop::NotRepeatable),
    );
    check(
        idempotent(),
        failed(Status::NotFound),
        Progress::MayHaveBegun,
        Err(Stop::NotRepeatable),
    );
    check(
        idempotent(),
        Reason::AnswerMalformed,
        Progress::Answered,
        Err(Stop::NotRepeatable),
    );
}

#[test]
fn another_instance_is_tried_at_once_and_the_same_one_after_a_backoff() {
    let lost = failure(Reason::InstanceLost, Progress::MayHaveBegun);
    let check = |made, place, random, expected| {
        let policy = Policy {
            attempts_max: 5,
            ..idempotent()
        };
        let verdict = decide(
            &policy,
            Facts {
                made,
                place,
                random,
                ..facts(&lost)
            },
        );
        assert_eq!(
            verdict,
            Verdict::Again(AttemptKind::Retry, Duration::from_millis(expected))
        );
    };
    check(1, Place::Elsewhere, u32::MAX, 0);
    check(1, Place::Again, u32::MAX, 50);
    check(2, Place::Again, u32::MAX, 100);
    check(4, Place::Again, u32::MAX, 400);
    check(4, Place::Again, 0, 0);
}

#[test]
fn the_backoff_is_doubled_up_to_its_longest_whatever_they_are() {
    let check = |first: u64, max: u64, made, expected| {
        let [first, max] = [first, max].map(Duration::from_millis);
        let wait = Backoff { first, max }.wait(made, u32::MAX);
        assert_eq!(wait, Duration::from_millis(expected));
    };
    check(10, 35, 1, 10);
    check(10, 35, 2, 20);
    check(10, 35, 3, 35);
}

#[test]
fn pushback_is_obeyed_to_the_letter() {
    let check = |value: &str, expected| {
        assert_eq!(Pushback::from_grpc(value.as_bytes()), expected, "{value}")
    };
    check("250", Pushback::Wait(Duration::from_millis(250)));
    check("0", Pushback::Wait(Duration::ZERO));
    check("-1", Pushback::Stop);
    check("soon", Pushback::Stop);
    let pushed = |pushback| Failure {
        pushback: Some(pushback),
        ..failure(Reason::InstanceDown, Progress::NeverBegan)
    };
    let wait = pushed(Pushback::Wait(Duration::from_millis(250)));
    let again = Verdict::Again(AttemptKind::TransparentRetry, Duration::from_millis(250));
    assert_eq!(decide(&Policy::default(), facts(&wait)), again);
    let stop = pushed(Pushback::Stop);
    assert_eq!(
        decide(&Policy::default(), facts(&stop)),
        Verdict::Stop(Stop::Exhausted)
    );
    let long = pushed(Pushback::Wait(Duration::from_secs(60)));
    assert_eq!(
        decide(&Policy::default(), facts(&long)),
        Verdict::Stop(Stop::NoTime)
    );
}

#[test]
fn a_wait_beyond_all_clocks_is_a_long_wait() {
    let now = tokio::time::Instant::now().into_std();
    let longest = u64::MAX.to_string();
    let mut asked = Asked::default();
    for pushback in [
        Pushback::from_grpc(i64::MAX.to_string().as_bytes()),
        Pushback::from_retry_after(longest.as_bytes()).unwrap(),
    ] {
        asked.note(Some(pushback), now).unwrap();
        assert!(now + TIMEOUT_MAX < asked.not_before(now));
    }
}

#[test]
fn what_is_asked_of_callers_is_never_too_early() {
    let check = |wait: u64, grpc: &str, http: u64| {
        let pushback = Pushback::Wait(Duration::from_micros(wait));
        assert_eq!(pushback.to_grpc(), grpc);
        assert_eq!(pushback.to_retry_after(), Some(http));
        let read = Pushback::from_grpc(grpc.as_bytes());
        assert!(matches!(read, Pushback::Wait(read) if Duration::from_micros(wait) <= read));
    };
    check(0, "0", 0);
    check(1, "1", 1);
    check(2_000_000, "2000", 2);
    check(2_000_001, "2001", 3);
    assert_eq!(Pushback::Stop.to_grpc(), "-1");
    assert_eq!(Pushback::Stop.to_retry_after(), None);
    let seconds = |text: &str| Pushback::from_retry_after(text.as_bytes());
    assert_eq!(
        seconds("120"),
        Some(Pushback::Wait(Duration::from_secs(120)))
    );
    for bad in ["", "-1", "+1", "1.5", "soon", "99999999999999999999"] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_history_breaks_a_promise(
        progress in prop_oneof![Just(Progress::NeverSent), Just(Progress::NeverBegan), Just(Progress::MayHaveBegun), Just(Progress::Answered)],
        reason in prop_oneof![
            Just(Reason::InstanceDown), Just(Reason::InstanceLost), Just(Reason::DeadlineExceeded),
            Just(Reason::InstanceFailed(Status::Unavailable)), Just(Reason::AnswerMalformed)
        ],
        repeat in prop_oneof![Just(Repeat::Unsafe), Just(Repeat::Idempotent)],
        made in 1_u32..8, attempts_max in 1_u32..8, left_ms in 0_u64..2000, random in any::<u32>(),
        elsewhere in any::<bool>(), spent in any::<bool>(),
    ) {
        let failure = failure(reason, progress);
        let policy = Policy { attempts_max, repeat, ..Policy::default() };
        let left = Duration::from_millis(left_ms);
        let place = if elsewhere { Place::Elsewhere } else { Place::Again };
        let means = if spent { Means::Spent } else { Means::Left };
        if let Verdict::Again(_, wait) = decide(&policy, Facts { failure: &failure, made, place, means, left, random }) {
            prop_assert!(wait < left, "never a sleep past the deadline");
            prop_assert!(made < attempts_max.min(ATTEMPTS_MAX));
            prop_assert!(progress != Progress::Answered);
            prop_assert!(progress != Progress::MayHaveBegun || repeat == Repeat::Idempotent);
            prop_assert!(!spent || progress == Progress::NeverSent);
        }
    }
}
