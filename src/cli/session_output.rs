//! Sessions as people and scripts read them.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use super::contract_json::{Contract, Document};
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
            expires(session, now),
        );
        if !session.detail.is_empty() {
            let _ = writeln!(text, "  {}", plain::text(&session.detail));
        }
    }
    text
}

/// One that has ended is still shown for a while.
fn expires(session: &proto::Session, now: SystemTime) -> String {
    let until = plain::until(session.expire_time, now);
    if session.state() == proto::SessionState::Closed && !until.is_empty() {
        return format!("forgotten {until}");
    }
    until
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

/// The same, as JSON: the answer of the contract, with what is asked for most before it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spawned<'a> {
    session_id: &'a str,
    token: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    deduplicated: bool,
    session: Document<'a>,
}

impl<'a> Spawned<'a> {
    /// Fails where the answer has no session.
    pub(super) fn of(
        contract: &'a Contract,
        spawned: &'a proto::SessionSpawnResponse,
    ) -> Result<Self, Error> {
        let session = spawned.session.as_ref();
        let session = session.ok_or_else(|| Error::Answer("no session was told".to_owned()))?;
        Ok(Self {
            session_id: &session.id,
            token: &spawned.token,
            instance: &session.instance,
            expire_time: session.expire_time.map(|time| time.to_string()),
            deduplicated: spawned.deduplicated,
            session: contract.document("Session", session)?,
        })
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn session(state: proto::SessionState, reason: proto::CloseReason) -> proto::Session {
        proto::Session {
            id: "s".to_owned(),
            instance: "A".to_owned(),
            epoch: 2,
            state: state.into(),
            close_reason: reason.into(),
            expire_time: Some(prost_types::Timestamp {
                seconds: 60,
                nanos: 0,
            }),
            ..proto::Session::default()
        }
    }

    #[test]
    fn a_session_is_told_as_rest_tells_it() {
        let closed = session(proto::SessionState::Closed, proto::CloseReason::ByClient);
        let contract = Contract::read().unwrap();
        let document = contract.document("Session", &closed).unwrap();
        assert_eq!(
            serde_json::to_string(&document).unwrap(),
            r#"{"id":"s","instance":"A","epoch":"2","state":"closed","closeReason":"by_client","lossPolicy":"unspecified","durability":"unspecified","labels":{},"expireTime":"1970-01-01T00:01:00Z","attached":false,"unacknowledgedByInstance":"0","unacknowledgedByClient":"0","detail":""}"#
        );
    }

    #[test]
    fn a_session_that_has_ended_does_not_expire_any_more() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(40);
        let check = |state, reason, expected: &str| {
            let text = table(&[session(state, reason)], now);
            assert!(text.ends_with(expected), "{text}");
        };
        let unspecified = proto::CloseReason::Unspecified;
        check(proto::SessionState::Open, unspecified, "0  in 20s\n");
        check(
            proto::SessionState::Closed,
            proto::CloseReason::Expired,
            "0  forgotten in 20s\n",
        );
    }
}
