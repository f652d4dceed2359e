//! The bytes of a message → JSON.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{Duration, Timestamp};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::schema::{Field, Kind, Message, Schema};
use crate::payload_json::AsJson;
use crate::payload_json::wire::{Fields, Wire};

/// A message that serializes as its JSON form. Fails where a payload has none.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// What describes it.
    pub schema: &'a Schema,
    /// What it is.
    pub message: &'a Message,
    /// As it travels over gRPC.
    pub encoded: &'a [u8],
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut found: Vec<(u64, Wire<'_>)> = Vec::new();
        for field in Fields(self.encoded) {
            found.push(field.map_err(S::Error::custom)?);
        }
        let mut object = serializer.serialize_map(None)?;
        for field in &self.message.fields {
            let number = u64::from(field.number);
            let values = found.iter().filter(|(of, _)| *of == number);
            let values: Vec<_> = values.map(|(_, value)| *value).collect();
            if field.has_presence && values.is_empty() {
                continue;
            }
            let shown = Values {
                schema: self.schema,
                field,
                values: &values,
            };
            object.serialize_entry(&field.json_name, &shown)?;
        }
        object.end()
    }
}

/// Every occurrence of one field.
struct Values<'a> {
    schema: &'a Schema,
    field: &'a Field,
    values: &'a [Wire<'a>],
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.field.kind == Kind::Words {
            return self.serialize_words(serializer);
        }
        let value = |wire| Value {
            schema: self.schema,
            kind: self.field.kind,
            wire,
        };
        if !self.field.is_list {
            return value(self.values.last().copied()).serialize(serializer);
        }
        let mut list = serializer.serialize_seq(None)?;
        for &wire in self.values {
            match (self.field.kind, wire) {
                // Numbers in a list travel packed.
                (
                    Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Uint64 | Kind::Enum(_),
                    Wire::Bytes(mut packed),
                ) => {
                    while !packed.is_empty() {
                        let number = prost::encoding::decode_varint(&mut packed);
                        let number = number.map_err(S::Error::custom)?;
                        list.serialize_element(&value(Some(Wire::Varint(number))))?;
                    }
                }
                _ => list.serialize_element(&value(Some(wire)))?,
            }
        }
        list.end()
    }
}

impl Values<'_> {
    fn serialize_words<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut words = BTreeMap::new();
        for wire in self.values {
            let (mut name, mut word) = ("", "");
            for field in Fields(bytes(*wire).map_err(S::Error::custom)?) {
                match field.map_err(S::Error::custom)? {
                    (1, wire) => name = text(wire).map_err(S::Error::custom)?,
                    (2, wire) => word = text(wire).map_err(S::Error::custom)?,
                    _ => {}
                }
            }
            words.insert(name, word);
        }
        words.serialize(serializer)
    }
}

/// One value; `None` is the default of its kind.
struct Value<'a> {
    schema: &'a Schema,
    kind: Kind,
    wire: Option<Wire<'a>>,
}

const MALFORMED: &str = "the message is malformed";

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let custom = |what: &'static str| S::Error::custom(what);
        let varint = match self.wire {
            Some(Wire::Varint(number)) => number,
            None | Some(Wire::Bytes(_) | Wire::Double(_) | Wire::Float) => 0,
        };
        let bytes = || bytes(self.wire.unwrap_or(Wire::Bytes(&[]))).map_err(custom);
        match self.kind {
            Kind::Text => serializer
                .serialize_str(std::str::from_utf8(bytes()?).map_err(|_| custom(MALFORMED))?),
            Kind::Bool => serializer.serialize_bool(varint != 0),
            Kind::Int32 => serializer.serialize_i32(varint as i32),
            Kind::Uint32 => serializer.serialize_u64(varint),
            // As a text, since doubles cannot hold them (the JSON mapping of proto3).
            Kind::Uint64 => serializer.collect_str(&varint),
            Kind::Double => serializer.serialize_f64(match self.wire {
                Some(Wire::Double(number)) => number,
                None | Some(Wire::Bytes(_) | Wire::Varint(_) | Wire::Float) => 0.0,
            }),
            Kind::Enum(at) => {
                let number = varint as i32;
                let found = self.schema.enums.get(at);
                let found = found.and_then(|it| it.values.iter().find(|it| it.number == number));
                match found {
                    Some(value) => serializer.serialize_str(&value.word),
                    None => serializer.serialize_i32(number),
                }
            }
            Kind::Message(at) => {
                let message = self.schema.messages.get(at);
                let written = Written {
                    schema: self.schema,
                    message: message.ok_or_else(|| custom(MALFORMED))?,
                    encoded: bytes()?,
                };
                written.serialize(serializer)
            }
            Kind::Duration => {
                let duration = Duration::decode(bytes()?).map_err(S::Error::custom)?;
                serializer.collect_str(&duration)
            }
            Kind::Timestamp => {
                let time = Timestamp::decode(bytes()?).map_err(S::Error::custom)?;
                serializer.collect_str(&time)
            }
            Kind::Payload => AsJson(bytes()?).serialize(serializer),
            Kind::Words => Err(custom(MALFORMED)),
        }
    }
}

fn bytes(wire: Wire<'_>) -> Result<&[u8], &'static str> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Varint(_) | Wire::Double(_) | Wire::Float => Err(MALFORMED),
    }
}

fn text(wire: Wire<'_>) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes(wire)?).map_err(|_| MALFORMED)
}
