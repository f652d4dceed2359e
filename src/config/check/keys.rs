//! Who may call. Nothing that is written here is repeated, except names, scopes and dates: somebody may have
//! written the key where its hash belongs.

use std::collections::HashMap;
use std::time::SystemTime;

use super::admission::quota;
use super::place::{Fields, Place};
use crate::config::keys::RESERVED_NAMES;
use crate::domain::admission::Quota;
use crate::domain::limit::{KEY_NAME_BYTES_MAX, KEYS_MAX};
use crate::ingress::access::Scope;
use crate::ingress::caller::{self, Key, Revoked};

/// `each` is the quota of a key that has none.
pub(super) fn keys(place: &Place<'_>, each: Quota) -> Option<Vec<Key>> {
    let (mut names, mut hashes) = (HashMap::new(), HashMap::new());
    let keys = place.clone().hidden().list(KEYS_MAX)?;
    let keys = keys.iter().filter_map(|place| {
        let fields = place.fields(&[
            "name",
            "sha256",
            "scopes",
            "expires",
            "calls_in_flight_max",
            "calls_per_second",
            "calls_burst",
        ])?;
        let (name, hash) = (name(&fields), hash(&fields));
        if let Some(name) = name
            && let Some(line) = names.insert(name, place.line())
        {
            fields.get_or_self("name").note(format!(
                "key {name} is already there, in line {line}: logs could not tell them apart"
            ));
        }
        if let Some(hash) = hash
            && let Some(line) = hashes.insert(hash, place.line())
        {
            fields.get_or_self("sha256").note(format!(
                "the same key is already there, in line {line}: keep one"
            ));
        }
        let scopes = scopes(&fields);
        let mut expires = None;
        fields.set("expires", &mut expires, |place| date(place).map(Some));
        let quota = quota(&fields, each);
        Some(Key {
            name: name?.into(),
            hash: hash?,
            scopes: scopes?,
            expires,
            quota,
            revoked: Revoked::default(),
        })
    });
    Some(keys.collect())
}

pub(super) fn name<'a>(fields: &Fields<'a>) -> Option<&'a str> {
    let Some(place) = fields.get("name").map(Place::open) else {
        fields.note_absent(
            &["name"],
            "has no name: write what logs should call it, as in \"name\": \"ci\"",
        );
        return None;
    };
    let name = place.text("a name such as \"ci\"")?;
    if name.is_empty() || KEY_NAME_BYTES_MAX < name.len() || name.contains(char::is_control) {
        return place.expected(format!(
            "a name of 1 to {KEY_NAME_BYTES_MAX} bytes without control characters"
        ));
    }
    if RESERVED_NAMES.contains(&name) {
        place.note(format!(
            "the name {name} is kept for a key that is not in the config: take another"
        ));
    }
    Some(name)
}

fn hash(fields: &Fields<'_>) -> Option<[u8; 32]> {
    let Some(place) = fields.get("sha256") else {
        fields.note_absent(
            &["sha256"],
            "has no sha256: write what `printf %s \"$KEY\" | sha256sum` prints, without the dash",
        );
        return None;
    };
    let form = "the SHA-256 of the key, 64 hexadecimal digits";
    let mut hash = [0; 32];
    if hex::decode_to_slice(place.text(form)?, &mut hash).is_err() {
        return place.expected(form);
    }
    // The variable that was to be hashed was not set, or `echo` added a newline to it.
    if hash == caller::hash(b"") || hash == caller::hash(b"\n") {
        place.note("this is the SHA-256 of nothing: the key was empty when it was hashed");
        return None;
    }
    Some(hash)
}

pub(super) fn scopes(fields: &Fields<'_>) -> Option<Vec<Scope>> {
    let words = Scope::ALL.map(|scope| (scope.word(), scope));
    let Some(place) = fields.get("scopes").map(Place::open) else {
        let words = Scope::ALL.map(Scope::word).join(", ");
        fields.note_absent(
            &["scopes"],
            &format!("has no scopes: write a list of some of {words}"),
        );
        return None;
    };
    let mut scopes = Vec::new();
    let written = place.list(Scope::ALL.len())?;
    if written.is_empty() {
        place.note("is empty: a key without a scope may not call anything, leave the key out");
    }
    for place in written {
        let Some(scope) = place.word(&words) else {
            continue;
        };
        if scopes.contains(&scope) {
            place.note(format!("{} is written twice: keep one", scope.word()));
        }
        scopes.push(scope);
    }
    Some(scopes)
}

fn date(place: &Place<'_>) -> Option<SystemTime> {
    let form = "a date such as \"2027-01-01T00:00:00Z\"";
    let place = place.clone().open();
    match humantime::parse_rfc3339(place.text(form)?) {
        Ok(date) => Some(date),
        Err(_) => place.expected(form),
    }
}
