//! The form of a config as JSON Schema 2020-12, for editors and for checks elsewhere. `check` says more: what must
//! fit together, and what the files hold that a config points to. Tests hold the two against each other.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::domain::failure::Status;
use crate::domain::limit::{
    BUFFERED_BYTES_MIN, CALLS_ASKED_MAX, CONNECTION_STREAMS_MAX, CONNECTIONS_MAX, FLEET_MAX,
    ID_BYTES_MAX, KEY_NAME_BYTES_MAX, KEYS_MAX, LABEL_BYTES_MAX, LABELS_MAX, NETWORKS_MAX,
    PROBES_IN_A_ROW_MAX, SETTING_TIME_MAX, TIMEOUT_MAX, WEIGHT_MAX, WINDOW_MAX, WINDOW_MIN,
};
use crate::ingress::access::Scope;

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
        ("listen", "IP address and port", text()),
        (
            "instances",
            "the fleet that stays; [] when all of them register",
            list(instance(), FLEET_MAX),
        ),
        ("keys", "who may call", list(key(), KEYS_MAX)),
        (
            "reflection",
            "whether reflection needs a key",
            words(&["key", "public"]),
        ),
        ("health", "how instances are probed and judged", health()),
        (
            "registration",
            "which instances may register",
            registration(),
        ),
        ("limits", "limits of the front door", limits()),
        ("admission", "how much work is taken", admission()),
        ("timeouts", "how long calls may take", timeouts()),
        ("shutdown", "how it stops", shutdown()),
        ("operators", "the port for operators", operators()),
    ]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$id"] = json!("urn:openclaw:orchestrator:config");
    schema["title"] = json!("config of an orchestrator");
    schema["required"] = json!(["instances"]);
    schema["$defs"] = json!({
        "count": count(1..=CALLS_ASKED_MAX),
        "duration": {
            "description": "a text such as \"10s\", or a number of seconds",
            "type": ["string", "number"], "minimum": 0, "pattern": "[0-9]",
        },
        "network": {"description": "such as 10.0.0.0/8", "type": "string", "pattern": "/[0-9]+$"},
        "file": {"description": "the name of a file, relative to the config", "type": "string"},
    });
    schema
}

fn instance() -> Value {
    let weight = count(1..=u64::from(WEIGHT_MAX));
    let mut instance = object(&[
        ("id", "its name", bounded_text(ID_BYTES_MAX)),
        (
            "address",
            "host:port or grpc://host:port in plain text, grpcs://host:port over TLS",
            text(),
        ),
        (
            "builtin",
            "instead of an address: an echo in this process",
            builtin(),
        ),
        ("labels", "free words", labels()),
        ("weight", "its share of balanced work; 1 unless set", weight),
        (
            "calls_in_flight_max",
            "calls that may be with it at once",
            shared("count"),
        ),
        (
            "state",
            "what its operator wants; active unless set",
            words(&["active", "draining", "disabled"]),
        ),
        ("tls", "how it is trusted; only with grpcs://", tls()),
        (
            "credential",
            "sent to the instance as authorization: Bearer",
            credential(),
        ),
    ]);
    instance["required"] = json!(["id"]);
    instance["oneOf"] = json!([{"required": ["address"]}, {"required": ["builtin"]}]);
    let useless = json!({"properties": {"tls": false, "credential": false}});
    instance["dependentSchemas"] = json!({"builtin": useless});
    instance
}

fn builtin() -> Value {
    let statuses = (1..=16).filter_map(Status::from_number).map(Status::name);
    let statuses: Vec<_> = statuses.collect();
    object(&[
        (
            "delay",
            "answers so much later",
            duration(Duration::ZERO, SETTING_TIME_MAX),
        ),
        (
            "fail",
            "answers with this gRPC status instead",
            words(&statuses),
        ),
        (
            "silent",
            "takes calls and never answers",
            json!({"type": "boolean"}),
        ),
        (
            "flap",
            "serves for so long, refuses for as long, and so on",
            time(),
        ),
    ])
}

