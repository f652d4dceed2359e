//! What a change of the limits does to those who run, wait and come.

#![allow(clippy::disallowed_methods, reason = "any instant will do")]

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(1000);

fn limits((all, each, waiting_max): (u32, u32, u32)) -> Limits {
    let quota = |in_flight_max| Quota {
        in_flight_max,
        rate: None,
    };
    Limits {
        all: quota(all),
        each: quota(each),
        legs_max: 1000,
        waiting_max,
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// All callers; the first `own` of them have a quota of their own.
fn callers(own: usize, quota: u32) -> Vec<(Arc<str>, Option<Quota>)> {
    let own_quota = Quota {
        in_flight_max: quota,
        rate: None,
    };
    let names = NAMES.iter().enumerate();
    names
        .map(|(at, name)| ((*name).into(), (at < own).then_some(own_quota)))
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Done(usize),
    Leave(usize),
    Change {
        limits: (u32, u32, u32),
        own: usize,
        quota: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let limits = (1..6_u32, 1..6_u32, 0..12_u32);
    prop_oneof![
        6 => (0..4_usize).prop_map(Step::Ask),
        3 => any::<usize>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Leave),
        2 => (limits, 0..5_usize, 1..6_u32)
            .prop_map(|(limits, own, quota)| Step::Change { limits, own, quota }),
    ]
}

#[test]
fn who_waits_is_let_in_by_a_higher_limit_and_a_lower_one_stops_nobody_who_runs() {
    let mut admission = Admission::new(limits((1, 1, 10)), []);
    let (a, now): (Arc<str>, _) = ("a".into(), Instant::now());
    assert_eq!(admission.ask(&a, 3, LONG, now), Verdict::Run);
    let Verdict::Wait(ticket) = admission.ask(&a, 4, LONG, now) else {
        panic!("there is no room")
    };
    assert_eq!(admission.let_in(), None);
    admission.change(limits((2, 2, 0)), callers(0, 1));
    assert_eq!(
        (admission.let_in(), admission.let_in()),
        (Some(ticket), None)
    );
    admission.change(limits((1, 1, 0)), callers(0, 1));
    assert_eq!((admission.running(), admission.legs()), (2, 7));
    admission.done(&a, 3, Duration::ZERO);
    assert!(matches!(
        admission.ask(&a, 0, LONG, now),
        Verdict::Refuse(_)
    ));
    admission.done(&a, 4, Duration::ZERO);
    assert_eq!(admission.ask(&a, 0, LONG, now), Verdict::Run);
}

#[test]
fn a_rate_goes_on_where_it_was_and_a_caller_that_is_gone_is_forgotten_with_its_last_call() {
    let rate = Rate {
        per_second: 1,
        burst: 2,
    };
    let mut limits = limits((9, 9, 0));
    limits.each.rate = Some(rate);
    let mut admission = Admission::new(limits, []);
    let (a, now): (Arc<str>, _) = ("a".into(), Instant::now());
    assert_eq!(admission.ask(&a, 0, LONG, now), Verdict::Run);
    assert_eq!(admission.ask(&a, 0, LONG, now), Verdict::Run);
    admission.change(limits, callers(0, 1));
    assert!(
        matches!(admission.ask(&a, 0, LONG, now), Verdict::Refuse(_)),
        "no burst for a change"
    );
    admission.change(limits, []);
    assert_eq!(admission.callers.len(), 1, "it still has calls");
    admission.done(&a, 0, Duration::ZERO);
    admission.done(&a, 0, Duration::ZERO);
    admission.change(limits, []);
    assert!(admission.callers.is_empty());
}

proptest! {
    #[test]
    fn whatever_changes_the_limits_of_the_moment_hold_and_nobody_starves(
        first in (1..6_u32, 1..6_u32, 0..12_u32),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let (mut limits, mut own, mut quota) = (limits(first), 0, 1);
        let mut admission = Admission::new(limits, []);
        let mut running: Vec<usize> = Vec::new();
        let mut waiting: Vec<(Ticket, usize)> = Vec::new();
        let now = Instant::now();
        for step in steps {
            match step {
                Step::Ask(caller) => match admission.ask(&NAMES[caller].into(), 1, LONG, now) {
                    Verdict::Run => running.push(caller),
                    Verdict::Wait(ticket) => waiting.push((ticket, caller)),
                    Verdict::Refuse(_) => {}
                },
                Step::Done(which) if !running.is_empty() => {
                    let caller = running.remove(which % running.len());
                    admission.done(&NAMES[caller].into(), 1, Duration::ZERO);
                }
                Step::Leave(which) if !waiting.is_empty() => {
                    let (ticket, caller) = waiting.remove(which % waiting.len());
                    admission.leave(&NAMES[caller].into(), ticket);
                }
                Step::Change { limits: other, own: some, quota: their } => {
                    (limits, own, quota) = (self::limits(other), some, their);
                    admission.change(limits, callers(own, quota));
                }
                Step::Done(_) | Step::Leave(_) => {}
            }
            let most = |caller: usize| if caller < own { quota } else { limits.each.in_flight_max };
            let of = |running: &[usize], caller| running.iter().filter(|one| **one == caller).count() as u32;
            while let Some(ticket) = admission.let_in() {
                let at = waiting.iter().position(|(one, _)| *one == ticket);
                prop_assert!(at.is_some(), "only who waits is let in, and once");
                let (_, caller) = waiting.remove(at.unwrap());
                running.push(caller);
                prop_assert!(running.len() as u32 <= limits.all.in_flight_max);
                prop_assert!(of(&running, caller) <= most(caller), "by the limits of the moment");
            }
            prop_assert_eq!(admission.running() as usize, running.len());
            prop_assert_eq!(admission.waiting() as usize, waiting.len());
            prop_assert_eq!(admission.legs() as usize, running.len() + waiting.len());
            for (_, caller) in &waiting {
                let has_room = of(&running, *caller) < most(*caller)
                    && (running.len() as u32) < limits.all.in_flight_max;
                prop_assert!(!has_room, "nobody waits while there is room");
            }
        }
        while let Some(caller) = running.pop() {
            admission.done(&NAMES[caller].into(), 1, Duration::ZERO);
            while let Some(ticket) = admission.let_in() {
                let at = waiting.iter().position(|(one, _)| *one == ticket).unwrap();
                running.push(waiting.remove(at).1);
            }
        }
        prop_assert!(waiting.is_empty(), "nobody starves");
    }
}
