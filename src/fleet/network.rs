//! Which addresses may be registered, so that nobody can make the control plane call where it should not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Clouds answer with credentials there. 169.254.169.254 is link-local and refused as such.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address may not be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Never allowed, whatever the config says.
    #[error("{0} is {1}, which is never an instance")]
    Never(IpAddr, &'static str),
    /// One of our own doors.
    #[error("{0} is the orchestrator itself")]
    Ourselves(SocketAddr),
    /// Not in the config's list.
    #[error("{0} is in none of the networks that the config allows (registration.networks)")]
    NotAllowed(IpAddr),
}

/// Loopback: what is allowed when the config says nothing.
#[must_use]
pub fn loopback() -> Vec<IpNet> {
    let v4 = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
    vec![v4.into(), v6.into()]
}

/// Judges one address. `is_ours` says whether an address and port is one of our own doors.
pub fn judge(
    address: SocketAddr,
    allowed: &[IpNet],
    is_ours: impl Fn(SocketAddr) -> bool,
) -> Result<(), Refused> {
    let ip = address.ip().to_canonical();
    if let Some(what) = never(ip) {
        return Err(Refused::Never(ip, what));
    }
    let address = SocketAddr::new(ip, address.port());
    if is_ours(address) {
        return Err(Refused::Ourselves(address));
    }
    if allowed.iter().any(|network| network.contains(&ip)) {
        Ok(())
    } else {
        Err(Refused::NotAllowed(ip))
    }
}

fn never(ip: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast()),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), false),
    };
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_multicast() || broadcast {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else if METADATA.contains(&ip) {
        Some("a cloud's metadata service")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_networks_and_never_a_dangerous_address() {
        let allowed: Vec<IpNet> = ["10.0.0.0/8", "0.0.0.0/0", "::/0"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let check = |address: &str, allowed: &[IpNet], expected: &str| {
            let found = judge(address.parse().unwrap(), allowed, |ours| {
                ours.port() == 7070
            });
            let found = found.map_or_else(|refused| refused.to_string(), |()| "ok".to_owned());
            assert_eq!(found, expected);
        };
        check("10.1.2.3:80", &allowed[..1], "ok");
        check("[::ffff:10.1.2.3]:80", &allowed[..1], "ok");
        check(
            "11.1.2.3:80",
            &allowed[..1],
            "11.1.2.3 is in none of the networks that the config allows (registration.networks)",
        );
        check(
            "169.254.169.254:80",
            &allowed,
            "169.254.169.254 is a link-local address, which is never an instance",
        );
        check(
            "[::ffff:169.254.169.254]:80",
            &allowed,
            "169.254.169.254 is a link-local address, which is never an instance",
        );
        check(
            "[fe80::1]:80",
            &allowed,
            "fe80::1 is a link-local address, which is never an instance",
        );
        check(
            "100.100.100.200:80",
            &allowed,
            "100.100.100.200 is a cloud's metadata service, which is never an instance",
        );
        check(
            "0.0.0.0:80",
            &allowed,
            "0.0.0.0 is the unspecified address, which is never an instance",
        );
        check(
            "224.0.0.1:80",
            &allowed,
            "224.0.0.1 is a multicast address, which is never an instance",
        );
        check(
            "10.1.2.3:7070",
            &allowed,
            "10.1.2.3:7070 is the orchestrator itself",
        );
        check("127.0.0.1:80", &loopback(), "ok");
    }
}
