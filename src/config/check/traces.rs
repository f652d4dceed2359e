//! Where traces go, and which are recorded.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::instances::read_tls;
use super::place::{Fields, Place};
use super::surroundings::Surroundings;
use super::{LONGEST, SHORTEST};
use crate::config::raw::Value;
use crate::config::{Collector, Traces};
use crate::domain::limit::{TRACE_COLLECTOR_HEADERS_MAX, TRACE_SERVICE_BYTES_MAX};
use crate::domain::trace::Ratio;
use crate::instance::endpoint::{Endpoint, Protocol};
use crate::telemetry::trace;

/// How every exporter of OpenTelemetry is told the same.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SERVICE_VARIABLE: &str = "OTEL_SERVICE_NAME";
const SERVICE_DEFAULT: &str = "orchestrator";
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

pub(super) fn traces(place: &Place<'_>, surroundings: Surroundings<'_>) -> Option<Traces> {
    let fields = place.fields(&[
        "endpoint",
        "ratio",
        "service_name",
        "headers",
        "timeout",
        "tls",
    ])?;
    let endpoint = read_endpoint(&fields, surroundings);
    let tls = read_tls(&fields, "endpoint", endpoint.as_ref(), surroundings);
    let mut settings = trace::Settings {
        ratio: Ratio::DEFAULT,
        service: (surroundings.environment)(SERVICE_VARIABLE)
            .filter(|name| is_service(name))
            .unwrap_or_else(|| SERVICE_DEFAULT.to_owned()),
    };
    fields.set("ratio", &mut settings.ratio, ratio);
    fields.set("service_name", &mut settings.service, service);
    let mut headers = Vec::new();
    fields.set("headers", &mut headers, |place| {
        read_headers(place, surroundings)
    });
    let mut timeout = TIMEOUT_DEFAULT;
    fields.set("timeout", &mut timeout, |place| {
        place.duration(&(SHORTEST..=LONGEST))
    });
    Some(Traces {
        settings,
        collector: Collector {
            endpoint: endpoint?,
            tls,
            headers,
            timeout,
        },
    })
}

fn read_endpoint(fields: &Fields<'_>, surroundings: Surroundings<'_>) -> Option<Endpoint> {
    let form = "where a collector takes OTLP over gRPC, such as \"http://127.0.0.1:4317\", or https:// over TLS";
    let Some(place) = fields.get("endpoint") else {
        let found = (surroundings.environment)(ENDPOINT_VARIABLE);
        let endpoint = found.as_deref().and_then(parsed);
        if endpoint.is_none() {
            let what = if found.is_some() {
                format!("has no endpoint, and {ENDPOINT_VARIABLE} is none: write {form}")
            } else {
                format!("has no endpoint: write {form}, or set {ENDPOINT_VARIABLE}")
            };
            fields.note_absent(&["endpoint"], &what);
        }
        return endpoint;
    };
    let endpoint = parsed(place.text(form)?);
    if endpoint.is_none() {
        // It may hold a user and a password: nothing of it is repeated.
        place.note(format!("expected {form}"));
    }
    endpoint
}

/// The forms of an instance's address; `http://` and `https://` mean gRPC here, as they do for OTLP, and have no path.
fn parsed(text: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::parse(text).ok()?;
    match &endpoint.protocol {
        Protocol::Http { path } if path != "/" => None,
        Protocol::Http { .. } | Protocol::Grpc => Some(Endpoint {
            protocol: Protocol::Grpc,
            ..endpoint
        }),
    }
}

fn ratio(place: &Place<'_>) -> Option<Ratio> {
    let number = match place.value() {
        Value::Number(number) => number.parse().ok(),
        Value::Text(_) | Value::Truth(_) | Value::Null | Value::List(_) | Value::Object(_) => None,
    };
    match number.and_then(Ratio::of) {
        Some(ratio) => Some(ratio),
        None => place.expected("a number from 0, for none, to 1, for all"),
    }
}

fn service(place: &Place<'_>) -> Option<String> {
    let form = format!("a name of 1 to {TRACE_SERVICE_BYTES_MAX} bytes");
    let text = place.text(&form)?;
    if is_service(text) {
        return Some(text.to_owned());
    }
    place.expected(form)
}

fn is_service(name: &str) -> bool {
    (1..=TRACE_SERVICE_BYTES_MAX).contains(&name.len())
}

