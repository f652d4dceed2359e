//! What a client says of sessions → values of the domain.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::from_proto::{self, invalid};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{
    EXPRESSION_BYTES_MAX, SESSION_IDLE_TTL_DEFAULT, SESSION_KEY_BYTES_MAX,
    SESSION_TARGET_BYTES_MAX, SESSION_TTL_MAX, SESSION_TTL_MIN,
};
use crate::domain::payload::Payload;
use crate::domain::session::{self, Durability, SessionId, token};
use crate::ingress::access::SESSION_NAMES_TAKEN;
use crate::orchestrate::hold_session::Spawn;
use crate::orchestrate::hold_session::frame::ClientFrame;
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_request::Frame;
use crate::store::record::{Query, StateFilter};

pub(super) fn id(field: &str, text: &str) -> Result<SessionId, Failure> {
    SessionId::parse(text).map_err(|bad| invalid(field, bad))
}

/// The name of a session that begins. It has a path over REST, whichever door it was begun by.
fn new_id(text: &str) -> Result<SessionId, Failure> {
    if SESSION_NAMES_TAKEN.contains(&text) {
        let what = format!("`{text}` is a path of its own over REST: choose another name");
        return Err(invalid("session_id", what));
    }
    id("session_id", text)
}

pub(super) fn spawn(caller: &str, request: proto::SessionSpawnRequest) -> Result<Spawn, Failure> {
    let policy = proto::CallPolicy {
        selection: request.selection,
        hash_key: request.hash_key.clone(),
        ..proto::CallPolicy::default()
    };
    let selection = from_proto::selection(&policy).map_err(|failure| {
        let detail = failure.detail.replace("policy.", "");
        Failure::new(failure.reason, detail)
    })?;
    let bytes: usize = request.instances.iter().map(String::len).sum();
    if SESSION_TARGET_BYTES_MAX < bytes {
        let what = format!("at most {SESSION_TARGET_BYTES_MAX} bytes of expressions");
        return Err(invalid("instances", what));
    }
    let idle_ttl = ttl("idle_ttl", request.idle_ttl)?.unwrap_or(SESSION_IDLE_TTL_DEFAULT);
    let lifetime = ttl("lifetime", request.lifetime)?;
    let loss_policy = match proto::LossPolicy::try_from(request.loss_policy) {
        Ok(proto::LossPolicy::Unspecified | proto::LossPolicy::Fail) => session::LossPolicy::Fail,
        Ok(proto::LossPolicy::Reassign) => session::LossPolicy::Reassign,
        Ok(proto::LossPolicy::Replay) => session::LossPolicy::Replay,
        Err(_) => {
            let what = format!("{} is not a loss policy", request.loss_policy);
            return Err(invalid("loss_policy", what));
        }
    };
    let durability = match proto::Durability::try_from(request.durability) {
        Ok(proto::Durability::Unspecified | proto::Durability::Durable) => Durability::Durable,
        Ok(proto::Durability::None) => Durability::None,
        Err(_) => {
            let what = format!("{} is not a durability", request.durability);
            return Err(invalid("durability", what));
        }
    };
    let labels = from_proto::checked_labels("labels", request.labels)?;
    let key = key(request.idempotency_key)?;
    let id = match request.session_id.as_str() {
        "" => None,
        text => Some(new_id(text)?),
    };
    let mut asked = Spawn {
        id,
        caller: caller.to_owned(),
        targets: request.instances,
        selection,
        idle_ttl,
        lifetime,
        loss_policy,
        durability,
        labels,
        idempotency: None,
    };
    asked.idempotency = key.map(|key| {
        // Of the values that were meant, so that a default and its absence are the same request.
        let request = Sha256::digest(format!("{asked:?}")).into();
        (key, request)
    });
    Ok(asked)
}

fn ttl(field: &str, asked: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    let Some(asked) = from_proto::timeout(field, asked)? else {
        return Ok(None);
    };
    if (SESSION_TTL_MIN..=SESSION_TTL_MAX).contains(&asked) {
        return Ok(Some(asked));
    }
    let (least, most) = (SESSION_TTL_MIN.as_secs(), SESSION_TTL_MAX.as_secs());
    Err(invalid(
        field,
        format!("must be between {least} s and {most} s"),
    ))
}

fn key(key: String) -> Result<Option<String>, Failure> {
    if SESSION_KEY_BYTES_MAX < key.len() {
        let what = format!("may have at most {SESSION_KEY_BYTES_MAX} bytes");
        return Err(invalid("idempotency_key", what));
    }
    Ok(Some(key).filter(|key| !key.is_empty()))
}

pub(super) fn post_key(
    asked: String,
    payload: &Payload,
) -> Result<Option<(String, [u8; 32])>, Failure> {
    let key = key(asked)?;
    Ok(key.map(|key| (key, token::hash(payload.encoded()))))
}

pub(super) fn frame(frame: proto::SessionSendRequest) -> Result<ClientFrame, Failure> {
    match frame.frame {
        Some(Frame::Data(data)) => Ok(ClientFrame::Data {
            seq: data.seq,
            in_reply_to: data.in_reply_to,
            payload: from_proto::payload(data.payload)?,
        }),
        Some(Frame::Ack(ack)) => Ok(ClientFrame::Ack { seq: ack.seq }),
        Some(Frame::Close(proto::SessionEnd {})) => Ok(ClientFrame::Close),
        Some(Frame::Hello(_)) => Err(invalid("hello", "comes once")),
        None => {
            let detail = "frame: is missing, or of a kind that is not known here";
            Err(Failure::new(Reason::ArgumentInvalid, detail))
        }
    }
}

pub(super) fn query(request: proto::SessionListRequest) -> Result<Query, Failure> {
    let state = match proto::SessionState::try_from(request.state) {
        Ok(proto::SessionState::Unspecified) => None,
        Ok(proto::SessionState::Open) => Some(StateFilter::Open),
        Ok(proto::SessionState::Closed) => Some(StateFilter::Closed),
        Err(_) => {
            let what = format!("{} is not a state", request.state);
            return Err(invalid("state", what));
        }
    };
    let optional = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let after = optional(&request.page_token).map(|text| id("page_token", &text));
    let instance = optional(&request.instance).map(|id| from_proto::instance_id("instance", &id));
    let labels: BTreeMap<_, _> = request.labels.into_iter().collect();
    Ok(Query {
        after: after.transpose()?,
        state,
        instance: instance.transpose()?,
        labels,
        ..Query::default()
    })
}

// Expressions of one session are kept with it, unlike those of a call.
const _: () = assert!(SESSION_TARGET_BYTES_MAX <= EXPRESSION_BYTES_MAX);
