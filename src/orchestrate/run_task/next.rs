//! The next try of a task: the first, one after a failure, or a hedge.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::choose::{self, Choice, choose};
use super::flying::Beside;
use super::ready::{NotReady, has_usable};
use super::{Route, Tries, lock};
use crate::domain::failure::{Failure, Reason};
use crate::domain::hedge;
use crate::domain::limit::{ATTEMPTS_MAX, READY_WAITING_MAX};
use crate::domain::retry::{Asked, Facts, Means, Place, Pushback, Stop, Verdict, decide, is_free};
use crate::domain::task::AttemptKind;
use crate::fleet::Pass;
use crate::fleet::view::Member;
use crate::orchestrate::attempt::busy;
use crate::orchestrate::excluded::{excluded, nobody};

/// When to come again while all places for waiting are taken.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// The next try.
pub(super) struct Next {
    pub(super) choice: Choice,
    /// What it is called when it goes to an instance that the request names.
    kind: AttemptKind,
    /// Not before.
    pub(super) at: Instant,
    /// Whether the choice is as old as a wait: the instance may have gone down since.
    is_old: bool,
}

impl Next {
    pub(super) fn now(choice: Choice, kind: AttemptKind, now: Instant) -> Self {
        Self {
            choice,
            kind,
            at: now,
            is_old: false,
        }
    }

    pub(super) fn member(&self) -> &Member {
        &self.choice.member
    }
}

/// A try that its instance has given leave to.
pub(super) struct Entered {
    pub(super) member: Arc<Member>,
    pub(super) kind: AttemptKind,
    pub(super) pass: Pass,
}

/// Why there is no next try.
enum Halt {
    /// There must be none.
    Stop(Stop),
    /// There might be, and no instance may be used.
    Nobody,
}

impl Route {
    /// The first try. Waits for an instance where the caller asked for that.
    pub(super) async fn first(&mut self) -> Result<Next, Failure> {
        let now = Instant::now();
        let chosen = match (choose(self, &[], now), self.readiness.clone()) {
            (Some(chosen), _) => Ok(chosen),
            (None, None) => Err(None),
            (None, Some(readiness)) => {
                let named = Arc::clone(&self.candidates);
                let ends = Instant::from_std(self.deadline.work_ends());
                let look = || {
                    let fleet = (self.fleet_now)();
                    if !has_usable(&fleet) {
                        return None;
                    }
                    let found = named.iter().filter_map(|member| fleet.find(member.id()));
                    self.candidates = found.cloned().collect();
                    self.panic = fleet.panic_among(&self.candidates);
                    choose(self, &[], Instant::now())
                };
                let waited = readiness.wait(ends, look).await.map_err(Some);
                if waited.is_err() {
                    self.candidates = named;
                }
                waited
            }
        };
        let choice = chosen.map_err(|why| self.not_ready(why))?;
        Ok(Next::now(choice, AttemptKind::First, now))
    }

    fn not_ready(&self, why: Option<NotReady>) -> Failure {
        let nobody = nobody(&self.candidates, self.panic);
        match why {
            None => nobody,
            Some(NotReady::NoTime) => Failure {
                reason: Reason::DeadlineExceeded,
                detail: format!("no instance was ready in time: {}", nobody.detail).into(),
                ..nobody
            },
            Some(NotReady::NoPlace) => {
                let detail = format!("{READY_WAITING_MAX} calls wait for an instance already");
                Failure {
                    pushback: Some(Pushback::Wait(COME_AGAIN)),
                    ..Failure::new(Reason::TooMany, detail)
                }
            }
        }
    }

    /// What comes after a failed try, with what is `planned` already; `None` when it is to wait for what runs.
    pub(super) async fn go_on(
        &self,
        (failed, failure): (&Member, &Failure),
        planned: Option<Next>,
        asked: &mut Asked,
        tries: &Tries,
        beside: Beside,
    ) -> Result<Option<Next>, Stop> {
        asked.note(failure.pushback, Instant::now().into_std())?;
        let next = match planned {
            Some(planned) => Some(planned),
            None => self.follow_up(failed, failure, tries, beside).await?,
        };
        next.map(|next| self.held_back(next, asked)).transpose()
    }

    /// Not before what any instance has asked for.
    fn held_back(&self, next: Next, asked: &Asked) -> Result<Next, Stop> {
        let at = Instant::from_std(asked.not_before(next.at.into_std()));
        if at == next.at {
            return Ok(next);
        }
        if self.deadline.work_ends() <= at.into_std() {
            return Err(Stop::NoTime);
        }
        let is_old = true;
        Ok(Next { at, is_old, ..next })
    }

    /// Another try. Waits for an instance, or goes back to one, only where nothing else runs.
    async fn follow_up(
        &self,
        failed: &Member,
        failure: &Failure,
        tries: &Tries,
        beside: Beside,
    ) -> Result<Option<Next>, Stop> {
        let after = self.after(failed, failure, tries, beside);
        match (after, &self.readiness) {
            (Ok(next), _) => Ok(Some(next)),
            (Err(Halt::Stop(stop)), _) => Err(stop),
            (Err(Halt::Nobody), _) if beside == Beside::Others => Ok(None),
            (Err(Halt::Nobody), Some(readiness)) => {
                let ends = Instant::from_std(self.deadline.work_ends());
                let look = || {
                    if !has_usable(&(self.fleet_now)()) {
                        return None;
                    }
                    match self.after(failed, failure, tries, beside) {
                        Ok(next) => Some(Ok(Some(next))),
                        Err(Halt::Stop(stop)) => Some(Err(stop)),
                        Err(Halt::Nobody) => None,
                    }
                };
                readiness.wait(ends, look).await.map_err(|why| match why {
                    NotReady::NoPlace => Stop::Exhausted,
                    NotReady::NoTime => Stop::NoTime,
                })?
            }
            (Err(Halt::Nobody), None) => Err(Stop::Exhausted),
        }
    }

