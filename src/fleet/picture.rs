//! How an instance is, as a view shows it: three axes, and the one word that they come to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::domain::health::observed::Standing;
use crate::domain::health::{Admin, State, probed};

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// In a word.
    pub state: State,
    /// What its operator wants.
    pub admin: Admin,
    /// What its probes say.
    pub probed: probed::State,
    /// What its calls say.
    pub observed: Standing,
    /// Why the word is what it is.
    pub reason: Arc<str>,
    /// Since when the word is what it is.
    pub since: SystemTime,
    /// When it last became healthy.
    pub fit_since: Option<Instant>,
    /// When its ejection is over; for people: jumps of the wall clock change nothing but this.
    pub ejected_until: Option<SystemTime>,
    probe_reason: Arc<str>,
}

impl Health {
    /// Before the first probe.
    pub(super) fn unknown(admin: Admin) -> Self {
        let reason: Arc<str> = "not probed yet".into();
        let mut health = Self {
            state: State::Unknown,
            admin,
            probed: probed::State::Unknown,
            observed: Standing::Trusted,
            reason: Arc::clone(&reason),
            since: SystemTime::now(),
            fit_since: None,
            ejected_until: None,
            probe_reason: reason,
        };
        health.settle();
        health
    }

    /// After a probe that changed something.
    #[must_use]
    pub(crate) fn after_probe(&self, probed: probed::State, reason: &str) -> Self {
        self.with(|health| {
            health.probed = probed;
            health.probe_reason = reason.into();
        })
    }

    /// After its calls have changed something.
    #[must_use]
    pub(super) fn after_calls(&self, observed: Standing) -> Self {
        self.with(|health| {
            health.observed = observed;
            health.ejected_until = match observed {
                Standing::Trusted => None,
                Standing::Ejected { until, .. } => {
                    let left = until.saturating_duration_since(Instant::now().into_std());
                    Some(SystemTime::now() + left)
                }
            };
        })
    }

    /// After it has left the fleet, for whoever chose it before.
    #[must_use]
    pub(super) fn after_leaving(&self) -> Self {
        self.after_probe(probed::State::Down, "has left the fleet")
    }

    /// Looked at again, for what changes with time alone.
    #[must_use]
    pub(super) fn after_time(&self) -> Self {
        self.with(|_| {})
    }

    /// Whether its ejection is over, and it was not looked at since.
    pub(super) fn is_outdated(&self, now: Instant) -> bool {
        State::of(self.admin, self.probed, self.observed, now.into_std()) != self.state
    }

    /// After its operator has changed something.
    #[must_use]
    pub(super) fn after_operator(&self, admin: Admin) -> Self {
        self.with(|health| health.admin = admin)
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut health = self.clone();
        change(&mut health);
        health.settle();
        health
    }

    fn settle(&mut self) {
        let now = Instant::now().into_std();
        let state = State::of(self.admin, self.probed, self.observed, now);
        self.reason = self.why(now);
        if state == self.state {
            return;
        }
        let is_well = |state| matches!(state, State::Healthy | State::Busy);
        if is_well(state) && !is_well(self.state) {
            self.fit_since = Some(Instant::now());
        }
        self.state = state;
        self.since = SystemTime::now();
    }

    fn why(&self, now: std::time::Instant) -> Arc<str> {
        match (self.admin, self.probed, self.observed) {
            (Admin::Disabled, _, _) => "disabled: it gets no work".into(),
            (Admin::Draining, _, _) => "draining: it gets nothing new".into(),
            (Admin::Active, probed, Standing::Ejected { until, .. })
                if probed != probed::State::Down && until <= now =>
            {
                "its ejection is over: the next call decides".into()
            }
            (Admin::Active, probed, Standing::Ejected { cause, .. })
                if probed != probed::State::Down =>
            {
                let until = self.ejected_until.unwrap_or_else(SystemTime::now);
                // Fractions of a second say nothing here.
                let until = until + Duration::from_millis(500);
                let until = humantime::format_rfc3339_seconds(until);
                format!("ejected until {until}: {cause}").into()
            }
            (Admin::Active, _, _) => Arc::clone(&self.probe_reason),
        }
    }
}

#[cfg(test)]
impl Health {
    /// As its probes say, for tests.
    pub(crate) fn probed(state: probed::State, reason: &str) -> Self {
        Self::unknown(Admin::Active).after_probe(state, reason)
    }
}
