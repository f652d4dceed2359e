//! JSON text → the bytes of a message.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::schema::{Field, Kind, Message, Schema};
use super::{BadMessage, leaf};
use crate::domain::nearest::nearest;
use crate::payload_json::{self, BadJson};

/// Names that a door takes beside the fields of a message, at its top.
pub type Beside<'a> = &'a [(&'a str, Means<'a>)];

/// What a name means that a door takes beside the fields of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means<'a> {
    /// A text for the door itself.
    Text,
    /// The same as this field.
    Field(&'a str),
    /// The opposite of this flag.
    Opposite(&'a str),
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// As it travels over gRPC.
    pub encoded: Vec<u8>,
    /// What stood beside its fields.
    pub beside: Vec<(String, String)>,
}

/// Reads the JSON form of a message.
pub fn read(
    schema: &Schema,
    message: &Message,
    text: &str,
    beside: Beside<'_>,
) -> Result<Read, BadMessage> {
    let whole: &RawValue =
        serde_json::from_str(text).map_err(|error| syntax(text, text, &error))?;
    let mut reader = Reader {
        schema,
        text,
        beside,
        found_beside: Vec::new(),
    };
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 4);
    reader.message(message, whole.get(), &At::Root, &mut encoded)?;
    Ok(Read {
        encoded,
        beside: reader.found_beside,
    })
}

struct Reader<'s, 't> {
    schema: &'s Schema,
    text: &'t str,
    beside: Beside<'s>,
    found_beside: Vec<(String, String)>,
}

