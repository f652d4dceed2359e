//! Single values: JSON text → the field as it travels.

use std::time::Duration;

use prost::encoding::{double, int32, message, string, uint32, uint64};
use prost_types::{Duration as ProtoDuration, Timestamp};

use super::schema::{Field, Kind, Schema};
use crate::domain::nearest::nearest;

/// What is wrong with a value.
pub(super) enum Bad {
    /// It is something else than this.
    Expected(String),
    /// It is what it should be, and cannot be meant.
    Refused(String),
}

fn expected<T>(what: &str) -> Result<T, Bad> {
    Err(Bad::Expected(what.to_owned()))
}

/// The text that a JSON string holds.
pub(super) fn text(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// Writes a value that is neither a message nor a payload.
pub(super) fn write(
    schema: &Schema,
    field: &Field,
    raw: &str,
    encoded: &mut Vec<u8>,
) -> Result<(), Bad> {
    let number = field.number;
    match field.kind {
        Kind::Text => match text(raw) {
            Some(text) => string::encode(number, &text, encoded),
            None if raw.starts_with('"') => {
                return Err(Bad::Refused("is no text: it has a lone surrogate".into()));
            }
            None => return expected("a text"),
        },
        Kind::Bool => match raw {
            "true" => prost::encoding::bool::encode(number, &true, encoded),
            "false" => prost::encoding::bool::encode(number, &false, encoded),
            _ => return expected("true or false"),
        },
        Kind::Int32 => int32::encode(number, &integer(raw)?, encoded),
        Kind::Uint32 => uint32::encode(number, &integer(raw)?, encoded),
        Kind::Uint64 => uint64::encode(number, &integer(raw)?, encoded),
        Kind::Double => match serde_json::from_str::<f64>(raw) {
            Ok(number) => double::encode(field.number, &number, encoded),
            Err(_) => return expected("a number"),
        },
        Kind::Enum(at) => int32::encode(number, &enum_value(schema, at, raw)?, encoded),
        Kind::Duration => message::encode(number, &duration(raw)?, encoded),
        Kind::Timestamp => {
            let time = text(raw).and_then(|text| text.parse::<Timestamp>().ok());
            match time {
                Some(time) => message::encode(number, &time, encoded),
                None => return expected("a time such as \"2030-01-01T00:00:00Z\""),
            }
        }
        // They are read elsewhere.
        Kind::Message(_) | Kind::Payload | Kind::Words => {}
    }
    Ok(())
}

/// The largest integer that every double below it is, too.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A number or a text of digits (the JSON mapping of proto3); `1.0` and `1e3` are integers, too.
fn integer<T: TryFrom<i128> + std::fmt::Display + Limits>(raw: &str) -> Result<T, Bad> {
    let what = format!("a whole number from {} to {}", T::LEAST, T::MOST);
    let inner = raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let digits = inner.unwrap_or(raw);
    let whole = digits.parse::<i128>().ok().or_else(|| {
        let double = digits.parse::<f64>().ok()?;
        let is_whole = double.fract() == 0.0 && double.abs() <= EXACT_MAX;
        (inner.is_none() && is_whole).then_some(double as i128)
    });
    if whole.is_none() && !raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(Bad::Expected(what));
    }
    let fits = whole.and_then(|whole| T::try_from(whole).ok());
    fits.ok_or_else(|| Bad::Refused(format!("must be {what}")))
}

trait Limits {
    const LEAST: Self;
    const MOST: Self;
}

impl Limits for i32 {
    const LEAST: Self = Self::MIN;
    const MOST: Self = Self::MAX;
}

impl Limits for u32 {
    const LEAST: Self = Self::MIN;
    const MOST: Self = Self::MAX;
}

impl Limits for u64 {
    const LEAST: Self = Self::MIN;
    const MOST: Self = Self::MAX;
}

/// By name, short or whole, in any case; or by number.
fn enum_value(schema: &Schema, at: usize, raw: &str) -> Result<i32, Bad> {
    // Positions come from the schema itself.
    let Some(found) = schema.enums.get(at) else {
        return expected("nothing");
    };
    let words: Vec<_> = found.words().collect();
    if !raw.starts_with('"') {
        let number = integer::<i32>(raw).ok();
        let known = number.filter(|number| found.values.iter().any(|it| it.number == *number));
        return known.ok_or_else(|| Bad::Expected(format!("one of {}", words.join(", "))));
    }
    let written = text(raw).unwrap_or_default();
    found.number(&written).ok_or_else(|| {
        Bad::Refused(match nearest(&written, &words) {
            Some(near) => format!("is not known, did you mean {near}?"),
            None => format!("is not known: use one of {}", words.join(", ")),
        })
    })
}

/// A number of seconds, or a text such as "1.5s" (the JSON mapping of proto3) or "500ms".
fn duration(raw: &str) -> Result<ProtoDuration, Bad> {
    const WHAT: &str = "a duration such as \"10s\", or a number of seconds";
    let seconds = |number: &str| {
        let number = number.parse::<f64>().ok()?;
        Duration::try_from_secs_f64(number).ok()
    };
    let read = if raw.starts_with('"') {
        let text = text(raw).unwrap_or_default();
        let plain = |c: char| c.is_ascii_digit() || c == '.';
        let in_seconds = text
            .strip_suffix('s')
            .filter(|rest| rest.chars().all(plain));
        in_seconds
            .and_then(seconds)
            .or_else(|| humantime::parse_duration(&text).ok())
    } else if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        seconds(raw)
    } else {
        return expected(WHAT);
    };
    let fits = read.and_then(|read| ProtoDuration::try_from(read).ok());
    fits.ok_or_else(|| Bad::Refused(format!("must be {WHAT}")))
}
