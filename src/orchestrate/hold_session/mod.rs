//! Sessions: ordered, durable, resumable conversations pinned to one instance.
//!
//! Each session that has something to do is held by one task (`owner`); all others are an entry in a map and what
//! the store knows. Whoever wants something of a session leaves a command for its task, which is started when there
//! is none. It does not know which door a client came by, or how messages are kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

mod answer;
mod client_side;
mod closing;
mod entry;
mod fleet_change;
pub mod frame;
mod gone;
mod held;
mod instance_side;
mod last_words;
mod move_away;
mod outbox;
mod owner;
mod place;
mod posts;
mod registry;
mod spawn;
mod storing;
mod sweep;
#[cfg(test)]
mod test_conversation;
#[cfg(test)]
mod test_failover;
#[cfg(test)]
mod test_fleet_change;
#[cfg(test)]
mod test_full_start;
#[cfg(test)]
mod test_gone;
#[cfg(test)]
mod test_keeping;
#[cfg(test)]
mod test_moving;
#[cfg(test)]
mod test_posting;
#[cfg(test)]
mod test_pressure;
#[cfg(test)]
mod test_restarts;
#[cfg(test)]
mod test_spawning;
#[cfg(test)]
mod test_stage;
#[cfg(test)]
mod test_sweeping;
mod waits;
mod wake;
mod weight;

pub use answer::{Page, Post, Posted, Shown, TokenHolder, Wait};
pub use outbox::Outgoing;
pub use spawn::{Deduplicated, Spawn, Spawned};

use crate::chance::Chance;
use crate::domain::failure::{Failure, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    SESSION_LAST_WORDS_AT_ONCE, SESSION_LAST_WORDS_MAX, SESSION_REATTACH_GRACE,
    SESSION_RECOVERY_GRACE,
};
use crate::domain::selection::Policy;
use crate::domain::session::{Bounds, CloseReason, End, SessionId};
use crate::fleet::view::{FleetNow, Member, View};
use crate::memory::Memory;
use crate::store::record::Owner as StoreOwner;
use crate::store::{Readiness, Store};
use crate::tasks::Tasks;
use entry::{Entry, Signal};
use place::{Named, Places};
use registry::Registry;

/// All sessions of one orchestrator. Clones are the same sessions.
#[derive(Clone)]
pub struct Sessions(Arc<House>);

/// What is set for all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How much of one direction of a session may be unacknowledged.
    pub bounds: Bounds,
}

/// What the wall says. The absolute lifetime of a session goes by it, since it goes on while no orchestrator runs.
pub type WallClock = fn() -> SystemTime;

/// What every session works with.
pub(super) struct House {
    store: Arc<dyn Store>,
    fleet_now: FleetNow,
    tasks: Tasks,
    chance: Chance,
    wall_clock: WallClock,
    /// This run of this orchestrator.
    owner: StoreOwner,
    registry: RwLock<Registry>,
    /// The sessions that a task holds.
    held: TaskTracker,
    places: Places,
    /// The sessions that should be with an instance and are not.
    waiting: Mutex<BTreeMap<SessionId, Arc<Entry>>>,
    memory: Memory,
    settings: Settings,
    /// Instances that are told at once that a session has ended which nobody has opened since the start.
    last_words: Semaphore,
    /// Those who wait for that, and those who are told.
    last_words_waiting: Arc<Semaphore>,
    draining: AtomicBool,
    /// The store had no room to take its sessions over: nothing is done with them until it has.
    waits_for_room: AtomicBool,
    started: std::time::Instant,
}

