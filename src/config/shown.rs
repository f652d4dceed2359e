//! The config as operators are shown it: what was written, without what nobody should copy.

use std::sync::Arc;

use serde_json::Value;

/// Keys of the config whose texts are secrets, or as good as one. Secrets themselves stand in files and in the
/// environment; the hash of a key tells whether a guess is right.
const SECRET: [&str; 1] = ["sha256"];
/// What stands in their place.
const STRUCK_OUT: &str = "***";

/// The text as JSON in even form, with secrets struck out.
pub(super) fn without_secrets(text: &str) -> Arc<str> {
    let mut value = serde_json::from_str(text).unwrap_or(Value::Null);
    strike_out(&mut value);
    format!("{value:#}\n").into()
}

/// One config as it is shown, but for these parts, which are as another one has them, or not there.
pub(super) fn with_parts_of(shown: &str, other: &str, names: &[&str]) -> Arc<str> {
    let read = |text| serde_json::from_str(text).unwrap_or(Value::Null);
    let (mut value, mut other) = (read(shown), read(other));
    if let Value::Object(fields) = &mut value {
        for name in names {
            match other.get_mut(name).map(Value::take) {
                Some(part) => drop(fields.insert((*name).to_owned(), part)),
                None => drop(fields.remove(*name)),
            }
        }
    }
    format!("{value:#}\n").into()
}

fn strike_out(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if SECRET.contains(&name.as_str()) {
                    *value = STRUCK_OUT.into();
                } else {
                    strike_out(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strike_out),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_everything_but_secrets() {
        let text = r#"{"keys": [{"name": "a", "sha256": "00ff"}], "instances": [{"id": "A"}]}"#;
        let shown: Value = serde_json::from_str(&without_secrets(text)).unwrap();
        assert_eq!(shown["keys"][0]["sha256"], "***");
        assert_eq!(shown["keys"][0]["name"], "a");
        assert_eq!(shown["instances"][0]["id"], "A");
    }

    #[test]
    fn parts_that_stay_are_shown_as_they_were() {
        let check = |later: &str, running: &str, expected: &str| {
            let found: Value =
                serde_json::from_str(&with_parts_of(later, running, &["a", "b"])).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(found, expected, "{later} {running}");
        };
        check(
            r#"{"a": 2, "c": 2}"#,
            r#"{"a": 1, "c": 1}"#,
            r#"{"a": 1, "c": 2}"#,
        );
        check(r#"{"a": 2}"#, "{}", "{}");
        check("{}", r#"{"b": {"d": []}, "c": 1}"#, r#"{"b": {"d": []}}"#);
    }
}
