//! What travels as a payload here: a task as an object with its number, and who has answered it, and when.

use bytes::Bytes;
use prost::Message as _;
use prost_types::Value;
use prost_types::value::Kind;

use crate::ask::Order;

/// The payload of a task. An object has no order, whatever is written first.
pub(crate) fn of(task: u32, order: Order) -> Bytes {
    let mut entries = [
        entry("number", &task.to_string()),
        entry("what", "simulated work"),
    ];
    if order == Order::Reversed {
        entries.reverse();
    }
    // As `google.protobuf.Struct` within a Value: whoever encodes a map does it in the order of the map.
    let object = entries.concat();
    delimited(5, &object).into()
}

fn entry(key: &str, text: &str) -> Vec<u8> {
    let value = Value::from(text).encode_to_vec();
    let pair = [delimited(1, key.as_bytes()), delimited(2, &value)].concat();
    delimited(1, &pair)
}

fn delimited(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// What an instance answers; every execution answers something else.
pub(crate) fn answered(task: u32, instance: &str, execution: u32) -> String {
    format!("{task}@{instance}#{execution}")
}

/// Whether this is an answer of this instance to this task.
pub(crate) fn is_answer(text: &str, task: u32, instance: &str) -> bool {
    let rest = text.strip_prefix(&format!("{task}@{instance}#"));
    rest.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A text as a payload.
pub(crate) fn write(text: &str) -> Bytes {
    Value::from(text).encode_to_vec().into()
}

/// The text of a payload.
pub(crate) fn read(encoded: Option<&[u8]>) -> String {
    match kind(encoded) {
        Some(Kind::StringValue(text)) => text,
        other => format!("not a text: {other:?}"),
    }
}

/// The number of the task that a payload is.
pub(crate) fn task(encoded: Option<&[u8]>) -> u32 {
    let Some(Kind::StructValue(object)) = kind(encoded) else {
        panic!("not a task: {encoded:?}")
    };
    let number = object
        .fields
        .get("number")
        .and_then(|number| number.kind.clone());
    match number {
        Some(Kind::StringValue(text)) => text.parse().expect("the number of a task"),
        other => panic!("not the number of a task: {other:?}"),
    }
}

fn kind(encoded: Option<&[u8]>) -> Option<Kind> {
    Value::decode(encoded?).ok()?.kind
}
