//! JSON text to an encoded Value: what a parser says is written down as it comes.

use std::borrow::Cow;
use std::cell::OnceCell;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{BadJson, EXACT_MAX};
use crate::domain::limit::PAYLOAD_DEPTH_MAX;
use crate::domain::payload::Payload;

/// Characters of one key that an error repeats.
const KEY_CHARS_SHOWN_MAX: usize = 60;

/// Reads JSON text.
pub fn from_json(text: &str) -> Result<Payload, BadJson> {
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 4);
    append_json(text, &mut encoded)?;
    Ok(Payload::check(Bytes::from(encoded))?)
}

/// Reads JSON text and writes it down behind what is there. After an error, what is there is of no use.
pub fn append_json(text: &str, encoded: &mut Vec<u8>) -> Result<(), BadJson> {
    let mut transcript = Transcript {
        text,
        encoded: std::mem::take(encoded),
        numbers: 0,
        integers_huge: OnceCell::new(),
        refusal: None,
        path_reversed: Vec::new(),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let place = Place {
        transcript: &mut transcript,
        depth: 0,
    };
    match place
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
    {
        Ok(()) => {
            *encoded = transcript.encoded;
            Ok(())
        }
        Err(error) => Err(transcript.explain(&error)),
    }
}

enum Refusal {
    IntegerInexact(String),
    KeyTwice,
    TooDeep,
}

struct Transcript<'t> {
    text: &'t str,
    encoded: Vec<u8>,
    /// Numbers seen so far.
    numbers: usize,
    /// Which numbers of the text, counted from 0, are integers that the parser has already rounded.
    integers_huge: OnceCell<Vec<(usize, &'t str)>>,
    refusal: Option<Refusal>,
    path_reversed: Vec<String>,
}

impl Transcript<'_> {
    fn refuse<E: serde::de::Error>(&mut self, refusal: Refusal) -> E {
        self.refusal = Some(refusal);
        E::custom("refused")
    }

    /// Called on the way out of a refused value, innermost first.
    fn below(&mut self, segment: impl FnOnce() -> String) {
        if self.refusal.is_some() {
            self.path_reversed.push(segment());
        }
    }

    fn explain(self, error: &serde_json::Error) -> BadJson {
        let path: String = std::iter::once("$".to_owned())
            .chain(self.path_reversed.into_iter().rev())
            .collect();
        match self.refusal {
            Some(Refusal::IntegerInexact(integer)) => BadJson::IntegerInexact { path, integer },
            Some(Refusal::KeyTwice) => BadJson::KeyTwice { path },
            Some(Refusal::TooDeep) => BadJson::TooDeep { path },
            None => syntax(error),
        }
    }

    /// Writes the head of a message, string or list; `close` writes its length once that is known.
    fn open(&mut self, key: u8) -> usize {
        self.encoded.extend_from_slice(&[key, 0]);
        self.encoded.len()
    }

    fn close(&mut self, start: usize) {
        let length = self.encoded.len() - start;
        match u8::try_from(length) {
            Ok(length @ 0..=0x7f) => self.encoded[start - 1] = length,
            Ok(_) | Err(_) => {
                let mut prefix = Vec::with_capacity(10);
                prost::encoding::encode_varint(length as u64, &mut prefix);
                self.encoded.splice(start - 1..start, prefix);
            }
        }
    }

    fn string(&mut self, key: u8, text: &str) {
        self.encoded.push(key);
        prost::encoding::encode_varint(text.len() as u64, &mut self.encoded);
        self.encoded.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: f64) {
        self.numbers += 1;
        self.encoded.push(0x11);
        self.encoded.extend_from_slice(&number.to_le_bytes());
    }
}

fn syntax(error: &serde_json::Error) -> BadJson {
    let (line, column) = (error.line(), error.column());
    let what = error.to_string();
    let position = format!(" at line {line} column {column}");
    BadJson::Syntax {
        line,
        column,
        what: what.strip_suffix(&position).unwrap_or(&what).to_owned(),
    }
}

