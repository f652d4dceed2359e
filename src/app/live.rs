//! A new config, taken over while calls run: all of it, or none.
//!
//! What can fail comes first and changes nothing: instances of this process are started, ways to instances are made.
//! Then each owner is told: the fleet, the door, admission, the account of memory, the shutdown. Each exchanges its
//! part as a whole, so that whoever reads it sees one config or the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time;

use super::builtins::{Builtins, Housed};
use super::{StartError, capacity};
use crate::config::{Changes, Config, Shutdown};
use crate::domain::admission::Quota;
use crate::domain::budget::Budget;
use crate::domain::health::Admin;
use crate::domain::hedge::Hedges;
use crate::domain::id::InstanceId;
use crate::fleet::view::Origin;
use crate::fleet::{Configured, Fleet, Left, registration};
use crate::ingress::caller::Keys;
use crate::ingress::listener::Address;
use crate::ingress::settings::{Settings, SettingsNow};
use crate::ingress::visitor::Forwarders;
use crate::instance::Spec;
use crate::memory::Memory;
use crate::orchestrate::admit::Gate;
use crate::tasks::Tasks;

/// Who is told what a new config says.
pub(super) struct Live {
    pub(super) running: Config,
    /// Rises with each config that has changed something.
    pub(super) generation: u64,
    pub(super) address: Address,
    pub(super) fleet: Arc<Fleet>,
    pub(super) settings: SettingsNow,
    pub(super) gate: Arc<Gate>,
    pub(super) memory: Memory,
    pub(super) retries: Arc<Mutex<Budget>>,
    pub(super) hedges: Arc<Mutex<Hedges>>,
    pub(super) shutdown: Arc<ArcSwap<Shutdown>>,
    pub(super) builtins: Builtins,
    pub(super) tasks: Tasks,
}

/// The way to hand a new config to a running orchestrator. Clones are the same.
#[derive(Debug, Clone)]
pub struct Reload(mpsc::Sender<Order>);

#[derive(Debug)]
struct Order {
    config: Box<Config>,
    told: oneshot::Sender<Result<Taken, StartError>>,
}

/// What has become of a new config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The number of the config that runs now, from 1.
    pub generation: u64,
    /// What it has changed.
    pub changes: Changes,
}

/// Whoever hands over a config waits for what comes of it, so that a longer queue would only hide a slow owner.
const ORDERS_QUEUED_MAX: usize = 1;
/// How often it is looked whether the last call has left an instance of this process that is gone.
const RETIRED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Configs that are to be taken.
pub(super) struct Orders(mpsc::Receiver<Order>);

impl Reload {
    /// The way, and where it leads.
    pub(super) fn new() -> (Self, Orders) {
        let (orders, coming) = mpsc::channel(ORDERS_QUEUED_MAX);
        (Self(orders), Orders(coming))
    }

    /// Hands over a config. A failure has changed nothing; `None` when the orchestrator is about to stop.
    pub async fn take(&self, config: Config) -> Option<Result<Taken, StartError>> {
        let (told, answer) = oneshot::channel();
        let config = Box::new(config);
        self.0.send(Order { config, told }).await.ok()?;
        answer.await.ok()
    }
}

impl Live {
    /// Takes configs from now on, until the orchestrator stops.
    pub(super) fn start(mut self, Orders(mut coming): Orders) {
        let tasks = self.tasks.clone();
        let taking = tasks.until_stop(async move {
            while let Some(Order { config, told }) = coming.recv().await {
                // Whoever has asked may have gone; the config is taken all the same.
                let _ = told.send(self.take(*config).await);
            }
            // Nobody can hand over a config any more; what this holds is needed until the end.
            std::future::pending().await
        });
        tasks.spawn_vital("config", taking);
    }

    async fn take(&mut self, later: Config) -> Result<Taken, StartError> {
        let changes = Changes::between(&self.running, &later);
        let later = later.taken_over(&self.running);
        if Changes::between(&self.running, &later).is_empty() {
            let generation = self.generation;
            return Ok(Taken {
                generation,
                changes,
            });
        }
        let (limits, means) = capacity::within_means(later.limits.clone(), later.admission);
        let (instances, builtins) = self.builtins.house(&later.instances, &self.tasks).await?;
        let ourselves = doors(&later, &self.address, &instances);
        let configured = Configured {
            instances,
            admin: wanted_otherwise(&self.running.admin, &later.admin),
            probe: later.probe,
            health: later.health,
            registration: registration_of(&later, ourselves, means.instance_calls_max),
        };
        let left = self
            .fleet
            .configure(configured)
            .map_err(StartError::Instance)?;
        // From here on nothing can fail, and nothing waits.
        let retired = self.builtins.replace(builtins);
        self.retire(retired, &left);
        self.gate.change(means.calls, quotas(&later.keys));
        self.memory.set_limit(means.buffered_bytes);
        let now = time::Instant::now().into_std();
        lock(&self.retries).change(later.retry.budget, now);
        lock(&self.hedges).change(later.hedging, now);
        self.shutdown.store(Arc::new(later.shutdown));
        self.settings.replace(Settings {
            keys: later.keys.clone(),
            limits,
            forwarders: Forwarders::new(&later.forwarders),
            cors: later.cors.clone(),
            timeouts: later.timeouts,
            retry: later.retry,
            shown: Arc::clone(&later.shown),
        });
        self.running = later;
        self.generation += 1;
        let generation = self.generation;
        Ok(Taken {
            generation,
            changes,
        })
    }

