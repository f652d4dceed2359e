//! What travels as a payload here: the number of a call, and who has answered it.

use bytes::Bytes;
use prost::Message as _;
use prost_types::Value;
use prost_types::value::Kind;

/// The payload of a call.
pub(crate) fn of(call: u32) -> Bytes {
    write(&call.to_string())
}

/// What an instance answers.
pub(crate) fn answered(call: u32, instance: &str) -> String {
    format!("{call}@{instance}")
}

pub(crate) fn write(text: &str) -> Bytes {
    Value::from(text).encode_to_vec().into()
}

pub(crate) fn read(encoded: Option<&[u8]>) -> String {
    let value = encoded.and_then(|encoded| Value::decode(encoded).ok());
    match value.and_then(|value| value.kind) {
        Some(Kind::StringValue(text)) => text,
        other => format!("not a text: {other:?}"),
    }
}

/// The call that a text is about.
pub(crate) fn call(text: &str) -> u32 {
    let number = text.split('@').next().unwrap_or_default();
    number.parse().expect("the number of a call")
}