    fn after(
        &self,
        failed: &Member,
        failure: &Failure,
        tries: &Tries,
        beside: Beside,
    ) -> Result<Next, Halt> {
        let now = Instant::now();
        let (chosen, place, made) = tries.with(|attempts| {
            let chosen = choose(self, attempts, now);
            let tried = |member: &Member| {
                let mut tried = attempts.iter().map(|attempt| &attempt.instance);
                tried.any(|instance| instance == member.id())
            };
            let place = match &chosen {
                Some(choice) if tried(&choice.member) => Place::Again,
                Some(_) | None => Place::Elsewhere,
            };
            (chosen, place, attempts.len() as u32)
        });
        // Both budgets at once, so that nobody takes what was just counted; always in this order.
        let (mut all, mut own) = (lock(&self.retries), failed.load.retries());
        let std_now = now.into_std();
        let facts = Facts {
            failure,
            made,
            place,
            means: if all.has(std_now) && own.has(std_now) {
                Means::Left
            } else {
                Means::Spent
            },
            left: self.deadline.budget(std_now).unwrap_or_default(),
            random: self.chance.draw(),
        };
        match (decide(&self.retry, facts), chosen) {
            (Verdict::Stop(stop), _) => Err(Halt::Stop(stop)),
            (Verdict::Again(..), None) => Err(Halt::Nobody),
            // Perhaps to the very one that still works on it.
            (Verdict::Again(..), Some(_)) if place == Place::Again && beside == Beside::Others => {
                Err(Halt::Nobody)
            }
            (Verdict::Again(kind, wait), Some(choice)) => {
                if !is_free(failure) {
                    let _ = (all.take(std_now), own.take(std_now));
                }
                Ok(Next {
                    choice,
                    kind,
                    at: now + wait,
                    is_old: !wait.is_zero(),
                })
            }
        }
    }

    /// Leave to send the task, by the instance that was chosen or by another one when that was drained or ejected
    /// since. A hedge that is not let in is none, and where others run no second try goes where one has been.
    pub(super) fn enter(
        &self,
        next: Next,
        tries: &Tries,
        beside: Beside,
        now: Instant,
    ) -> Result<Entered, Failure> {
        let Next {
            choice,
            kind,
            is_old,
            ..
        } = next;
        if kind == AttemptKind::Hedge {
            let panic = choice.panic(self);
            let member = choice.member;
            return match member.load.admit(panic, now) {
                Ok(pass) if pass.finds_it_full() => Err(busy(&member)),
                Ok(pass) => Ok(Entered { member, kind, pass }),
                Err(exclusion) => Err(excluded(&member, exclusion)),
            };
        }
        tries.with(|attempts| {
            let choice = if is_old && !self.is_still_fit(&choice, now) {
                choose(self, attempts, now).ok_or_else(|| nobody(&self.candidates, self.panic))?
            } else {
                choice
            };
            let (Choice { member, is_listed }, pass) = choose::enter(self, choice, attempts, now)?;
            let mut tried = attempts.iter().map(|attempt| &attempt.instance);
            if beside == Beside::Others && tried.any(|instance| instance == member.id()) {
                return Err(nobody(&self.candidates, self.panic));
            }
            let kind = if is_listed {
                kind
            } else {
                AttemptKind::Fallback
            };
            Ok(Entered { member, kind, pass })
        })
    }

    /// Whether it may have the task as the fleet is now.
    fn is_still_fit(&self, choice: &Choice, now: Instant) -> bool {
        let fleet = (self.fleet_now)();
        let current = fleet.find(choice.member.id());
        let exclusion = |current: &Arc<Member>| current.exclusion(choice.panic(self), now);
        current.is_some_and(|current| exclusion(current).is_none())
    }

    /// How long a try may take before a hedge is sent beside it; `None` when none would be.
    #[must_use]
    pub fn hedge_delay(&self) -> Option<Duration> {
        if self.hedge == hedge::Policy::Off {
            return None;
        }
        lock(self.hedges.as_ref()?).delay(self.hedge)
    }

    /// When a try that begins now would be hedged.
    pub(super) fn hedge_at(&self, now: Instant) -> Option<Instant> {
        let at = now + self.hedge_delay()?;
        (at.into_std() < self.deadline.work_ends()).then_some(at)
    }

    /// A hedge: at an instance that has not been tried, within the budgets of hedges and of retries.
    pub(super) fn hedge(&self, tries: &Tries, asked: &Asked) -> Option<Next> {
        let at = Instant::now();
        if at.into_std() < asked.not_before(at.into_std()) {
            return None;
        }
        let choice = tries.with(|attempts| {
            let attempts_max = self.retry.attempts_max.min(ATTEMPTS_MAX);
            if attempts_max as usize <= attempts.len() {
                return None;
            }
            let choice = choose(self, attempts, at)?;
            let mut tried = attempts.iter().map(|attempt| &attempt.instance);
            let is_untried = !tried.any(|instance| instance == choice.member.id());
            // To be refused it need not be sent: it would cost a try and the budgets.
            (is_untried && !choice.member.load.is_full()).then_some(choice)
        })?;
        let now = at.into_std();
        let (mut hedges, mut all) = (lock(self.hedges.as_ref()?), lock(&self.retries));
        let may = hedges.has(now) && all.has(now) && hedges.take(now) && all.take(now);
        may.then(|| Next::now(choice, AttemptKind::Hedge, at))
    }

    /// Takes an answer into account.
    pub(super) fn observe(&self, latency: Duration) {
        if let Some(hedges) = &self.hedges {
            lock(hedges).answered(latency);
        }
    }
}
