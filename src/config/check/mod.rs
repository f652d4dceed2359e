//! From what was written to what is meant. Every mistake is noted and reading goes on, so that all are told at
//! once; a setting that cannot be read keeps its default meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::exposure;
use super::raw::Item;
use super::{Config, Plaintext, Shutdown, refuse_exposure};
use crate::domain::admission::Quota;
use crate::domain::limit::{NETWORKS_MAX, SETTING_TIME_MAX, TIMEOUT_MAX};
use crate::fleet::registration::TakeOver;
use crate::ingress::caller::Reflection;
use crate::ingress::cors::Cors;
use crate::ingress::methods::Timeouts;

mod admission;
mod cors;
mod health;
mod identities;
mod instances;
mod keys;
mod limits;
mod place;
mod retry;
mod sessions;
mod surroundings;
mod tls;
mod traces;
mod value;

use super::mistake::Notes;
use place::{Fields, Place};
pub(super) use surroundings::{Surroundings, read};

/// Where zero makes no sense.
const SHORTEST: Duration = Duration::from_millis(1);
/// Beyond it, clocks overflow.
const LONGEST: Duration = SETTING_TIME_MAX;

/// What may stand at the top.
const SECTIONS: [&str; 22] = [
    "$schema",
    "listen",
    "socket_mode",
    "tls",
    "plaintext",
    "instances",
    "keys",
    "identities",
    "forwarders",
    "cors",
    "reflection",
    "health",
    "registration",
    "limits",
    "admission",
    "retry",
    "hedging",
    "timeouts",
    "shutdown",
    "sessions",
    "operators",
    "traces",
];

/// What is meant; of use only when nothing was noted.
pub(super) fn config(item: &Item<'_>, notes: &Notes<'_>, surroundings: Surroundings<'_>) -> Config {
    let mut config = Config::empty();
    let place = Place::root(item, notes);
    let Some(fields) = place.fields(&SECTIONS) else {
        return config;
    };
    // Of use to editors only.
    if let Some(schema) = fields.get("$schema") {
        schema.text("the address of a schema");
    }
    fields.set("listen", &mut config.listen, tls::listen);
    fields.set("socket_mode", &mut config.socket_mode, tls::socket_mode);
    fields.set("tls", &mut config.tls, |place| {
        tls::tls(place, surroundings).map(Some)
    });
    fields.set("plaintext", &mut config.plaintext, spoken);
    fields.set("admission", &mut config.admission, admission::admission);
    let each = config.admission.calls.each;
    let mut admin = BTreeMap::new();
    fields.set("instances", &mut config.instances, |place| {
        instances::instances(place, surroundings, &mut admin)
    });
    config.admin = admin;
    if fields.get("instances").is_none() {
        fields.note_absent(
            &["instances"],
            "has no instances: write a list, or [] when all of them will register",
        );
    }
    fields.set("keys", &mut config.keys.keys, |place| {
        keys::keys(place, each)
    });
    callers_by_certificate(&fields, each, &mut config);
    fields.set("cors", &mut config.cors, pages);
    fields.set("reflection", &mut config.keys.reflection, reflection);
    if let Some((probe, health)) = fields.get("health").as_ref().and_then(health::health) {
        (config.probe, config.health) = (probe, health);
    }
    if let Some(registration) = fields.get("registration") {
        registered(&registration, &mut config);
    }
    fields.set("limits", &mut config.limits, limits::limits);
    of_calls(&fields, &mut config);
    fields.set("shutdown", &mut config.shutdown, shutdown);
    let sessions = |place: &Place<'_>| sessions::sessions(place, surroundings);
    fields.set("sessions", &mut config.sessions, sessions);
    observed(&fields, &mut config, surroundings);
    obey(&fields, &mut config, surroundings);
    config
}

/// Judges the config together with what the command line says; what only that says wrongly is no mistake of the config.
fn obey(fields: &Fields<'_>, config: &mut Config, surroundings: Surroundings<'_>) {
    config.obey(surroundings.command_line);
    // A `tls` that cannot be used is a mistake already.
    let is_plain = fields.get("tls").is_none();
    if surroundings.command_line.listen.is_none()
        && is_plain
        && let Err(exposed) = refuse_exposure(config)
    {
        fields.get_or_self("listen").note(exposed.to_string());
    }
}

fn observed(fields: &Fields<'_>, config: &mut Config, surroundings: Surroundings<'_>) {
    fields.set("operators", &mut config.operators, operators);
    fields.set("traces", &mut config.traces, |place| {
        traces::traces(place, surroundings).map(Some)
    });
}

