//! Whether a call may go to an instance at this very moment, and what comes of it.
//!
//! Views are pictures of a moment; between choosing an instance and sending there, its operator may drain it or
//! its calls may eject it. So each call asks here last. Nothing global is touched unless a threshold is crossed.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::load::{Load, Outstanding};
use super::{Fleet, HealthNow};
use crate::chance::Chance;
use crate::domain::health::observed::{Cause, Leave, Observed, Said, Standing};
use crate::domain::health::{self, Admin, Exclusion, Panic, probed};
use crate::domain::id::InstanceId;

const DRAINING: u8 = 1;
const DISABLED: u8 = 2;
const EJECTED: u8 = 4;

/// The last word on calls to one instance.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// 0 while nothing speaks against a call.
    closed: AtomicU8,
    observed: Mutex<Observed>,
    settings: HealthNow,
    chance: Chance,
    judge: Option<Judge>,
}

/// The way to whoever knows the whole fleet.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) fleet: Weak<Fleet>,
    pub(super) id: InstanceId,
    pub(super) serial: u64,
}

/// Leave for one call. The call is outstanding until this is dropped.
#[derive(Debug)]
pub struct Pass {
    load: Arc<Load>,
    is_trial: bool,
    /// `None` when the instance has as many calls as it may have.
    outstanding: Option<Outstanding>,
}

impl Gate {
    pub(super) fn new(admin: Admin, settings: HealthNow, chance: Chance, judge: Judge) -> Self {
        let gate = Self {
            settings,
            chance,
            judge: Some(judge),
            ..Self::default()
        };
        gate.set_admin(admin);
        gate
    }

    pub(super) fn set_admin(&self, admin: Admin) {
        let set = match admin {
            Admin::Active => 0,
            Admin::Draining => DRAINING,
            Admin::Disabled => DISABLED,
        };
        // Read and written in one order with the calls outstanding: whoever sees none left after this may rely
        // on it that none will come.
        let keep = |closed| Some(closed & EJECTED | set);
        let _ = self
            .closed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, keep);
    }

    pub(super) fn slow_start(&self) -> Duration {
        self.settings.load().slow_start
    }

    pub(super) fn standing(&self) -> Standing {
        self.observed().standing()
    }

    /// Ejects the instance, when it still stands otherwise.
    pub(super) fn eject(&self, cause: Cause, now: Instant) -> Standing {
        let mut observed = self.observed();
        if observed.standing() == Standing::Trusted {
            let now = now.into_std();
            let settings = &self.settings.load().ejection;
            observed.eject(cause, now, self.chance.draw(), settings);
            self.closed.fetch_or(EJECTED, Ordering::SeqCst);
        }
        observed.standing()
    }

    pub(super) fn keep(&self) {
        self.observed().keep();
    }

    pub(super) fn pardon(&self, now: Instant) {
        self.observed().pardon(now.into_std());
        self.closed.fetch_and(!EJECTED, Ordering::SeqCst);
    }

    /// Why a call would not be let in now. Nothing is taken by asking.
    pub(super) fn exclusion(
        &self,
        probed: probed::State,
        panic: Panic,
        now: Instant,
    ) -> Option<Exclusion> {
        let closed = self.closed.load(Ordering::SeqCst);
        let admin = match closed {
            closed if closed & DISABLED != 0 => Admin::Disabled,
            closed if closed & DRAINING != 0 => Admin::Draining,
            _open => Admin::Active,
        };
        let (standing, is_on_trial) = if closed & EJECTED == 0 {
            (Standing::Trusted, false)
        } else {
            let observed = self.observed();
            (observed.standing(), observed.is_on_trial())
        };
        let excluded = health::exclusion(admin, probed, standing, panic, now.into_std());
        let on_trial = is_on_trial && panic == Panic::Off;
        excluded.or_else(|| on_trial.then_some(Exclusion::OnTrial))
    }

    /// An instance that drains has just finished its last call.
    pub(super) fn drained(&self) {
        if self.closed.load(Ordering::SeqCst) & (DRAINING | DISABLED) != 0
            && let Some((fleet, judge)) = self.fleet()
        {
            fleet.note_drained(&judge.id, judge.serial);
        }
    }

    fn ask_leave(&self, panic: Panic, now: Instant) -> Result<Leave, Exclusion> {
        match self.closed.load(Ordering::SeqCst) {
            0 => return Ok(Leave::Ordinary),
            closed if closed & DISABLED != 0 => return Err(Exclusion::Disabled),
            closed if closed & DRAINING != 0 => return Err(Exclusion::Draining),
            _ejected => {}
        }
        match (self.observed().ask_leave(now.into_std()), panic) {
            (leave @ (Leave::Ordinary | Leave::Trial), _) => Ok(leave),
            (Leave::Ejected(_) | Leave::OnTrial, Panic::On) => Ok(Leave::Ordinary),
            (Leave::Ejected(until), Panic::Off) => Err(Exclusion::Ejected { until }),
            (Leave::OnTrial, Panic::Off) => Err(Exclusion::OnTrial),
        }
    }

    fn report(&self, said: Said, now: Instant) {
        let asked = self
            .observed()
            .observe(said, now.into_std(), &self.settings.load().ejection);
        if let Some(cause) = asked
            && let Some((fleet, judge)) = self.fleet()
        {
            fleet.judge(&judge.id, judge.serial, cause);
        }
    }

    fn end_trial(&self, said: Said, now: Instant) {
        let changed = {
            let mut observed = self.observed();
            let settings = &self.settings.load().ejection;
            let changed = observed.end_trial(said, now.into_std(), self.chance.draw(), settings);
            if observed.standing() == Standing::Trusted {
                self.closed.fetch_and(!EJECTED, Ordering::SeqCst);
            }
            changed
        };
        if changed && let Some((fleet, judge)) = self.fleet() {
            fleet.note_standing(&judge.id, judge.serial);
        }
    }

    fn fleet(&self) -> Option<(Arc<Fleet>, &Judge)> {
        let judge = self.judge.as_ref()?;
        Some((judge.fleet.upgrade()?, judge))
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Asks, as the last thing before it is sent, whether one call may go to the instance.
    pub fn admit(self: &Arc<Self>, panic: Panic, now: Instant) -> Result<Pass, Exclusion> {
        // Counted before it is asked: a drain that sees nothing outstanding has been seen by whoever comes later.
        let outstanding = self.begin();
        let leave = self.gate.ask_leave(panic, now)?;
        // Last, so that only a call that is sent has cost one.
        let outstanding = outstanding.filter(|_| self.take_token(now).is_some());
        Ok(Pass {
            load: Arc::clone(self),
            is_trial: leave == Leave::Trial,
            outstanding,
        })
    }
}

