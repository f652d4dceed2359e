//! The rules by which an instance applies each message once are the same in Rust and in the Python package: one table
//! of cases holds both to them.

use orchestrator::domain::conversation::{Conversation, Opening, Receipt};
use serde_json::{Value, json};

fn number(of: &Value, name: &str, otherwise: u64) -> u64 {
    of.get(name)
        .map_or(otherwise, |number| number.as_u64().unwrap())
}

/// What a step of the table gives, in its words.
fn take(conversation: &mut Conversation<()>, step: &Value) -> Value {
    let (name, given) = step
        .as_object()
        .unwrap()
        .iter()
        .find(|(name, _)| *name != "gives")
        .unwrap();
    match name.as_str() {
        "open" => {
            let opening = Opening {
                spawned_ms: number(given, "spawned_ms", 7),
                epoch: number(given, "epoch", 0),
                next_seq: number(given, "next_seq", 1),
                answered_through: number(given, "answered_through", 0),
                received_through: number(given, "received_through", 0),
                received_epoch: number(given, "received_epoch", 0),
            };
            conversation.open(&opening).map_or(json!("stale"), |resumed| {
                json!({ "received_through": resumed.received_through, "missed": resumed.missed })
            })
        }
        "receive" => {
            let (epoch, seq) = (given[0].as_u64().unwrap(), given[1].as_u64().unwrap());
            json!(match conversation.receive(epoch, seq) {
                Receipt::Apply => "apply",
                Receipt::ApplyQuietly => "apply_quietly",
                Receipt::Duplicate => "duplicate",
                Receipt::StaleEpoch => "stale_epoch",
                Receipt::Gap { .. } => "gap",
            })
        }
        "say" => json!(conversation.say(given.as_u64(), ()).seq),
        "handled" => {
            conversation.handled(given.as_u64().unwrap());
            Value::Null
        }
        "taken" => match conversation.taken(given.as_u64().unwrap()) {
            Ok(()) => json!("ok"),
            Err(_over) => json!("over_ack"),
        },
        "due" => json!(conversation.due()),
        "unacknowledged" => {
            let said = conversation.unacknowledged();
            json!(
                said.map(|said| json!([said.seq, said.in_reply_to]))
                    .collect::<Vec<_>>()
            )
        }
        other => panic!("no such step: {other}"),
    }
}

#[test]
fn an_instance_in_rust_keeps_to_the_table_that_the_python_package_keeps_to() {
    let table: Vec<Value> =
        serde_json::from_str(include_str!("../conversation_vectors.json")).unwrap();
    assert!(!table.is_empty());
    for case in table {
        let mut conversation = Conversation::default();
        for step in case["steps"].as_array().unwrap() {
            let words = ["gives", "due", "unacknowledged"];
            let expected = words
                .iter()
                .find_map(|word| step.get(word))
                .cloned()
                .unwrap_or_default();
            assert_eq!(
                take(&mut conversation, step),
                expected,
                "{}: {step}",
                case["rule"]
            );
        }
    }
}
