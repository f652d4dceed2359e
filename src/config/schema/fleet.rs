//! Instances: those of the config, how their health is judged, and which may register.

use std::time::Duration;

use serde_json::{Value, json};

use super::{bounded_text, count, duration, networks, object, shared, text, time, words};
use crate::domain::failure::Status;
use crate::domain::limit::{
    ATTEMPTS_MAX, BUDGET_TOKENS_ASKED_MAX, HEDGE_SAMPLES_ASKED_MAX, ID_BYTES_MAX, LABEL_BYTES_MAX,
    LABELS_MAX, PROBES_IN_A_ROW_MAX, SETTING_TIME_MAX, WEIGHT_MAX,
};

pub(super) fn instance() -> Value {
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

pub(super) fn tls() -> Value {
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

pub(super) fn health() -> Value {
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

pub(super) fn retry() -> Value {
    let attempts = || count(1..=u64::from(ATTEMPTS_MAX));
    object(&[
        (
            "attempts_default",
            "tries of a call that says nothing, the first included",
            attempts(),
        ),
        ("attempts_max", "tries that a call may ask for", attempts()),
        (
            "backoff",
            "the longest pause before the second try at the same instance; doubled with each further one",
            time(),
        ),
        ("backoff_max", "the longest such pause of all", time()),
        ("budget", "retries and hedges over all callers", budget()),
        (
            "instance_budget",
            "retries after failures of one instance; as budget unless set",
            budget(),
        ),
    ])
}

fn budget() -> Value {
    object(&[
        ("percent", "of the calls", count(0..=100)),
        ("floor", "at once, when it is quiet", tokens()),
        (
            "per_second",
            "that time alone brings, up to the floor",
            tokens(),
        ),
        ("kept_max", "that are kept for later", tokens()),
    ])
}

pub(super) fn hedging() -> Value {
    object(&[
        ("percent", "of the calls that were answered", count(0..=100)),
        ("floor", "before any call was answered", tokens()),
        ("kept_max", "that are kept for later", tokens()),
        (
            "samples_min",
            "answers that must have come before it is known how long they usually take",
            count(1..=u64::from(HEDGE_SAMPLES_ASKED_MAX)),
        ),
    ])
}

fn tokens() -> Value {
    count(0..=BUDGET_TOKENS_ASKED_MAX)
}

pub(super) fn registration() -> Value {
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
