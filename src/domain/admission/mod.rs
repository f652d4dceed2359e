//! Which calls are let in: limits on how many run and how fast they come, over all callers and for each, and a
//! bounded queue before them.
//!
//! ```text
//! ask ─▶ refused: a rate, the legs, the queue, or no time to wait
//!     ─▶ waits ─▶ its turn (let_in) ─▶ runs ─▶ done
//!     │       └▶ gives up (leave)
//!     └▶ runs ─▶ done
//! ```
//!
//! Callers take turns: of each, the call that came first. A caller may have as many calls waiting as there are
//! places left, so that one alone never fills the queue. A call that is refused has taken nothing from any rate.
//! It keeps no clock and no lock; what waits is known here by its ticket only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limit::{PUSHBACK_MAX, PUSHBACK_MIN};

/// Calls that may run at once, and how fast they may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls that run at once.
    pub in_flight_max: u32,
    /// How fast they come.
    pub rate: Option<Rate>,
}

/// How fast calls may come: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls in a second, in the long run.
    pub per_second: u32,
    /// Calls at once, after a pause.
    pub burst: u32,
}

/// What is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Over all callers.
    pub all: Quota,
    /// For each caller that has no quota of its own.
    pub each: Quota,
    /// Legs of all fan-outs that run or wait.
    pub legs_max: u32,
    /// Calls that wait for their turn.
    pub waiting_max: u32,
}

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It runs now.
    Run,
    /// It waits for its turn.
    Wait(Ticket),
    /// It is refused.
    Refuse(Refusal),
}

/// Why a call is refused, and when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Whose limit it is.
    pub limit: Limit,
    /// What there is too much of.
    pub cause: Cause,
    /// When there may be room again.
    pub come_again: Duration,
}

/// Whose limit a call has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// That of all callers together.
    All,
    /// That of the caller.
    Caller,
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Calls a second.
    Rate,
    /// Legs.
    Legs,
    /// Calls that wait.
    Waiting,
    /// Time that the call would have to wait and does not have.
    Hopeless,
}

/// Who is let in now.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    running: u32,
    waiting: u32,
    legs: u32,
    bucket: Bucket,
    durations: Average,
    callers: BTreeMap<Arc<str>, Caller>,
    /// Callers who have calls waiting and may have one more running, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    ticket: u64,
}

#[derive(Debug)]
struct Caller {
    quota: Quota,
    running: u32,
    bucket: Bucket,
    durations: Average,
    waiting: VecDeque<(Ticket, u32)>,
    has_turn: bool,
}

impl Caller {
    fn new(quota: Quota) -> Self {
        Self {
            quota,
            running: 0,
            bucket: Bucket::default(),
            durations: Average::default(),
            waiting: VecDeque::new(),
            has_turn: false,
        }
    }
}

impl Admission {
    /// Nobody is in. `own` are the callers that have a quota of their own.
    pub fn new(limits: Limits, own: impl IntoIterator<Item = (Arc<str>, Quota)>) -> Self {
        let callers = own
            .into_iter()
            .map(|(name, quota)| (name, Caller::new(quota)));
        Self {
            callers: callers.collect(),
            limits,
            running: 0,
            waiting: 0,
            legs: 0,
            bucket: Bucket::default(),
            durations: Average::default(),
            turns: VecDeque::new(),
            ticket: 0,
        }
    }

    /// A call has come, with so many legs and so much time left. Callers are known by name and never
    /// forgotten: there are no more of them than keys.
    pub fn ask(&mut self, name: &Arc<str>, legs: u32, left: Duration, now: Instant) -> Verdict {
        if !self.callers.contains_key(name) {
            let caller = Caller::new(self.limits.each);
            self.callers.insert(Arc::clone(name), caller);
        }
        let turns = self.turns.len() as u32;
        let Some(caller) = self.callers.get_mut(name) else {
            // It was put there just now.
            return Verdict::Run;
        };
        let refuse = |limit, cause, wait: Duration| {
            let come_again = wait.clamp(PUSHBACK_MIN, PUSHBACK_MAX);
            Verdict::Refuse(Refusal {
                limit,
                cause,
                come_again,
            })
        };
        if let Some(wait) = self.bucket.wait(self.limits.all.rate, now) {
            return refuse(Limit::All, Cause::Rate, wait);
        }
        let room_for_legs = self.limits.legs_max.saturating_sub(self.legs);
        if room_for_legs < legs {
            return refuse(Limit::All, Cause::Legs, self.durations.mean());
        }
        if let Some(wait) = caller.bucket.wait(caller.quota.rate, now) {
            return refuse(Limit::Caller, Cause::Rate, wait);
        }
        let all_full = self.limits.all.in_flight_max <= self.running;
        let own_full = caller.quota.in_flight_max <= caller.running;
        // Whoever waits already comes first.
        let must_wait = all_full || own_full || !caller.waiting.is_empty() || 0 < turns;
        if must_wait {
            let limit = if own_full { Limit::Caller } else { Limit::All };
            let own_ahead = caller.waiting.len() as u32;
            let places = self.limits.waiting_max.saturating_sub(self.waiting);
            let own_wait = caller
                .durations
                .wait(own_ahead + 1, caller.quota.in_flight_max);
            // The others have their turns too, but no more of them than this caller.
            let ahead = self.waiting.min((own_ahead + 1).saturating_mul(turns + 1));
            let wait = self
                .durations
                .wait(ahead + 1, self.limits.all.in_flight_max);
            let wait = if own_full { wait.max(own_wait) } else { wait };
            if places <= own_ahead {
                return refuse(limit, Cause::Waiting, wait);
            }
            if left <= wait {
                return refuse(limit, Cause::Hopeless, wait);
            }
        }
        self.bucket.take(self.limits.all.rate);
        caller.bucket.take(caller.quota.rate);
        self.legs += legs;
        if !must_wait {
            self.running += 1;
            caller.running += 1;
            return Verdict::Run;
        }
        self.ticket += 1;
        let ticket = Ticket(self.ticket);
        caller.waiting.push_back((ticket, legs));
        self.waiting += 1;
        self.give_turn(name);
        Verdict::Wait(ticket)
    }

