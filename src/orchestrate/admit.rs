//! The room before all others: a call is let in, waits for its turn, or is refused before anything is sent.
//!
//! Who is let in is decided in `domain::admission`; this holds the lock, the clock and those who wait. Only work
//! comes by here: health, registrations and whatever ends work are never refused for load.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{self, Instant};

use crate::chance::Chance;
use crate::domain::admission::{Admission, Cause, Limit, Limits, Quota, Refusal, Ticket, Verdict};
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Reason};
use crate::domain::retry::Pushback;

/// Lets calls in.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    chance: Chance,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// One call that was let in; its place is free again when this is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    caller: Arc<str>,
    legs: u32,
    since: Instant,
    turn: Turn,
}

/// How a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    AtOnce,
    /// After a wait: what it has seen of the fleet is as old as that.
    AfterAWait,
}

impl Gate {
    /// A gate that nobody has passed. `own` are the callers that have a quota of their own.
    #[must_use]
    pub fn new(
        limits: Limits,
        own: impl IntoIterator<Item = (Arc<str>, Quota)>,
        chance: Chance,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                admission: Admission::new(limits, own),
                waiting: BTreeMap::new(),
            }),
            chance,
        })
    }

    /// Lets a call in, if need be after a wait. A fan-out counts as one call, and each of its targets as a leg.
    pub async fn admit(
        self: &Arc<Self>,
        caller: &Arc<str>,
        legs: usize,
        deadline: Deadline,
    ) -> Result<Permit, Failure> {
        let legs = u32::try_from(legs).unwrap_or(u32::MAX);
        let (ticket, turn) = match self.ask(caller, legs, deadline) {
            Asked::Run => return Ok(Permit::new(self, caller, legs, Turn::AtOnce)),
            Asked::Refuse(refusal) => return Err(refused(refusal, &self.chance)),
            Asked::Wait(ticket, turn) => (ticket, turn),
        };
        let waiting = Waiting {
            gate: Arc::clone(self),
            caller: Arc::clone(caller),
            legs,
            ticket,
            is_over: false,
        };
        let ends = Instant::from_std(deadline.work_ends());
        match time::timeout_at(ends, turn).await {
            Ok(Ok(())) => Ok(waiting.over()),
            Ok(Err(_)) | Err(_) => Err(Failure::new(
                Reason::DeadlineExceeded,
                "the call waited for its turn until its time was over",
            )),
        }
    }

    fn ask(&self, caller: &Arc<str>, legs: u32, deadline: Deadline) -> Asked {
        let now = Instant::now().into_std();
        let left = deadline.budget(now).unwrap_or_default();
        let mut state = self.state();
        match state.admission.ask(caller, legs, left, now) {
            Verdict::Run => Asked::Run,
            Verdict::Refuse(refusal) => Asked::Refuse(refusal),
            Verdict::Wait(ticket) => {
                let (tx, turn) = oneshot::channel();
                state.waiting.insert(ticket, tx);
                Asked::Wait(ticket, turn)
            }
        }
    }

    /// Calls that run, calls that wait, and legs of both.
    #[must_use]
    pub fn load(&self) -> (u32, u32, u32) {
        let admission = &self.state().admission;
        (admission.running(), admission.waiting(), admission.legs())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Asked {
    Run,
    Wait(Ticket, oneshot::Receiver<()>),
    Refuse(Refusal),
}

impl State {
    /// Whoever has gone in the meantime gives the place back when it notices.
    fn let_in(&mut self) {
        while let Some(ticket) = self.admission.let_in() {
            if let Some(turn) = self.waiting.remove(&ticket) {
                let _ = turn.send(());
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let ran = self.since.elapsed();
        let mut state = self.gate.state();
        state.admission.done(&self.caller, self.legs, ran);
        state.let_in();
    }
}

/// A call that waits for its turn. Dropped, it gives up its place in the queue, or what it was given just then.
struct Waiting {
    gate: Arc<Gate>,
    caller: Arc<str>,
    legs: u32,
    ticket: Ticket,
    is_over: bool,
}

impl Waiting {
    fn over(mut self) -> Permit {
        self.is_over = true;
        Permit::new(&self.gate, &self.caller, self.legs, Turn::AfterAWait)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.gate.state();
        if state.waiting.remove(&self.ticket).is_some() {
            state.admission.leave(&self.caller, self.ticket);
        } else {
            state.admission.give_back(&self.caller, self.legs);
        }
        state.let_in();
    }
}

impl Permit {
    /// How the call came in.
    #[must_use]
    pub fn turn(&self) -> Turn {
        self.turn
    }

    fn new(gate: &Arc<Gate>, caller: &Arc<str>, legs: u32, turn: Turn) -> Self {
        Self {
            turn,
            gate: Arc::clone(gate),
            caller: Arc::clone(caller),
            legs,
            since: Instant::now(),
        }
    }
}

fn refused(refusal: Refusal, chance: &Chance) -> Failure {
    let (reason, whose) = match refusal.limit {
        Limit::All => (Reason::Overloaded, "the orchestrator"),
        Limit::Caller => (Reason::CallerLimit, "the key"),
    };
    let what = match refusal.cause {
        Cause::Rate => "has more calls a second than it may",
        Cause::Legs => "has as many fan-out legs under way as it may",
        Cause::Waiting => "has as many calls as it may, and more do not wait",
        Cause::Hopeless => {
            "has as many calls as it may, and the turn of this one would come too late"
        }
    };
    // Those who are refused together should not come again together.
    let come_again = refusal.come_again.mul_f64(1.0 + 0.5 * chance.draw::<f64>());
    let millis = come_again.as_millis();
    Failure {
        pushback: Some(Pushback::Wait(come_again)),
        ..Failure::new(reason, format!("{whose} {what}: come again in {millis} ms"))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::domain::deadline::Timeouts;
    use crate::orchestrate::stage::ms;

    fn gate(in_flight_max: u32, waiting_max: u32) -> Arc<Gate> {
        let all = Quota {
            in_flight_max,
            rate: None,
        };
        let limits = Limits {
            all,
            each: all,
            legs_max: 10,
            waiting_max,
        };
        Gate::new(limits, [], Chance::default())
    }

    fn within(millis: u64) -> Deadline {
        let timeouts = Timeouts {
            header: None,
            field: None,
            default: ms(millis),
            max: ms(600_000),
        };
        Deadline::of(Instant::now().into_std(), timeouts)
    }

    fn caller() -> Arc<str> {
        "ci".into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_goes_to_who_has_waited_longest() {
        let gate = gate(1, 10);
        let (caller, deadline) = (caller(), within(10_000));
        let running = gate.admit(&caller, 0, deadline).await.unwrap();
        let mut first = Box::pin(gate.admit(&caller, 4, deadline));
        let mut second = Box::pin(gate.admit(&caller, 5, deadline));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(gate.load(), (1, 2, 9));
        drop(running);
        assert_eq!(gate.load(), (1, 1, 9));
        assert!((&mut second).now_or_never().is_none());
        let first = first.await.unwrap();
        drop(first);
        drop(second.await.unwrap());
        assert_eq!(gate.load(), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_holds_nobody_up() {
        let gate = gate(1, 10);
        let (caller, deadline) = (caller(), within(10_000));
        let running = gate.admit(&caller, 0, deadline).await.unwrap();
        let mut waits = Box::pin(gate.admit(&caller, 0, deadline));
        assert!((&mut waits).now_or_never().is_none());
        let mut last = Box::pin(gate.admit(&caller, 0, deadline));
        assert!((&mut last).now_or_never().is_none());
        drop(waits);
        assert_eq!(gate.load(), (1, 1, 0));
        // Let in, and gone before it has noticed.
        let mut waits = Box::pin(gate.admit(&caller, 0, deadline));
        assert!((&mut waits).now_or_never().is_none());
        drop(running);
        drop(last);
        assert_eq!(gate.load(), (1, 0, 0));
        drop(waits);
        assert_eq!(gate.load(), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_let_in_and_had_gone_says_nothing_of_how_long_calls_take() {
        let gate = gate(1, 100);
        let (caller, deadline) = (caller(), within(600_000));
        let running = gate.admit(&caller, 0, deadline).await.unwrap();
        time::advance(ms(2000)).await;
        drop(running);
        for _ in 0..50 {
            let running = gate.admit(&caller, 0, deadline).await.unwrap();
            let mut waits = Box::pin(gate.admit(&caller, 0, deadline));
            assert!((&mut waits).now_or_never().is_none());
            time::advance(ms(2000)).await;
            drop(running);
            // It has its place and does not know it yet.
            drop(waits);
        }
        assert_eq!(gate.load(), (0, 0, 0));
        let _running = gate.admit(&caller, 0, deadline).await.unwrap();
        let failure = gate.admit(&caller, 0, within(1000)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::CallerLimit, "it would wait for 2 s");
        let Some(Pushback::Wait(wait)) = failure.pushback else {
            panic!("{failure:?}")
        };
        assert!(ms(2000) <= wait && wait <= ms(3000), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_ends_with_the_time_of_the_call() {
        let gate = gate(1, 10);
        let caller = caller();
        let _running = gate.admit(&caller, 0, within(600_000)).await.unwrap();
        let start = Instant::now();
        let failure = gate.admit(&caller, 0, within(1000)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DeadlineExceeded);
        assert!(failure.is_retryable());
        assert_eq!(start.elapsed(), ms(950), "the reserve is kept");
        assert_eq!(gate.load(), (1, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_when_to_come_again() {
        let gate = gate(1, 0);
        let caller = caller();
        let _running = gate.admit(&caller, 0, within(1000)).await.unwrap();
        let failure = gate.admit(&caller, 0, within(1000)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::CallerLimit);
        assert!(failure.is_retryable());
        let Some(Pushback::Wait(wait)) = failure.pushback else {
            panic!("{failure:?}")
        };
        assert!(ms(50) <= wait && wait <= ms(75), "{wait:?}");
        let failure = gate.admit(&caller, 11, within(1000)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::Overloaded);
    }
}
