//! The fleet at one moment.

use std::sync::Arc;

use tokio::time::Instant;

use super::load::Load;
pub use super::picture::Health;
use crate::domain::health::observed::Standing;
use crate::domain::health::{self, Admin, Exclusion, Panic, State};
use crate::domain::id::InstanceId;
use crate::domain::selection::{self, Fitness};
use crate::domain::target::{self, BadTarget};
use crate::instance::{InstanceClient, Spec};

/// Instances that are shared, not copied, by whoever works with them.
pub type Members = Arc<[Arc<Member>]>;

/// Looks at the fleet as it is when it is called.
pub type FleetNow = Arc<dyn Fn() -> Arc<View> + Send + Sync>;

/// The fleet at one moment: instances in order of id.
#[derive(Default)]
pub struct View {
    ids: Arc<[InstanceId]>,
    members: Members,
    membership: u64,
    weight_max: u32,
    /// Members that are ejected: panic is a question only where there are some.
    ejected: usize,
    panic_below_percent: u32,
}

/// One instance at one moment.
#[derive(Clone)]
pub struct Member {
    /// Tells it from a later member of the same name.
    pub serial: u64,
    /// As configured or registered.
    pub spec: Spec,
    /// Where it comes from.
    pub origin: Origin,
    /// How it is reached.
    pub client: Arc<dyn InstanceClient>,
    /// What it is doing; shared by all views.
    pub load: Arc<Load>,
    /// How it is.
    pub health: Health,
}

/// Where an instance comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named in the config.
    Config,
    /// Part of the embedded echo fleet.
    Builtin,
    /// Registered at run time.
    Registered,
}

impl View {
    #[cfg(test)]
    pub(crate) fn new(sorted: impl Iterator<Item = Arc<Member>>) -> Self {
        Self::after_change(
            &Self::default(),
            1,
            sorted.collect(),
            &health::Settings::default(),
        )
    }

    /// The view that follows `previous`. `membership` tells whether the same instances stand at the same places.
    pub(super) fn after_change(
        previous: &Self,
        membership: u64,
        members: Members,
        settings: &health::Settings,
    ) -> Self {
        let ids = if previous.membership == membership {
            Arc::clone(&previous.ids)
        } else {
            members.iter().map(|member| member.id().clone()).collect()
        };
        let is_ejected = |member: &&Arc<Member>| member.health.observed != Standing::Trusted;
        Self {
            ids,
            ejected: members.iter().filter(is_ejected).count(),
            weight_max: members
                .iter()
                .map(|member| member.spec.weight)
                .max()
                .unwrap_or(1),
            members,
            membership,
            panic_below_percent: settings.panic_below_percent,
        }
    }

    /// Changes when instances come, go or are replaced; otherwise each stands where it stood.
    #[must_use]
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// No instance weighs more.
    #[must_use]
    pub fn weight_max(&self) -> u32 {
        self.weight_max
    }

    /// Whether so few of these are well that what their calls said is to be ignored.
    #[must_use]
    pub fn panic_among(&self, candidates: &[Arc<Member>]) -> Panic {
        if self.ejected == 0 {
            return Panic::Off;
        }
        let takes_work = candidates
            .iter()
            .filter(|member| member.health.admin == Admin::Active);
        let (mut healthy, mut ejected, mut all) = (0, 0, 0);
        for member in takes_work {
            all += 1;
            ejected += usize::from(member.health.observed != Standing::Trusted);
            healthy += usize::from(matches!(member.health.state, State::Healthy | State::Busy));
        }
        Panic::of(healthy, ejected, all, self.panic_below_percent)
    }

    /// The instances, in order of id.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The instances that expressions select, in the order of the expressions.
    pub fn resolve<S: AsRef<str>>(
        &self,
        expressions: &[S],
        max: usize,
    ) -> Result<Members, BadTarget> {
        // The whole of a large fleet is what it is already: nothing to look up and nothing to copy.
        if let [all] = expressions
            && all.as_ref() == "*"
            && (1..=max).contains(&self.members.len())
        {
            return Ok(Arc::clone(&self.members));
        }
        let found = target::resolve(expressions, &self.ids, max)?;
        Ok(found
            .into_iter()
            .map(|at| Arc::clone(&self.members[at]))
            .collect())
    }

    /// As `resolve`; terms that select nobody come back beside.
    pub fn resolve_present<S: AsRef<str>>(
        &self,
        expressions: &[S],
        max: usize,
    ) -> Result<(Vec<usize>, Vec<String>), BadTarget> {
        target::resolve_present(expressions, &self.ids, max)
    }

    /// The instance of that name.
    #[must_use]
    pub fn find(&self, id: &InstanceId) -> Option<&Arc<Member>> {
        let at = self.ids.binary_search(id).ok()?;
        self.members.get(at)
    }

    /// These instances as they are in this view; who has left the fleet is down.
    #[must_use]
    pub fn refreshed(&self, members: &[Arc<Member>]) -> Members {
        let refreshed = members.iter().map(|member| match self.find(member.id()) {
            Some(current) => Arc::clone(current),
            None => Arc::new(Member {
                health: member.health.after_leaving(),
                ..Member::clone(member)
            }),
        });
        refreshed.collect()
    }

    /// The instances after `id`, in order of id.
    #[must_use]
    pub fn after(&self, id: &str) -> &[Arc<Member>] {
        let start = self.ids.partition_point(|known| known.as_str() <= id);
        &self.members[start..]
    }
}

impl Member {
    /// Why it gets no work now. What its operator wants and what its calls say is as it is now, and not as it was
    /// when the view was made.
    #[must_use]
    pub fn exclusion(&self, panic: Panic, now: Instant) -> Option<Exclusion> {
        self.load.gate.exclusion(self.health.probed, panic, now)
    }

    /// Whether it may be given work.
    #[must_use]
    pub fn fitness(&self, panic: Panic, now: Instant) -> Fitness {
        match self.exclusion(panic, now) {
            Some(_) => Fitness::Unfit,
            None => health::fitness(self.health.probed),
        }
    }

    /// What BALANCED compares.
    #[must_use]
    pub fn compared(&self, now: Instant) -> selection::Load {
        let load = self.load.compared(now);
        let Some(since) = self.health.fit_since else {
            return load;
        };
        let age = now.saturating_duration_since(since);
        selection::Load {
            warmth: health::warmth(age, self.load.gate.slow_start()),
            ..load
        }
    }

    /// Whether it gets nothing new and has nothing left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.health.admin != Admin::Active && self.load.outstanding() == 0
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.spec.id
    }
}
