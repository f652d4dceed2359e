//! An encoded Value to JSON: walks the wire format and hands each part to the serializer.

use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::EXACT_MAX;
use super::wire::{Fields, MALFORMED, Wire};
use crate::domain::limit::PAYLOAD_DEPTH_MAX;

/// Why bytes have no JSON form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("payload has no JSON form: {0}")]
pub struct BadValue(String);

/// Writes an encoded Value as compact JSON.
pub fn to_json(encoded: &[u8]) -> Result<String, BadValue> {
    serde_json::to_string(&AsJson(encoded)).map_err(|error| BadValue(error.to_string()))
}

/// Writes an encoded Value as JSON over several lines.
pub fn to_json_pretty(encoded: &[u8]) -> Result<String, BadValue> {
    serde_json::to_string_pretty(&AsJson(encoded)).map_err(|error| BadValue(error.to_string()))
}

/// An encoded Value that serializes as what it means.
#[derive(Debug, Clone, Copy)]
pub struct AsJson<'a>(pub &'a [u8]);

const NOT_UTF8: &str = "it has text that is not UTF-8";

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = Message {
            encoded: self.0,
            depth: 0,
        };
        value.serialize(serializer)
    }
}

/// A Value and the number of messages around it.
#[derive(Clone, Copy)]
struct Message<'a> {
    encoded: &'a [u8],
    depth: usize,
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if PAYLOAD_DEPTH_MAX <= self.depth {
            return Err(S::Error::custom("it is nested too deep"));
        }
        // Of the kinds of a oneof the last one counts, and a message that comes in parts is joined: hence the
        // run of fields of the last kind.
        let mut last: Option<(u64, Wire<'_>)> = None;
        let mut run = self.encoded;
        let mut fields = Fields(self.encoded);
        loop {
            let rest = fields.0;
            let Some(field) = fields.next() else { break };
            let (number, field) = field.map_err(S::Error::custom)?;
            if !(1..=6).contains(&number) {
                continue;
            }
            if last.is_none_or(|(kind, _)| kind != number) {
                run = rest;
            }
            last = Some((number, field));
        }
        match last {
            Some((1, Wire::Varint(_))) => serializer.serialize_unit(),
            Some((2, Wire::Double(number))) => serialize_number(number, serializer),
            Some((3, Wire::Bytes(text))) => {
                serializer.serialize_str(utf8(text).map_err(S::Error::custom)?)
            }
            Some((4, Wire::Varint(yes))) => serializer.serialize_bool(yes != 0),
            Some((5, Wire::Bytes(_))) => self.serialize_object(run, serializer),
            Some((6, Wire::Bytes(_))) => self.serialize_list(run, serializer),
            None => Err(S::Error::custom("it has a Value without a kind")),
            Some(_) => Err(S::Error::custom(MALFORMED)),
        }
    }
}

impl Message<'_> {
    fn serialize_object<S: Serializer>(self, run: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for entry in elements(run, 5) {
            let (mut key, mut value) = ("", None);
            for field in Fields(entry.map_err(S::Error::custom)?) {
                match field.map_err(S::Error::custom)? {
                    (1, Wire::Bytes(text)) => key = utf8(text).map_err(S::Error::custom)?,
                    (2, Wire::Bytes(encoded)) => value = Some(encoded),
                    _ => {}
                }
            }
            let value = Message {
                encoded: value.ok_or_else(|| S::Error::custom(MALFORMED))?,
                depth: self.depth + 3,
            };
            object.serialize_entry(key, &value)?;
        }
        object.end()
    }

    fn serialize_list<S: Serializer>(self, run: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in elements(run, 6) {
            let item = Message {
                encoded: item.map_err(S::Error::custom)?,
                depth: self.depth + 2,
            };
            list.serialize_element(&item)?;
        }
        list.end()
    }
}

/// A Value has doubles only: whole ones are written as the integers they were.
fn serialize_number<S: Serializer>(number: f64, serializer: S) -> Result<S::Ok, S::Error> {
    let negative_zero = number == 0.0 && number.is_sign_negative();
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX as f64 && !negative_zero {
        serializer.serialize_i64(number as i64)
    } else if number.is_finite() {
        serializer.serialize_f64(number)
    } else {
        Err(S::Error::custom(format_args!(
            "{number} is not a JSON number"
        )))
    }
}

/// The elements of a list, or the entries of an object: field 1 of every message of this kind in the run.
fn elements(run: &[u8], kind: u64) -> impl Iterator<Item = Result<&[u8], &'static str>> {
    let messages = Fields(run).filter_map(move |field| match field {
        Ok((number, Wire::Bytes(message))) if number == kind => Some(message),
        // Unreadable fields have been refused when the run was found.
        Ok(_) | Err(_) => None,
    });
    messages.flat_map(Fields).filter_map(|field| match field {
        Ok((1, Wire::Bytes(element))) => Some(Ok(element)),
        Ok((1, Wire::Varint(_) | Wire::Double(_) | Wire::Float)) => Some(Err(MALFORMED)),
        Ok((_, _)) => None,
        Err(bad) => Some(Err(bad)),
    })
}

fn utf8(text: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(text).map_err(|_| NOT_UTF8)
}