impl Sessions {
    /// How many sessions are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.0.known()
    }

    /// Takes over what the store has. Sessions with messages for their instances are woken; all others rest until
    /// somebody wants something of them. Where the store has no room for that, they are only shown, and taken over as
    /// soon as there is some.
    pub async fn recover(
        store: Arc<dyn Store>,
        fleet_now: FleetNow,
        tasks: Tasks,
        chance: Chance,
        memory: Memory,
        wall_clock: WallClock,
        settings: Settings,
    ) -> Result<Self, Failure> {
        let run: u128 = chance.draw();
        let house = Arc::new(House {
            owner: StoreOwner::new(&format!("run-{run:032x}")),
            store,
            fleet_now,
            tasks,
            chance,
            wall_clock,
            registry: RwLock::default(),
            held: TaskTracker::new(),
            places: Places::default(),
            waiting: Mutex::default(),
            memory,
            settings,
            last_words: Semaphore::new(SESSION_LAST_WORDS_AT_ONCE),
            last_words_waiting: Arc::new(Semaphore::new(SESSION_LAST_WORDS_MAX)),
            draining: AtomicBool::new(false),
            waits_for_room: AtomicBool::new(false),
            started: Instant::now().into_std(),
        });
        match house.take_up().await {
            Err(failure) if failure.reason == Reason::JournalFull => house.wait_for_room().await?,
            taken_up => taken_up?,
        }
        Ok(Self(house))
    }

    /// How much of one direction of a session may be unacknowledged.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.0.settings.bounds
    }

    /// Whether what is said in sessions can be kept, now and whenever that changes.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.0.store.readiness()
    }

    /// Ends sessions whose time is over and forgets those that ended long ago, and tells whom a change of the fleet
    /// concerns; until everything stops. Neither waits for the other.
    pub async fn keep(self, fleet_changes: watch::Receiver<u64>) {
        tokio::select! {
            biased;
            () = self.0.follow(fleet_changes) => {}
            () = self.0.keep_time() => {}
        }
    }

    /// Tells every attached client to come again later, ends its stream, and takes nothing more. What was
    /// acknowledged is in the store.
    pub async fn drain(&self, limit: Duration) {
        let house = &self.0;
        house.draining.store(true, Ordering::Release);
        house.signal_all(Signal::Drain);
        // They only have to notice.
        house.held.close();
        // Whoever has not by then is cut.
        let _ = tokio::time::timeout(limit, house.held.wait()).await;
    }
}

impl House {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How long an instance that is gone since then, and not in the fleet, may take to come back: longer after a start,
    /// since registered instances have to register again.
    fn grace(&self, since: std::time::Instant) -> Duration {
        let since_start = since.saturating_duration_since(self.started);
        SESSION_RECOVERY_GRACE
            .saturating_sub(since_start)
            .max(SESSION_REATTACH_GRACE)
    }

    fn place(
        &self,
        fleet: &View,
        named: Named<'_>,
        selection: &Policy,
        except: Option<&InstanceId>,
    ) -> Result<Arc<Member>, Failure> {
        place::place(fleet, named, selection, except, &self.places, &self.chance)
    }

    /// The session counts at this instance from now on, or at none any more.
    fn count(&self, entry: &Arc<Entry>, at: Option<&InstanceId>) {
        let counted_at = entry.counted_at.lock();
        let mut counted_at = counted_at.unwrap_or_else(PoisonError::into_inner);
        if counted_at.as_ref() == at {
            return;
        }
        if let Some(before) = &*counted_at {
            self.places.remove(before, entry);
        }
        if let Some(now) = at {
            self.places.add(now, entry);
        }
        *counted_at = at.cloned();
    }

    /// Milliseconds since 1970 by the wall clock.
    fn now_ms(&self) -> u64 {
        let since = (self.wall_clock)().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    fn find(&self, id: &SessionId) -> Result<Arc<Entry>, Failure> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.find(id).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &SessionId) -> Failure {
    let detail = format!("no session `{id}`: it never was, or has expired");
    Failure::new(Reason::SessionUnknown, detail)
}

fn closed(end: End) -> Failure {
    let detail = match end.reason {
        CloseReason::ByClient => "the session was closed by its client",
        CloseReason::ByInstance => "the session was ended by its instance",
        CloseReason::InstanceLost => "the session has ended: its instance was lost",
        CloseReason::Expired => "the session has expired",
        CloseReason::Restarted => "the session has ended with the orchestrator that held it",
    };
    let mut detail = detail.to_owned();
    if let Some((first, last)) = end.lost {
        detail += &format!("; messages {first} to {last} of the client were not delivered");
    }
    if let Some((first, last)) = end.lost_posts {
        detail += &format!("; what was posted to positions {first} to {last} was not delivered");
    }
    Failure::new(Reason::SessionClosed, detail)
}

/// The end of a session as it stands in the store.
fn ended(words: &str) -> End {
    End::from_words(words).unwrap_or(End {
        reason: CloseReason::Restarted,
        lost: None,
        lost_posts: None,
    })
}

fn draining() -> Failure {
    let detail = "the orchestrator is stopping: attach again in a moment";
    Failure::new(Reason::Draining, detail)
}

fn key_used_otherwise() -> Failure {
    let detail = "idempotency_key: was used with another request";
    Failure::new(Reason::IdempotencyConflict, detail)
}

/// Labels as the link wants them.
type Labels = Arc<BTreeMap<String, String>>;
