//! What a payload asks of a built-in instance.

use bytes::Bytes;
use prost::Message as _;
use prost_types::value::Kind;

use super::Behaviour;
use crate::domain::failure;
use crate::proto::instance::SessionCloseReason;

/// The key under which a payload asks for misbehaviour.
const KEY: &str = "_builtin";

/// How one call is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    pub(super) behaviour: Behaviour,
    /// End the session with this after the answer.
    pub(super) close: Option<SessionCloseReason>,
}

/// What the payload asks for, when it does.
pub(super) fn read(payload: &Bytes) -> Result<Option<Asked>, String> {
    // Nearly every payload asks for nothing, and need not be decoded.
    if !payload
        .windows(KEY.len())
        .any(|window| window == KEY.as_bytes())
    {
        return Ok(None);
    }
    let Ok(prost_types::Value {
        kind: Some(Kind::StructValue(mut fields)),
    }) = prost_types::Value::decode(payload.clone())
    else {
        return Ok(None);
    };
    let Some(Kind::StructValue(fields)) = fields.fields.remove(KEY).and_then(|asked| asked.kind)
    else {
        return Ok(None);
    };
    let mut asked = Asked::default();
    for (key, value) in fields.fields {
        // Not the key: it is payload.
        let wrong = || {
            format!(
                "{KEY} takes delay \"200ms\", fail \"UNAVAILABLE\", flap \"1s\", silent true, and in a \
                 session close \"DONE\" or \"SUSPENDED\""
            )
        };
        let behaviour = &mut asked.behaviour;
        match (key.as_str(), value.kind) {
            ("delay", Some(Kind::StringValue(text))) => {
                behaviour.delay = humantime::parse_duration(&text).map_err(|_| wrong())?;
            }
            ("flap", Some(Kind::StringValue(text))) => {
                let period = humantime::parse_duration(&text).map_err(|_| wrong())?;
                behaviour.flap = Some(period);
            }
            ("fail", Some(Kind::StringValue(name))) => {
                behaviour.fail = Some(failure::Status::from_name(&name).ok_or_else(wrong)?);
            }
            ("silent", Some(Kind::BoolValue(silent))) => behaviour.silent = silent,
            ("close", Some(Kind::StringValue(name))) => {
                asked.close = match name.as_str() {
                    "DONE" => Some(SessionCloseReason::Done),
                    "SUSPENDED" => Some(SessionCloseReason::Suspended),
                    _ => return Err(wrong()),
                };
            }
            _ => return Err(wrong()),
        }
    }
    Ok(Some(asked))
}