    /// Lets in the call whose turn it is, if there is room for one. To be asked until there is none, after each
    /// `done` and `leave`.
    pub fn let_in(&mut self) -> Option<Ticket> {
        if self.limits.all.in_flight_max <= self.running {
            return None;
        }
        let name = self.turns.pop_front()?;
        let caller = self.callers.get_mut(&name)?;
        caller.has_turn = false;
        let (ticket, _) = caller.waiting.pop_front()?;
        caller.running += 1;
        self.running += 1;
        self.waiting -= 1;
        self.give_turn(&name);
        Some(ticket)
    }

    /// A call that ran is over; it ran for so long.
    pub fn done(&mut self, name: &Arc<str>, legs: u32, ran: Duration) {
        if let Some(caller) = self.callers.get_mut(name) {
            caller.durations.observe(ran);
        }
        self.durations.observe(ran);
        self.give_back(name, legs);
    }

    /// A call that was let in had left already: it says nothing of how long calls take.
    pub fn give_back(&mut self, name: &Arc<str>, legs: u32) {
        if let Some(caller) = self.callers.get_mut(name) {
            caller.running = caller.running.saturating_sub(1);
        }
        self.running = self.running.saturating_sub(1);
        self.legs = self.legs.saturating_sub(legs);
        self.give_turn(name);
    }

    /// A call that waits gives up. Does nothing when it does not wait any more.
    pub fn leave(&mut self, name: &Arc<str>, ticket: Ticket) {
        let Some(caller) = self.callers.get_mut(name) else {
            return;
        };
        let at = caller.waiting.iter().position(|(one, _)| *one == ticket);
        if let Some((_, legs)) = at.and_then(|at| caller.waiting.remove(at)) {
            self.waiting -= 1;
            self.legs = self.legs.saturating_sub(legs);
            if caller.waiting.is_empty() && caller.has_turn {
                caller.has_turn = false;
                self.turns.retain(|one| one != name);
            }
        }
    }

    /// A caller who has a call waiting, and may have one more running, stands once in the order of turns.
    fn give_turn(&mut self, name: &Arc<str>) {
        if let Some(caller) = self.callers.get_mut(name)
            && !caller.has_turn
            && !caller.waiting.is_empty()
            && caller.running < caller.quota.in_flight_max
        {
            caller.has_turn = true;
            self.turns.push_back(Arc::clone(name));
        }
    }

    /// Calls that run now.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Calls that wait now.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Legs of the fan-outs that run or wait now.
    #[must_use]
    pub fn legs(&self) -> u32 {
        self.legs
    }
}

/// Tokens for calls: full at first, refilled with time.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Tokens that are gone.
    gone: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// How long until there is a token; `None` when there is one.
    pub fn wait(&mut self, rate: Option<Rate>, now: Instant) -> Option<Duration> {
        let rate = rate?;
        let per_second = f64::from(rate.per_second.max(1));
        let passed = self
            .at
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.gone = (self.gone - passed * per_second).max(0.0);
        let missing = self.gone + 1.0 - f64::from(rate.burst.max(1));
        // Rounded up, so that whoever waits for so long finds a token.
        (1e-9 < missing)
            .then(|| Duration::from_secs_f64(missing / per_second) + Duration::from_nanos(1))
    }

    /// Takes a token that there is.
    pub fn take(&mut self, rate: Option<Rate>) {
        if rate.is_some() {
            self.gone += 1.0;
        }
    }
}

/// How long calls run, with more weight on the latest ones.
#[derive(Debug, Default)]
struct Average {
    seconds: Option<f64>,
}

impl Average {
    fn observe(&mut self, ran: Duration) {
        const WEIGHT: f64 = 0.1;
        let ran = ran.as_secs_f64();
        self.seconds = Some(
            self.seconds
                .map_or(ran, |mean| mean + WEIGHT * (ran - mean)),
        );
    }

    fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds.unwrap_or_default()).unwrap_or_default()
    }

    /// How long until so many calls are over, when so many run at once.
    fn wait(&self, calls: u32, at_once: u32) -> Duration {
        self.mean()
            .mul_f64(f64::from(calls) / f64::from(at_once.max(1)))
    }
}

#[cfg(test)]
mod tests;
