//! How many connections there are, in all and from each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Limits, Peer};

/// Counts connections, in all and for each address.
#[derive(Default)]
pub(super) struct Admission(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: usize,
    per_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when it is dropped.
pub(super) struct Place {
    admission: Arc<Admission>,
    /// Where it is counted by its address too.
    peer: Option<IpAddr>,
}

impl Admission {
    pub(super) fn admit(self: &Arc<Self>, peer: Peer, limits: &Limits) -> Option<Place> {
        let is_exempt = |ip: &IpAddr| ip.is_loopback() || limits.trusts(peer);
        let peer = peer.ip().filter(|ip| !is_exempt(ip));
        let mut counts = self.counts();
        if limits.connections <= counts.all {
            return None;
        }
        if let Some(peer) = peer {
            let count = counts.per_address.entry(peer).or_default();
            if limits.connections_per_address <= *count {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Place {
            admission: Arc::clone(self),
            peer,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.all -= 1;
        let Some(peer) = self.peer else {
            return;
        };
        if let Some(count) = counts.per_address.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                counts.per_address.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn limits(connections: usize, per_address: usize) -> Limits {
        Limits {
            connections,
            connections_per_address: per_address,
            trusted: vec!["10.9.0.0/16".parse().unwrap()],
            ..Limits::default()
        }
    }

    fn from(ip: &str) -> Peer {
        Peer::Address(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    #[test]
    fn one_address_gets_so_many_places_and_gives_them_back() {
        let (admission, limits) = (Arc::<Admission>::default(), limits(100, 2));
        let peer = from("10.1.1.1");
        let mapped = from("::ffff:10.1.1.1");
        let first = admission.admit(peer, &limits).unwrap();
        let _second = admission.admit(mapped, &limits).unwrap();
        assert!(admission.admit(peer, &limits).is_none());
        assert!(admission.admit(from("10.1.1.2"), &limits).is_some());
        drop(first);
        assert!(admission.admit(peer, &limits).is_some());
    }

    #[test]
    fn loopback_and_trusted_networks_count_only_in_all() {
        for peer in [from("127.0.0.1"), from("10.9.3.3"), Peer::Unix] {
            let (admission, limits) = (Arc::<Admission>::default(), limits(5, 1));
            let places: Vec<_> = (0..5)
                .map(|_| admission.admit(peer, &limits).unwrap())
                .collect();
            assert!(admission.admit(peer, &limits).is_none());
            drop(places);
            assert!(admission.admit(peer, &limits).is_some());
        }
    }

    #[test]
    fn other_limits_hold_for_the_next_connection() {
        let (admission, peer) = (Arc::<Admission>::default(), from("10.1.1.1"));
        let places: Vec<_> = (0..4)
            .map(|_| admission.admit(peer, &limits(4, 4)).unwrap())
            .collect();
        assert!(admission.admit(peer, &limits(4, 4)).is_none());
        let more = admission.admit(peer, &limits(5, 5));
        assert!(more.is_some());
        assert!(admission.admit(peer, &limits(2, 2)).is_none());
        drop((places, more));
        assert!(admission.admit(peer, &limits(2, 2)).is_some());
        assert_eq!(admission.counts().all, 0, "and none was lost");
    }
}
