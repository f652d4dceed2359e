//! Instances that come and go by themselves: leases and incarnations.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::time::{self, Instant};

use super::network;
use super::view::Origin;
use super::{Entry, Fleet, Roll};
use crate::domain::admission::Rate;
use crate::domain::budget::Share;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::{CONNECT_TIMEOUT, FLEET_SHOWN_AT_ONCE_MAX};
use crate::instance::endpoint::{Endpoint, Transport};
use crate::instance::{Spec, tls};

/// What may be registered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Networks in which a registered address must lie.
    pub networks: Vec<IpNet>,
    /// Our own doors.
    pub ourselves: Vec<SocketAddr>,
    /// Calls that may be at once with an instance that has no limit of its own.
    pub calls_in_flight_max: u32,
    /// How fast calls may come to one instance.
    pub rate: Option<Rate>,
    /// Retries of calls that failed at one instance, as a share of its calls.
    pub retries: Share,
    /// Who may take over a name.
    pub take_over: TakeOver,
}

/// Who may register again, or deregister, what is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TakeOver {
    /// Any key that may register: keys are exchanged while instances go on.
    #[default]
    AnyKey,
    /// The key that registered it, and operators.
    SameKey,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The name of its key.
    pub key: Arc<str>,
    /// What it may do beyond registering.
    pub rank: Rank,
}

/// What whoever asks may do beyond registering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rank {
    /// Nothing.
    #[default]
    Ordinary,
    /// Everything.
    Operator,
}

/// What an instance says of itself; already checked for form.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its name.
    pub id: InstanceId,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// Its share of BALANCED work.
    pub weight: u32,
    /// Rises with each start of the instance.
    pub incarnation: u64,
    /// How long it stays unless renewed.
    pub lease: Duration,
}

/// The lease of a registered instance.
pub(super) struct Lease {
    incarnation: u64,
    /// The key that registered it last.
    key: Arc<str>,
    ends: Instant,
    /// For people; jumps of the wall clock change nothing but this.
    pub(super) shown_end: SystemTime,
}

impl Lease {
    fn new(registration: &Registration, asker: &Asker) -> Self {
        Self {
            key: Arc::clone(&asker.key),
            incarnation: registration.incarnation,
            ends: Instant::now() + registration.lease,
            shown_end: SystemTime::now() + registration.lease,
        }
    }
}

/// A change of the roll that no view may show yet. When this is dropped, one does.
#[must_use]
struct Unshown(Arc<Fleet>);

impl Unshown {
    /// Each view costs by the size of its fleet, and all of a large one may come, or go, at the same time: whoever
    /// does so in the same turn of the scheduler is shown in one view. Nobody has an answer before he is shown.
    async fn show_with_others(self) {
        if self.0.is_behind.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    }
}

/// Also when whoever asked does not wait for the answer.
impl Drop for Unshown {
    fn drop(&mut self) {
        let fleet = &self.0;
        // Nearly always another one has shown it.
        if fleet.is_behind.load(Ordering::Acquire) {
            let roll = fleet.roll();
            if fleet.is_behind.load(Ordering::Acquire) {
                fleet.publish(&roll);
            }
        }
    }
}

impl Fleet {
    /// Adds an instance, or renews its lease; returns when the lease ends.
    pub async fn register(
        self: &Arc<Self>,
        mut registration: Registration,
        asker: &Asker,
    ) -> Result<SystemTime, Failure> {
        if let Some(shown_end) = self.renew(&registration, asker)? {
            return Ok(shown_end);
        }
        registration.endpoint.pinned = self.checked_addresses(&registration).await?;
        let (shown_end, unshown) = self.enroll(registration, asker)?;
        unshown.show_with_others().await;
        Ok(shown_end)
    }

