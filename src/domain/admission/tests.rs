//! What admission promises over any history.

#![allow(clippy::disallowed_methods, reason = "any instant will do")]

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);

fn quota(in_flight_max: u32) -> Quota {
    Quota {
        in_flight_max,
        rate: None,
    }
}

fn limits(all: u32, each: u32, waiting_max: u32) -> Limits {
    Limits {
        all: quota(all),
        each: quota(each),
        legs_max: 100,
        waiting_max,
    }
}

fn name(caller: usize) -> Arc<str> {
    ["a", "b", "c", "d"][caller].into()
}

/// Calls of these callers come one after the other: `r` runs, `w` waits, `o` meets the limit of all, `k` that of
/// its key.
fn check(admission: &mut Admission, callers: &str, expected: &str) {
    let now = Instant::now();
    let found = callers.chars().map(|caller| {
        let caller = caller.to_string().as_str().into();
        match admission.ask(&caller, 0, LONG, now) {
            Verdict::Run => 'r',
            Verdict::Wait(_) => 'w',
            Verdict::Refuse(Refusal { limit, .. }) => match limit {
                Limit::All => 'o',
                Limit::Caller => 'k',
            },
        }
    });
    assert_eq!(found.collect::<String>(), expected, "{callers}");
}

#[test]
fn calls_run_then_wait_then_are_refused() {
    check(
        &mut Admission::new(limits(3, 3, 4), []),
        "aaaaaaaa",
        "rrrwwkkk",
    );
    // Over all callers the limit is another.
    check(
        &mut Admission::new(limits(3, 9, 4), []),
        "aaaaaaab",
        "rrrwwoow",
    );
    check(&mut Admission::new(limits(9, 1, 0), []), "aabb", "rkrk");
}

#[test]
fn one_caller_alone_never_fills_the_queue() {
    let mut admission = Admission::new(limits(1, 1, 16), []);
    check(&mut admission, "aaaaaaaaaaaa", "rwwwwwwwwkkk");
    check(&mut admission, "bbbbbb", "wwwwoo");
    check(&mut admission, "cccc", "wwoo");
    check(&mut admission, "dd", "wo");
}

#[test]
fn a_key_has_its_own_quota() {
    let own = [("a".into(), quota(1)), ("b".into(), quota(3))];
    let mut admission = Admission::new(limits(9, 2, 0), own);
    check(&mut admission, "aabbbbccc", "rkrrrkrrk");
}

#[test]
fn callers_take_turns_and_each_call_comes_in_its_order() {
    let mut admission = Admission::new(limits(1, 1, 100), []);
    let now = Instant::now();
    assert_eq!(admission.ask(&name(3), 0, LONG, now), Verdict::Run);
    let mut ask = |caller| match admission.ask(&name(caller), 0, LONG, now) {
        Verdict::Wait(ticket) => ticket,
        verdict @ (Verdict::Run | Verdict::Refuse(_)) => panic!("{verdict:?}"),
    };
    let (a1, a2, a3, b1, c1, b2) = (ask(0), ask(0), ask(0), ask(1), ask(2), ask(1));
    let turns = [(a1, 0), (b1, 1), (c1, 2), (a2, 0), (b2, 1), (a3, 0)];
    let mut running = 3;
    for (expected, caller) in turns {
        admission.done(&name(running), 0, SECOND);
        assert_eq!(
            (admission.let_in(), admission.let_in()),
            (Some(expected), None)
        );
        running = caller;
    }
}

#[test]
fn a_rate_refuses_with_the_time_to_come_again_and_refusals_cost_nothing() {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let mut limits = limits(100, 100, 0);
    limits.all.rate = rate(100, 3);
    limits.each.rate = rate(10, 2);
    let mut admission = Admission::new(limits, []);
    let start = Instant::now();
    let mut ask = |caller, after_ms| {
        let now = start + Duration::from_millis(after_ms);
        match admission.ask(&name(caller), 0, LONG, now) {
            Verdict::Run => None,
            Verdict::Refuse(refusal) => {
                assert_eq!(refusal.cause, Cause::Rate);
                Some((refusal.limit, refusal.come_again.as_millis()))
            }
            Verdict::Wait(_) => panic!("nobody waits for a token"),
        }
    };
    assert_eq!([ask(0, 0), ask(0, 0)], [None, None]);
    // However often the greedy one asks, what is left of all is there for the other.
    for _ in 0..10 {
        assert_eq!(ask(0, 0), Some((Limit::Caller, 100)));
    }
    assert_eq!(ask(1, 0), None);
    assert_eq!(ask(1, 0), Some((Limit::All, 50)), "never sooner than this");
    assert_eq!(ask(0, 99), Some((Limit::Caller, 50)));
    assert_eq!(ask(0, 100), None);
    // A long pause is worth no more than the burst.
    assert_eq!([ask(0, 9000), ask(0, 9000)], [None, None]);
    assert_eq!(ask(0, 9000), Some((Limit::Caller, 100)));
}

