//! The OpenAPI 3.1 document: made from the table of endpoints, the table of failures, and the descriptors of the
//! contract, so that it cannot say anything else than they do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::super::access::{Access, TOKEN_PATHS, known};
use super::super::failure_table::codes;
use super::answer::{EVENTS, JSON, NDJSON};
use super::endpoints::{ENDPOINTS, Endpoint, Holds, Operation};
use super::schemas::{Schemas, Way};
use crate::domain::failure::{Reason, Status};
use crate::message_json::Schema;

const ABOUT: &str = "\
Hands tasks to named instances over JSON: the REST form of the gRPC API openclaw.orchestrator.v1. Every path is \
served with and without `/api` in front. Names of fields are taken in camelCase and in snake_case; a field that is \
not known is refused. A `timeout` is a number of seconds or a text such as `10s`. Words of enums are taken in any \
case, short or whole. Payloads are any JSON, but for integers beyond 2^53 and names that are there twice. A call \
ends with the least of its `Request-Timeout` (or `grpc-timeout`) header, its `timeout` field and the server's \
maximum. Every answer carries `x-request-id`.";

/// The document as JSON text.
pub(super) fn document(schema: &Schema) -> String {
    let mut schemas = Schemas::new(schema);
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in &ENDPOINTS {
        let verb = endpoint.verb.as_str().to_ascii_lowercase();
        let described = operation(endpoint, &mut schemas);
        paths
            .entry(endpoint.path)
            .or_default()
            .insert(verb, described);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "orchestrator",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/api"}, {"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas.finish(),
        },
    });
    document.to_string()
}

fn operation(endpoint: &Endpoint, schemas: &mut Schemas<'_>) -> Value {
    let mut described = Map::new();
    let id = format!("{:?}", endpoint.operation);
    let (first, rest) = id.split_at(1);
    described.insert("operationId".into(), (first.to_lowercase() + rest).into());
    described.insert("summary".into(), endpoint.summary.into());
    let access = known(endpoint.path).map(|known| known.access);
    let is_public = access == Some(Access::Public);
    match access {
        Some(Access::Scope(scope)) => {
            let mut needs = format!("Needs a key with the scope `{}`.", scope.word());
            if TOKEN_PATHS.contains(&endpoint.path) {
                needs += " The token of the session is as good.";
            }
            described.insert("description".into(), needs.into());
        }
        Some(Access::Public | Access::AnyKey) | None => {}
    }
    if is_public {
        described.insert("security".into(), json!([]));
    }
    if let Some(name) = endpoint.body {
        let body = body(endpoint.operation, name, schemas);
        let mut form = json!({"schema": body});
        let example = endpoint
            .example
            .and_then(|it| serde_json::from_str::<Value>(it).ok());
        if let Some(example) = example {
            form["example"] = example;
        }
        let content = json!({"required": true, "content": {JSON: form}});
        described.insert("requestBody".into(), content);
    }
    described.insert("parameters".into(), parameters(endpoint, schemas));
    described.insert("responses".into(), responses(endpoint, schemas));
    described.into()
}

fn body(operation: Operation, name: &str, schemas: &mut Schemas<'_>) -> Value {
    let described = schemas.reference(name, Way::In);
    if operation == Operation::Register {
        // It stands beside the fields of the message.
        schemas.add_property(
            name,
            "skillId",
            json!({"type": "string", "const": "orchestrator"}),
        );
    }
    if operation == Operation::SessionSend {
        schemas.add_property(
            name,
            "data",
            json!({"title": "Payload", "description": "The same as payload."}),
        );
        schemas.add_property(
            name,
            "wait",
            json!({"type": "boolean", "description": "The opposite of noWait."}),
        );
    }
    described
}

