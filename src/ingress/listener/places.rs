//! How many connections there are, in all and from each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Limits, Peer};

/// Counts connections, in all and for each address.
pub(super) struct Admission {
    all: Arc<Semaphore>,
    per_address_max: usize,
    trusted: Vec<IpNet>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; given back when it is dropped.
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    counted: Option<(Arc<Admission>, IpAddr)>,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            per_address_max: limits.connections_per_address,
            trusted: limits.trusted.clone(),
            per_address: Mutex::default(),
        }
    }

    pub(super) fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let is_exempt =
            |ip: &IpAddr| ip.is_loopback() || self.trusted.iter().any(|one| one.contains(ip));
        let Some(peer) = peer.ip().filter(|ip| !is_exempt(ip)) else {
            return Some(Place {
                _all: all,
                counted: None,
            });
        };
        let mut per_address = self
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = per_address.entry(peer).or_default();
        if self.per_address_max <= *count {
            return None;
        }
        *count += 1;
        Some(Place {
            _all: all,
            counted: Some((Arc::clone(self), peer)),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((admission, peer)) = self.counted.take() else {
            return;
        };
        let mut per_address = admission
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_address.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn admission(connections: usize, per_address: usize) -> Arc<Admission> {
        let trusted = vec!["10.9.0.0/16".parse().unwrap()];
        let limits = Limits {
            connections,
            connections_per_address: per_address,
            trusted,
            ..Limits::default()
        };
        Arc::new(Admission::new(&limits))
    }

    fn from(ip: &str) -> Peer {
        Peer::Address(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    #[test]
    fn one_address_gets_so_many_places_and_gives_them_back() {
        let admission = admission(100, 2);
        let peer = from("10.1.1.1");
        let mapped = from("::ffff:10.1.1.1");
        let first = admission.admit(peer).unwrap();
        let _second = admission.admit(mapped).unwrap();
        assert!(admission.admit(peer).is_none());
        assert!(admission.admit(from("10.1.1.2")).is_some());
        drop(first);
        assert!(admission.admit(peer).is_some());
    }

    #[test]
    fn loopback_and_trusted_networks_count_only_in_all() {
        for peer in [from("127.0.0.1"), from("10.9.3.3"), Peer::Unix] {
            let admission = admission(5, 1);
            let places: Vec<_> = (0..5).map(|_| admission.admit(peer).unwrap()).collect();
            assert!(admission.admit(peer).is_none());
            drop(places);
            assert!(admission.admit(peer).is_some());
        }
    }
}
