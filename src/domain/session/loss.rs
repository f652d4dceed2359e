//! What becomes of a session whose instance does not hold it now.
//!
//! ```text
//! lost ── grace ──┬─ it is back ────────────→ reopen at the same one
//!                 └─ over, or hopeless ─┬─ FAIL ─────────────→ end
//!                                       └─ REASSIGN, REPLAY ─→ move, or wait for somebody
//! ```

use std::time::{Duration, Instant};

use super::LossPolicy;
use crate::domain::limit::{
    SESSION_FRUITLESS_DELAY_MAX, SESSION_FRUITLESS_MAX, SESSION_REATTACH_GRACE,
    SESSION_REOPEN_DELAY_MAX, SESSION_REOPEN_DELAY_MIN, SESSION_STEADY_AFTER,
    SESSION_WAIT_FOR_INSTANCE,
};

/// What is known of the end of a session's stream to its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The instance may come back, and know the session.
    Broken,
    /// The instance cannot hold it, by its own word.
    Hopeless,
}

/// Whether an instance may be given a session now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// It may.
    Fit,
    /// It is down, or not there.
    Unfit,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Open the session at the same instance.
    Reopen,
    /// Look again at this instant, or when the fleet changes.
    Wait(Instant),
    /// Open the session at another instance.
    Move,
    /// End the session.
    End,
}

/// How often in a row an instance has taken the session and lost it again, and nothing came of it: a message that
/// kills whoever gets it does so at each opening. One that holds the session for a while, or acknowledges something
/// new, has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fruitless(u32);

/// What has come of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The instance has acknowledged something new.
    Progress,
    /// It has not.
    Nothing,
}

impl Fruitless {
    /// The stream to an instance is over, and has lasted so long.
    pub fn ended(&mut self, came: Came, lasted: Duration) {
        match came {
            Came::Nothing if lasted < SESSION_STEADY_AFTER => self.0 = self.0.saturating_add(1),
            Came::Nothing | Came::Progress => self.0 = 0,
        }
    }

    /// How often in a row.
    #[must_use]
    pub fn times(self) -> u32 {
        self.0
    }

    /// What the loss of the stream means: too often, and the instance counts as one that cannot hold the session.
    #[must_use]
    pub fn judge(self, loss: Loss) -> Loss {
        if self.0 < SESSION_FRUITLESS_MAX {
            loss
        } else {
            Loss::Hopeless
        }
    }
}

/// A session without its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    grace_ends: Instant,
    not_before: Instant,
    failures: u32,
    delay_max: Duration,
    loss: Loss,
    patience: Patience,
}

/// What an instance that can be reached is given beyond its grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Nothing.
    Over,
    /// One try: nobody has asked it for a while.
    OneTry,
}

impl Absence {
    /// The instance does not hold the session since `now`; it may come back for as long as `grace`.
    #[must_use]
    pub fn begin(loss: Loss, now: Instant, grace: Duration) -> Self {
        Self {
            grace_ends: now + grace,
            not_before: now,
            failures: 0,
            delay_max: SESSION_REOPEN_DELAY_MAX,
            loss,
            patience: Patience::Over,
        }
    }

    /// Nobody has wanted the instance for a while. Its grace goes on meanwhile, or whoever comes and goes would put off
    /// its end for ever; but it may be back, and is asked once more before the policy decides.
    #[must_use]
    pub fn rested(self) -> Self {
        let patience = Patience::OneTry;
        Self { patience, ..self }
    }

    /// What is left of it after a rest at whose end the fleet misses the instance since then, if it does. A loss whose
    /// grace was over before that, or long ago while nobody missed the instance, is another one.
    #[must_use]
    pub fn after_rest(self, now: Instant, missed_since: Option<Instant>) -> Option<Self> {
        let is_another = match missed_since {
            Some(since) => self.grace_ends < since,
            None => self.grace_ends + SESSION_REATTACH_GRACE < now,
        };
        (!is_another).then(|| self.rested())
    }

    /// The next try waits as if so many had failed before, and longer than after failures that may be over any moment.
    #[must_use]
    pub fn after(self, fruitless: Fruitless) -> Self {
        let delay_max = match fruitless.times() {
            0 => SESSION_REOPEN_DELAY_MAX,
            1.. => SESSION_FRUITLESS_DELAY_MAX,
        };
        Self {
            failures: fruitless.times().saturating_sub(1),
            delay_max,
            ..self
        }
    }

    /// Opening the session has failed.
    pub fn failed(&mut self, loss: Loss, now: Instant) {
        let delay = SESSION_REOPEN_DELAY_MIN.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + delay.min(self.delay_max);
        self.loss = loss;
        self.patience = Patience::Over;
    }

