//! The methods behind every door: a message of the contract becomes a value of the domain, a room does the
//! work, and the answer goes back as a message. Which door it came by is not known here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::domain::budget::Budget;
use crate::domain::hedge::Hedges;
use crate::domain::limit::{FANOUT_TIMEOUT_DEFAULT, ROUTE_TIMEOUT_DEFAULT, TIMEOUT_MAX};
use crate::domain::retry;
use crate::fleet::Fleet;
use crate::ingress::settings::SettingsNow;
use crate::orchestrate::admit::Gate;
use crate::orchestrate::deduplicate::Deduplicate;
use crate::orchestrate::hold_session::Sessions;
use crate::orchestrate::run_task::Readiness;
use crate::tasks::Tasks;

mod cluster;
mod explain;
mod from_proto;
mod orchestrator;
mod session_from_proto;
mod session_to_proto;
mod sessions;
mod to_proto;
mod watch;

pub(super) use cluster::Cluster;
pub(super) use orchestrator::{NotRouted, Orchestrator};
pub(super) use sessions::{Frames, SESSION};
pub(super) use to_proto::{attempts_told, failed_attempts, failure_told};

/// What the methods work with.
#[derive(Clone)]
pub struct House {
    /// Who is there.
    pub fleet: Arc<Fleet>,
    /// Who runs what outlives a request.
    pub tasks: Tasks,
    /// Who lets work in.
    pub gate: Arc<Gate>,
    /// What the door goes by.
    pub settings: SettingsNow,
    /// Conversations with instances.
    pub sessions: Sessions,
    /// The idle TTL of a session that names none.
    pub session_idle_ttl: Duration,
    /// Retries over all callers.
    pub retries: Arc<Mutex<Budget>>,
    /// Hedges over all callers.
    pub hedges: Arc<Mutex<Hedges>>,
    /// Where calls wait while no instance may be used.
    pub readiness: Arc<Readiness>,
    /// Finds calls again by their idempotency keys.
    pub deduplicate: Deduplicate,
    /// What decides where nothing else does.
    pub chance: Chance,
    /// Fires when the orchestrator is about to stop: not ready, and no stream without an end goes on.
    pub draining: CancellationToken,
}

impl House {
    fn timeouts(&self) -> Timeouts {
        self.settings.load().timeouts
    }

    fn retry(&self) -> retry::Settings {
        self.settings.load().retry
    }
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A Route that says nothing.
    pub route: std::time::Duration,
    /// A Fanout that says nothing.
    pub fanout: std::time::Duration,
    /// The most that anybody gets.
    pub max: std::time::Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            route: ROUTE_TIMEOUT_DEFAULT,
            fanout: FANOUT_TIMEOUT_DEFAULT,
            max: TIMEOUT_MAX,
        }
    }
}