/// Where in the document.
pub(super) enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("body"),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Item(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

/// Characters of a name of the caller's that an error repeats.
const NAME_CHARS_SHOWN_MAX: usize = 60;

impl<'s, 't> Reader<'s, 't> {
    fn message(
        &mut self,
        message: &Message,
        raw: &'t str,
        at: &At<'_>,
        encoded: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        if !raw.starts_with('{') {
            return Err(self.expected("an object", raw, at));
        }
        let mut seen: Vec<&str> = Vec::new();
        let mut oneofs: Vec<(i32, &str)> = Vec::new();
        each_field(raw, |name, value| {
            let value = value.get();
            let Some((field, meant, shown)) = self.meant(message, &name, value, at)? else {
                return self.aside(message, &name, value, at);
            };
            let at = At::Field(at, shown);
            if seen.contains(&field.json_name.as_str()) {
                return Err(self.refuse("this field is there twice", value, &at));
            }
            seen.push(&field.json_name);
            let is_absent = value == "null" && field.kind != Kind::Payload;
            if let Some(oneof) = field.oneof.filter(|_| !is_absent) {
                if let Some((_, other)) = oneofs.iter().find(|(other, _)| *other == oneof) {
                    let what = format!("does not go with {other}: give one of them");
                    return Err(self.refuse(what, value, &at));
                }
                oneofs.push((oneof, &field.json_name));
            }
            if is_absent {
                return Ok(());
            }
            self.field(field, meant, &at, encoded)
        })
        .map_err(|stopped| stopped.told(self.text, raw))
    }

    /// What a name means that the door has of its own here.
    fn own(&self, name: &str, at: &At<'_>) -> Option<(&'s str, Means<'s>)> {
        let mut known = self.beside.iter().filter(|_| matches!(at, At::Root));
        known.find(|(known, _)| *known == name).copied()
    }

    /// The field that a name stands for, with the value that it comes to have and the name that errors show.
    fn meant<'m>(
        &self,
        message: &'m Message,
        name: &str,
        value: &'t str,
        at: &At<'_>,
    ) -> Result<Option<(&'m Field, &'t str, &'m str)>, BadMessage>
    where
        's: 'm,
    {
        if let Some(field) = find(message, name) {
            return Ok(Some((field, value, &field.json_name)));
        }
        let Some((name, means)) = self.own(name, at) else {
            return Ok(None);
        };
        let (field, value) = match means {
            Means::Text => return Ok(None),
            Means::Field(field) => (field, value),
            Means::Opposite(field) => match value {
                "true" => (field, "false"),
                "false" => (field, "true"),
                "null" => (field, value),
                _ => return Err(self.expected("true or false", value, &At::Field(at, name))),
            },
        };
        Ok(find(message, field).map(|field| (field, value, name)))
    }

    /// A name that is no field: the door's own, or a mistake.
    fn aside(
        &mut self,
        message: &Message,
        name: &str,
        value: &'t str,
        at: &At<'_>,
    ) -> Result<(), BadMessage> {
        if let Some((_, Means::Text)) = self.own(name, at) {
            let at = At::Field(at, name);
            if self.found_beside.iter().any(|(there, _)| there == name) {
                return Err(self.refuse("this field is there twice", value, &at));
            }
            let text = leaf::text(value).ok_or_else(|| self.expected("a text", value, &at))?;
            self.found_beside.push((name.to_owned(), text));
            return Ok(());
        }
        let own = if matches!(at, At::Root) {
            self.beside
        } else {
            &[]
        };
        let fields = message.fields.iter().map(|field| field.json_name.as_str());
        let known: Vec<_> = fields.chain(own.iter().map(|(name, _)| *name)).collect();
        let shown: String = name.chars().take(NAME_CHARS_SHOWN_MAX).collect();
        let what = match nearest(name, &known) {
            Some(near) => format!("unknown field, did you mean {near}?"),
            None if known.is_empty() => "unknown field: there are none here".to_owned(),
            None => format!("unknown field: known here are {}", known.join(", ")),
        };
        Err(self.refuse(what, value, &At::Field(at, &shown)))
    }

    fn field(
        &mut self,
        field: &Field,
        raw: &'t str,
        at: &At<'_>,
        encoded: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        if field.kind == Kind::Words {
            return self.words(field, raw, at, encoded);
        }
        if !field.is_list {
            return self.value(field, raw, at, encoded);
        }
        if !raw.starts_with('[') {
            return Err(self.expected("a list", raw, at));
        }
        each_item(raw, |index, item| {
            self.value(field, item.get(), &At::Item(at, index), encoded)
        })
        .map_err(|stopped| stopped.told(self.text, raw))
    }

    fn value(
        &mut self,
        field: &Field,
        raw: &'t str,
        at: &At<'_>,
        encoded: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        match field.kind {
            Kind::Payload => {
                let start = open(field.number, encoded);
                payload_json::append_json(raw, encoded)
                    .map_err(|bad| self.payload(bad, raw, at))?;
                close(start, encoded);
            }
            Kind::Message(inner) => {
                let start = open(field.number, encoded);
                // Positions come from the schema itself.
                if let Some(message) = self.schema.messages.get(inner) {
                    self.message(message, raw, at, encoded)?;
                }
                close(start, encoded);
            }
            Kind::Words => {}
            Kind::Text
            | Kind::Bool
            | Kind::Int32
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Double
            | Kind::Enum(_)
            | Kind::Duration
            | Kind::Timestamp => {
                if let Err(what) = leaf::write(self.schema, field, raw, encoded) {
                    return Err(match what {
                        leaf::Bad::Expected(what) => self.expected(&what, raw, at),
                        leaf::Bad::Refused(what) => self.refuse(what, raw, at),
                    });
                }
            }
        }
        Ok(())
    }

    fn words(
        &mut self,
        field: &Field,
        raw: &'t str,
        at: &At<'_>,
        encoded: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        if !raw.starts_with('{') {
            return Err(self.expected("an object of texts", raw, at));
        }
        let mut seen = HashSet::new();
        each_field(raw, |name, value| {
            let value = value.get();
            let shown: String = name.chars().take(NAME_CHARS_SHOWN_MAX).collect();
            let at = At::Field(at, &shown);
            let text = leaf::text(value).ok_or_else(|| self.expected("a text", value, &at))?;
            let start = open(field.number, encoded);
            prost::encoding::string::encode(1, &name, encoded);
            prost::encoding::string::encode(2, &text, encoded);
            close(start, encoded);
            if seen.insert(name) {
                Ok(())
            } else {
                Err(self.refuse("this name is there twice", value, &at))
            }
        })
        .map_err(|stopped| stopped.told(self.text, raw))
    }

    fn payload(&self, bad: BadJson, raw: &str, at: &At<'_>) -> BadMessage {
        // The path of a payload begins with "$", where it stands is known here.
        let within = |path: &str| format!("{at}{}", path.strip_prefix('$').unwrap_or(path));
        let what = match &bad {
            BadJson::Syntax { line, column, what } => {
                let (line, column) = moved(self.text, raw, *line, *column);
                let what = what.clone();
                return BadMessage::Syntax { line, column, what };
            }
            BadJson::IntegerInexact { path, integer } => BadJson::IntegerInexact {
                path: within(path),
                integer: integer.clone(),
            }
            .to_string(),
            BadJson::KeyTwice { path } => BadJson::KeyTwice { path: within(path) }.to_string(),
            BadJson::TooDeep { path } => BadJson::TooDeep { path: within(path) }.to_string(),
            BadJson::Payload(bad) => format!("at {at}: {bad}"),
        };
        BadMessage::Payload { what }
    }

    fn expected(&self, expected: &str, raw: &str, at: &At<'_>) -> BadMessage {
        let found = match raw.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a text",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ => "a number",
        };
        self.refuse(format!("expected {expected}, found {found}"), raw, at)
    }

    fn refuse(&self, what: impl Into<String>, raw: &str, at: &At<'_>) -> BadMessage {
        let (line, column) = place(self.text, raw);
        BadMessage::Field {
            path: at.to_string(),
            line,
            column,
            what: what.into(),
        }
    }
}

