//! The schema and `check` say the same, each looked at through what it does.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::schema;
use crate::config::tests::told;
use crate::domain::limit::{WINDOW_MAX, WINDOW_MIN};

/// Where a schema stands: the names that lead there, `[]` for the entries of a list.
type Steps = Vec<&'static str>;

fn resolved(schema: &Value) -> Value {
    let Some(name) = schema["$ref"].as_str() else {
        return schema.clone();
    };
    let mut whole = super::schema()["$defs"][name.rsplit('/').next().unwrap()].clone();
    let own = schema.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(own);
    whole
}

/// Every schema within a schema, with where it stands.
fn parts(schema: &Value, steps: &Steps, found: &mut Vec<(Steps, Value)>) {
    let schema = resolved(schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, inner) in properties {
            let name: &'static str = name.clone().leak();
            parts(inner, &[&steps[..], &[name]].concat(), found);
        }
    }
    if schema.get("items").is_some() {
        parts(&schema["items"], &[&steps[..], &["[]"]].concat(), found);
    }
    found.push((steps.clone(), schema));
}

fn all_parts() -> Vec<(Steps, Value)> {
    let mut found = Vec::new();
    parts(&schema(), &Vec::new(), &mut found);
    found
}

/// A config with this value at that place, and around it what has to be there so that it is looked at.
fn config_with(steps: &[&str], value: Value) -> Value {
    let mut config = value;
    for (at, step) in steps.iter().enumerate().rev() {
        config = match *step {
            "[]" => json!([config]),
            name => {
                let mut object = Map::new();
                if ["tls", "credential"].contains(&name) && at == 2 {
                    object.insert("address".to_owned(), json!("grpcs://a:1"));
                }
                if name == "calls_burst" {
                    object.insert("calls_per_second".to_owned(), json!(1));
                }
                if name == "instance_calls_burst" {
                    object.insert("instance_calls_per_second".to_owned(), json!(1));
                }
                if name == "connection_window_bytes" {
                    object.insert("stream_window_bytes".to_owned(), json!(WINDOW_MIN));
                }
                if name == "stream_window_bytes" {
                    object.insert("connection_window_bytes".to_owned(), json!(WINDOW_MAX));
                }
                let of_callers = [
                    "client_certificate",
                    "client_crl_file",
                    "client_crl_overdue",
                ];
                if of_callers.contains(&name) {
                    object.insert("client_ca_file".to_owned(), json!("ca.pem"));
                }
                if name == "client_crl_overdue" {
                    object.insert("client_crl_file".to_owned(), json!("crl.pem"));
                }
                object.insert(name.to_owned(), config);
                Value::Object(object)
            }
        };
    }
    config
}

/// What is told about the value at that place, or about what is in it.
fn told_at(steps: &[&str], value: Value) -> Vec<String> {
    let path = steps.join(".").replace(".[]", "[0]");
    let path = path.replace("$schema", "[\"$schema\"]");
    let whole = told(config_with(steps, value).to_string());
    let mut about = Vec::new();
    for line in whole.lines() {
        let (_, place_and_what) = line.split_once(' ').unwrap();
        let place = place_and_what
            .split_once(": ")
            .map_or("", |(place, _)| place);
        // The root has no path, and what stands before its colon is then a sentence.
        if place.starts_with(&path) && (place.len() == path.len() || !path.is_empty()) {
            about.push(place_and_what.to_owned());
        }
    }
    about
}

fn validator(schema: &Value) -> Validator {
    let mut whole = schema.clone();
    whole["$defs"] = super::schema()["$defs"].clone();
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&whole).unwrap()
}

#[test]
fn every_key_of_the_schema_is_known_to_the_reader_and_the_other_way_round() {
    let mut objects = 0;
    for (steps, schema) in all_parts() {
        let Some(properties) = schema["properties"].as_object() else {
            continue;
        };
        objects += 1;
        let whole = told(config_with(&steps, json!({"qqqqqqqqqqqq": 1})).to_string());
        let known = whole
            .lines()
            .find_map(|line| line.split_once("; known here are "));
        let known = known.unwrap_or_else(|| panic!("{steps:?}: {whole}")).1;
        let mut known: Vec<_> = known.split(", ").collect();
        known.sort_unstable();
        let in_schema: Vec<_> = properties.keys().map(String::as_str).collect();
        assert_eq!(in_schema, known, "{steps:?}");
    }
    assert!(12 <= objects, "{objects}");
}