fn segment(key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    let shown: String = key.chars().take(KEY_CHARS_SHOWN_MAX).collect();
    if !shown.is_empty() && shown.chars().all(plain) {
        format!(".{shown}")
    } else {
        format!("[{}]", serde_json::Value::from(shown))
    }
}

/// Integers too long for 64 bits come out of the parser as doubles, already rounded and no longer to be told
/// from `1e30`. Hence this second look at the text, which only documents with such a number pay for.
fn integers_huge(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let (mut at, mut ordinal, mut found) = (0, 0, Vec::new());
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                while let Some(&byte) = bytes.get(at) {
                    at += if byte == b'\\' { 2 } else { 1 };
                    if byte == b'"' {
                        break;
                    }
                }
            }
            b'-' | b'0'..=b'9' => {
                let in_number =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                at += bytes[at..]
                    .iter()
                    .take_while(|byte| in_number(byte))
                    .count();
                let number = &text[start..at];
                if number.len() > 18 && !number.contains(['.', 'e', 'E']) {
                    found.push((ordinal, number));
                }
                ordinal += 1;
            }
            _ => {}
        }
    }
    found
}

/// Where the next value goes.
struct Place<'p, 't> {
    transcript: &'p mut Transcript<'t>,
    /// Messages around it.
    depth: usize,
}

impl Place<'_, '_> {
    fn check_depth<E: serde::de::Error>(&mut self, depth: usize) -> Result<(), E> {
        if depth < PAYLOAD_DEPTH_MAX {
            Ok(())
        } else {
            Err(self.transcript.refuse(Refusal::TooDeep))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        self.check_depth(self.depth)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.transcript.encoded.extend_from_slice(&[0x08, 0]);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.transcript
            .encoded
            .extend_from_slice(&[0x20, u8::from(value)]);
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if EXACT_MAX < value {
            return Err(self
                .transcript
                .refuse(Refusal::IntegerInexact(value.to_string())));
        }
        self.transcript.number(value as f64);
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        if EXACT_MAX < value.unsigned_abs() {
            return Err(self
                .transcript
                .refuse(Refusal::IntegerInexact(value.to_string())));
        }
        self.transcript.number(value as f64);
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let transcript = self.transcript;
        if EXACT_MAX as f64 <= value.abs() {
            let (text, ordinal) = (transcript.text, transcript.numbers);
            let huge = transcript.integers_huge.get_or_init(|| integers_huge(text));
            if let Ok(at) = huge.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal) {
                let integer = huge[at].1.chars().take(KEY_CHARS_SHOWN_MAX).collect();
                return Err(transcript.refuse(Refusal::IntegerInexact(integer)));
            }
        }
        transcript.number(value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.transcript.string(0x1a, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.check_depth(self.depth + 1)?;
        let list = self.transcript.open(0x32);
        for index in 0_usize.. {
            let item = self.transcript.open(0x0a);
            let place = Place {
                transcript: &mut *self.transcript,
                depth: self.depth + 2,
            };
            let read = items.next_element_seed(place);
            let more = read.inspect_err(|_| self.transcript.below(|| format!("[{index}]")))?;
            if more.is_none() {
                // There was no further item: takes its head back.
                self.transcript.encoded.truncate(item - 2);
                break;
            }
            self.transcript.close(item);
        }
        self.transcript.close(list);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        self.check_depth(self.depth + 1)?;
        let object = self.transcript.open(0x2a);
        let mut keys: Vec<Cow<'de, str>> = Vec::new();
        while let Some(key) = fields.next_key_seed(Key)? {
            let entry = self.transcript.open(0x0a);
            self.transcript.string(0x0a, &key);
            let value = self.transcript.open(0x12);
            let place = Place {
                transcript: &mut *self.transcript,
                depth: self.depth + 3,
            };
            let read = fields.next_value_seed(place);
            read.inspect_err(|_| self.transcript.below(|| segment(&key)))?;
            self.transcript.close(value);
            self.transcript.close(entry);
            keys.push(key);
        }
        self.transcript.close(object);
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            let error = self.transcript.refuse(Refusal::KeyTwice);
            self.transcript.below(|| segment(&twice[0]));
            return Err(error);
        }
        Ok(())
    }
}

/// A key, borrowed from the text unless it holds an escape.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}
