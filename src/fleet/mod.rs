//! Who is there and who is well. Readers get an immutable view and never a lock.
//!
//! The roll is the one place that changes: configured instances stay, registered ones come and go with their
//! leases, probes report. After each change a new view is published; in a large fleet what changes at the same time comes
//! in one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::domain::failure::{Failure, Reason};
use crate::domain::health::{self, Admin, probed};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    FLEET_MAX, FLEET_SHOWN_AT_ONCE_MAX, HEALTH_REASON_CHARS_MAX, PROBES_AT_ONCE_MAX,
    VIEW_BEHIND_MAX,
};
use crate::instance::{InstanceClient, Spec};
use crate::tasks::{Owned, Tasks};

mod configure;
mod drain;
mod eject;
mod follow;
mod gate;
pub mod load;
pub mod network;
mod picture;
mod probe;
pub mod registration;
pub mod view;

pub use configure::{Configured, Left};
pub use gate::Pass;
use gate::{Gate, Judge};
use load::Load;
pub use probe::Settings as ProbeSettings;
use registration::Lease;
use view::{FleetNow, Health, Member, Origin, View};

/// Makes a client for an instance; `app` alone knows which kind.
pub type Connect = Arc<dyn Fn(&Spec) -> Result<Arc<dyn InstanceClient>, Failure> + Send + Sync>;

/// The fleet of one orchestrator.
pub struct Fleet {
    view: ArcSwap<View>,
    roll: Mutex<Roll>,
    changed: watch::Sender<u64>,
    /// Whether the view is to follow the roll in a moment.
    is_behind: AtomicBool,
    connect: Connect,
    probe: ArcSwap<ProbeSettings>,
    probe_changed: Arc<Notify>,
    health: HealthNow,
    probes: Arc<Semaphore>,
    tasks: Tasks,
    registration: ArcSwap<registration::Settings>,
    /// Doors of ours that no settings name.
    doors: ArcSwap<Vec<SocketAddr>>,
    chance: Chance,
}

/// How health is judged at this moment.
type HealthNow = Arc<ArcSwap<health::Settings>>;

#[derive(Default)]
struct Roll {
    entries: BTreeMap<InstanceId, Entry>,
    /// Tells one member from a later one of the same name.
    serial: u64,
    /// Rises when instances come, go or are replaced.
    membership: u64,
    /// Who is ejected.
    ejected: BTreeSet<InstanceId>,
    /// Who is not active, by name: a new start of an instance does not undo what its operator wants.
    marks: BTreeMap<InstanceId, Admin>,
}

struct Entry {
    member: Arc<Member>,
    lease: Option<Lease>,
    /// Ends with the entry.
    _probe: Owned,
}

impl Fleet {
    /// An empty fleet.
    #[must_use]
    pub fn new(
        connect: Connect,
        probe: ProbeSettings,
        health: health::Settings,
        registration: registration::Settings,
        tasks: Tasks,
        chance: Chance,
    ) -> Arc<Self> {
        Arc::new(Self {
            view: ArcSwap::from_pointee(View::default()),
            roll: Mutex::default(),
            changed: watch::Sender::new(0),
            is_behind: AtomicBool::new(false),
            connect,
            probe: ArcSwap::from_pointee(probe),
            probe_changed: Arc::default(),
            health: Arc::new(ArcSwap::from_pointee(health)),
            probes: Arc::new(Semaphore::new(PROBES_AT_ONCE_MAX)),
            tasks,
            registration: ArcSwap::from_pointee(registration),
            doors: ArcSwap::default(),
            chance,
        })
    }

    /// The fleet as it is now. It does not change under the reader.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The fleet for whoever has to look again later.
    #[must_use]
    pub fn now(self: &Arc<Self>) -> FleetNow {
        let fleet = Arc::clone(self);
        Arc::new(move || fleet.view())
    }

    /// Wakes after each change of the fleet.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Adds instances that stay as long as the orchestrator runs.
    pub fn add(self: &Arc<Self>, specs: Vec<(Spec, Origin)>) -> Result<(), Failure> {
        let mut roll = self.roll();
        for (spec, origin) in specs {
            self.enter(&mut roll, spec, origin, None)?;
        }
        self.publish(&roll);
        Ok(())
    }

    fn enter(
        self: &Arc<Self>,
        roll: &mut Roll,
        spec: Spec,
        origin: Origin,
        lease: Option<Lease>,
    ) -> Result<(), Failure> {
        if FLEET_MAX <= roll.entries.len() && !roll.entries.contains_key(&spec.id) {
            let detail = format!(
                "the fleet has {FLEET_MAX} instances already, which is the most it may have"
            );
            return Err(Failure::new(Reason::FleetFull, detail));
        }
        let client = (self.connect)(&spec)?;
        self.seat(roll, spec, origin, lease, client);
        Ok(())
    }

