//! The next try of a task: the first, one after a failure, or a hedge.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::choose::{self, choose};
use super::ready::{NotReady, has_usable};
use super::{Route, Tries, lock};
use crate::domain::failure::{Failure, Reason};
use crate::domain::hedge;
use crate::domain::limit::{ATTEMPTS_MAX, READY_WAITING_MAX};
use crate::domain::retry::{Facts, Means, Place, Pushback, Stop, Verdict, decide};
use crate::domain::task::AttemptKind;
use crate::fleet::Pass;
use crate::fleet::view::Member;
use crate::orchestrate::excluded::{excluded, nobody};

/// When to come again while all places for waiting are taken.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// The next try.
pub(super) struct Next {
    pub(super) member: Arc<Member>,
    pub(super) kind: AttemptKind,
    /// Not before.
    pub(super) at: Instant,
    /// Whether the choice is as old as a wait: the instance may have gone down since.
    pub(super) is_old: bool,
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
        let chosen = match (choose(self, &[]), self.readiness.clone()) {
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
                    choose(self, &[])
                };
                let waited = readiness.wait(ends, look).await.map_err(Some);
                if waited.is_err() {
                    self.candidates = named;
                }
                waited
            }
        };
        let (member, listed) = chosen.map_err(|why| self.not_ready(why))?;
        let kind = if listed {
            AttemptKind::First
        } else {
            AttemptKind::Fallback
        };
        let at = Instant::now();
        let is_old = false;
        Ok(Next {
            member,
            kind,
            at,
            is_old,
        })
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

    /// What comes after a failed try; `None` when it is to wait for what runs. Waits for an instance, or goes
    /// back to one, only where nothing else runs.
    pub(super) async fn follow_up(
        &self,
        failed: &Member,
        failure: &Failure,
        tries: &Tries,
        is_alone: bool,
    ) -> Result<Option<Next>, Stop> {
        let after = self.after(failed, failure, tries, is_alone);
        match (after, &self.readiness) {
            (Ok(next), _) => Ok(Some(next)),
            (Err(Halt::Stop(stop)), _) => Err(stop),
            (Err(Halt::Nobody), _) if !is_alone => Ok(None),
            (Err(Halt::Nobody), Some(readiness)) => {
                let ends = Instant::from_std(self.deadline.work_ends());
                let look = || {
                    if !has_usable(&(self.fleet_now)()) {
                        return None;
                    }
                    match self.after(failed, failure, tries, is_alone) {
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
        is_alone: bool,
    ) -> Result<Next, Halt> {
        let now = Instant::now();
        let (chosen, place, made) = tries.with(|attempts| {
            let chosen = choose(self, attempts);
            let tried = |member: &Member| {
                let mut tried = attempts.iter().map(|attempt| &attempt.instance);
                tried.any(|instance| instance == member.id())
            };
            let place = match &chosen {
                Some((member, _)) if tried(member) => Place::Again,
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
            (Verdict::Again(..), Some(_)) if place == Place::Again && !is_alone => {
                Err(Halt::Nobody)
            }
            (Verdict::Again(kind, wait), Some((member, listed))) => {
                if costs(failure) {
                    let _ = (all.take(std_now), own.take(std_now));
                }
                let kind = if listed { kind } else { AttemptKind::Fallback };
                let at = now + wait;
                let is_old = !wait.is_zero();
                Ok(Next {
                    member,
                    kind,
                    at,
                    is_old,
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
        is_alone: bool,
    ) -> Result<Entered, Failure> {
        let Next {
            member,
            kind,
            is_old,
            ..
        } = next;
        if kind == AttemptKind::Hedge {
            let admitted = member.load.admit(self.panic, Instant::now());
            return match admitted {
                Ok(pass) => Ok(Entered { member, kind, pass }),
                Err(exclusion) => Err(excluded(&member, exclusion)),
            };
        }
        tries.with(|attempts| {
            let (member, kind) = if is_old && !self.is_still_fit(&member) {
                let chosen = choose(self, attempts);
                let (other, listed) = chosen.ok_or_else(|| nobody(&self.candidates, self.panic))?;
                (other, if listed { kind } else { AttemptKind::Fallback })
            } else {
                (member, kind)
            };
            let (member, other, pass) = choose::enter(self, member, attempts)?;
            let mut tried = attempts.iter().map(|attempt| &attempt.instance);
            if !is_alone && tried.any(|instance| instance == member.id()) {
                return Err(nobody(&self.candidates, self.panic));
            }
            let kind = other.unwrap_or(kind);
            Ok(Entered { member, kind, pass })
        })
    }

    /// Whether it may have the task as the fleet is now.
    fn is_still_fit(&self, member: &Member) -> bool {
        let fleet = (self.fleet_now)();
        let current = fleet.find(member.id());
        current.is_some_and(|current| current.exclusion(self.panic, Instant::now()).is_none())
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
    pub(super) fn hedge_at(&self) -> Option<Instant> {
        let at = Instant::now() + self.hedge_delay()?;
        (at.into_std() < self.deadline.work_ends()).then_some(at)
    }

    /// A hedge: at an instance that has not been tried, within the budgets of hedges and of retries.
    pub(super) fn hedge(&self, tries: &Tries) -> Option<Next> {
        let at = Instant::now();
        let member = tries.with(|attempts| {
            let attempts_max = self.retry.attempts_max.min(ATTEMPTS_MAX);
            if attempts_max as usize <= attempts.len() {
                return None;
            }
            let (member, _) = choose(self, attempts)?;
            let mut tried = attempts.iter().map(|attempt| &attempt.instance);
            (!tried.any(|instance| instance == member.id())).then_some(member)
        })?;
        let now = at.into_std();
        let (mut hedges, mut all) = (lock(self.hedges.as_ref()?), lock(&self.retries));
        let may = hedges.has(now) && all.has(now) && hedges.take(now) && all.take(now);
        may.then_some(Next {
            member,
            kind: AttemptKind::Hedge,
            at,
            is_old: false,
        })
    }

    /// Takes an answer into account.
    pub(super) fn observe(&self, latency: Duration) {
        if let Some(hedges) = &self.hedges {
            lock(hedges).answered(latency);
        }
    }
}

/// Whether a try after this failure counts against the budgets: a refusal inside this process has cost no
/// instance anything.
fn costs(failure: &Failure) -> bool {
    failure.progress != crate::domain::failure::Progress::NeverSent
}
