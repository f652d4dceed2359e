//! How sessions are kept.

use serde_json::{Value, json};

use super::{count, duration, object};
use crate::domain::limit::{
    SESSION_TTL_MAX, SESSION_TTL_MIN, SESSIONS_MAX, STORE_BYTES_ASKED_MAX, STORE_BYTES_MIN,
    UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_BYTES_MIN, UNACKNOWLEDGED_MAX,
};

pub(super) fn sessions() -> Value {
    let messages = count(1..=UNACKNOWLEDGED_MAX as u64);
    let bytes = count(UNACKNOWLEDGED_BYTES_MIN..=UNACKNOWLEDGED_BYTES_MAX as u64);
    object(&[
        (
            "data_directory",
            "the folder of the journal, relative to the config",
            json!({"type": "string", "minLength": 1}),
        ),
        (
            "idle_ttl",
            "how long a session that says nothing of it lasts without a client and without a word",
            duration(SESSION_TTL_MIN, SESSION_TTL_MAX),
        ),
        (
            "sessions_max",
            "sessions that are remembered, closed ones included",
            count(1..=SESSIONS_MAX as u64),
        ),
        (
            "journal_bytes_max",
            "bytes of all sessions that the journal keeps",
            count(STORE_BYTES_MIN..=STORE_BYTES_ASKED_MAX),
        ),
        (
            "unacknowledged_max",
            "messages of one direction of a session that are not acknowledged",
            messages,
        ),
        (
            "unacknowledged_bytes_max",
            "bytes of these messages; one message always fits",
            bytes,
        ),
    ])
}