fn labels() -> Value {
    json!({
        "type": "object",
        "maxProperties": LABELS_MAX,
        "propertyNames": {"minLength": 1, "maxLength": LABEL_BYTES_MAX},
        "additionalProperties": {"type": "string", "maxLength": LABEL_BYTES_MAX},
    })
}

fn tls() -> Value {
    let mut tls = object(&[
        (
            "ca_file",
            "PEM file of the authority to trust; public roots unless set",
            shared("file"),
        ),
        (
            "certificate_file",
            "PEM file by which the orchestrator shows who it is",
            shared("file"),
        ),
        ("key_file", "PEM file of its private key", shared("file")),
        (
            "server_name",
            "the name that the certificate must have; the host unless set",
            text(),
        ),
    ]);
    tls["dependentRequired"] =
        json!({"certificate_file": ["key_file"], "key_file": ["certificate_file"]});
    tls
}

fn credential() -> Value {
    let mut credential = object(&[
        ("bearer_file", "a file that holds the token", shared("file")),
        (
            "bearer_env",
            "an environment variable that holds the token",
            text(),
        ),
    ]);
    (credential["minProperties"], credential["maxProperties"]) = (json!(1), json!(1));
    credential
}

fn key() -> Value {
    let scopes = json!({
        "type": "array", "minItems": 1, "uniqueItems": true, "items": words(&Scope::ALL.map(Scope::word)),
    });
    let hash = json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"});
    let expires = json!({"type": "string", "format": "date-time"});
    let mut key = object(
        &[
            &[
                (
                    "name",
                    "what logs call it",
                    bounded_text(KEY_NAME_BYTES_MAX),
                ),
                ("sha256", "SHA-256 of the key, 64 hexadecimal digits", hash),
                ("scopes", "what it may be used for", scopes),
                ("expires", "when it is no longer accepted", expires),
            ],
            &quota()[..],
        ]
        .concat(),
    );
    key["required"] = json!(["name", "sha256", "scopes"]);
    key
}

type Setting = (&'static str, &'static str, Value);

fn quota() -> [Setting; 3] {
    [
        (
            "calls_in_flight_max",
            "calls that run at once",
            shared("count"),
        ),
        (
            "calls_per_second",
            "calls a second; no limit unless set",
            shared("count"),
        ),
        (
            "calls_burst",
            "calls at once after a pause; calls_per_second unless set",
            shared("count"),
        ),
    ]
}

fn health() -> Value {
    let in_a_row = || count(1..=PROBES_IN_A_ROW_MAX);
    object(&[
        ("interval", "time between two probes of an instance", time()),
        ("timeout", "how long a probe may take", time()),
        (
            "failures_down",
            "failed probes in a row until an instance is down",
            in_a_row(),
        ),
        (
            "successes_up",
            "good probes in a row until it is healthy again",
            in_a_row(),
        ),
        (
            "busy_probes_max",
            "probes that may time out, while it works, until they count as failed",
            count(0..=PROBES_IN_A_ROW_MAX),
        ),
        (
            "slow_start",
            "how long an instance that became healthy gets less balanced work",
            duration(Duration::ZERO, SETTING_TIME_MAX),
        ),
        (
            "panic_below_percent",
            "panic mode begins when fewer candidates are well; 0 turns it off",
            count(0..=100),
        ),
        (
            "ejection",
            "when an instance is left alone because its calls fail",
            ejection(),
        ),
    ])
}

fn ejection() -> Value {
    let many = || count(1..=u64::from(u32::MAX));
    object(&[
        (
            "failures_in_a_row",
            "failed calls in a row until an instance is ejected",
            many(),
        ),
        ("window", "over how long successes are counted", time()),
        (
            "calls_min",
            "calls in the window without which their share says nothing",
            many(),
        ),
        (
            "success_percent_min",
            "fewer successes among them and it is ejected; 0 turns it off",
            count(0..=100),
        ),
        ("time", "the first ejection", time()),
        ("time_max", "the longest ejection", time()),
        (
            "percent_max",
            "how many of the fleet may be ejected at once",
            count(0..=100),
        ),
    ])
}

