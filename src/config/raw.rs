//! What was written: strict JSON as a tree in which every value knows where it stands. It knows no setting.

use std::borrow::Cow;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::IgnoredAny;

/// A value. It has no Debug: somebody may have written a secret where none belongs.
pub(super) struct Item<'a> {
    /// Bytes before it.
    pub(super) at: usize,
    pub(super) value: Value<'a>,
}

pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    /// As written; what it may be is up to the setting.
    Number(&'a str),
    Truth(bool),
    Null,
    List(Vec<Item<'a>>),
    /// In order, and with its repetitions.
    Object(Vec<Entry<'a>>),
}

pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    /// Bytes before the name.
    pub(super) at: usize,
    pub(super) item: Item<'a>,
}

/// Why a text is no JSON.
pub(super) struct Syntax {
    /// Bytes before the place.
    pub(super) at: usize,
    pub(super) what: String,
}

/// JSON as RFC 8259 has it, none of the parser's niceties.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Reads JSON.
pub(super) fn parse(text: &str) -> Result<Item<'_>, Syntax> {
    // RFC 8259, section 8.1: it must not be there. Nobody sees it in an editor.
    if text.starts_with('\u{feff}') {
        let what = "begins with a byte order mark: save it as UTF-8 without one".to_owned();
        return Err(Syntax { at: 0, what });
    }
    let parsed =
        parse_to_ast(text, &CollectOptions::default(), &STRICT).map_err(|error| Syntax {
            at: error.range().start,
            what: not_json(&error.kind().to_string()),
        })?;
    let Some(value) = parsed.value else {
        return Err(Syntax {
            at: 0,
            what: "there is nothing here: write at least {\"instances\": []}".to_owned(),
        });
    };
    // The parser above lets raw control characters and foreign spaces pass even when strict.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| refused_after_all(text, &error))?;
    Ok(item(value))
}

fn not_json(what: &str) -> String {
    let mut letters = what.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let what: String = first.into_iter().chain(letters).collect();
    format!("not JSON: {what}")
}

fn refused_after_all(text: &str, error: &serde_json::Error) -> Syntax {
    let line_starts = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    let line_start: usize = line_starts.map(str::len).sum();
    let at = line_start + error.column().saturating_sub(1);
    let what = error.to_string();
    let what = what.split_once(" at line").map_or(&*what, |(what, _)| what);
    Syntax {
        at: at.min(text.len()),
        what: not_json(what),
    }
}

/// The parser refuses more than a few hundred levels, so that this may call itself.
fn item(value: ast::Value<'_>) -> Item<'_> {
    let at = match &value {
        ast::Value::StringLit(text) => text.start(),
        ast::Value::NumberLit(number) => number.start(),
        ast::Value::BooleanLit(truth) => truth.start(),
        ast::Value::NullKeyword(null) => null.start(),
        ast::Value::Array(list) => list.start(),
        ast::Value::Object(object) => object.start(),
    };
    let value = match value {
        ast::Value::StringLit(text) => Value::Text(text.value),
        ast::Value::NumberLit(number) => Value::Number(number.value),
        ast::Value::BooleanLit(truth) => Value::Truth(truth.value),
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::Array(list) => Value::List(list.elements.into_iter().map(item).collect()),
        ast::Value::Object(object) => {
            Value::Object(object.properties.into_iter().map(entry).collect())
        }
    };
    Item { at, value }
}

fn entry(property: ast::ObjectProp<'_>) -> Entry<'_> {
    let at = property.start();
    let name = match property.name {
        ast::ObjectPropName::String(name) => name.value,
        ast::ObjectPropName::Word(name) => name.value.into(),
    };
    let item = item(property.value);
    Entry { name, at, item }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), (usize, &str)>) {
        let found = parse(text).map(|_| ());
        let found = found.map_err(|syntax| (syntax.at, syntax.what));
        let expected = expected.map_err(|(at, what)| (at, what.to_owned()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn only_strict_json_is_read() {
        check(r#" {"a": [1, -2.5e3, true, null, "ä\u00e4"]} "#, Ok(()));
        for (text, at, what) in [
            ("[1,]", 2, "trailing commas are not allowed"),
            ("[1 2]", 2, "expected comma"),
            ("// x\n[]", 0, "comments are not allowed"),
            ("{'a': 1}", 1, "single-quoted strings are not allowed"),
            ("{a: 1}", 1, "expected string for object property"),
            ("[0x1]", 1, "hexadecimal numbers are not allowed"),
            ("[01]", 2, "expected comma"),
            ("[NaN]", 1, "unexpected token"),
            ("{\"a\": 1", 0, "unterminated object"),
            ("[] []", 3, "text cannot contain more than one JSON value"),
            (
                "[\"a\tb\"]",
                2,
                "control character (\\u0000-\\u001F) found while parsing a string",
            ),
            ("[\u{a0}]", 1, "expected value"),
            ("\n[\n\u{b}]", 3, "expected value"),
        ] {
            check(text, Err((at, &format!("not JSON: {what}"))));
        }
        let marked = "begins with a byte order mark: save it as UTF-8 without one";
        check("\u{feff}[]", Err((0, marked)));
        let nothing = "there is nothing here: write at least {\"instances\": []}";
        check("  ", Err((0, nothing)));
    }

    #[test]
    fn deep_nesting_is_refused_and_not_a_crash() {
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err_and(|syntax| syntax.what.contains("nesting")));
        let deep = "{\"a\":".repeat(100_000);
        assert!(parse(&deep).is_err_and(|syntax| syntax.what.contains("nesting")));
    }
}