#[test]
fn legs_are_bounded_over_all_fan_outs() {
    let mut admission = Admission::new(limits(10, 10, 10), []);
    let now = Instant::now();
    assert_eq!(admission.ask(&name(0), 60, LONG, now), Verdict::Run);
    let Verdict::Refuse(refusal) = admission.ask(&name(1), 41, LONG, now) else {
        panic!("101 legs")
    };
    assert_eq!((refusal.limit, refusal.cause), (Limit::All, Cause::Legs));
    assert_eq!(admission.ask(&name(1), 40, LONG, now), Verdict::Run);
    // A call that goes to one instance is no leg.
    assert_eq!(admission.ask(&name(1), 0, LONG, now), Verdict::Run);
    admission.done(&name(0), 60, SECOND);
    assert_eq!(admission.legs(), 40);
}

#[test]
fn who_cannot_be_in_time_is_refused_at_once() {
    let mut admission = Admission::new(limits(2, 2, 100), []);
    let now = Instant::now();
    let caller = name(0);
    for _ in 0..2 {
        assert_eq!(admission.ask(&caller, 0, LONG, now), Verdict::Run);
    }
    // Calls take a second here, two at once: the first in the queue waits for half of one.
    admission.done(&caller, 0, SECOND);
    assert_eq!(admission.ask(&caller, 0, LONG, now), Verdict::Run);
    let mut ask = |left_ms| match admission.ask(&caller, 0, Duration::from_millis(left_ms), now) {
        Verdict::Wait(_) => None,
        Verdict::Refuse(refusal) => {
            assert_eq!(refusal.cause, Cause::Hopeless);
            Some(refusal.come_again.as_millis())
        }
        Verdict::Run => panic!("there is no room"),
    };
    assert_eq!(ask(500), Some(500));
    assert_eq!(ask(501), None);
    assert_eq!(ask(1000), Some(1000));
    assert_eq!(ask(1001), None);
}