fn find<'m>(message: &'m Message, name: &str) -> Option<&'m Field> {
    let mut fields = message.fields.iter();
    fields.find(|field| field.json_name == name || field.name == name)
}

/// Line and column at which a part of the text begins.
fn place(text: &str, part: &str) -> (usize, usize) {
    // Parts are slices of the text, so the distance of their addresses is where they stand in it.
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let line_start = before.iter().rposition(|byte| *byte == b'\n');
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    (lines + 1, offset - line_start.map_or(0, |at| at + 1) + 1)
}

/// A place inside a part, as a place in the text.
fn moved(text: &str, part: &str, line: usize, column: usize) -> (usize, usize) {
    let (first_line, first_column) = place(text, part);
    if line <= 1 {
        (first_line, first_column + column.saturating_sub(1))
    } else {
        (first_line + line - 1, column)
    }
}

fn syntax(text: &str, part: &str, error: &serde_json::Error) -> BadMessage {
    let (line, column) = (error.line(), error.column());
    let what = error.to_string();
    let position = format!(" at line {line} column {column}");
    let what = what.strip_suffix(&position).unwrap_or(&what).to_owned();
    let (line, column) = moved(text, part, line, column);
    BadMessage::Syntax { line, column, what }
}

/// Bytes of the length of an inner message. It is written before that is known, and padded: a length may have
/// more bytes than it needs.
const LENGTH_BYTES: usize = 5;

fn open(number: u32, encoded: &mut Vec<u8>) -> usize {
    let wire_type = prost::encoding::WireType::LengthDelimited;
    prost::encoding::encode_key(number, wire_type, encoded);
    encoded.extend_from_slice(&[0; LENGTH_BYTES]);
    encoded.len()
}

fn close(start: usize, encoded: &mut [u8]) {
    let mut length = encoded.len() - start;
    for byte in &mut encoded[start - LENGTH_BYTES..start - 1] {
        *byte = 0x80 | (length & 0x7f) as u8;
        length >>= 7;
    }
    encoded[start - 1] = (length & 0x7f) as u8;
}

// === walking over objects and lists ===

/// Why a walk ended early.
enum Stopped {
    Json(serde_json::Error),
    Bad(BadMessage),
}

impl Stopped {
    fn told(self, text: &str, part: &str) -> BadMessage {
        match self {
            Self::Json(error) => syntax(text, part, &error),
            Self::Bad(bad) => bad,
        }
    }
}

struct Fields<'w, F> {
    step: F,
    bad: &'w mut Option<BadMessage>,
}

impl<'t, F> Visitor<'t> for Fields<'_, F>
where
    F: FnMut(String, &'t RawValue) -> Result<(), BadMessage>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some((name, value)) = entries.next_entry()? {
            if let Err(bad) = (self.step)(name, value) {
                *self.bad = Some(bad);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

fn each_field<'t>(
    raw: &'t str,
    step: impl FnMut(String, &'t RawValue) -> Result<(), BadMessage>,
) -> Result<(), Stopped> {
    let mut bad = None;
    let mut document = serde_json::Deserializer::from_str(raw);
    let fields = Fields {
        step,
        bad: &mut bad,
    };
    let walked = document.deserialize_map(fields);
    ended(bad, walked)
}

struct Items<'w, F> {
    step: F,
    bad: &'w mut Option<BadMessage>,
}

impl<'t, F> Visitor<'t> for Items<'_, F>
where
    F: FnMut(usize, &'t RawValue) -> Result<(), BadMessage>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(value) = items.next_element()? {
            if let Err(bad) = (self.step)(index, value) {
                *self.bad = Some(bad);
                return Err(serde::de::Error::custom("refused"));
            }
            index += 1;
        }
        Ok(())
    }
}

fn each_item<'t>(
    raw: &'t str,
    step: impl FnMut(usize, &'t RawValue) -> Result<(), BadMessage>,
) -> Result<(), Stopped> {
    let mut bad = None;
    let mut document = serde_json::Deserializer::from_str(raw);
    let items = Items {
        step,
        bad: &mut bad,
    };
    let walked = document.deserialize_seq(items);
    ended(bad, walked)
}

fn ended(bad: Option<BadMessage>, walked: Result<(), serde_json::Error>) -> Result<(), Stopped> {
    match (bad, walked) {
        (Some(bad), _) => Err(Stopped::Bad(bad)),
        (None, Err(error)) => Err(Stopped::Json(error)),
        (None, Ok(())) => Ok(()),
    }
}