impl Pass {
    /// Whether the instance has as many calls as it may have, so that this one must not be sent.
    #[must_use]
    pub fn finds_it_full(&self) -> bool {
        self.outstanding.is_none()
    }

    /// What the call said about its instance.
    pub fn report(mut self, said: Said, now: Instant) {
        if std::mem::take(&mut self.is_trial) {
            self.load.gate.end_trial(said, now);
        } else {
            self.load.gate.report(said, now);
        }
    }
}

/// A trial whose call was dropped has decided nothing.
impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_trial {
            self.load.gate.end_trial(Said::Nothing, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Rate;

    #[test]
    fn a_call_that_is_refused_takes_no_token_of_the_rate() {
        let rate = Rate {
            per_second: 1,
            burst: 2,
        };
        let now = Instant::now();
        for admin in [Admin::Draining, Admin::Disabled] {
            let load = Arc::new(Load::at_a_rate(rate));
            load.gate.set_admin(admin);
            for _ in 0..5 {
                assert!(load.admit(Panic::Off, now).is_err(), "{admin:?}");
            }
            load.gate.set_admin(Admin::Active);
            assert_eq!(let_in(&load, now), 2, "{admin:?}");
        }
        let load = Arc::new(Load::at_a_rate(rate));
        load.eject(now);
        for _ in 0..5 {
            assert!(load.admit(Panic::Off, now).is_err());
        }
        load.gate.pardon(now);
        assert_eq!(let_in(&load, now), 2);
    }

    /// How many of five calls at once are let in.
    fn let_in(load: &Arc<Load>, now: Instant) -> usize {
        let asked = (0..5).map(|_| load.admit(Panic::Off, now));
        let passes: Vec<_> = asked.collect::<Result<_, _>>().unwrap();
        let in_time = |pass: &&Pass| !pass.finds_it_full();
        let sent = passes.iter().filter(in_time).count();
        assert_eq!(load.outstanding() as usize, sent);
        sent
    }
}
