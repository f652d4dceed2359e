//! Traces.

use serde_json::{Value, json};

use super::{bounded_text, fleet, object, shared, text, time};
use crate::domain::limit::{TRACE_COLLECTOR_HEADERS_MAX, TRACE_SERVICE_BYTES_MAX};

pub(super) fn traces() -> Value {
    object(&[
        (
            "endpoint",
            "where a collector takes OTLP over gRPC; OTEL_EXPORTER_OTLP_ENDPOINT unless set",
            text(),
        ),
        (
            "ratio",
            "of the calls whose caller has no trace, those that are recorded; 0.1 unless set",
            json!({"type": "number", "minimum": 0, "maximum": 1}),
        ),
        (
            "service_name",
            "whose traces they are; OTEL_SERVICE_NAME or orchestrator unless set",
            bounded_text(TRACE_SERVICE_BYTES_MAX),
        ),
        ("headers", "what goes with each batch", headers()),
        (
            "timeout",
            "how long a batch may take each time it is sent; 10s unless set",
            time(),
        ),
        (
            "tls",
            "how the collector is trusted; only with https://",
            fleet::tls(),
        ),
    ])
}

fn headers() -> Value {
    let mut header = object(&[
        ("file", "a file that holds the value", shared("file")),
        (
            "env",
            "an environment variable that holds the value",
            text(),
        ),
    ]);
    header["oneOf"] = json!([{"required": ["file"]}, {"required": ["env"]}]);
    json!({
        "type": "object",
        "maxProperties": TRACE_COLLECTOR_HEADERS_MAX,
        "propertyNames": {"pattern": "^[a-z0-9-]+$"},
        "additionalProperties": header,
    })
}
