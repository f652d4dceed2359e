//! A message of the contract survives the way to JSON and back, and reads like the one that gRPC brings.
#![allow(
    clippy::needless_update,
    reason = "messages of the contract come to have more fields"
)]

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::PACKAGE;
use crate::message_json::{Means, Schema, Written, read};
use crate::payload_json;
use crate::proto;
use crate::proto::orchestrator::{
    CallPolicy, Completion, FanoutRequest, RegisterRequest, RouteRequest, completion,
};

fn schema() -> Schema {
    Schema::new(proto::DESCRIPTORS, PACKAGE).unwrap()
}

fn there_and_back<T: prost::Message + Default>(name: &str, message: &T) -> T {
    let schema = schema();
    let described = schema.message(name).unwrap();
    let encoded = message.encode_to_vec();
    let written = Written {
        schema: &schema,
        message: described,
        encoded: &encoded,
    };
    let text = serde_json::to_string(&written).unwrap();
    let back = read(&schema, described, &text, &[]).unwrap();
    T::decode(Bytes::from(back.encoded)).unwrap()
}

fn payload() -> impl Strategy<Value = Option<Bytes>> {
    let texts = prop_oneof![
        Just("null".to_owned()),
        any::<i32>().prop_map(|number| format!(r#"{{"b":{number},"a":[true]}}"#)),
        ".{0,300}".prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let encoded = texts.prop_map(|text| payload_json::from_json(&text).unwrap().into_encoded());
    proptest::option::of(encoded)
}

fn duration() -> impl Strategy<Value = Option<prost_types::Duration>> {
    let seconds = (0_i64..1_000_000, 0_i32..1000);
    let made = seconds.prop_map(|(seconds, millis)| prost_types::Duration {
        seconds,
        nanos: millis * 1_000_000,
    });
    proptest::option::of(made)
}

fn policy() -> impl Strategy<Value = Option<CallPolicy>> {
    let parts = (
        duration(),
        any::<u32>(),
        0..4,
        0..3,
        any::<bool>(),
        ".{0,9}",
    );
    let made = parts.prop_map(
        |(per_try_timeout, attempts_max, selection, fallback, idempotent, hash_key)| CallPolicy {
            per_try_timeout,
            attempts_max,
            selection,
            fallback,
            idempotent,
            hash_key,
            ..Default::default()
        },
    );
    proptest::option::of(made)
}

fn words() -> impl Strategy<Value = HashMap<String, String>> {
    proptest::collection::hash_map(".{0,9}", ".{0,9}", 0..4)
}

proptest! {
    #[test]
    fn a_route_is_the_same_by_either_door(
        instances in proptest::collection::vec(".{0,9}", 0..4),
        payload in payload(),
        timeout in duration(),
        policy in policy(),
        metadata in words(),
    ) {
        let request = RouteRequest { instances, payload, timeout, policy, metadata, ..Default::default() };
        prop_assert_eq!(there_and_back("RouteRequest", &request), request);
    }

    #[test]
    fn a_fan_out_is_the_same_by_either_door(
        targets in proptest::collection::vec(".{0,9}", 0..4),
        aggregate in any::<bool>(),
        rule in proptest::option::of(prop_oneof![
            any::<u32>().prop_map(completion::Rule::First),
            any::<u32>().prop_map(completion::Rule::Quorum),
            any::<bool>().prop_map(completion::Rule::Majority),
        ]),
        failures_max in proptest::option::of(any::<u32>()),
    ) {
        let completion = Some(Completion { rule, failures_max });
        let request = FanoutRequest { targets, aggregate, completion, ..Default::default() };
        prop_assert_eq!(there_and_back("FanoutRequest", &request), request);
    }

    #[test]
    fn a_registration_is_the_same_by_either_door(incarnation in any::<u64>(), lease in duration()) {
        let request = RegisterRequest { incarnation, lease, ..Default::default() };
        prop_assert_eq!(there_and_back("RegisterRequest", &request), request);
    }
}

#[test]
fn the_document_names_every_endpoint_and_only_what_there_is() {
    let document: serde_json::Value =
        serde_json::from_str(&super::openapi::document(&schema())).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut told: Vec<_> = paths
        .iter()
        .flat_map(|(path, verbs)| {
            let verbs = verbs.as_object().unwrap().keys();
            verbs.map(move |verb| format!("{} {path}", verb.to_uppercase()))
        })
        .collect();
    told.sort_unstable();
    let served = super::ENDPOINTS.iter();
    let mut served: Vec<_> = served
        .map(|endpoint| format!("{} {}", endpoint.verb, endpoint.path))
        .collect();
    served.sort_unstable();
    assert_eq!(told, served);
    // Every reference leads somewhere.
    let text = document.to_string();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        let found = &document["components"]["schemas"][name];
        assert!(found.is_object(), "{name}");
    }
}

#[test]
fn an_answer_may_have_a_word_that_is_not_asked_for() {
    let document: serde_json::Value =
        serde_json::from_str(&super::openapi::document(&schema())).unwrap();
    let schemas = &document["components"]["schemas"];
    let reasons = &schemas["Session"]["properties"]["closeReason"]["enum"];
    assert_eq!(reasons[0], "unspecified");
    let policies = &schemas["SessionSpawnRequest"]["properties"]["lossPolicy"]["enum"];
    assert_eq!(policies[0], "fail");
}

#[test]
fn every_example_of_a_body_is_read() {
    let schema = schema();
    for endpoint in &super::ENDPOINTS {
        assert_eq!(endpoint.body.is_some(), endpoint.example.is_some());
        if let (Some(name), Some(example)) = (endpoint.body, endpoint.example) {
            let message = schema.message(name).unwrap();
            read(&schema, message, example, &[("skillId", Means::Text)]).unwrap();
        }
    }
}