    fn enroll(
        self: &Arc<Self>,
        registration: Registration,
        asker: &Asker,
    ) -> Result<(SystemTime, Unshown), Failure> {
        let mut roll = self.roll();
        let existing = roll.entries.get(&registration.id);
        // It may have come while the name was looked up.
        if let Some(entry) = existing {
            self.may_touch(entry, asker)?;
            if let Decision::Refuse(failure) = decide(entry, &registration) {
                return Err(failure);
            }
        }
        let lease = Lease::new(&registration, asker);
        let shown_end = lease.shown_end;
        let spec = Spec {
            id: registration.id,
            endpoint: registration.endpoint,
            labels: registration.labels,
            weight: registration.weight,
            calls_in_flight_max: None,
            credential: None,
            tls: tls::Settings::default(),
        };
        let (id, address) = (spec.id.clone(), spec.endpoint.clone());
        self.enter(&mut roll, spec, Origin::Registered, Some(lease))?;
        tracing::info!(instance = %id, %address, incarnation = registration.incarnation, by = %asker.key, "instance registered");
        self.pardon_excess(&mut roll);
        Ok((shown_end, self.unshown(&roll)))
    }

    /// To be called while the roll is locked, after it has changed.
    fn unshown(self: &Arc<Self>, roll: &Roll) -> Unshown {
        let fleet = Arc::clone(self);
        if roll.entries.len() <= FLEET_SHOWN_AT_ONCE_MAX {
            fleet.publish(roll);
        } else {
            fleet.is_behind.store(true, Ordering::Release);
        }
        Unshown(fleet)
    }

    /// Renews a lease without looking up the name again: what was checked is what is connected to.
    fn renew(
        &self,
        registration: &Registration,
        asker: &Asker,
    ) -> Result<Option<SystemTime>, Failure> {
        let mut roll = self.roll();
        let Some(entry) = roll.entries.get_mut(&registration.id) else {
            return Ok(None);
        };
        self.may_touch(entry, asker)?;
        match decide(entry, registration) {
            Decision::Refuse(failure) => Err(failure),
            Decision::Replace => Ok(None),
            Decision::Renew => {
                let lease = Lease::new(registration, asker);
                let shown_end = lease.shown_end;
                entry.lease = Some(lease);
                Ok(Some(shown_end))
            }
        }
    }

    /// Removes a registered instance. Calls that it already has are finished.
    pub async fn deregister(
        self: &Arc<Self>,
        id: &InstanceId,
        incarnation: u64,
        asker: &Asker,
    ) -> Result<(), Failure> {
        let unshown = self.strike_off(id, incarnation, asker)?;
        unshown.show_with_others().await;
        Ok(())
    }

    fn strike_off(
        self: &Arc<Self>,
        id: &InstanceId,
        incarnation: u64,
        asker: &Asker,
    ) -> Result<Unshown, Failure> {
        let mut roll = self.roll();
        let Some(entry) = roll.entries.get(id) else {
            return Err(failure(
                id,
                Reason::RegistrationUnknown,
                "no such instance is registered",
            ));
        };
        self.may_touch(entry, asker)?;
        match &entry.lease {
            None => return Err(configured(id)),
            Some(lease) if incarnation < lease.incarnation => {
                return Err(stale(id, lease.incarnation));
            }
            Some(_) => {}
        }
        roll.remove(id);
        tracing::info!(instance = %id, by = %asker.key, "instance deregistered");
        self.pardon_excess(&mut roll);
        Ok(self.unshown(&roll))
    }

    /// Whoever holds a key for registering could otherwise send the work of another instance to itself.
    fn may_touch(&self, entry: &Entry, asker: &Asker) -> Result<(), Failure> {
        let Some(lease) = &entry.lease else {
            return Ok(());
        };
        let is_same = lease.key == asker.key || asker.rank == Rank::Operator;
        if is_same || self.registration.load().take_over == TakeOver::AnyKey {
            return Ok(());
        }
        let detail = format!(
            "key `{}` lacks the scope admin: the instance was registered with another key, and the config says same_key",
            asker.key
        );
        Err(failure(entry.member.id(), Reason::ScopeMissing, detail))
    }

    /// Removes instances whose lease has ended.
    pub(super) fn remove_expired(&self, now: Instant) {
        let mut roll = self.roll();
        let ended = |entry: &&Entry| entry.lease.as_ref().is_some_and(|lease| lease.ends <= now);
        let expired: Vec<_> = roll.entries.values().filter(ended).collect();
        let expired: Vec<_> = expired
            .into_iter()
            .map(|entry| entry.member.id().clone())
            .collect();
        for id in &expired {
            roll.remove(id);
            tracing::warn!(instance = %id, "instance left: its lease was not renewed");
        }
        if !expired.is_empty() {
            self.pardon_excess(&mut roll);
            self.publish(&roll);
        }
    }

