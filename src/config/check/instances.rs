//! Which instances there are: those that run elsewhere, and built-in ones.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::place::{Fields, Place};
use super::surroundings::Surroundings;
use super::{LONGEST, SHORTEST};
use crate::config::{Builtin, Planned};
use crate::domain::failure::Status;
use crate::domain::health::Admin;
use crate::domain::id::InstanceId;
use crate::domain::limit::{CALLS_ASKED_MAX, FLEET_MAX, LABEL_BYTES_MAX, LABELS_MAX, WEIGHT_MAX};
use crate::instance::builtin::Behaviour;
use crate::instance::endpoint::{Endpoint, Transport};
use crate::instance::tls::{BadTls, Offer};
use crate::instance::{Spec, tls};

const STATES: [(&str, Admin); 3] = [
    ("active", Admin::Active),
    ("draining", Admin::Draining),
    ("disabled", Admin::Disabled),
];

/// `admin` takes those that do not begin as active.
pub(super) fn instances(
    place: &Place<'_>,
    surroundings: Surroundings<'_>,
    admin: &mut BTreeMap<InstanceId, Admin>,
) -> Option<Vec<Planned>> {
    let mut lines = HashMap::new();
    let instances = place.list(FLEET_MAX)?;
    let instances = instances.iter().filter_map(|place| {
        let fields = place.fields(&[
            "id",
            "address",
            "builtin",
            "labels",
            "weight",
            "calls_in_flight_max",
            "state",
            "tls",
            "credential",
        ])?;
        let id = unique_id(&fields, &mut lines);
        let mut state = Admin::Active;
        fields.set("state", &mut state, |place| place.word(&STATES));
        if let Some(id) = id.clone().filter(|_| state != Admin::Active) {
            admin.insert(id, state);
        }
        planned(&fields, id, surroundings)
    });
    Some(instances.collect())
}

fn unique_id(fields: &Fields<'_>, lines: &mut HashMap<InstanceId, usize>) -> Option<InstanceId> {
    let Some(place) = fields.get("id") else {
        fields.note_absent(&["id"], "has no id: write \"id\": \"A\", for example");
        return None;
    };
    let text = place.text("an id such as \"A\"")?;
    let id = InstanceId::parse(text)
        .map_err(|bad| place.note(bad.to_string()))
        .ok()?;
    match lines.get(&id) {
        Some(line) => place.note(format!(
            "instance {id} is already there, in line {line}: every instance needs its own id"
        )),
        None => drop(lines.insert(id.clone(), place.line())),
    }
    Some(id)
}

/// Everything is read even when the id is wrong, so that all mistakes are told at once.
fn planned(
    fields: &Fields<'_>,
    id: Option<InstanceId>,
    surroundings: Surroundings<'_>,
) -> Option<Planned> {
    let mut labels = BTreeMap::new();
    fields.set("labels", &mut labels, read_labels);
    let mut weight = 1;
    fields.set("weight", &mut weight, |place| {
        place.count(1..=WEIGHT_MAX.into())
    });
    let mut calls_in_flight_max = None;
    fields.set("calls_in_flight_max", &mut calls_in_flight_max, |place| {
        place.count(1..=CALLS_ASKED_MAX).map(Some)
    });
    match (fields.get("address"), fields.get("builtin")) {
        (Some(address), None) => {
            let endpoint = endpoint(&address);
            let tls = read_tls(fields, "address", endpoint.as_ref(), surroundings);
            let mut credential = None;
            fields.set("credential", &mut credential, |place| {
                surroundings.credential(&place.clone().hidden()).map(Some)
            });
            Some(Planned::Remote(Spec {
                id: id?,
                endpoint: endpoint?,
                labels,
                weight,
                calls_in_flight_max,
                credential,
                tls,
            }))
        }
        (None, Some(builtin)) => {
            for name in ["tls", "credential"] {
                if let Some(place) = fields.get(name) {
                    place.note("is of no use to a built-in instance: leave it out");
                }
            }
            let behaviour = behaviour(&builtin);
            Some(Planned::Builtin(Builtin {
                id: id?,
                labels,
                weight,
                calls_in_flight_max,
                behaviour: behaviour?,
            }))
        }
        (Some(_), Some(_)) => {
            fields.place.note("has both address and builtin: keep one");
            None
        }
        (None, None) => {
            let what = "is nowhere: write \"address\": \"grpc://HOST:PORT\" or \"http://HOST:PORT/PATH\", or \"builtin\": {} for one in this process";
            fields.note_absent(&["address", "builtin"], what);
            None
        }
    }
}