/// Values of every kind, and those at the bounds of a schema.
fn candidates(schema: &Value) -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([1]),
        json!(["x"]),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1),
        json!(40),
        json!(70_000),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("10s"),
        json!("soon"),
        json!("127.0.0.1:7070"),
        json!("grpc://a:1"),
        json!(["10.0.0.0/8"]),
        json!("10.0.0.0/8"),
        json!("1h 5m"),
        json!("2027-01-01T00:00:00Z"),
        json!("a".repeat(64)),
        json!("a".repeat(129)),
        json!("B_TOKEN"),
    ];
    for bound in ["minimum", "maximum"] {
        if let Some(bound) = schema[bound].as_u64() {
            values.extend(
                [bound.saturating_sub(1), bound, bound.saturating_add(1)].map(|value| json!(value)),
            );
        }
    }
    values.extend(schema["enum"].as_array().into_iter().flatten().cloned());
    values
}

#[test]
fn the_schema_refuses_nothing_that_may_be_meant_and_lets_no_wrong_count_or_word_pass() {
    let (mut accepted, mut refused) = (0, 0);
    for (steps, schema) in all_parts() {
        // What an object needs besides this one key is another test's.
        if schema["properties"].is_object() || steps.is_empty() {
            continue;
        }
        let validator = validator(&schema);
        // Files, addresses and dates cannot be judged by their form alone.
        let is_exact =
            schema["type"] == "integer" || schema["type"] == "boolean" || schema["enum"].is_array();
        for value in candidates(&schema) {
            let about = told_at(&steps, value.clone());
            if about.is_empty() {
                accepted += 1;
                assert!(
                    validator.is_valid(&value),
                    "{steps:?}: {value} is right, and the schema refuses it"
                );
            } else {
                refused += 1;
                let passes = validator.is_valid(&value);
                assert!(
                    !is_exact || !passes,
                    "{steps:?}: the schema lets {value} pass: {about:?}"
                );
            }
        }
    }
    assert!(300 < accepted && 1000 < refused, "{accepted} {refused}");
}

#[test]
fn what_the_docs_show_and_the_samples_hold_is_judged_as_they_say() {
    assert!(jsonschema::meta::is_valid(&schema()));
    let validator = validator(&schema());
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let mut shown = vec![
        parse(include_str!("../samples/full.json")),
        parse(&file("examples/orchestrator.json")),
    ];
    let readme = file("README.md");
    let (_, chapter) = readme.split_once("\n## Config file\n").unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let blocks = chapter.split("```json\n").skip(1);
    shown.extend(blocks.map(|block| parse(block.split("```").next().unwrap())));
    assert!(3 <= shown.len(), "the README shows a config");
    for config in shown {
        let errors: Vec<_> = validator
            .iter_errors(&config)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    let wrong = [
        json!({}),
        json!({"instances": [{"id": "A"}]}),
        json!({"instances": [{"id": "A", "builtin": {}, "address": "a:1"}]}),
        json!({"instances": [{"id": "A", "builtin": {}, "credential": {"bearer_env": "T"}}]}),
        json!({"instances": [{"id": "A", "address": "a:1", "credential": {"bearer": "T"}}]}),
        json!({"instances": [{"id": "A", "address": "a:1", "credential": {}}]}),
        json!({"instances": [{"id": "A", "address": "grpcs://a:1", "tls": {"key_file": "k"}}]}),
        json!({"instances": [], "keys": [{"name": "a"}]}),
        json!({"instances": [], "ports": 1}),
        parse(include_str!("../samples/mistakes.json")),
    ];
    for config in wrong {
        assert!(!validator.is_valid(&config), "{config}");
        assert!(!told(config.to_string()).is_empty(), "{config}");
    }
}

#[test]
fn the_schema_that_is_published_is_the_one_that_is_printed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.schema.json");
    let expected = format!("{:#}\n", schema());
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    let advice = "renew it: orchestrator config schema > docs/config.schema.json";
    assert!(
        published == expected,
        "{} is not what is printed; {advice}",
        path.display()
    );
}
