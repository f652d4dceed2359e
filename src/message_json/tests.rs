//! What a message is as JSON, and what JSON is no message.

use proptest::prelude::*;

use super::*;

fn schema() -> Schema {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    Schema::new(descriptors, "openclaw.orchestrator.v1").unwrap()
}

/// Reads a text as a message and writes that down again.
fn there_and_back(schema: &Schema, name: &str, text: &str) -> Result<String, BadMessage> {
    let message = schema.message(name).unwrap();
    let found = read(schema, message, text, &[])?;
    let written = Written {
        schema,
        message,
        encoded: &found.encoded,
    };
    Ok(serde_json::to_string(&written).unwrap())
}

fn check(name: &str, text: &str, expected: Result<&str, &str>) {
    let found = there_and_back(&schema(), name, text).map_err(|bad| bad.to_string());
    let expected = expected.map(str::to_owned).map_err(str::to_owned);
    assert_eq!(found, expected, "{text}");
}

#[test]
fn both_spellings_and_every_form_of_a_value_are_taken() {
    let policy = r#"{"perTryTimeout":"0.500s","attemptsMax":2,"selection":"hash","fallback":"any_healthy","idempotent":true,"hashKey":"k"}"#;
    for text in [
        policy,
        r#"{"per_try_timeout": 0.5, "attempts_max": "2", "selection": "SELECTION_HASH", "fallback": "Any_Healthy", "idempotent": true, "hash_key": "k"}"#,
        r#"{"perTryTimeout": "500ms", "attemptsMax": 2.0, "selection": 3, "fallback": 2, "idempotent": true, "hashKey": "\u006b"}"#,
    ] {
        let found = there_and_back(&schema(), "CallPolicy", text).unwrap();
        // The policy may have come to have more fields since.
        assert!(
            found.starts_with(policy.trim_end_matches('}')),
            "{text}: {found}"
        );
    }
    check(
        "Completion",
        r#" {"quorum": 0, "failuresMax": 0} "#,
        Ok(r#"{"quorum":0,"failuresMax":0}"#),
    );
    check(
        "Completion",
        r#"{"first": null, "failuresMax": null}"#,
        Ok("{}"),
    );
    check(
        "RegisterRequest",
        r#"{"instance": {"id": "A", "labels": {"z": "1", "a": ""}}, "incarnation": 18446744073709551615, "lease": "1m 30s"}"#,
        Ok(
            r#"{"instance":{"id":"A","address":"","labels":{"a":"","z":"1"},"weight":0},"incarnation":"18446744073709551615","lease":"90s"}"#,
        ),
    );
}

#[test]
fn a_payload_keeps_the_order_of_its_keys_and_its_integers() {
    // The message may have come to have more fields since: they follow.
    let kept = |text: &str, expected: &str| {
        let back = there_and_back(&schema(), "RouteResponse", text).unwrap();
        assert!(back.starts_with(expected.trim_end_matches('}')), "{back}");
    };
    let payload = r#"{"z":1,"a":[9007199254740992,{"b":null,"a":-0.0}],"":"\u0000"}"#;
    let text = format!(r#"{{"instance":"A","payload":{payload},"attempts":[]}}"#);
    kept(&text, &text);
    // Null is a payload, and not the absence of one.
    let null = r#"{"instance":"A","payload":null,"attempts":[]}"#;
    kept(null, null);
    kept("{}", r#"{"instance":"","attempts":[]}"#);
}

#[test]
fn a_double_is_a_number() {
    let schema = schema();
    let back = |text: &str| there_and_back(&schema, "ExplainedInstance", text);
    assert!(
        back(r#"{"warmth": 0.25}"#)
            .unwrap()
            .contains(r#""warmth":0.25"#)
    );
    let bad = back(r#"{"warmth": "hot"}"#).unwrap_err().to_string();
    assert_eq!(
        bad,
        "warmth: expected a number, found a text (line 1, column 12)"
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let refused = |name: &str, text: &str, expected: &str| check(name, text, Err(expected));
    let route = |text: &str, expected: &str| refused("RouteRequest", text, expected);
    route(
        "[]",
        "body: expected an object, found a list (line 1, column 1)",
    );
    route(
        "{\n  \"instance\": []}",
        "instance: unknown field, did you mean instances? (line 2, column 15)",
    );
    route(
        r#"{"instances": "A"}"#,
        "instances: expected a list, found a text (line 1, column 15)",
    );
    route(
        r#"{"instances": ["A", 1]}"#,
        "instances[1]: expected a text, found a number (line 1, column 21)",
    );
    route(
        r#"{"instances": ["A", null]}"#,
        "instances[1]: expected a text, found null (line 1, column 21)",
    );
    route(
        r#"{"timeout": 1, "timeout": 2}"#,
        "timeout: this field is there twice (line 1, column 27)",
    );
    route(
        r#"{"policy": {"attemptsMax": 1, "attempts_max": 2}}"#,
        "policy.attemptsMax: this field is there twice (line 1, column 47)",
    );
    route(
        r#"{"policy": {"atempts": 1}}"#,
        "policy.atempts: unknown field, did you mean attemptsMax? (line 1, column 24)",
    );
    route(
        r#"{"metadata": {"a": "1", "a": "2"}}"#,
        "metadata.a: this name is there twice (line 1, column 30)",
    );
    route(
        r#"{"metadata": {"a": 1}}"#,
        "metadata.a: expected a text, found a number (line 1, column 20)",
    );
    route(
        r#"{"policy": {"selection": "balaned"}}"#,
        "policy.selection: is not known, did you mean balanced? (line 1, column 26)",
    );
    route(
        r#"{"policy": {"selection": true}}"#,
        "policy.selection: expected one of balanced, ordered, hash, found true or false (line 1, column 26)",
    );
    for attempts in ["-1", "1.5", "4294967296", "1e99", "\"x1\""] {
        let text = format!(r#"{{"policy": {{"attemptsMax": {attempts}}}}}"#);
        let bad = there_and_back(&schema(), "RouteRequest", &text).unwrap_err();
        let what = "a whole number from 0 to 4294967295";
        assert!(bad.to_string().contains(what), "{bad}");
    }
    for timeout in ["-1", "\"soon\"", "\"-1s\"", "1e300", "\"\"", "\"10\""] {
        let text = format!(r#"{{"timeout": {timeout}}}"#);
        route(
            &text,
            "timeout: must be a duration such as \"10s\", or a number of seconds (line 1, column 13)",
        );
    }
    refused(
        "Completion",
        r#"{"first": 1, "majority": true}"#,
        "majority: does not go with first: give one of them (line 1, column 26)",
    );
}

#[test]
fn what_is_not_json_is_refused_with_line_and_column() {
    let check = |text: &str, expected: &str| check("RouteRequest", text, Err(expected));
    check(
        "",
        "not JSON at line 1, column 1: EOF while parsing a value",
    );
    check(
        "{\"instances\": [\"A\"",
        "not JSON at line 1, column 18: EOF while parsing a list",
    );
    check(
        "{\n\"payload\": NaN}",
        "not JSON at line 2, column 12: expected value",
    );
    check("{} {}", "not JSON at line 1, column 4: trailing characters");
    check(
        "{\"payload\":\n [\"\\ud800\"]}",
        "not JSON at line 2, column 10: unexpected end of hex escape",
    );
    check(
        r#"{"instances": ["\ud800"]}"#,
        "instances[0]: is no text: it has a lone surrogate (line 1, column 16)",
    );
    check(
        "{\"payload\": 1e999}",
        "not JSON at line 1, column 17: number out of range",
    );
}

#[test]
fn a_payload_that_cannot_travel_is_refused_with_its_path() {
    let check = |text: &str, expected: &str| check("RouteRequest", text, Err(expected));
    check(
        r#"{"payload": {"items": [0, {"id": 9007199254740993}]}}"#,
        "at payload.items[1].id: integer 9007199254740993 cannot travel exactly; send it as a string",
    );
    check(
        r#"{"payload": {"a": {"b": 1, "b": 2}}}"#,
        "at payload.a.b: this key appears more than once in its object",
    );
    let deep = format!(r#"{{"payload": {}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let bad = there_and_back(&schema(), "RouteRequest", &deep).unwrap_err();
    assert!(bad.to_string().contains("at payload[0][0]"), "{bad}");
    assert!(bad.to_string().contains("nested too deep"), "{bad}");
    let deep = format!(
        r#"{{"timeout": {}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let bad = there_and_back(&schema(), "RouteRequest", &deep).unwrap_err();
    assert!(bad.to_string().contains("expected a duration"), "{bad}");
}

#[test]
fn a_name_beside_the_fields_is_taken_at_the_top_only() {
    let schema = schema();
    let message = schema.message("RegisterRequest").unwrap();
    let ask = |text: &str| read(&schema, message, text, &[("skillId", Means::Text)]);
    let found = ask(r#"{"skillId": "orchestrator"}"#).unwrap();
    assert_eq!(found.encoded, b"");
    assert_eq!(
        found.beside,
        [("skillId".to_owned(), "orchestrator".to_owned())]
    );
    let refused = |text: &str| ask(text).unwrap_err().to_string();
    assert_eq!(
        refused(r#"{"skilId": "x"}"#),
        "skilId: unknown field, did you mean skillId? (line 1, column 12)"
    );
    assert_eq!(
        refused(r#"{"skillId": 1}"#),
        "skillId: expected a text, found a number (line 1, column 13)"
    );
    assert!(refused(r#"{"instance": {"skillId": "x"}}"#).starts_with("instance.skillId: unknown"));
}

#[test]
fn a_field_may_have_another_name_and_a_flag_an_opposite() {
    let schema = schema();
    let message = schema.message("SessionPostRequest").unwrap();
    let own = [
        ("data", Means::Field("payload")),
        ("wait", Means::Opposite("no_wait")),
    ];
    let ask = |text: &str| read(&schema, message, text, &own).map(|found| found.encoded);
    let same = |one: &str, other: &str| assert_eq!(ask(one).unwrap(), ask(other).unwrap(), "{one}");
    same(r#"{"data": {"a": 1}}"#, r#"{"payload": {"a": 1}}"#);
    same(r#"{"data": null}"#, r#"{"payload": null}"#);
    same(r#"{"wait": false}"#, r#"{"noWait": true}"#);
    same(r#"{"wait": true}"#, r#"{"no_wait": false}"#);
    same(r#"{"wait": null}"#, "{}");
    assert_ne!(ask(r#"{"wait": false}"#).unwrap(), b"");
    let refused = |text: &str, expected: &str| {
        assert_eq!(ask(text).unwrap_err().to_string(), expected);
    };
    refused(
        r#"{"data": 1, "payload": 1}"#,
        "payload: this field is there twice (line 1, column 24)",
    );
    refused(
        r#"{"noWait": true, "wait": false}"#,
        "wait: this field is there twice (line 1, column 26)",
    );
    refused(
        r#"{"wait": "no"}"#,
        "wait: expected true or false, found a text (line 1, column 10)",
    );
    refused(
        r#"{"data": [9007199254740993]}"#,
        "at data[0]: integer 9007199254740993 cannot travel exactly; send it as a string",
    );
    refused(
        r#"{"dat": 1}"#,
        "dat: unknown field, did you mean data? (line 1, column 9)",
    );
}

#[test]
fn every_message_of_the_contract_has_an_empty_form() {
    let schema = schema();
    for message in &schema.messages {
        let back = there_and_back(&schema, &message.name, "{}").unwrap();
        let again = there_and_back(&schema, &message.name, &back).unwrap();
        assert_eq!(again, back, "{}", message.name);
        assert!(!message.comment.is_empty(), "{}", message.name);
        for field in &message.fields {
            assert!(!field.comment.is_empty(), "{}.{}", message.name, field.name);
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_a_message_or_is_refused(
        text in r#"[{}\[\]:,"a-z0-9.\\ \n-]{0,40}"#,
        cut in 0_usize..200,
    ) {
        let schema = schema();
        let _ = there_and_back(&schema, "RouteRequest", &text);
        let whole = r#"{"instances": ["A", "B-é"], "payload": {"k": [1, "é"]}, "timeout": "5s", "metadata": {"a": "b"}, "policy": {"selection": "hash"}}"#;
        if let Some(half) = whole.get(..cut.min(whole.len() - 1)) {
            prop_assert!(there_and_back(&schema, "RouteRequest", half).is_err());
        }
    }
}