/// Names, and where the value of each stands: most of them are keys.
fn read_headers(
    place: &Place<'_>,
    surroundings: Surroundings<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for (name, place) in place.entries(TRACE_COLLECTOR_HEADERS_MAX)? {
        let place = place.hidden();
        let value = surroundings.header(&place);
        let own = ["te", "content-type", "user-agent", "host"].contains(&name);
        match HeaderName::from_lowercase(name.as_bytes()) {
            Ok(known) if !own && !name.starts_with("grpc-") => {
                headers.extend(value.map(|value| (known, value)));
            }
            Ok(_) => place.note("is the protocol's own: leave it out"),
            Err(_) => place.note("is no name of a header: use 1 or more of a-z 0-9 and -"),
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, read_bytes};
    use crate::instance::endpoint::Transport;
    use std::path::Path;

    fn read(traces: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, String> {
        let text = format!(r#"{{"instances": [], "traces": {traces}}}"#);
        let read = read_bytes(Path::new("c.json"), text.as_bytes(), environment);
        read.map_err(|mistakes| mistakes.to_string())
    }

    fn set(name: &str) -> Option<String> {
        match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("https://otel.example.com:4317".to_owned()),
            "OTEL_SERVICE_NAME" => Some("fleet-eu".to_owned()),
            "OTLP_KEY" => Some("canary".to_owned()),
            _other => None,
        }
    }

    #[test]
    fn traces_are_off_unless_asked_for_whatever_the_environment_says() {
        let text = br#"{"instances": []}"#;
        let read = read_bytes(Path::new("c.json"), text, &set);
        assert!(read.is_ok_and(|config| config.traces.is_none()));
    }

    #[test]
    fn what_is_not_written_comes_from_the_usual_variables() {
        let traces = |text: &str| read(text, &set).unwrap().traces.unwrap();
        let all = traces("{}");
        assert_eq!(all.collector.endpoint.authority(), "otel.example.com:4317");
        assert_eq!(all.collector.endpoint.transport, Transport::Tls);
        assert_eq!(all.settings.service, "fleet-eu");
        let own =
            traces(r#"{"endpoint": "http://127.0.0.1:4317", "service_name": "o", "ratio": 0.01}"#);
        assert_eq!(own.collector.endpoint.authority(), "127.0.0.1:4317");
        assert_eq!(own.collector.endpoint.transport, Transport::Plain);
        assert_eq!(own.settings.service, "o");
        let unset = read("{}", &|_| None).unwrap_err();
        assert!(unset.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{unset}");
    }

    #[test]
    fn headers_are_secrets_and_stay_so() {
        let with =
            |header: &str| format!(r#"{{"endpoint": "http://c:4317", "headers": {{{header}}}}}"#);
        let good = read(&with(r#""x-api-key": {"env": "OTLP_KEY"}"#), &set).unwrap();
        let headers = &good.traces.as_ref().unwrap().collector.headers;
        assert_eq!(headers[0].0, "x-api-key");
        assert_eq!(headers[0].1, "canary");
        assert!(!format!("{good:?}").contains("canary"));
        for bad in [
            r#""x-api-key": "canary""#,
            r#""x-api-key": {"env": "canary"}"#,
            r#""x-api-key": {"value": "canary"}"#,
            r#""grpc-timeout": {"env": "OTLP_KEY"}"#,
            r#""X-Key": {"env": "OTLP_KEY"}"#,
        ] {
            let mistakes = read(&with(bad), &set).unwrap_err();
            assert!(!mistakes.contains("canary"), "{mistakes}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_name() {
        let check = |text: &str, expected: &str| {
            let mistakes = read(text, &|_| None).unwrap_err();
            assert!(mistakes.contains(expected), "{text}: {mistakes}");
        };
        check(
            r#"{"endpoint": "http://c:4317/v1/traces"}"#,
            "traces.endpoint: expected where",
        );
        check(r#"{"endpoint": "c"}"#, "traces.endpoint: expected where");
        check(
            r#"{"endpoint": "http://c:1", "ratio": 2}"#,
            "traces.ratio: expected a number from 0",
        );
        check(
            r#"{"endpoint": "http://c:1", "ratio": "1"}"#,
            "traces.ratio: expected a number from 0",
        );
        check(
            r#"{"endpoint": "http://c:1", "service_name": ""}"#,
            "traces.service_name",
        );
        check(
            r#"{"endpoint": "http://c:1", "tls": {}}"#,
            "traces.tls: needs an address",
        );
        check(
            r#"{"endpoint": "http://c:1", "rate": 1}"#,
            "did you mean ratio?",
        );
    }
}