fn registration() -> Value {
    object(&[
        (
            "networks",
            "networks in which a registered address must lie; loopback unless set",
            networks(),
        ),
        (
            "take_over",
            "who may take over the name of a registered instance",
            words(&["any_key", "same_key"]),
        ),
    ])
}

fn limits() -> Value {
    let window = || count(WINDOW_MIN..=WINDOW_MAX);
    object(&[
        (
            "connections",
            "connections in all",
            count(1..=CONNECTIONS_MAX),
        ),
        (
            "connections_per_address",
            "connections from one address",
            count(1..=CONNECTIONS_MAX),
        ),
        (
            "trusted_networks",
            "networks of proxies, which carry many callers",
            networks(),
        ),
        (
            "streams_per_connection",
            "concurrent calls of one connection",
            count(1..=CONNECTION_STREAMS_MAX),
        ),
        (
            "stream_window_bytes",
            "flow-control window of one call",
            window(),
        ),
        (
            "connection_window_bytes",
            "flow-control window of one connection",
            window(),
        ),
        (
            "first_bytes_timeout",
            "how long a connection may take to say what it speaks",
            time(),
        ),
        (
            "http1_headers_timeout",
            "how long an HTTP/1.1 request may take to send its headers",
            time(),
        ),
        (
            "body_timeout",
            "how long a request that names no deadline may take to arrive whole",
            time(),
        ),
        (
            "stream_idle",
            "how long an answer may wait for its reader",
            time(),
        ),
        (
            "keepalive_interval",
            "how often a connection is tested",
            time(),
        ),
        (
            "keepalive_timeout",
            "how long it may take to answer that test",
            time(),
        ),
        (
            "connection_age",
            "when a connection is asked to come again",
            time(),
        ),
        (
            "connection_age_grace",
            "how long its calls may go on after that",
            duration(Duration::ZERO, SETTING_TIME_MAX),
        ),
    ])
}

fn admission() -> Value {
    let each_key = object(&quota());
    let bytes = count(BUFFERED_BYTES_MIN..=u64::MAX / 2);
    object(
        &[
            &quota()[..],
            &[
                (
                    "calls_waiting_max",
                    "calls that wait for their turn",
                    count(0..=CALLS_ASKED_MAX),
                ),
                (
                    "legs_in_flight_max",
                    "targets of all fan-outs under way",
                    shared("count"),
                ),
                (
                    "each_key",
                    "quota of a key that has none of its own",
                    each_key,
                ),
                (
                    "instance_calls_in_flight_max",
                    "calls that may be at once with an instance that has no limit of its own",
                    shared("count"),
                ),
                (
                    "buffered_bytes",
                    "bytes of all messages that are held at once",
                    bytes,
                ),
            ],
        ]
        .concat(),
    )
}

fn timeouts() -> Value {
    let time = || duration(SHORTEST, TIMEOUT_MAX);
    object(&[
        ("route", "deadline of a Route that names none", time()),
        ("fanout", "deadline of a Fanout that names none", time()),
        ("max", "the longest deadline", time()),
    ])
}

fn operators() -> Value {
    let listen = ("listen", "IP address and port", text());
    let mut operators = object(&[listen]);
    operators["required"] = json!(["listen"]);
    operators
}

fn shutdown() -> Value {
    let time = || duration(Duration::ZERO, SETTING_TIME_MAX);
    object(&[
        (
            "not_ready_for",
            "how long it says NOT_SERVING before it turns callers away",
            time(),
        ),
        (
            "grace",
            "how long running calls may go on after that",
            time(),
        ),
    ])
}

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

#[cfg(test)]
mod tests;
