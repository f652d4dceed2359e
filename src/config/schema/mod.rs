//! The form of a config as JSON Schema 2020-12, for editors and for checks elsewhere. `check` says more: what must
//! fit together, and what the files hold that a config points to. Tests hold the two against each other.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::domain::limit::{
    CALLS_ASKED_MAX, FLEET_MAX, IDENTITIES_MAX, KEYS_MAX, NETWORKS_MAX, SETTING_TIME_MAX,
};

mod door;
mod fleet;
mod sessions;
mod traces;

/// Where zero makes no sense.
const SHORTEST: Duration = Duration::from_millis(1);

/// The schema of a config.
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(&[
        (
            "$schema",
            "the schema of this file, for editors; of no other effect",
            text(),
        ),
        (
            "socket_mode",
            "permissions of the socket in the file system, as chmod takes them",
            json!({"type": "string", "pattern": "^[0-7]{3,4}$"}),
        ),
        ("tls", "how the front door speaks TLS", door::front_tls()),
        (
            "plaintext",
            "where plain text may be spoken; local unless set",
            words(&["local", "allowed"]),
        ),
        (
            "identities",
            "callers that are known by a certificate",
            list(door::identity(), IDENTITIES_MAX),
        ),
        (
            "forwarders",
            "networks, and unix, whose x-forwarded-client-cert is believed",
            list(text(), NETWORKS_MAX),
        ),
        ("cors", "pages that may call from a browser", door::cors()),
        ("listen", "IP address and port, or unix:/PATH", text()),
        (
            "instances",
            "the fleet that stays; [] when all of them register",
            list(fleet::instance(), FLEET_MAX),
        ),
        ("keys", "who may call", list(door::key(), KEYS_MAX)),
        (
            "reflection",
            "whether reflection needs a key",
            words(&["key", "public"]),
        ),
        (
            "health",
            "how instances are probed and judged",
            fleet::health(),
        ),
        (
            "registration",
            "which instances may register",
            fleet::registration(),
        ),
        ("limits", "limits of the front door", door::limits()),
        ("admission", "how much work is taken", door::admission()),
        ("retry", "how often tasks are tried again", fleet::retry()),
        (
            "hedging",
            "how often tasks are sent to a second instance while the first works on them",
            fleet::hedging(),
        ),
        ("timeouts", "how long calls may take", door::timeouts()),
        ("shutdown", "how it stops", door::shutdown()),
        ("sessions", "how sessions are kept", sessions::sessions()),
        ("operators", "the port for operators", operators()),
        ("traces", "traces by OTLP over gRPC", traces::traces()),
    ]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$id"] = json!("urn:openclaw:orchestrator:config");
    schema["title"] = json!("config of an orchestrator");
    schema["required"] = json!(["instances"]);
    schema["$defs"] = parts();
    schema
}

/// What stands in several places.
fn parts() -> Value {
    json!({
        "count": count(1..=CALLS_ASKED_MAX),
        "duration": {
            "description": "a text such as \"10s\", or a number of seconds",
            "type": ["string", "number"], "minimum": 0, "pattern": "[0-9]",
        },
        "network": {"description": "such as 10.0.0.0/8", "type": "string", "pattern": "/[0-9]+$"},
        "file": {"description": "the name of a file, relative to the config", "type": "string"},
    })
}

type Setting = (&'static str, &'static str, Value);

/// An object with these keys and no others.
fn object(settings: &[Setting]) -> Value {
    let mut properties = Map::new();
    for (name, description, schema) in settings {
        let mut schema = schema.clone();
        schema["description"] = json!(description);
        properties.insert((*name).to_owned(), schema);
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn list(items: Value, len_max: usize) -> Value {
    json!({"type": "array", "maxItems": len_max, "items": items})
}

fn networks() -> Value {
    list(shared("network"), NETWORKS_MAX)
}

fn text() -> Value {
    json!({"type": "string"})
}

fn bounded_text(len_max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": len_max})
}

fn words(words: &[&str]) -> Value {
    json!({"enum": words})
}

fn count(range: std::ops::RangeInclusive<u64>) -> Value {
    json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
}

fn time() -> Value {
    duration(SHORTEST, SETTING_TIME_MAX)
}

/// The bounds hold for numbers; `check` holds them for texts too.
fn duration(min: Duration, max: Duration) -> Value {
    let mut duration = shared("duration");
    duration["minimum"] = json!(min.as_secs_f64());
    duration["maximum"] = json!(max.as_secs());
    duration
}

fn shared(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn operators() -> Value {
    let listen = ("listen", "IP address and port", text());
    let plaintext = (
        "plaintext",
        "whether other machines may see it, without a key and in plain text",
        words(&["local", "allowed"]),
    );
    let mut operators = object(&[listen, plaintext]);
    operators["required"] = json!(["listen"]);
    operators
}

#[cfg(test)]
mod tests;
