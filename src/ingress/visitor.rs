//! Who is at the other end of a connection, by what the transport shows: a certificate of its own, or leave to speak
//! for others.
//!
//! A forwarder (a mesh's sidecar, a gateway) names its caller in `x-forwarded-client-cert`. From anybody else that
//! header says nothing. A forwarder's own certificate is nobody's who calls: what came to it without a certificate
//! would otherwise gain the forwarder's rights by passing.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

use super::listener::Peer;
use crate::certificates::{self, Names};
use crate::domain::limit::CERTIFICATE_NAMES_MAX;

/// By which a forwarder names its caller, in the form that Envoy has given it.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Peers that may say who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarder {
    /// Those in a network.
    Network(IpNet),
    /// Those that come by the socket in the file system.
    Unix,
}

impl Forwarder {
    fn includes(&self, peer: Peer) -> bool {
        match (self, peer.ip()) {
            (Self::Network(network), Some(ip)) => network.contains(&ip),
            (Self::Unix, None) => true,
            (Self::Network(_), None) | (Self::Unix, Some(_)) => false,
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visitor {
    /// Whoever has shown a certificate with these names.
    Shown(Names),
    /// Somebody who speaks for others.
    Forwarder,
}

impl Visitor {
    /// Of a connection from there, with this certificate; nobody where nothing is known.
    #[must_use]
    pub fn of(
        peer: Peer,
        forwarders: &[Forwarder],
        certificate: Option<&CertificateDer<'_>>,
    ) -> Option<Arc<Self>> {
        if forwarders.iter().any(|one| one.includes(peer)) {
            return Some(Arc::new(Self::Forwarder));
        }
        let names = bounded(certificates::names(certificate?));
        Some(Arc::new(Self::Shown(names)))
    }

    /// The names of whoever has sent a request with these headers.
    #[must_use]
    pub fn names(&self, headers: &HeaderMap) -> Cow<'_, Names> {
        match self {
            Self::Shown(names) => Cow::Borrowed(names),
            Self::Forwarder => {
                let last = headers.get_all(FORWARDED).iter().next_back();
                let text = last.and_then(|value| value.to_str().ok());
                Cow::Owned(text.and_then(forwarded).unwrap_or_default())
            }
        }
    }
}

/// More names than that are none: whoever issues such a certificate has not meant to name one caller.
fn bounded(names: Names) -> Names {
    if CERTIFICATE_NAMES_MAX < names.uris.len() + names.dns.len() {
        return Names::default();
    }
    names
}

/// The names in the last element of `x-forwarded-client-cert`: the one that the forwarder itself has added. Those
/// before it are what its caller says, and anybody could have written them.
fn forwarded(text: &str) -> Option<Names> {
    let mut names = Names::default();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, end, after) = value(after)?;
        if name.eq_ignore_ascii_case("uri") {
            names.uris.push(value);
        } else if name.eq_ignore_ascii_case("dns") {
            names.dns.push(value);
        }
        match end {
            None => return Some(bounded(names)),
            Some(',') => names = Names::default(),
            Some(_) => {}
        }
        rest = after;
    }
}

/// One value, what ends it, and the rest. It stands in double quotes where it holds a `,`, `;` or `=`.
fn value(text: &str) -> Option<(String, Option<char>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';']);
        let (value, after) = text.split_at(end.unwrap_or(text.len()));
        let mut after = after.chars();
        let end = after.next();
        let is_plain = !value.contains('"') && !value.contains('=');
        return is_plain.then(|| (value.to_owned(), end, after.as_str()));
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => value.push(characters.next()?),
            other => value.push(other),
        }
    }
    let end = characters.next();
    let is_end = matches!(end, None | Some(',' | ';'));
    is_end.then_some((value, end, characters.as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, uris: &[&str], dns: &[&str]) {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED, text.parse().unwrap());
        let names = Visitor::Forwarder.names(&headers).into_owned();
        assert_eq!(names.uris, uris, "{text}");
        assert_eq!(names.dns, dns, "{text}");
    }

    #[test]
    fn the_last_element_counts_and_only_it() {
        let (a, b) = ("spiffe://td/a", "spiffe://td/b");
        check(
            &format!("By=spiffe://td/us;Hash=0a;Subject=\"\";URI={a}"),
            &[a],
            &[],
        );
        check(
            &format!("URI={b},By=x;Hash=1;URI={a};DNS=a.internal;DNS=b"),
            &[a],
            &["a.internal", "b"],
        );
        check(&format!("By=x;uri={a},Hash=1"), &[], &[]);
        // A subject may hold what looks like more.
        let subject = r#"Subject="CN=x,URI=spiffe://td/b;O=\"y\";URI=spiffe://td/b""#;
        check(&format!("Hash=1;{subject};URI={a}"), &[a], &[]);
        check(&format!("URI={a};{subject}"), &[a], &[]);
        check(&format!("URI=\"{a}\""), &[a], &[]);
    }

    #[test]
    fn what_is_not_well_formed_names_nobody() {
        for bad in [
            "",
            "URI",
            "URI=a,",
            "URI=a;",
            "URI=a;;",
            "URI=\"a",
            "URI=\"a\"b",
            "URI=a\"b",
            "URI=a;Subject=\"x\\",
            "URI=a;By=b=c",
        ] {
            check(bad, &[], &[]);
        }
    }

    #[test]
    fn of_several_headers_the_last_counts() {
        let mut headers = HeaderMap::new();
        for value in ["URI=spiffe://td/a", "URI=spiffe://td/b"] {
            headers.append(FORWARDED, value.parse().unwrap());
        }
        let names = Visitor::Forwarder.names(&headers).into_owned();
        assert_eq!(names.uris, ["spiffe://td/b"]);
    }

    #[test]
    fn only_who_may_speak_for_others_is_listened_to() {
        let network = Forwarder::Network("10.0.0.0/8".parse().unwrap());
        let at = |ip: &str| Peer::Address(format!("{ip}:1").parse().unwrap());
        let check = |forwarders: &[Forwarder], peer: Peer, expected: bool| {
            let found = Visitor::of(peer, forwarders, None);
            assert_eq!(found.is_some(), expected, "{forwarders:?} {peer}");
        };
        check(&[], at("10.0.0.1"), false);
        check(std::slice::from_ref(&network), at("10.0.0.1"), true);
        check(
            std::slice::from_ref(&network),
            at("[::ffff:10.0.0.1]"),
            true,
        );
        check(std::slice::from_ref(&network), at("127.0.0.1"), false);
        check(std::slice::from_ref(&network), Peer::Unix, false);
        check(&[network, Forwarder::Unix], Peer::Unix, true);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_caller_s_text_names_another(
            claimed in "[ -~]{0,60}",
        ) {
            // However a caller has written the elements before, as long as its proxy could read them.
            let _ = forwarded(&claimed);
            if forwarded(&claimed).is_some() {
                let whole = format!("{claimed},By=x;URI=spiffe://td/real");
                let names = forwarded(&whole).unwrap_or_default();
                prop_assert_eq!(names.uris, ["spiffe://td/real"]);
            }
        }
    }
}