fn endpoint(place: &Place<'_>) -> Option<Endpoint> {
    let form = "an address such as \"grpc://10.0.0.5:50051\"";
    let text = place.text(form)?;
    match Endpoint::parse(text) {
        Ok(endpoint) => Some(endpoint),
        Err(bad) => {
            place.note(bad.to_string());
            None
        }
    }
}

fn read_labels(place: &Place<'_>) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (name, place) in place.entries(LABELS_MAX)? {
        let Some(value) = place.text("a text") else {
            continue;
        };
        if name.is_empty() {
            place.note("a label needs a name");
        }
        if LABEL_BYTES_MAX < name.len() || LABEL_BYTES_MAX < value.len() {
            place.note(format!(
                "is too long: a label's name and value have at most {LABEL_BYTES_MAX} bytes each"
            ));
        }
        labels.insert(name.to_owned(), value.to_owned());
    }
    Some(labels)
}

/// Makes a connector and throws it away, so that what cannot work is told at the start. The endpoint stands at
/// `address`.
pub(super) fn read_tls(
    fields: &Fields<'_>,
    address: &'static str,
    endpoint: Option<&Endpoint>,
    surroundings: Surroundings<'_>,
) -> tls::Settings {
    let mut settings = tls::Settings::default();
    let mut complete = true;
    let place = fields.get("tls").map(Place::hidden);
    let written = place.as_ref().and_then(|place| {
        place.fields(&["ca_file", "certificate_file", "key_file", "server_name"])
    });
    if let Some(tls) = &written {
        let pem = |name: &str| tls.get(name).map(|place| surroundings.pem(&place));
        let path = |name: &str| tls.get(name).and_then(|place| surroundings.path(&place));
        settings.files = Box::new(tls::Files {
            ca: path("ca_file"),
            identity: path("certificate_file").zip(path("key_file")),
        });
        let (ca, certificate, key) = (pem("ca_file"), pem("certificate_file"), pem("key_file"));
        let name = tls.get("server_name").map(Place::open);
        let name = name.map(|place| place.text("a name such as \"a.internal\""));
        complete = ![&ca, &certificate, &key].contains(&&Some(None)) && name != Some(None);
        settings.ca = ca.flatten();
        settings.server_name = name.flatten().map(str::to_owned);
        match (certificate, key) {
            (Some(certificate), Some(key)) => settings.identity = certificate.zip(key),
            (Some(_), None) => tls.note_absent(
                &["key_file"],
                "has certificate_file without key_file: add it",
            ),
            (None, Some(_)) => tls.note_absent(
                &["certificate_file"],
                "has key_file without certificate_file: add it",
            ),
            (None, None) => {}
        }
    }
    match (endpoint.map(|endpoint| endpoint.transport), place) {
        (Some(Transport::Plain | Transport::Unix), Some(place)) => {
            place.note("needs an address that begins with grpcs:// or https://");
        }
        (Some(Transport::Tls), _) if complete => {
            let host = endpoint.map_or("", |endpoint| &endpoint.host);
            if let Err(bad) = tls::connector(&settings, host, Offer::AnyHttp) {
                note_bad_tls(&fields.get_or_self(address), written.as_ref(), &bad);
            }
        }
        (Some(Transport::Plain | Transport::Unix | Transport::Tls) | None, _) => {}
    }
    settings
}

fn note_bad_tls(address: &Place<'_>, tls: Option<&Fields<'_>>, bad: &BadTls) {
    let Some(tls) = tls else {
        address.note(bad.to_string());
        return;
    };
    let place = match bad {
        BadTls::Certificate(what) | BadTls::RevocationList(what) | BadTls::Key(what) => {
            tls.get_or_self(&format!("{what}_file"))
        }
        BadTls::Identity(_) | BadTls::Mismatch => tls.place.clone(),
        BadTls::Name(_) => tls.get("server_name").unwrap_or_else(|| address.clone()),
    };
    place.note(bad.to_string());
}

fn behaviour(place: &Place<'_>) -> Option<Behaviour> {
    let fields = place.fields(&["delay", "fail", "silent", "flap"])?;
    let mut behaviour = Behaviour::default();
    fields.set("delay", &mut behaviour.delay, |place| {
        place.duration(&(Duration::ZERO..=LONGEST))
    });
    let statuses: Vec<_> = (1..=16)
        .filter_map(Status::from_number)
        .map(|status| (status.name(), status))
        .collect();
    fields.set("fail", &mut behaviour.fail, |place| {
        place.word(&statuses).map(Some)
    });
    fields.set("silent", &mut behaviour.silent, Place::truth);
    fields.set("flap", &mut behaviour.flap, |place| {
        place.duration(&(SHORTEST..=LONGEST)).map(Some)
    });
    Some(behaviour)
}
