//! The fleet at one moment.

use std::sync::Arc;
use std::time::SystemTime;

use super::load::Load;
use crate::domain::health::State;
use crate::domain::id::InstanceId;
use crate::domain::selection::Fitness;
use crate::domain::target::{self, BadTarget};
use crate::instance::{InstanceClient, Spec};

/// Instances that are shared, not copied, by whoever works with them.
pub type Members = Arc<[Arc<Member>]>;

/// Looks at the fleet as it is when it is called.
pub type FleetNow = Arc<dyn Fn() -> Arc<View> + Send + Sync>;

/// The fleet at one moment: instances in order of id.
#[derive(Default)]
pub struct View {
    ids: Vec<InstanceId>,
    members: Members,
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

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// In a word.
    pub state: State,
    /// What the probe that decided it said.
    pub reason: Arc<str>,
    /// Since when.
    pub since: SystemTime,
}

impl Health {
    pub(super) fn unknown(now: SystemTime) -> Self {
        Self {
            state: State::Unknown,
            reason: "not probed yet".into(),
            since: now,
        }
    }
}

impl View {
    pub(crate) fn new(sorted: impl Iterator<Item = Arc<Member>>) -> Self {
        let members: Members = sorted.collect();
        let ids = members
            .iter()
            .map(|member| member.spec.id.clone())
            .collect();
        Self { ids, members }
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

    /// The instance of that name.
    #[must_use]
    pub fn find(&self, id: &InstanceId) -> Option<&Arc<Member>> {
        let at = self.ids.binary_search(id).ok()?;
        self.members.get(at)
    }

    /// The instances after `id`, in order of id.
    #[must_use]
    pub fn after(&self, id: &str) -> &[Arc<Member>] {
        let start = self.ids.partition_point(|known| known.as_str() <= id);
        &self.members[start..]
    }
}

impl Member {
    /// Whether it may be given work.
    #[must_use]
    pub fn fitness(&self) -> Fitness {
        match self.health.state {
            State::Healthy => Fitness::Fit,
            State::Unknown => Fitness::Unknown,
            State::Down => Fitness::Unfit,
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.spec.id
    }
}
