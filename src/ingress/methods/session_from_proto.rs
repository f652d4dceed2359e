//! What a client says of sessions → values of the domain.

use std::collections::BTreeMap;
use std::time::Duration;

use super::from_proto::{self, invalid};
use crate::domain::failure::{Failure, Reason};
use crate::domain::idempotency::Fingerprint;
use crate::domain::limit::{
    EXPRESSION_BYTES_MAX, SESSION_KEY_BYTES_MAX, SESSION_TARGET_BYTES_MAX, SESSION_TTL_MAX,
    SESSION_TTL_MIN,
};
use crate::domain::payload::Payload;
use crate::domain::selection::Policy;
use crate::domain::session::{self, Durability, SessionId};
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

/// `idle_ttl` is for a request that names none.
pub(super) fn spawn(
    caller: &str,
    request: proto::SessionSpawnRequest,
    idle_ttl: Duration,
) -> Result<Spawn, Failure> {
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
    let idle_ttl = ttl("idle_ttl", request.idle_ttl)?.unwrap_or(idle_ttl);
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
        let request = fingerprint(&asked).bytes();
        (key, request)
    });
    Ok(asked)
}

/// What a spawn asks for, of the values that were meant, so that a default and its absence are the same. It is kept
/// as long as the session: what is new must not change what older requests come to.
fn fingerprint(asked: &Spawn) -> Fingerprint {
    let selection = match &asked.selection {
        Policy::Balanced => "balanced".to_owned(),
        Policy::Ordered => "ordered".to_owned(),
        Policy::Hash(key) => format!("hash {key}"),
    };
    let loss_policy = match asked.loss_policy {
        session::LossPolicy::Fail => "fail",
        session::LossPolicy::Reassign => "reassign",
        session::LossPolicy::Replay => "replay",
    };
    let durability = match asked.durability {
        Durability::Durable => "durable",
        Durability::None => "none",
    };
    let mut texts = vec![
        format!("id {}", asked.id.as_ref().map_or("", SessionId::as_str)),
        format!("selection {selection}"),
        format!("idle_ttl {}", asked.idle_ttl.as_nanos()),
        format!("loss_policy {loss_policy}"),
        format!("durability {durability}"),
    ];
    let lifetime = asked.lifetime.map(|lifetime| lifetime.as_nanos());
    texts.extend(lifetime.map(|lifetime| format!("lifetime {lifetime}")));
    // Their order says something only where the first of them is chosen.
    let is_ordered = asked.selection == Policy::Ordered;
    texts.extend(asked.targets.iter().enumerate().map(|(at, target)| {
        let at = if is_ordered { at } else { 0 };
        format!("instances {at} {target}")
    }));
    let labels = asked.labels.iter();
    texts.extend(labels.map(|(name, value)| format!("label {} {name} {value}", name.len())));
    Fingerprint::of(&texts, &Payload::null())
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
    in_reply_to: u64,
    payload: &Payload,
) -> Result<Option<(String, [u8; 32])>, Failure> {
    let key = key(asked)?;
    let replies = (in_reply_to != 0).then(|| in_reply_to.to_string());
    let body = || Fingerprint::of(replies.as_slice(), payload).bytes();
    Ok(key.map(|key| (key, body())))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An object of two booleans, with its keys in this order.
    fn object(keys: [&str; 2]) -> Payload {
        let entries = keys.map(|key| {
            let [key] = *key.as_bytes() else {
                panic!("one letter");
            };
            [0x0a, 7, 0x0a, 1, key, 0x12, 2, 0x20, key & 1]
        });
        let mut encoded = vec![0x2a, 18];
        encoded.extend(entries.concat());
        Payload::check(encoded.into()).unwrap()
    }

    #[test]
    fn a_spawn_is_the_same_whichever_way_it_says_the_same() {
        let key = |change: &dyn Fn(&mut proto::SessionSpawnRequest)| {
            let mut request = proto::SessionSpawnRequest {
                instances: vec!["A".to_owned(), "B".to_owned()],
                idempotency_key: "k".to_owned(),
                ..Default::default()
            };
            change(&mut request);
            spawn("caller", request, Duration::from_secs(300))
                .unwrap()
                .idempotency
        };
        let first = key(&|_| {});
        assert_eq!(first, key(&|asked| asked.instances.reverse()));
        assert_eq!(
            first,
            key(&|asked| asked.loss_policy = proto::LossPolicy::Fail.into())
        );
        let ordered = |asked: &mut proto::SessionSpawnRequest| {
            asked.selection = proto::Selection::Ordered.into();
        };
        let changes: [&dyn Fn(&mut proto::SessionSpawnRequest); 7] = [
            &|asked| asked.session_id = "s".to_owned(),
            &|asked| asked.instances.push("C".to_owned()),
            &|asked| asked.loss_policy = proto::LossPolicy::Replay.into(),
            &|asked| asked.durability = proto::Durability::None.into(),
            &|asked| drop(asked.labels.insert("a".to_owned(), "b".to_owned())),
            &ordered,
            &|asked| {
                ordered(asked);
                asked.instances.reverse();
            },
        ];
        let mut seen = vec![first];
        for change in changes {
            let other = key(change);
            assert!(!seen.contains(&other));
            seen.push(other);
        }
    }

    #[test]
    fn the_order_of_keys_makes_no_other_post() {
        let key = |payload: &Payload| post_key("k".to_owned(), 0, payload).unwrap();
        let (one, other) = (object(["a", "b"]), object(["b", "a"]));
        assert_ne!(one.encoded(), other.encoded());
        assert_eq!(key(&one), key(&other));
        assert_ne!(key(&one), key(&object(["a", "c"])));
        let reply = post_key("k".to_owned(), 1, &one).unwrap();
        assert_ne!(key(&one), reply, "a reply is another message");
    }
}