    /// What to do now.
    #[must_use]
    pub fn step(
        &self,
        policy: LossPolicy,
        now: Instant,
        same: Candidate,
        other: Candidate,
    ) -> Step {
        let soon = now + SESSION_WAIT_FOR_INSTANCE;
        let has_grace = now < self.grace_ends;
        let is_asked = self.patience == Patience::OneTry && same == Candidate::Fit;
        if self.loss == Loss::Broken && (has_grace || is_asked) {
            return match same {
                Candidate::Fit if self.not_before <= now => Step::Reopen,
                Candidate::Fit if is_asked => Step::Wait(self.not_before),
                Candidate::Fit => Step::Wait(self.not_before.min(self.grace_ends)),
                Candidate::Unfit => Step::Wait(self.grace_ends),
            };
        }
        match (policy, same, other) {
            (LossPolicy::Fail, _, _) => Step::End,
            (LossPolicy::Reassign | LossPolicy::Replay, _, _) if now < self.not_before => {
                Step::Wait(self.not_before)
            }
            (LossPolicy::Reassign | LossPolicy::Replay, _, Candidate::Fit) => Step::Move,
            (LossPolicy::Reassign | LossPolicy::Replay, Candidate::Fit, Candidate::Unfit) => {
                Step::Reopen
            }
            (LossPolicy::Reassign | LossPolicy::Replay, Candidate::Unfit, Candidate::Unfit) => {
                Step::Wait(soon)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);
    use Candidate::{Fit, Unfit};

    #[test]
    fn an_instance_that_is_back_within_the_grace_goes_on_whatever_the_policy() {
        let start = Instant::now();
        let absence = Absence::begin(Loss::Broken, start, GRACE);
        for policy in [LossPolicy::Fail, LossPolicy::Reassign, LossPolicy::Replay] {
            let step = |after, same| absence.step(policy, start + after, same, Fit);
            assert_eq!(step(Duration::ZERO, Fit), Step::Reopen);
            assert_eq!(step(Duration::ZERO, Unfit), Step::Wait(start + GRACE));
            assert_ne!(step(GRACE, Fit), Step::Wait(start + GRACE));
        }
    }

    #[test]
    fn after_the_grace_the_policy_decides() {
        let start = Instant::now();
        let absence = Absence::begin(Loss::Broken, start, GRACE);
        let step = |policy, same, other| absence.step(policy, start + GRACE, same, other);
        assert_eq!(step(LossPolicy::Fail, Fit, Fit), Step::End);
        for policy in [LossPolicy::Reassign, LossPolicy::Replay] {
            assert_eq!(step(policy, Unfit, Fit), Step::Move);
            assert_eq!(step(policy, Fit, Unfit), Step::Reopen);
            assert!(matches!(step(policy, Unfit, Unfit), Step::Wait(_)));
        }
    }

    #[test]
    fn who_rests_has_no_more_grace_than_others_and_one_try_where_the_instance_is_back() {
        let start = Instant::now();
        let mut absence = Absence::begin(Loss::Broken, start, GRACE);
        absence.failed(Loss::Broken, start);
        let mut rested = absence.rested();
        let late = start + GRACE;
        assert_eq!(rested.step(LossPolicy::Fail, late, Unfit, Fit), Step::End);
        assert_eq!(rested.step(LossPolicy::Fail, late, Fit, Fit), Step::Reopen);
        assert_eq!(absence.step(LossPolicy::Fail, late, Fit, Fit), Step::End);
        rested.failed(Loss::Broken, late);
        assert_eq!(rested.step(LossPolicy::Fail, late, Fit, Fit), Step::End);
    }

    #[test]
    fn an_instance_without_sessions_gets_no_grace() {
        let start = Instant::now();
        let absence = Absence::begin(Loss::Hopeless, start, GRACE);
        assert_eq!(absence.step(LossPolicy::Fail, start, Fit, Fit), Step::End);
        assert_eq!(
            absence.step(LossPolicy::Reassign, start, Fit, Fit),
            Step::Move
        );
    }

    #[test]
    fn what_is_lost_again_and_again_without_an_acknowledgement_is_opened_ever_less_often_and_given_up()
     {
        let mut fruitless = Fruitless::default();
        let start = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..20 {
            fruitless.ended(Came::Nothing, Duration::from_millis(3));
            let mut absence = Absence::begin(Loss::Broken, start, GRACE).after(fruitless);
            absence.failed(Loss::Broken, start);
            delays.push(absence.not_before - start);
        }
        assert!(delays.is_sorted());
        assert_eq!(delays[..3], [50, 100, 200].map(Duration::from_millis));
        assert_eq!(delays[19], SESSION_FRUITLESS_DELAY_MAX);
        assert_eq!(fruitless.judge(Loss::Broken), Loss::Hopeless);
        for (came, lasted) in [
            (Came::Progress, Duration::ZERO),
            (Came::Nothing, SESSION_STEADY_AFTER),
        ] {
            let mut fruitless = fruitless;
            fruitless.ended(came, lasted);
            assert_eq!(fruitless.times(), 0);
            assert_eq!(fruitless.judge(Loss::Broken), Loss::Broken);
        }
    }

    proptest! {
        #[test]
        fn a_wait_always_lies_ahead_and_tries_never_come_faster_than_their_delay(
            failures in 0_u32..40, after in 0_u64..60_000, policy in 0..3_usize, same: bool, other: bool, rested: bool,
        ) {
            let start = Instant::now();
            let mut absence = Absence::begin(Loss::Broken, start, GRACE);
            for _ in 0..failures {
                absence.failed(Loss::Broken, start);
            }
            if rested {
                absence = absence.rested();
            }
            let now = start + Duration::from_millis(after);
            let policy = [LossPolicy::Fail, LossPolicy::Reassign, LossPolicy::Replay][policy];
            let candidate = |fit| if fit { Fit } else { Unfit };
            match absence.step(policy, now, candidate(same), candidate(other)) {
                Step::Wait(until) => prop_assert!(now < until),
                Step::Reopen | Step::Move => {
                    prop_assert!(failures == 0 || start + SESSION_REOPEN_DELAY_MIN <= now);
                }
                Step::End => prop_assert_eq!(policy, LossPolicy::Fail),
            }
        }
    }
}
