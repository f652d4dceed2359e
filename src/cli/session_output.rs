//! Sessions as people and scripts read them.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::exit::Error;
use super::json_output::NULL;
use super::plain;
use crate::payload_json;
use crate::proto::orchestrator as proto;

fn state(session: &proto::Session) -> String {
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
    let state = word(session.state().as_str_name(), "SESSION_STATE_");
    let reason = session.close_reason();
    if reason == proto::CloseReason::Unspecified {
        return state;
    }
    format!("{state} {}", word(reason.as_str_name(), "CLOSE_REASON_"))
}

/// One session, as JSON.
pub(super) fn document(session: &proto::Session) -> Value {
    let mut document = json!({
        "id": session.id,
        "instance": session.instance,
        "epoch": session.epoch,
        "state": state(session),
        "attached": session.attached,
        "lossPolicy": session.loss_policy().as_str_name().trim_start_matches("LOSS_POLICY_").to_lowercase(),
        "durability": session.durability().as_str_name().trim_start_matches("DURABILITY_").to_lowercase(),
        "labels": session.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "unacknowledgedByInstance": session.unacknowledged_by_instance,
        "unacknowledgedByClient": session.unacknowledged_by_client,
        "expiresAt": session.expire_time.map(|time| time.to_string()),
    });
    if !session.detail.is_empty() {
        document["detail"] = session.detail.clone().into();
    }
    document
}

/// Sessions, a line each.
pub(super) fn table(sessions: &[proto::Session], now: SystemTime) -> String {
    let mut text = format!(
        "{:<24} {:<12} {:>5} {:<22} {:<8} {:>9}  EXPIRES\n",
        "SESSION", "INSTANCE", "EPOCH", "STATE", "ATTACHED", "TO DELIVER"
    );
    for session in sessions {
        let _ = writeln!(
            text,
            "{:<24} {:<12} {:>5} {:<22} {:<8} {:>9}  {}",
            plain::text(&session.id),
            plain::text(&session.instance),
            session.epoch,
            state(session),
            if session.attached { "yes" } else { "no" },
            session.unacknowledged_by_instance,
            plain::until(session.expire_time, now),
        );
        if !session.detail.is_empty() {
            let _ = writeln!(text, "  {}", plain::text(&session.detail));
        }
    }
    text
}

/// A session that has begun.
pub(super) fn spawned(spawned: &proto::SessionSpawnResponse) -> String {
    let session = spawned.session.clone().unwrap_or_default();
    format!(
        "session {} at instance {}\ntoken   {}\n",
        plain::text(&session.id),
        plain::text(&session.instance),
        spawned.token
    )
}

/// The same, as JSON.
pub(super) fn spawned_document(spawned: &proto::SessionSpawnResponse) -> Value {
    json!({
        "session": spawned.session.as_ref().map(document),
        "token": spawned.token,
        "deduplicated": spawned.deduplicated,
    })
}

fn reply(posted: &proto::SessionPostResponse) -> Result<Option<String>, Error> {
    if posted.reply_seq == 0 {
        return Ok(None);
    }
    let payload = posted.payload.as_deref().unwrap_or(NULL);
    let text = payload_json::to_json(payload).map_err(|bad| Error::Answer(bad.to_string()))?;
    Ok(Some(text))
}

/// What was posted, and its reply.
pub(super) fn posted(posted: &proto::SessionPostResponse) -> Result<String, Error> {
    Ok(match reply(posted)? {
        Some(text) => format!("{}\n", plain::text(&text)),
        None => format!("accepted at position {}\n", posted.position),
    })
}

/// The same, as JSON.
pub(super) fn posted_document(posted: &proto::SessionPostResponse) -> Result<Value, Error> {
    let reply: Option<Value> = reply(posted)?
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| Error::Answer(error.to_string()))?;
    Ok(json!({
        "position": posted.position,
        "payload": reply,
        "replySeq": posted.reply_seq,
        "deduplicated": posted.deduplicated,
    }))
}