fn registered(place: &Place<'_>, config: &mut Config) {
    let Some(fields) = place.fields(&["networks", "take_over"]) else {
        return;
    };
    fields.set("networks", &mut config.networks, |place| {
        place.networks(NETWORKS_MAX)
    });
    fields.set("take_over", &mut config.take_over, |place| {
        place.word(&[
            ("any_key", TakeOver::AnyKey),
            ("same_key", TakeOver::SameKey),
        ])
    });
}

/// Those that show a certificate, and whoever may show it for them; one is of no use without the other.
fn callers_by_certificate(fields: &Fields<'_>, each: Quota, config: &mut Config) {
    let keys = &config.keys.keys;
    fields.set("identities", &mut config.keys.identities, |place| {
        identities::identities(place, each, keys)
    });
    fields.set("forwarders", &mut config.forwarders, identities::forwarders);
    let (identities, forwarders) = (fields.get("identities"), fields.get("forwarders"));
    let is_shown = fields
        .get("tls")
        .is_some_and(|tls| tls.has("client_ca_file"));
    match (identities, forwarders) {
        (Some(identities), None) if !is_shown => identities.note(
            "are of no use where nobody shows a certificate: add tls.client_ca_file, or forwarders",
        ),
        (None, Some(forwarders)) => {
            forwarders.note("are of no use without identities: add them, or leave it out");
        }
        (Some(_) | None, Some(_) | None) => {}
    }
}

fn reflection(place: &Place<'_>) -> Option<Reflection> {
    place.word(&[("key", Reflection::WithKey), ("public", Reflection::Public)])
}

/// Where plain text may be spoken.
fn spoken(place: &Place<'_>) -> Option<Plaintext> {
    place.word(&[("local", Plaintext::Local), ("allowed", Plaintext::Allowed)])
}

fn pages(place: &Place<'_>) -> Option<Option<Arc<Cors>>> {
    cors::cors(place).map(|cors| Some(Arc::new(cors)))
}

/// How often calls are tried, and how long they may take.
fn of_calls(fields: &Fields<'_>, config: &mut Config) {
    fields.set("retry", &mut config.retry, retry::retry);
    fields.set("hedging", &mut config.hedging, retry::hedging);
    fields.set("timeouts", &mut config.timeouts, timeouts);
}

fn timeouts(place: &Place<'_>) -> Option<Timeouts> {
    let fields = place.fields(&["route", "fanout", "max"])?;
    let mut timeouts = Timeouts::default();
    let time = |place: &Place<'_>| place.duration(&(SHORTEST..=TIMEOUT_MAX));
    fields.set("max", &mut timeouts.max, time);
    for (name, timeout) in [
        ("route", &mut timeouts.route),
        ("fanout", &mut timeouts.fanout),
    ] {
        // A default that nobody wrote follows a lower maximum silently.
        *timeout = timeouts.max.min(*timeout);
        fields.set(name, timeout, time);
        if timeouts.max < *timeout {
            let max = humantime::format_duration(timeouts.max);
            fields.get_or_self(name).note(format!(
                "is longer than timeouts.max ({max}): lower it or raise max"
            ));
        }
    }
    Some(timeouts)
}

fn shutdown(place: &Place<'_>) -> Option<Shutdown> {
    let fields = place.fields(&["not_ready_for", "grace"])?;
    let mut shutdown = Shutdown::default();
    let time = |place: &Place<'_>| place.duration(&(Duration::ZERO..=LONGEST));
    fields.set("not_ready_for", &mut shutdown.not_ready_for, time);
    fields.set("grace", &mut shutdown.grace, time);
    Some(shutdown)
}

fn operators(place: &Place<'_>) -> Option<Option<SocketAddr>> {
    let form = "an IP address and a port such as \"127.0.0.1:7071\"";
    let fields = place.fields(&["listen", "plaintext"])?;
    let mut plaintext = Plaintext::default();
    fields.set("plaintext", &mut plaintext, spoken);
    let Some(listen) = fields.get("listen") else {
        fields.note_absent(&["listen"], "needs listen: an IP address and a port");
        return None;
    };
    let Ok(address) = listen.text(form)?.parse() else {
        return listen.expected(form);
    };
    if let Err(exposed) = exposure::refuse_exposed_operators(address, plaintext) {
        listen.note(exposed.to_string());
    }
    Some(Some(address))
}

#[cfg(test)]
mod tests;
