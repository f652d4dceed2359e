//! The front door: who may call, how much, how fast, for how long, and over what.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    SHORTEST, Setting, bounded_text, count, duration, list, networks, object, shared, text, time,
    words,
};
use crate::domain::limit::{
    BUFFERED_BYTES_MIN, CALLS_ASKED_MAX, CONNECTION_STREAMS_MAX, CONNECTIONS_MAX, CORS_AGE_MAX,
    CORS_ENTRIES_MAX, KEY_NAME_BYTES_MAX, SETTING_TIME_MAX, TIMEOUT_MAX, WINDOW_MAX, WINDOW_MIN,
};
use crate::ingress::access::Scope;

pub(super) fn key() -> Value {
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
                ("scopes", "what it may be used for", scopes()),
                ("expires", "when it is no longer accepted", expires),
            ],
            &quota()[..],
        ]
        .concat(),
    );
    key["required"] = json!(["name", "sha256", "scopes"]);
    key
}

pub(super) fn front_tls() -> Value {
    let mut tls = object(&[
        (
            "certificate_file",
            "PEM file of the certificate and those that lead to its authority",
            shared("file"),
        ),
        ("key_file", "PEM file of its private key", shared("file")),
        (
            "client_ca_file",
            "PEM file of who may sign the certificates of callers",
            shared("file"),
        ),
        (
            "client_crl_file",
            "PEM file with the revocation lists of those authorities",
            shared("file"),
        ),
        (
            "client_crl_overdue",
            "what a list counts whose successor is overdue: its callers are refused unless it is accepted",
            words(&["refused", "accepted"]),
        ),
        (
            "client_certificate",
            "whether callers must show one; required unless set",
            words(&["required", "optional"]),
        ),
    ]);
    tls["required"] = json!(["certificate_file", "key_file"]);
    tls["dependentRequired"] = json!({
        "client_certificate": ["client_ca_file"],
        "client_crl_file": ["client_ca_file"],
        "client_crl_overdue": ["client_crl_file"],
    });
    tls
}

pub(super) fn identity() -> Value {
    let mut identity = object(
        &[
            &[
                (
                    "name",
                    "what logs call it",
                    bounded_text(KEY_NAME_BYTES_MAX),
                ),
                (
                    "spiffe",
                    "a SPIFFE ID; /* at its end stands for all below",
                    text(),
                ),
                ("dns", "a DNS name", text()),
                ("scopes", "what it may do", scopes()),
            ],
            &quota()[..],
        ]
        .concat(),
    );
    identity["required"] = json!(["name", "scopes"]);
    identity["oneOf"] = json!([{"required": ["spiffe"]}, {"required": ["dns"]}]);
    identity
}

pub(super) fn cors() -> Value {
    let mut origins = list(text(), CORS_ENTRIES_MAX);
    origins["minItems"] = json!(1);
    let mut cors = object(&[
        (
            "origins",
            "origins of pages, such as https://console.example.com, or * alone for all",
            origins,
        ),
        (
            "allowed_headers",
            "headers that a page may send besides those that this server reads",
            list(text(), CORS_ENTRIES_MAX),
        ),
        (
            "max_age",
            "how long a browser may remember that",
            duration(Duration::ZERO, CORS_AGE_MAX),
        ),
    ]);
    cors["required"] = json!(["origins"]);
    cors
}

fn scopes() -> Value {
    json!({
        "type": "array",
        "minItems": 1,
        "uniqueItems": true,
        "items": words(&Scope::ALL.map(Scope::word)),
    })
}

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

pub(super) fn limits() -> Value {
    let window = || count(WINDOW_MIN..=WINDOW_MAX);
    object(
        &[
            &[
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
            ],
            &limit_times()[..],
        ]
        .concat(),
    )
}

fn limit_times() -> [Setting; 9] {
    [
        (
            "tls_handshake_timeout",
            "how long a TLS handshake may take",
            time(),
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
            "how long its calls may go on after that; less than timeouts.max cuts some of them",
            duration(Duration::ZERO, SETTING_TIME_MAX),
        ),
    ]
}

pub(super) fn admission() -> Value {
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
                    "instance_calls_per_second",
                    "calls a second that may come to one instance; no limit unless set",
                    shared("count"),
                ),
                (
                    "instance_calls_burst",
                    "calls to one instance at once after a pause; instance_calls_per_second unless set",
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

pub(super) fn timeouts() -> Value {
    let time = || duration(SHORTEST, TIMEOUT_MAX);
    object(&[
        ("route", "deadline of a Route that names none", time()),
        ("fanout", "deadline of a Fanout that names none", time()),
        ("max", "the longest deadline", time()),
    ])
}

pub(super) fn shutdown() -> Value {
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