fn parameters(endpoint: &Endpoint, schemas: &Schemas<'_>) -> Value {
    let query = endpoint.query.iter().map(|query| {
        let schema = match query.holds {
            Holds::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Holds::Text => json!({"type": "string"}),
            Holds::Word(name) => schemas.words(name),
            Holds::Flag => json!({"type": "boolean"}),
            Holds::Count => json!({"type": "integer", "minimum": 0, "maximum": i32::MAX}),
        };
        json!({"name": query.name, "in": "query", "description": query.about, "schema": schema})
    });
    let headers = [
        (
            "x-request-id",
            "^[!-~]{1,128}$",
            "By which the call is found again; made up when absent.",
        ),
        (
            "request-timeout",
            "^[0-9]{1,3}(\\.[0-9]{1,3})?$",
            "How long the caller will wait, in seconds.",
        ),
    ];
    let headers = headers.map(|(name, pattern, about)| {
        let schema = json!({"type": "string", "pattern": pattern});
        json!({"name": name, "in": "header", "description": about, "schema": schema})
    });
    let last_event = (endpoint.operation == Operation::SessionEvents).then(|| {
        json!({
            "name": "last-event-id",
            "in": "header",
            "description": "The id of the last event that has arrived: it and those before it are acknowledged, \
                            and the stream goes on behind it.",
            "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        })
    });
    let id = endpoint.path.contains("{id}").then(|| {
        json!({
            "name": "id",
            "in": "path",
            "required": true,
            "description": "The name of the session.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"},
        })
    });
    id.into_iter()
        .chain(query)
        .chain(last_event)
        .chain(headers)
        .collect()
}

fn responses(endpoint: &Endpoint, schemas: &mut Schemas<'_>) -> Value {
    let mut described = Map::new();
    for (status, names) in failures(endpoint) {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let mut response = json!({
            "description": format!("Error codes: {}", names.join(", ")),
            "content": {JSON: {"schema": schemas.error()}},
        });
        let header = match status {
            401 => Some(("WWW-Authenticate", "string")),
            429 => Some(("Retry-After", "integer")),
            _ => None,
        };
        if let Some((name, kind)) = header {
            response["headers"] = json!({name: {"schema": {"type": kind}}});
        }
        described.insert(status.to_string(), response);
    }
    let content = success(endpoint.operation, schemas);
    let good = json!({"description": endpoint.summary, "content": content});
    described.insert("200".into(), good);
    if endpoint.operation == Operation::Check {
        let drains = json!({
            "description": "The orchestrator is about to stop",
            "content": success(endpoint.operation, schemas),
        });
        described.insert("503".into(), drains);
    }
    described.into()
}

/// The error codes of an endpoint, by HTTP status.
fn failures(endpoint: &Endpoint) -> BTreeMap<u16, BTreeSet<String>> {
    let own = endpoint
        .reasons
        .iter()
        .flat_map(|group| group.iter().copied());
    let own: Vec<_> = own.collect();
    // Where one instance answers, its own status is the answer's.
    let is_task = own.contains(&Reason::InstanceLost);
    let instance = (1..=16).filter_map(Status::from_number).filter(|_| is_task);
    let mut failures: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for reason in own.into_iter().chain(instance.map(Reason::InstanceFailed)) {
        let status = codes(reason).1.as_u16();
        failures
            .entry(status)
            .or_default()
            .insert(reason.name().to_lowercase());
    }
    failures
}

/// What an endpoint answers with when it does not fail.
fn success(operation: Operation, schemas: &mut Schemas<'_>) -> Value {
    let mut message = |name| schemas.reference(name, Way::Out);
    let schema = match operation {
        Operation::Route => message("RouteResponse"),
        Operation::Fanout => {
            let events = message("FanoutResponse");
            let results = json!({"type": "array", "items": schemas.result()});
            return json!({JSON: {"schema": results}, NDJSON: {"schema": events}});
        }
        Operation::Explain => message("ExplainResponse"),
        Operation::SessionSpawn => schemas.spawned(),
        Operation::SessionSend => message("SessionPostResponse"),
        Operation::SessionGet | Operation::SessionAck => message("SessionGetResponse"),
        Operation::SessionList => message("SessionListResponse"),
        Operation::SessionClose => message("SessionCloseResponse"),
        Operation::Drain => message("DrainResponse"),
        Operation::Undrain => message("UndrainResponse"),
        Operation::Health => {
            let verbose = message("InstanceHealth");
            let word = schemas.words("HealthState");
            json!({"type": "object", "additionalProperties": {"anyOf": [word, verbose]}})
        }
        Operation::Register => json!({"anyOf": [message("RegisterResponse"), schemas.skill()]}),
        Operation::Deregister => message("DeregisterResponse"),
        Operation::ListInstances => message("ListInstancesResponse"),
        Operation::Check => json!({
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"type": "string", "enum": ["healthy", "draining"]}},
        }),
        Operation::Document => json!({"type": "object"}),
        Operation::SessionEvents | Operation::HealthWatch => {
            return json!({EVENTS: {"schema": {"type": "string"}}});
        }
    };
    json!({JSON: {"schema": schema}})
}