    /// Instances of this process go once no call has them any more.
    fn retire(&self, housed: Vec<Arc<Housed>>, left: &Left) {
        if housed.is_empty() {
            return;
        }
        let clients: Vec<_> = left
            .iter()
            .map(|member| Arc::downgrade(&member.client))
            .collect();
        let retiring = async move {
            while clients
                .iter()
                .map(Weak::strong_count)
                .any(|count| 0 < count)
            {
                time::sleep(RETIRED_LOOK_INTERVAL).await;
            }
            drop(housed);
        };
        self.tasks.spawn(self.tasks.until_stop(retiring));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of which instances the config wants something else than before, and what.
fn wanted_otherwise(
    earlier: &BTreeMap<InstanceId, Admin>,
    later: &BTreeMap<InstanceId, Admin>,
) -> Vec<(InstanceId, Admin)> {
    let of = |admin: &BTreeMap<InstanceId, Admin>, id: &InstanceId| {
        admin.get(id).copied().unwrap_or_default()
    };
    let more = later.keys().filter(|id| !earlier.contains_key(*id));
    let named = earlier.keys().chain(more);
    let other = named.filter(|id| of(earlier, id) != of(later, id));
    other.map(|id| (id.clone(), of(later, id))).collect()
}

/// Where this process listens: for callers, for operators, and as the instances that run in it. No instance can be
/// registered at a socket in the file system.
pub(super) fn doors(
    config: &Config,
    address: &Address,
    instances: &[(Spec, Origin)],
) -> Vec<SocketAddr> {
    let of_this_process = |(spec, origin): &(Spec, Origin)| match origin {
        Origin::Builtin => spec.endpoint.pinned.clone(),
        Origin::Config | Origin::Registered => Vec::new(),
    };
    let instances = instances.iter().flat_map(of_this_process);
    let named = address.tcp().into_iter().chain(config.operators);
    named.chain(instances).collect()
}

/// What may register, by a config.
pub(super) fn registration_of(
    config: &Config,
    ourselves: Vec<SocketAddr>,
    calls_in_flight_max: u32,
) -> registration::Settings {
    registration::Settings {
        networks: config.networks.clone(),
        take_over: config.take_over,
        ourselves,
        calls_in_flight_max,
        rate: config.admission.instance_rate,
        retries: config.retry.instance_budget,
    }
}

/// Every caller there is, with the quota of its own.
pub(super) fn quotas(keys: &Keys) -> Vec<(Arc<str>, Option<Quota>)> {
    let named = keys.keys.iter().map(|key| (&key.name, key.quota));
    let identities = keys.identities.iter();
    let named = named.chain(identities.map(|identity| (&identity.name, identity.quota)));
    named
        .map(|(name, quota)| (Arc::clone(name), quota))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_config_says_otherwise_is_wanted_otherwise() {
        let admin = |text: &str| -> BTreeMap<InstanceId, Admin> {
            let words = text.split_whitespace();
            let read = |word: &str| {
                let admin = if word.ends_with('-') {
                    Admin::Disabled
                } else {
                    Admin::Draining
                };
                (InstanceId::parse(&word[..1]).unwrap(), admin)
            };
            words.map(read).collect()
        };
        let check = |earlier: &str, later: &str, expected: &[(&str, Admin)]| {
            let found = wanted_otherwise(&admin(earlier), &admin(later));
            let found: Vec<_> = found
                .iter()
                .map(|(id, admin)| (id.as_str(), *admin))
                .collect();
            assert_eq!(found, expected, "{earlier} {later}");
        };
        check("A- B", "A- B", &[]);
        check("A-", "A", &[("A", Admin::Draining)]);
        check(
            "A- B",
            "C-",
            &[
                ("A", Admin::Active),
                ("B", Admin::Active),
                ("C", Admin::Disabled),
            ],
        );
    }
}
