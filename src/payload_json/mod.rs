//! JSON text to an encoded `google.protobuf.Value` and back, without a tree in between.
//!
//! The order of keys and every integer are kept. What could not be kept (integers beyond ±2^53, which a Value
//! holds as a double; a key that appears twice) is refused by path and never altered. Bytes that come from
//! elsewhere are written as they stand, repeated keys included.

mod read;
pub(crate) mod wire;
mod write;

pub use self::read::{append_json, from_json};
pub use self::write::{AsJson, BadValue, to_json, to_json_pretty};

use crate::domain::limit::PAYLOAD_DEPTH_MAX;
use crate::domain::payload::BadPayload;

/// Up to here every integer is a double, and a double that stands for no other integer.
const EXACT_MAX: u64 = 1 << 53;
/// Why a text does not become a payload.
#[derive(Debug, thiserror::Error)]
pub enum BadJson {
    /// Not JSON.
    #[error("not JSON at line {line}, column {column}: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// An integer that a double cannot hold.
    #[error("at {path}: integer {integer} cannot travel exactly; send it as a string")]
    IntegerInexact {
        /// Where, as in `$.items[3].id`.
        path: String,
        /// As written.
        integer: String,
    },
    /// Two values under one name.
    #[error("at {path}: this key appears more than once in its object")]
    KeyTwice {
        /// Where, as in `$.items[3].id`.
        path: String,
    },
    /// Nested deeper than instances can decode.
    #[error(
        "at {path}: nested too deep (a list counts 2, an object 3, and at most {PAYLOAD_DEPTH_MAX} are allowed)"
    )]
    TooDeep {
        /// Where, as in `$.items[3].id`.
        path: String,
    },
    /// What was written is not a payload.
    #[error(transparent)]
    Payload(#[from] BadPayload),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::payload::Payload;

    fn check(text: &str, expected: Result<&str, &str>) {
        let found = from_json(text)
            .map_err(|bad| bad.to_string())
            .and_then(|payload| to_json(payload.encoded()).map_err(|bad| bad.to_string()));
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn json_comes_back_as_it_was_written() {
        for text in [
            "null",
            "true",
            "\"\"",
            "[]",
            "{}",
            "[[],{},null]",
            r#"{"z":1,"a":{"z":[1.5,-2],"":false}}"#,
            "9007199254740992",
            "-9007199254740992",
            "-0.0",
            "5e-324",
            "0.1",
            r#""\u0000é\n""#,
        ] {
            check(text, Ok(text));
        }
        check(" { \"a\" : 1.0 } ", Ok(r#"{"a":1}"#));
        check(r#"{"\u0061":"\ud83d\ude00"}"#, Ok(r#"{"a":"😀"}"#));
        check("1e3", Ok("1000"));
        check("1e300", Ok("1e+300"));
        // Written as doubles, so doubles are what was meant.
        check("18446744073709551616.0", Ok("1.8446744073709552e+19"));
    }

    #[test]
    fn an_integer_that_a_double_cannot_hold_is_refused_by_path() {
        let inexact = |path: &str, integer: &str| {
            format!("at {path}: integer {integer} cannot travel exactly; send it as a string")
        };
        let check =
            |text: &str, path: &str, integer: &str| check(text, Err(&inexact(path, integer)));
        check(
            r#"{"items":[0,1,2,{"id":9007199254740993}]}"#,
            "$.items[3].id",
            "9007199254740993",
        );
        check("-9007199254740993", "$", "-9007199254740993");
        check("[18446744073709551615]", "$[0]", "18446744073709551615");
        // Beyond 64 bits, where the parser rounds by itself, and beside a double that looks the same.
        check(
            r#"["1\"2", 1e20, {"a b": 100000000000000000000}]"#,
            r#"$[2]["a b"]"#,
            "100000000000000000000",
        );
    }

    #[test]
    fn a_key_that_appears_twice_is_refused_by_path() {
        let twice = "this key appears more than once in its object";
        check(r#"{"a":1,"b":2,"a":3}"#, Err(&format!("at $.a: {twice}")));
        check(
            r#"[{"x":{"\u0061":1,"a":3}}]"#,
            Err(&format!("at $[0].x.a: {twice}")),
        );
        check(r#"[{"a":1},{"a":1}]"#, Ok(r#"[{"a":1},{"a":1}]"#));
    }

    #[test]
    fn what_is_not_json_is_refused_by_line_and_column() {
        check(
            "{\n  \"a\": nope\n}",
            Err("not JSON at line 2, column 9: expected ident"),
        );
        check(
            "",
            Err("not JSON at line 1, column 0: EOF while parsing a value"),
        );
        check(
            "1 2",
            Err("not JSON at line 1, column 3: trailing characters"),
        );
        check(
            "1e999",
            Err("not JSON at line 1, column 5: number out of range"),
        );
    }

    #[test]
    fn nesting_ends_where_payloads_end() {
        let lists = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        check(&lists(47), Ok(&lists(47)));
        let deep = from_json(&lists(48)).unwrap_err();
        assert!(matches!(deep, BadJson::TooDeep { .. }), "{deep}");
        let objects = |depth: usize| "{\"k\":".repeat(depth) + "0" + &"}".repeat(depth);
        check(&objects(31), Ok(&objects(31)));
        let deep = from_json(&objects(32)).unwrap_err();
        assert!(matches!(deep, BadJson::TooDeep { .. }), "{deep}");
        assert!(from_json(&lists(100_000)).is_err());
    }

    #[test]
    fn a_value_without_a_json_form_is_an_error() {
        let check = |encoded: &[u8], expected: &str| {
            let found = to_json(encoded).map_err(|bad| bad.to_string());
            assert_eq!(found, Err(format!("payload has no JSON form: {expected}")));
        };
        let nan = [&[0x11][..], &f64::NAN.to_le_bytes()].concat();
        check(&nan, "NaN is not a JSON number");
        check(&[], "it has a Value without a kind");
        check(&[0x1a, 9], "it is cut off");
        check(&[0x1a, 1, 0xff], "it has text that is not UTF-8");
        check(&[0x0b], "it is not a google.protobuf.Value");
    }

    #[test]
    fn of_several_kinds_the_last_counts_and_parts_are_joined() {
        let check = |encoded: &[u8], expected: &str| {
            assert_eq!(to_json(encoded), Ok(expected.to_owned()));
        };
        check(&[0x20, 1, 0x08, 0], "null");
        check(
            &[0x32, 4, 0x0a, 2, 0x20, 1, 0x32, 4, 0x0a, 2, 0x20, 0],
            "[true,false]",
        );
        check(&[0x08, 0, 0x78, 1], "null");
    }

    /// JSON text in its most compact form.
    fn json() -> impl Strategy<Value = String> {
        let text = |pattern| {
            proptest::string::string_regex(pattern)
                .unwrap()
                .prop_map(|text| serde_json::Value::from(text).to_string())
        };
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            (-9_007_199_254_740_992_i64..=9_007_199_254_740_992)
                .prop_map(|value| value.to_string()),
            any::<f64>()
                .prop_filter("whole ones are written as integers", |value| value.fract()
                    != 0.0)
                .prop_map(|value| serde_json::Value::from(value).to_string()),
            text(".{0,200}"),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            let keys = proptest::collection::hash_set(".{0,6}", 0..6);
            let object = keys.prop_flat_map({
                let inner = inner.clone();
                move |keys| {
                    let values = proptest::collection::vec(inner.clone(), keys.len());
                    (Just(keys), values).prop_map(|(keys, values)| {
                        let fields = keys.into_iter().zip(values);
                        let fields = fields.map(|(key, value)| {
                            format!("{}:{value}", serde_json::Value::from(key))
                        });
                        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                    })
                }
            });
            let list = proptest::collection::vec(inner, 0..6)
                .prop_map(|items| format!("[{}]", items.join(",")));
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn any_json_survives_the_way_there_and_back(text in json()) {
            let payload = from_json(&text).unwrap();
            prop_assert_eq!(&to_json(payload.encoded()).unwrap(), &text);
            let pretty = to_json_pretty(payload.encoded()).unwrap();
            prop_assert_eq!(from_json(&pretty).unwrap(), payload);
        }

        #[test]
        fn any_text_is_read_as_the_usual_parser_reads_it_or_refused(text in r#"[\[\]{}:,"a1e. -]{0,24}"#) {
            if let Ok(payload) = from_json(&text) {
                let usual: serde_json::Value = serde_json::from_str(&text).unwrap();
                let ours: serde_json::Value = serde_json::from_str(&to_json(payload.encoded()).unwrap()).unwrap();
                let as_doubles = |value: serde_json::Value| format!("{value}").replace(".0", "");
                prop_assert_eq!(as_doubles(ours), as_doubles(usual));
            }
        }

        #[test]
        fn what_other_decoders_read_is_what_is_written(text in json()) {
            use prost::Message as _;
            let payload = from_json(&text).unwrap();
            let value = prost_types::Value::decode(&payload.encoded()[..]).unwrap();
            let again = to_json(&value.encode_to_vec()).unwrap();
            let unordered = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(unordered(&again), unordered(&text));
        }

        #[test]
        fn any_bytes_have_a_json_form_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            match to_json(&bytes) {
                Ok(text) => prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok()),
                // What was let in as a payload lacks a JSON form for one reason only.
                Err(bad) if Payload::check(bytes.clone().into()).is_ok() => {
                    prop_assert!(bad.to_string().ends_with("is not a JSON number"), "{bad}");
                }
                Err(_) => {}
            }
        }
    }
}