    /// Puts an instance on the roll, in place of the one of that name.
    fn seat(
        self: &Arc<Self>,
        roll: &mut Roll,
        spec: Spec,
        origin: Origin,
        lease: Option<Lease>,
        client: Arc<dyn InstanceClient>,
    ) {
        roll.serial += 1;
        roll.membership += 1;
        let admin = roll.marks.get(&spec.id).copied().unwrap_or_default();
        let judge = Judge {
            fleet: Arc::downgrade(self),
            id: spec.id.clone(),
            serial: roll.serial,
        };
        let gate = Gate::new(admin, Arc::clone(&self.health), self.chance.clone(), judge);
        let member = Arc::new(Member {
            serial: roll.serial,
            origin,
            client,
            load: Arc::new(Load::behind(
                gate,
                spec.weight,
                self.calls_in_flight_max(&spec),
                self.registration.load().rate,
                self.registration.load().retries,
            )),
            health: Health::unknown(admin),
            spec,
        });
        let probe = probe::run(
            Arc::downgrade(self),
            Arc::clone(&member),
            Arc::clone(&self.probe_changed),
            Arc::clone(&self.probes),
            self.chance.clone(),
        );
        let probe = self.tasks.spawn_owned(self.tasks.until_stop(probe));
        // Whoever was there before is gone with what its calls said.
        roll.ejected.remove(member.id());
        roll.entries.insert(
            member.id().clone(),
            Entry {
                member,
                lease,
                _probe: probe,
            },
        );
    }

    fn calls_in_flight_max(&self, spec: &Spec) -> u32 {
        let own = spec.calls_in_flight_max;
        own.unwrap_or_else(|| self.registration.load().calls_in_flight_max)
    }

    /// How instances are probed now, and how often they may be busy.
    fn probing(&self) -> (ProbeSettings, u32) {
        (**self.probe.load(), self.health.load().busy_probes_max)
    }

    /// Notes what a probe has changed, unless the member has been replaced since.
    fn note_probe(
        self: &Arc<Self>,
        id: &InstanceId,
        serial: u64,
        state: probed::State,
        reason: &str,
    ) {
        // All of a large fleet's reasons travel in one answer.
        let reason: String = reason.chars().take(HEALTH_REASON_CHARS_MAX).collect();
        let mut roll = self.roll();
        if roll.repaint(id, serial, |member| {
            member.health.after_probe(state, &reason)
        }) {
            self.publish_soon(&roll);
        }
    }

    /// Publishes what a probe or a call has changed. Each view costs by the size of its fleet, and when a large one starts, or
    /// its network breaks, all of it changes: what changes within a moment then comes in one view. What an operator
    /// wants is never put off, nor who comes or goes.
    fn publish_soon(self: &Arc<Self>, roll: &Roll) {
        if roll.entries.len() <= FLEET_SHOWN_AT_ONCE_MAX {
            return self.publish(roll);
        }
        if self.is_behind.swap(true, Ordering::AcqRel) {
            return;
        }
        let fleet = Arc::downgrade(self);
        let later = async move {
            tokio::time::sleep(VIEW_BEHIND_MAX).await;
            let Some(fleet) = fleet.upgrade() else { return };
            let roll = fleet.roll();
            if fleet.is_behind.load(Ordering::Acquire) {
                fleet.publish(&roll);
            }
        };
        self.tasks.spawn(self.tasks.until_stop(later));
    }

    fn publish(&self, roll: &Roll) {
        self.is_behind.store(false, Ordering::Release);
        let members = roll.entries.values().map(|entry| Arc::clone(&entry.member));
        let previous = self.view.load();
        let view = View::after_change(
            &previous,
            roll.membership,
            members.collect(),
            &self.health.load(),
        );
        self.view.store(Arc::new(view));
        self.changed.send_modify(|version| *version += 1);
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the lease of a registered instance ends.
    #[must_use]
    pub fn lease_ends(&self, id: &InstanceId) -> Option<SystemTime> {
        self.roll()
            .entries
            .get(id)?
            .lease
            .as_ref()
            .map(|lease| lease.shown_end)
    }

    /// Removes instances whose lease has ended, and shows whose ejection has, for as long as the fleet is there.
    pub async fn keep_time(fleet: Weak<Self>) {
        // Both may end this much late, never early.
        const RESOLUTION: Duration = Duration::from_millis(500);
        loop {
            tokio::time::sleep(RESOLUTION).await;
            let Some(fleet) = fleet.upgrade() else { return };
            let now = Instant::now();
            fleet.remove_expired(now);
            fleet.end_ejections(now);
        }
    }
}

impl Roll {
    /// Gives a member another look; false when it has left or has been replaced.
    fn repaint(
        &mut self,
        id: &InstanceId,
        serial: u64,
        health: impl FnOnce(&Member) -> Health,
    ) -> bool {
        let entry = self.entries.get_mut(id);
        let Some(entry) = entry.filter(|entry| entry.member.serial == serial) else {
            return false;
        };
        entry.member = Arc::new(Member {
            health: health(&entry.member),
            ..Member::clone(&entry.member)
        });
        true
    }

    /// The member of that name, unless it has been replaced since.
    fn member(&self, id: &InstanceId, serial: u64) -> Option<Arc<Member>> {
        let member = &self.entries.get(id)?.member;
        (member.serial == serial).then(|| Arc::clone(member))
    }

    /// Takes a member out.
    fn remove(&mut self, id: &InstanceId) {
        if self.entries.remove(id).is_some() {
            self.membership += 1;
            self.ejected.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;
