//! Callers that are known by a certificate, and who may pass one on.

use std::collections::HashMap;

use super::admission::quota;
use super::keys::{name, scopes};
use super::place::{Fields, Place};
use crate::domain::admission::Quota;
use crate::domain::limit::{IDENTITIES_MAX, NETWORKS_MAX};
use crate::ingress::caller::{Key, Revoked};
use crate::ingress::identity::{Identity, Pattern};
use crate::ingress::visitor::Forwarder;

/// `each` is the quota of one that has none; `keys` have names too.
pub(super) fn identities(place: &Place<'_>, each: Quota, keys: &[Key]) -> Option<Vec<Identity>> {
    let mut names = HashMap::new();
    let identities = place.list(IDENTITIES_MAX)?;
    let identities = identities.iter().filter_map(|place| {
        let fields = place.fields(&[
            "name",
            "spiffe",
            "dns",
            "scopes",
            "calls_in_flight_max",
            "calls_per_second",
            "calls_burst",
        ])?;
        let name = name(&fields);
        if let Some(name) = name
            && let Some(line) = names.insert(name, place.line())
        {
            fields.get_or_self("name").note(format!(
                "identity {name} is already there, in line {line}: logs could not tell them apart"
            ));
        }
        if let Some(name) = name
            && keys.iter().any(|key| *key.name == *name)
        {
            fields.get_or_self("name").note(format!(
                "a key is called {name} already: logs could not tell them apart"
            ));
        }
        // All of them are looked at, whichever of them is wrong.
        let (pattern, scopes, quota) = (pattern(&fields), scopes(&fields), quota(&fields, each));
        Some(Identity {
            name: name?.into(),
            pattern: pattern?,
            scopes: scopes?,
            quota,
            revoked: Revoked::default(),
        })
    });
    Some(identities.collect())
}

fn pattern(fields: &Fields<'_>) -> Option<Pattern> {
    let (place, read) = match (fields.get("spiffe"), fields.get("dns")) {
        (Some(place), None) => {
            let text = place.text("a SPIFFE ID such as \"spiffe://cluster.local/ns/a/sa/b\"")?;
            (place, Pattern::spiffe(text))
        }
        (None, Some(place)) => {
            let text = place.text("a DNS name such as \"client.internal\"")?;
            (place, Pattern::dns(text))
        }
        (Some(_), Some(_)) => {
            fields.place.note("has both spiffe and dns: keep one");
            return None;
        }
        (None, None) => {
            let what =
                "names no certificate: write \"spiffe\": \"spiffe://...\" or \"dns\": \"...\"";
            fields.note_absent(&["spiffe", "dns"], what);
            return None;
        }
    };
    read.map_err(|bad| place.note(bad.to_string())).ok()
}

/// Networks, and `"unix"` for whoever comes by the socket.
pub(super) fn forwarders(place: &Place<'_>) -> Option<Vec<Forwarder>> {
    let list = place.list(NETWORKS_MAX)?;
    let forwarder =
        |place: &Place<'_>| match place.text("a network such as \"10.0.0.0/8\", or \"unix\"")? {
            "unix" => Some(Forwarder::Unix),
            _ => place.network().map(Forwarder::Network),
        };
    Some(list.iter().filter_map(forwarder).collect())
}
