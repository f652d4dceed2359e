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
}
