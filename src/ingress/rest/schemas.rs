//! The JSON Schemas of the OpenAPI document, from the descriptors of the contract.

use serde_json::{Map, Value, json};

use crate::message_json::{Field, Kind, Schema};

/// Which way a message goes: what is taken may leave out any field, what is given has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// Schemas by name, made when they are first referred to.
pub(super) struct Schemas<'s> {
    schema: &'s Schema,
    made: Map<String, Value>,
}

fn refer(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A text, unless it is empty.
fn describe(mut schema: Value, comment: &str) -> Value {
    if !comment.is_empty() && schema.get("$ref").is_none() {
        schema["description"] = comment.replace('\n', " ").into();
    }
    schema
}

impl<'s> Schemas<'s> {
    pub(super) fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            made: Map::new(),
        }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.made
    }

    /// A reference to a message of the contract.
    pub(super) fn reference(&mut self, name: &str, way: Way) -> Value {
        let title = match way {
            Way::In if !name.ends_with("Request") => format!("{name}Input"),
            Way::In | Way::Out => name.to_owned(),
        };
        if !self.made.contains_key(&title) {
            // Before its fields are looked at: a message may hold itself.
            self.made.insert(title.clone(), Value::Null);
            let made = self.message(name, way);
            self.made.insert(title.clone(), made);
        }
        refer(&title)
    }

    /// Adds what a door takes beside the fields of a message.
    pub(super) fn add_property(&mut self, message: &str, name: &str, schema: Value) {
        if let Some(made) = self.made.get_mut(message) {
            made["properties"][name] = schema;
        }
    }

    fn message(&mut self, name: &str, way: Way) -> Value {
        let Some(message) = self.schema.message(name) else {
            return json!({"type": "object"});
        };
        let mut properties = Map::new();
        for field in &message.fields {
            let described = describe(self.field(field, way), &field.comment);
            properties.insert(field.json_name.clone(), described);
        }
        let mut made = json!({"type": "object", "properties": properties});
        match way {
            Way::In => made["additionalProperties"] = false.into(),
            Way::Out => {
                let always = message.fields.iter().filter(|field| !field.has_presence);
                made["required"] = always.map(|field| field.json_name.clone()).collect();
            }
        }
        describe(made, &message.comment)
    }

    fn field(&mut self, field: &Field, way: Way) -> Value {
        let value = self.value(field.kind, way);
        if field.is_list {
            json!({"type": "array", "items": value})
        } else {
            value
        }
    }

    fn value(&mut self, kind: Kind, way: Way) -> Value {
        let seconds = json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,9})?s$"});
        let digits = json!({"type": "string", "pattern": "^[0-9]{1,20}$"});
        match (kind, way) {
            (Kind::Text, _) => json!({"type": "string"}),
            (Kind::Bool, _) => json!({"type": "boolean"}),
            (Kind::Int32, _) => {
                json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            (Kind::Uint32, _) => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            (Kind::Uint64, Way::In) => {
                json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": u64::MAX}, digits]})
            }
            (Kind::Uint64, Way::Out) => digits,
            (Kind::Double, _) => json!({"type": "number"}),
            (Kind::Enum(at), way) => {
                let found = self.schema.enum_at(at);
                let words: Vec<_> = match way {
                    Way::In => found.into_iter().flat_map(|it| it.words()).collect(),
                    // A session that is open has no reason to be closed.
                    Way::Out => found.into_iter().flat_map(|it| it.all_words()).collect(),
                };
                let made = json!({"type": "string", "enum": words});
                describe(made, found.map_or("", |it| it.comment.as_str()))
            }
            (Kind::Message(at), way) => {
                let name = self.schema.message_at(at).map(|it| it.name.clone());
                self.reference(&name.unwrap_or_default(), way)
            }
            (Kind::Duration, Way::In) => {
                json!({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, seconds]})
            }
            (Kind::Duration, Way::Out) => seconds,
            (Kind::Timestamp, _) => json!({"type": "string", "format": "date-time"}),
            (Kind::Payload, _) => json!({"title": "Payload"}),
            (Kind::Words, _) => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
        }
    }

    /// The short words of an enum of the contract.
    pub(super) fn words(&self, name: &str) -> Value {
        let found = self.schema.enum_named(name);
        let words: Vec<_> = found.into_iter().flat_map(|it| it.words()).collect();
        json!({"type": "string", "enum": words})
    }

    // === what only this door has ===

    fn named(&mut self, name: &str, made: Value) -> Value {
        self.made.entry(name).or_insert(made);
        refer(name)
    }

    /// What every failure is told as.
    pub(super) fn error(&mut self) -> Value {
        let attempt = self.reference("Attempt", Way::Out);
        let result = self.result();
        let error = json!({
            "type": "object",
            "required": ["error"],
            "properties": {"error": {
                "type": "object",
                "required": ["code", "message", "retryable"],
                "properties": {
                    "code": {"type": "string", "pattern": "^[a-z_]+$"},
                    "message": {"type": "string", "description": "For people."},
                    "instance": {"type": "string", "description": "The instance concerned."},
                    "retryable": {
                        "type": "boolean",
                        "description": "Whether repeating the call cannot execute the task twice, and may help.",
                    },
                    "requestId": {"type": "string"},
                    "attempts": {"type": "array", "items": attempt},
                    "results": {"type": "array", "items": result},
                },
            }},
        });
        self.named("Error", error)
    }

    /// The result of one target of an aggregated fan-out.
    pub(super) fn result(&mut self) -> Value {
        let attempt = self.reference("Attempt", Way::Out);
        let status = self.words("Outcome");
        let result = json!({
            "type": "object",
            "description": "The one outcome of one target: with its payload, or with why there is none.",
            "required": ["instance", "status", "attempts"],
            "properties": {
                "instance": {"type": "string"},
                "status": status,
                "payload": {"title": "Payload"},
                "error": {
                    "type": "object",
                    "required": ["code", "message", "instance", "retryable"],
                    "properties": {
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "instance": {"type": "string"},
                        "retryable": {"type": "boolean"},
                    },
                },
                "attempts": {"type": "array", "items": attempt},
            },
        });
        self.named("Result", result)
    }

    /// A session that has begun.
    pub(super) fn spawned(&mut self) -> Value {
        let whole = self.reference("SessionSpawnResponse", Way::Out);
        let spawned = json!({
            "allOf": [whole],
            "type": "object",
            "description": "A session that has begun, with what is asked for most.",
            "required": ["sessionId", "instance"],
            "properties": {
                "sessionId": {"type": "string"},
                "instance": {"type": "string"},
                "expireTime": {"type": "string", "format": "date-time"},
            },
        });
        self.named("Spawned", spawned)
    }

    /// What the skill offers.
    pub(super) fn skill(&mut self) -> Value {
        let text = json!({"type": "string"});
        let offer = json!({
            "type": "object",
            "required": ["method", "path", "summary"],
            "properties": {"method": text, "path": text, "summary": text},
        });
        let skill = json!({
            "type": "object",
            "description": "What the skill offers, with the words by which it is found.",
            "required": ["skillId", "version", "hint", "endpoints"],
            "properties": {
                "skillId": text,
                "version": text,
                "hint": text,
                "endpoints": {"type": "array", "items": offer},
            },
        });
        self.named("Skill", skill)
    }
}