    /// Resolves once; later connections go to what was checked here.
    async fn checked_addresses(
        &self,
        registration: &Registration,
    ) -> Result<Vec<SocketAddr>, Failure> {
        if registration.endpoint.transport == Transport::Unix {
            let what = "only the config may name a socket in the file system of the orchestrator";
            return Err(failure(&registration.id, Reason::AddressNotAllowed, what));
        }
        let unresolved = |error: &dyn std::fmt::Display| {
            let detail = format!(
                "address {}: cannot be resolved: {error}",
                registration.endpoint
            );
            failure(&registration.id, Reason::InstanceDown, detail)
        };
        let addresses = match time::timeout(CONNECT_TIMEOUT, registration.endpoint.resolve()).await
        {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(unresolved(&error)),
            Err(_elapsed) => return Err(unresolved(&"no answer from the resolver")),
        };
        for address in &addresses {
            self.judge_address(*address).map_err(|refused| {
                failure(
                    &registration.id,
                    Reason::AddressNotAllowed,
                    refused.to_string(),
                )
            })?;
        }
        Ok(addresses)
    }

    pub(super) fn judge_address(&self, address: SocketAddr) -> Result<(), network::Refused> {
        let networks = &self.registration.load().networks;
        network::judge(address, networks, |address| self.is_ourselves(address))
    }

    /// One more door of ours: no instance can be registered there, whatever the settings say from now on.
    pub fn add_own_door(&self, door: SocketAddr) {
        self.doors.rcu(|doors| {
            let mut doors = Vec::clone(doors);
            doors.push(door);
            doors
        });
    }

    fn is_ourselves(&self, address: SocketAddr) -> bool {
        let (settings, doors) = (self.registration.load(), self.doors.load());
        let mut doors = settings.ourselves.iter().chain(doors.iter());
        // The port first: where that is another one, the system need not be asked.
        doors.any(|door| {
            let ip = door.ip().to_canonical();
            door.port() == address.port()
                && (ip == address.ip() || ip.is_unspecified() && is_of_this_machine(address))
        })
    }
}

fn is_of_this_machine(address: SocketAddr) -> bool {
    can_be_ours(UdpSocket::bind(SocketAddr::new(address.ip(), 0)))
}

/// Only an address of this machine can be bound. Where the system cannot say, it may be one.
fn can_be_ours<T>(bound: io::Result<T>) -> bool {
    bound.map_or_else(
        |error| error.kind() != io::ErrorKind::AddrNotAvailable,
        |_| true,
    )
}

enum Decision {
    Renew,
    Replace,
    Refuse(Failure),
}

fn decide(entry: &Entry, registration: &Registration) -> Decision {
    let (id, spec) = (&registration.id, &entry.member.spec);
    let Some(lease) = &entry.lease else {
        return Decision::Refuse(configured(id));
    };
    let same = spec.endpoint.to_string() == registration.endpoint.to_string()
        && spec.labels == registration.labels
        && spec.weight == registration.weight;
    if registration.incarnation < lease.incarnation {
        Decision::Refuse(stale(id, lease.incarnation))
    } else if lease.incarnation < registration.incarnation {
        Decision::Replace
    } else if same {
        Decision::Renew
    } else {
        let detail =
            "registered otherwise under the same incarnation: raise the incarnation to replace it";
        Decision::Refuse(failure(id, Reason::IncarnationStale, detail))
    }
}

fn configured(id: &InstanceId) -> Failure {
    failure(
        id,
        Reason::InstanceConfigured,
        "the id belongs to an instance of the config: choose another one",
    )
}

fn stale(id: &InstanceId, registered: u64) -> Failure {
    failure(
        id,
        Reason::IncarnationStale,
        format!("incarnation {registered} is registered, which is newer"),
    )
}

fn failure(
    id: &InstanceId,
    reason: Reason,
    detail: impl Into<std::borrow::Cow<'static, str>>,
) -> Failure {
    Failure::at(id, reason, Progress::NeverSent, detail)
}

#[cfg(test)]
mod tests;