#[derive(Debug, Clone)]
enum Step {
    Ask {
        caller: usize,
        legs: u32,
        left_ms: u64,
    },
    /// One of those that run is over.
    Done {
        which: usize,
        ran_ms: u64,
    },
    /// One of those that wait gives up.
    Leave {
        which: usize,
    },
    Pass {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4_usize, 0..30_u32, 0..3000_u64).prop_map(|(caller, legs, left_ms)| Step::Ask { caller, legs, left_ms }),
        3 => (any::<usize>(), 0..2000_u64).prop_map(|(which, ran_ms)| Step::Done { which, ran_ms }),
        1 => any::<usize>().prop_map(|which| Step::Leave { which }),
        1 => (0..500_u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// What is known from outside.
#[derive(Default)]
struct Model {
    running: Vec<(usize, u32)>,
    waiting: Vec<(Ticket, usize, u32)>,
}

impl Model {
    fn let_in(&mut self, admission: &mut Admission) -> Result<(), TestCaseError> {
        while let Some(ticket) = admission.let_in() {
            let at = self.waiting.iter().position(|(one, ..)| *one == ticket);
            prop_assert!(at.is_some(), "only who waits is let in, and once");
            let (_, caller, legs) = self.waiting.remove(at.unwrap());
            let earlier = self.waiting[..at.unwrap()].iter();
            prop_assert!(
                earlier.clone().all(|(_, other, _)| *other != caller),
                "in order"
            );
            self.running.push((caller, legs));
        }
        Ok(())
    }

    fn agrees(&self, admission: &Admission, limits: Limits) -> Result<(), TestCaseError> {
        let of = |caller| {
            self.running
                .iter()
                .filter(|(one, _)| *one == caller)
                .count() as u32
        };
        let queued = |caller| {
            self.waiting
                .iter()
                .filter(|(_, one, _)| *one == caller)
                .count()
        };
        let legs: u32 = self.running.iter().map(|(_, legs)| legs).sum::<u32>()
            + self.waiting.iter().map(|(.., legs)| legs).sum::<u32>();
        prop_assert_eq!(admission.running(), self.running.len() as u32);
        prop_assert_eq!(admission.waiting(), self.waiting.len() as u32);
        prop_assert_eq!(admission.legs(), legs);
        prop_assert!(admission.running() <= limits.all.in_flight_max);
        prop_assert!(admission.waiting() <= limits.waiting_max);
        prop_assert!(legs <= limits.legs_max);
        for caller in 0..4 {
            prop_assert!(of(caller) <= limits.each.in_flight_max);
            // Nobody waits while there is room.
            let has_room = of(caller) < limits.each.in_flight_max
                && admission.running() < limits.all.in_flight_max;
            prop_assert!(!has_room || queued(caller) == 0);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_history_breaks_a_limit_and_everyone_who_waits_gets_a_turn(
        (all, each, waiting_max) in (1..6_u32, 1..6_u32, 0..12_u32),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let limits = limits(all, each, waiting_max);
        let (mut admission, mut model) = (Admission::new(limits, []), Model::default());
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Ask { caller, legs, left_ms } => {
                    let left = Duration::from_millis(left_ms);
                    let mean = admission.durations.mean();
                    let own_full = model.running.iter().filter(|(one, _)| *one == caller).count() as u32 >= each;
                    match admission.ask(&name(caller), legs, left, now) {
                        Verdict::Run => model.running.push((caller, legs)),
                        Verdict::Wait(ticket) => model.waiting.push((ticket, caller, legs)),
                        Verdict::Refuse(refusal) => {
                            let full = all <= model.running.len() as u32;
                            match refusal.cause {
                                Cause::Rate => prop_assert!(false, "there is no rate"),
                                Cause::Legs => prop_assert!(limits.legs_max < admission.legs() + legs),
                                Cause::Waiting => prop_assert!(full || own_full),
                                // Even if everybody who waits came first, no place would be free in time.
                                Cause::Hopeless if !own_full => {
                                    let most = (model.waiting.len() + 1) as f64 / f64::from(all);
                                    prop_assert!(left <= mean.mul_f64(most) + Duration::from_micros(1));
                                }
                                Cause::Hopeless => {}
                            }
                            prop_assert!((PUSHBACK_MIN..=PUSHBACK_MAX).contains(&refusal.come_again));
                        }
                    }
                }
                Step::Done { which, ran_ms } if !model.running.is_empty() => {
                    let (caller, legs) = model.running.remove(which % model.running.len());
                    admission.done(&name(caller), legs, Duration::from_millis(ran_ms));
                }
                Step::Leave { which } if !model.waiting.is_empty() => {
                    let (ticket, caller, _) = model.waiting.remove(which % model.waiting.len());
                    admission.leave(&name(caller), ticket);
                    admission.leave(&name(caller), ticket);
                }
                Step::Pass { millis } => now += Duration::from_millis(millis),
                Step::Done { .. } | Step::Leave { .. } => {}
            }
            model.let_in(&mut admission)?;
            model.agrees(&admission, limits)?;
        }
        // Nobody comes any more: one place after the other is free, and all have had their turn.
        while let Some((caller, legs)) = model.running.pop() {
            admission.done(&name(caller), legs, SECOND);
            model.let_in(&mut admission)?;
        }
        prop_assert!(model.waiting.is_empty(), "nobody starves");
        prop_assert_eq!((admission.running(), admission.waiting(), admission.legs()), (0, 0, 0));
    }

    #[test]
    fn however_greedy_one_caller_is_another_waits_for_one_turn_of_each(
        crowd in 0..300_usize,
        places in 1..6_u32,
    ) {
        let mut admission = Admission::new(limits(places, places, 1000), []);
        let now = Instant::now();
        for _ in 0..crowd + places as usize {
            admission.ask(&name(0), 0, LONG, now);
        }
        let Verdict::Wait(modest) = admission.ask(&name(1), 0, LONG, now) else {
            return Err(TestCaseError::fail("there is always a place left to wait"));
        };
        let mut passed = 0;
        loop {
            admission.done(&name(0), 0, SECOND);
            let Some(ticket) = admission.let_in() else {
                return Err(TestCaseError::fail("somebody's turn it is"));
            };
            if ticket == modest { break }
            passed += 1;
        }
        prop_assert!(passed <= 1, "{} were let in before", passed);
    }

    #[test]
    fn calls_never_come_faster_than_their_rate(
        per_second in 1..50_u32,
        burst in 1..20_u32,
        pauses in proptest::collection::vec(0..200_u64, 1..200),
    ) {
        let mut limits = limits(u32::MAX, u32::MAX, 0);
        limits.each.rate = Some(Rate { per_second, burst });
        let mut admission = Admission::new(limits, []);
        let start = Instant::now();
        let (mut passed, mut let_in) = (0, 0);
        for pause in pauses {
            passed += pause;
            let now = start + Duration::from_millis(passed);
            match admission.ask(&name(0), 0, LONG, now) {
                Verdict::Run => let_in += 1,
                Verdict::Wait(_) => prop_assert!(false, "nobody waits for a token"),
                Verdict::Refuse(refusal) => {
                    // Whoever comes again then, and not sooner, is let in.
                    let mut later = Admission::new(limits, []);
                    std::mem::swap(&mut later, &mut admission);
                    let verdict = later.ask(&name(0), 0, LONG, now + refusal.come_again);
                    prop_assert_eq!(verdict, Verdict::Run);
                    let_in += 1;
                    passed += refusal.come_again.as_millis() as u64 + 1;
                    admission = later;
                }
            }
            let most = f64::from(burst) + passed as f64 / 1000.0 * f64::from(per_second);
            prop_assert!(f64::from(let_in) <= most + 1e-6, "{} of {}", let_in, most);
        }
    }
}
