//! How sessions are kept: where, for how long, and how much of them.

use std::path::PathBuf;

use super::Surroundings;
use super::place::Place;
use crate::config::Sessions;
use crate::domain::limit::{
    SESSION_TTL_MAX, SESSION_TTL_MIN, SESSIONS_MAX, STORE_BYTES_ASKED_MAX, STORE_BYTES_MIN,
    UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_BYTES_MIN, UNACKNOWLEDGED_MAX,
};

pub(super) fn sessions(place: &Place<'_>, surroundings: Surroundings<'_>) -> Option<Sessions> {
    let fields = place.fields(&[
        "data_directory",
        "idle_ttl",
        "sessions_max",
        "journal_bytes_max",
        "unacknowledged_max",
        "unacknowledged_bytes_max",
    ])?;
    let mut sessions = Sessions::default();
    fields.set("data_directory", &mut sessions.data_directory, |place| {
        directory(place, surroundings).map(Some)
    });
    fields.set("idle_ttl", &mut sessions.idle_ttl, |place| {
        place.duration(&(SESSION_TTL_MIN..=SESSION_TTL_MAX))
    });
    fields.set("sessions_max", &mut sessions.sessions_max, |place| {
        place.count(1..=SESSIONS_MAX as u64)
    });
    let journal_bytes = &mut sessions.journal_bytes_max;
    fields.set("journal_bytes_max", journal_bytes, |place| {
        place.count(STORE_BYTES_MIN..=STORE_BYTES_ASKED_MAX)
    });
    let bounds = &mut sessions.each.bounds;
    fields.set("unacknowledged_max", &mut bounds.messages, |place| {
        place.count(1..=UNACKNOWLEDGED_MAX as u64)
    });
    fields.set("unacknowledged_bytes_max", &mut bounds.bytes, |place| {
        place.count(UNACKNOWLEDGED_BYTES_MIN..=UNACKNOWLEDGED_BYTES_MAX as u64)
    });
    Some(sessions)
}

fn directory(place: &Place<'_>, surroundings: Surroundings<'_>) -> Option<PathBuf> {
    let form = "the name of a folder";
    let name = place.text(form)?;
    if name.is_empty() {
        return place.expected(form);
    }
    Some(surroundings.folder.join(name))
}
