//! Callers that are known by a certificate instead of a key: which names mean whom, and what they may do.

use std::sync::Arc;

use super::access::Scope;
use super::caller::Revoked;
use crate::certificates::Names;
use crate::domain::admission::Quota;
use crate::domain::limit::SPIFFE_ID_BYTES_MAX;

/// A caller that shows a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it is called in logs, and by what its calls are counted.
    pub name: Arc<str>,
    /// The certificates that are its.
    pub pattern: Pattern,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// What it may have running, and how fast it may call; what all may when it says nothing.
    pub quota: Option<Quota>,
    /// Tells whoever is still served by it when it is no longer accepted.
    pub revoked: Revoked,
}

/// Names in certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One SPIFFE ID.
    Spiffe(String),
    /// All SPIFFE IDs that begin so; it ends with a slash.
    SpiffeBelow(String),
    /// One DNS name, in lower case.
    Dns(String),
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Not a SPIFFE ID.
    #[error(
        "expected a SPIFFE ID such as spiffe://cluster.local/ns/a/sa/b, or spiffe://cluster.local/ns/a/* for all below it"
    )]
    Spiffe,
    /// Not a DNS name.
    #[error("expected a DNS name such as client.internal, without a wildcard")]
    Dns,
}

impl Pattern {
    /// Reads a SPIFFE ID; `/*` at its end stands for everything below.
    pub fn spiffe(text: &str) -> Result<Self, BadPattern> {
        if let Some(start) = text.strip_suffix('*') {
            // What stands there for the star must itself make an id.
            let is_start = start.ends_with('/') && is_spiffe_id(&format!("{start}x"));
            return is_start
                .then(|| Self::SpiffeBelow(start.to_owned()))
                .ok_or(BadPattern::Spiffe);
        }
        let is_id = is_spiffe_id(text);
        is_id
            .then(|| Self::Spiffe(text.to_owned()))
            .ok_or(BadPattern::Spiffe)
    }

    /// Reads a DNS name.
    pub fn dns(text: &str) -> Result<Self, BadPattern> {
        let is_label = |label: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            !label.is_empty() && label.len() <= 63 && label.chars().all(plain)
        };
        if 253 < text.len() || !text.split('.').all(is_label) {
            return Err(BadPattern::Dns);
        }
        Ok(Self::Dns(text.to_ascii_lowercase()))
    }

    fn fits(&self, names: &Names) -> bool {
        match self {
            Self::Spiffe(id) => spiffe_id(names) == Some(id),
            Self::SpiffeBelow(start) => {
                spiffe_id(names).is_some_and(|id| id.starts_with(start.as_str()))
            }
            Self::Dns(name) => names.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name)),
        }
    }
}

/// The first of the callers whose certificate has these names.
pub(super) fn find<'a>(identities: &'a [Identity], names: &Names) -> Option<&'a Identity> {
    identities
        .iter()
        .find(|identity| identity.pattern.fits(names))
}

/// The SPIFFE ID of a certificate: its one URI (X509-SVID, 2: a certificate with more of them must be refused).
fn spiffe_id(names: &Names) -> Option<&String> {
    match &names.uris[..] {
        [id] => is_spiffe_id(id).then_some(id),
        _ => None,
    }
}

/// SPIFFE-ID, 2: a trust domain and a path of plain parts, none of which is `.` or `..`.
fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let of_domain =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    let of_path = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(of_path);
    text.len() <= SPIFFE_ID_BYTES_MAX
        && !domain.is_empty()
        && domain.bytes().all(of_domain)
        && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: Result<Pattern, BadPattern>, uris: &[&str], dns: &[&str], expected: bool) {
        let names = Names {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
        };
        let pattern = pattern.unwrap();
        assert_eq!(pattern.fits(&names), expected, "{pattern:?} {names:?}");
    }

    #[test]
    fn a_spiffe_id_means_itself_and_a_star_everything_below() {
        let one = || Pattern::spiffe("spiffe://td/ns/a/sa/b");
        check(one(), &["spiffe://td/ns/a/sa/b"], &[], true);
        check(one(), &["spiffe://td/ns/a/sa/B"], &[], false);
        check(one(), &["spiffe://td/ns/a/sa/b/c"], &[], false);
        check(one(), &["spiffe://other/ns/a/sa/b"], &[], false);
        check(one(), &[], &["spiffe://td/ns/a/sa/b"], false);
        let below = || Pattern::spiffe("spiffe://td/ns/a/*");
        check(below(), &["spiffe://td/ns/a/sa/b"], &[], true);
        check(below(), &["spiffe://td/ns/a"], &[], false);
        check(below(), &["spiffe://td/ns/ab/sa/b"], &[], false);
        check(below(), &["spiffe://td/ns/a/../b"], &[], false);
        check(below(), &["spiffe://td/ns/a/%2e%2e/b"], &[], false);
        check(
            Pattern::spiffe("spiffe://td/*"),
            &["spiffe://td/x"],
            &[],
            true,
        );
        check(
            Pattern::spiffe("spiffe://td/*"),
            &["spiffe://td2/x"],
            &[],
            false,
        );
    }

    #[test]
    fn a_certificate_with_two_ids_has_none() {
        let ids = ["spiffe://td/a", "spiffe://td/b"];
        for id in ids {
            check(Pattern::spiffe(id), &ids, &[], false);
        }
    }

    #[test]
    fn a_dns_name_means_itself_in_any_case_and_no_wildcard_does() {
        let name = || Pattern::dns("Client.internal");
        check(name(), &[], &["other", "client.INTERNAL"], true);
        check(name(), &[], &["*.internal"], false);
        check(name(), &[], &["x.client.internal"], false);
    }

    #[test]
    fn what_could_not_be_meant_is_refused() {
        for bad in [
            "",
            "td/a",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///a",
            "spiffe://TD/a",
            "spiffe://td/a/",
            "spiffe://td/a//b",
            "spiffe://td/a/./b",
            "spiffe://td:1/a",
            "spiffe://td/a b",
            "spiffe://*",
            "spiffe://*/a",
            "spiffe://td*",
            "spiffe://td/a*",
            "spiffe://td/*/b",
            "https://td/a",
        ] {
            assert_eq!(Pattern::spiffe(bad), Err(BadPattern::Spiffe), "{bad}");
        }
        for bad in ["", "*.internal", "a..b", "a b", "a:1", "a."] {
            assert_eq!(Pattern::dns(bad), Err(BadPattern::Dns), "{bad}");
        }
        let long = format!("spiffe://td/{}", "x".repeat(SPIFFE_ID_BYTES_MAX));
        assert!(Pattern::spiffe(&long).is_err());
    }
}
