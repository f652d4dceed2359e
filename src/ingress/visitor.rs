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
use super::revoked::Revoked;
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

/// Who is at the other end of a connection, as it is for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visitor {
    /// Whoever has shown a certificate with these names.
    Shown(Names),
    /// Somebody who speaks for others, until that is taken from it.
    Forwarder(Revoked),
}

/// Everybody who may speak for others at one moment. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Forwarders(Arc<[(Forwarder, Arc<Visitor>)]>);

impl Forwarders {
    /// These.
    #[must_use]
    pub fn new(forwarders: &[Forwarder]) -> Self {
        let visitor = || Arc::new(Visitor::Forwarder(Revoked::default()));
        let forwarders = forwarders.iter().map(|one| (one.clone(), visitor()));
        Self(forwarders.collect())
    }

    /// Those who stay are who they were: what they have vouched for goes on.
    pub(super) fn inherit(&mut self, previous: &Self) {
        let staying = self.0.iter().map(|(forwarder, visitor)| {
            let mut known = previous.0.iter();
            let same = known.find(|(known, _)| known == forwarder);
            let visitor = same.map_or(visitor, |(_, visitor)| visitor);
            (forwarder.clone(), Arc::clone(visitor))
        });
        self.0 = staying.collect();
    }

    /// Ends what those have vouched for who are not among `next`.
    pub(super) fn revoke_all_but(&self, next: &Self) {
        for (forwarder, visitor) in self.0.iter() {
            let stays = next.0.iter().any(|(staying, _)| staying == forwarder);
            if let Visitor::Forwarder(revoked) = &**visitor
                && !stays
            {
                revoked.revoke();
            }
        }
    }

    fn find(&self, peer: Peer) -> Option<&Arc<Visitor>> {
        let found = self
            .0
            .iter()
            .find(|(forwarder, _)| forwarder.includes(peer));
        found.map(|(_, visitor)| visitor)
    }
}

/// Whoever is at the other end of a connection. What that is changes with the config while the connection is open.
#[derive(Debug, Clone)]
pub struct Guest {
    peer: Peer,
    shown: Option<Arc<Visitor>>,
}

impl Guest {
    /// Of a connection from there, with this certificate.
    #[must_use]
    pub fn new(peer: Peer, certificate: Option<&CertificateDer<'_>>) -> Self {
        let names = certificate.map(|it| bounded(certificates::names(it)));
        Self {
            peer,
            shown: names.map(|names| Arc::new(Visitor::Shown(names))),
        }
    }

    /// Who it is while these may speak for others; nobody where nothing is known.
    #[must_use]
    pub fn now<'a>(&'a self, forwarders: &'a Forwarders) -> Option<&'a Arc<Visitor>> {
        // A forwarder's own certificate is nobody's who calls.
        forwarders.find(self.peer).or(self.shown.as_ref())
    }
}

impl Visitor {
    /// Until when somebody is served whom this visitor is, or has named.
    #[must_use]
    pub fn until(&self, revoked: &Revoked) -> Revoked {
        match self {
            Self::Shown(_) => revoked.clone(),
            Self::Forwarder(leave) => revoked.with_word_of(leave),
        }
    }

    /// The names of whoever has sent a request with these headers.
    #[must_use]
    pub fn names(&self, headers: &HeaderMap) -> Cow<'_, Names> {
        match self {
            Self::Shown(names) => Cow::Borrowed(names),
            Self::Forwarder(_) => {
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
        let names = Visitor::Forwarder(Revoked::default())
            .names(&headers)
            .into_owned();
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
        let names = Visitor::Forwarder(Revoked::default())
            .names(&headers)
            .into_owned();
        assert_eq!(names.uris, ["spiffe://td/b"]);
    }

    #[test]
    fn only_who_may_speak_for_others_is_listened_to() {
        let network = Forwarder::Network("10.0.0.0/8".parse().unwrap());
        let at = |ip: &str| Peer::Address(format!("{ip}:1").parse().unwrap());
        let check = |forwarders: &[Forwarder], peer: Peer, expected: bool| {
            let found = Forwarders::new(forwarders);
            let found = Guest::new(peer, None).now(&found).is_some();
            assert_eq!(found, expected, "{forwarders:?} {peer}");
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
