//! `--config`: a JSON file with defaults of a request. Every key is known or refused, and checked even when
//! the command does not use it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::arguments;
use super::exit::Error;

use crate::domain::limit::{ATTEMPTS_MAX, CONFIG_BYTES_MAX};
use crate::proto::orchestrator::completion::Rule;
use crate::proto::orchestrator::{CallPolicy, Completion, Fallback, Hedge, Selection};

/// What a request is unless the command line says otherwise.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RequestDefaults {
    pub(super) instances: Vec<String>,
    pub(super) targets: Vec<String>,
    pub(super) payload: Option<Bytes>,
    pub(super) aggregate: Option<bool>,
    pub(super) timeout: Option<Duration>,
    pub(super) selection: Option<Selection>,
    /// The rest of the policy. A fan-out takes from it how each target is tried.
    pub(super) policy: CallPolicy,
    pub(super) completion: Completion,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) const KEYS: [&str; 15] = [
    "instances",
    "targets",
    "payload",
    "aggregate",
    "timeout",
    "selection",
    "hashKey",
    "retry",
    "perTryTimeout",
    "idempotent",
    "fallback",
    "hedge",
    "waitForReady",
    "completion",
    "metadata",
];
const COMPLETION_KEYS: [&str; 4] = ["first", "quorum", "majority", "failuresMax"];

/// Reads the file, when there is one.
pub(super) fn read(path: Option<&Path>) -> Result<RequestDefaults, Error> {
    let Some(path) = path else {
        return Ok(RequestDefaults::default());
    };
    let bad = |what: String| {
        Error::usage(
            format!("config {}: {what}", path.display()),
            "a config holds defaults of a request, such as {\"instances\": [\"A\"], \"timeout\": 5}",
        )
    };
    let size = std::fs::metadata(path)
        .map_err(|error| bad(error.to_string()))?
        .len();
    if CONFIG_BYTES_MAX < size {
        return Err(bad(format!("it is larger than {CONFIG_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    parse(&text).map_err(bad)
}

fn parse(text: &str) -> Result<RequestDefaults, String> {
    let entries: Entries<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut defaults = RequestDefaults::default();
    for (key, raw) in unique(entries)? {
        let read = match key.as_str() {
            "instances" => expressions(raw).map(|read| defaults.instances = read),
            "targets" => expressions(raw).map(|read| defaults.targets = read),
            "payload" => payload(raw).map(|read| defaults.payload = Some(read)),
            "aggregate" => value(raw, "true or false").map(|read| defaults.aggregate = Some(read)),
            "timeout" => timeout(raw).map(|read| defaults.timeout = Some(read)),
            "selection" => selection(raw).map(|read| defaults.selection = Some(read)),
            "hashKey" | "retry" | "perTryTimeout" | "idempotent" | "fallback" | "hedge"
            | "waitForReady" => policy(&key, raw, &mut defaults.policy),
            "completion" => completion(raw).map(|read| defaults.completion = read),
            "metadata" => metadata(raw).map(|read| defaults.metadata = read),
            _ => return Err(unknown(&key, &KEYS)),
        };
        read.map_err(|bad| format!("`{key}`: {bad}"))?;
    }
    Ok(defaults)
}

fn unknown(key: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| strsim::osa_distance(&key.to_lowercase(), &known.to_lowercase());
    let nearest = known
        .iter()
        .min_by_key(distance)
        .filter(|known| distance(known) <= 3);
    match nearest {
        Some(nearest) => format!("unknown key `{key}`, did you mean `{nearest}`?"),
        None => format!("unknown key `{key}`; known are {}", known.join(", ")),
    }
}

fn value<T: DeserializeOwned>(raw: &RawValue, expected: &str) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|_| format!("expected {expected}"))
}

fn expressions(raw: &RawValue) -> Result<Vec<String>, String> {
    let expected = "a list of instances such as [\"A\", \"C-E\"]";
    if raw.get().starts_with('"') {
        value(raw, expected).map(|one| vec![one])
    } else {
        value(raw, expected)
    }
}

fn payload(raw: &RawValue) -> Result<Bytes, String> {
    let payload = crate::payload_json::from_json(raw.get()).map_err(|bad| bad.to_string())?;
    Ok(payload.into_encoded())
}

fn timeout(raw: &RawValue) -> Result<Duration, String> {
    let expected = "a number of seconds, or a text such as \"1m30s\"";
    let text = if raw.get().starts_with('"') {
        value(raw, expected)?
    } else {
        value::<f64>(raw, expected)?.to_string()
    };
    arguments::timeout(&text)
}

fn selection(raw: &RawValue) -> Result<Selection, String> {
    let expected = "\"balanced\", \"ordered\" or \"hash\"";
    match value::<String>(raw, expected)?.as_str() {
        "balanced" | "SELECTION_BALANCED" => Ok(Selection::Balanced),
        "ordered" | "SELECTION_ORDERED" => Ok(Selection::Ordered),
        "hash" | "SELECTION_HASH" => Ok(Selection::Hash),
        _ => Err(format!("expected {expected}")),
    }
}

/// One key of how a task is tried.
fn policy(key: &str, raw: &RawValue, policy: &mut CallPolicy) -> Result<(), String> {
    let yes_or_no = || value::<bool>(raw, "true or false");
    let duration = |raw| Ok::<_, String>(Some(proto_duration(timeout(raw)?)?));
    match key {
        "hashKey" => policy.hash_key = value(raw, "a text")?,
        "retry" => {
            let retries = value::<u32>(raw, "a number").ok();
            let retries = retries.filter(|retries| *retries < ATTEMPTS_MAX);
            policy.attempts_max =
                1 + retries.ok_or(format!("expected 0 to {}", ATTEMPTS_MAX - 1))?;
        }
        "perTryTimeout" => policy.per_try_timeout = duration(raw)?,
        "idempotent" => policy.idempotent = yes_or_no()?,
        "waitForReady" => policy.wait_for_ready = yes_or_no()?,
        "fallback" => policy.fallback = fallback(raw)?.into(),
        _hedge => {
            policy.hedge = match raw.get() {
                "true" => Some(Hedge { delay: None }),
                "false" => None,
                _ => Some(Hedge {
                    delay: duration(raw)?,
                }),
            }
        }
    }
    Ok(())
}

fn fallback(raw: &RawValue) -> Result<Fallback, String> {
    let expected = "\"listed_only\" or \"any_healthy\"";
    match value::<String>(raw, expected)?.as_str() {
        "listed_only" | "listed-only" | "FALLBACK_LISTED_ONLY" => Ok(Fallback::ListedOnly),
        "any_healthy" | "any-healthy" | "FALLBACK_ANY_HEALTHY" => Ok(Fallback::AnyHealthy),
        _ => Err(format!("expected {expected}")),
    }
}

fn proto_duration(duration: Duration) -> Result<prost_types::Duration, String> {
    duration
        .try_into()
        .map_err(|_| "the time is too long".to_owned())
}

fn completion(raw: &RawValue) -> Result<Completion, String> {
    let expected = "an object such as {\"quorum\": 3, \"failuresMax\": 1}";
    let entries: Entries<'_> =
        serde_json::from_str(raw.get()).map_err(|_| format!("expected {expected}"))?;
    let mut completion = Completion::default();
    for (key, raw) in unique(entries)? {
        let count = || value::<u32>(raw, "a number").map_err(|bad| format!("`{key}`: {bad}"));
        let rule = match key.as_str() {
            "first" => Rule::First(count()?),
            "quorum" => Rule::Quorum(count()?),
            "majority" if raw.get() == "true" => Rule::Majority(true),
            "majority" => return Err("`majority`: only true is allowed".to_owned()),
            "failuresMax" => {
                completion.failures_max = Some(count()?);
                continue;
            }
            _ => return Err(unknown(&key, &COMPLETION_KEYS)),
        };
        if completion.rule.replace(rule).is_some() {
            return Err("only one of first, quorum and majority is allowed".to_owned());
        }
    }
    Ok(completion)
}

fn metadata(raw: &RawValue) -> Result<BTreeMap<String, String>, String> {
    let expected = "an object of texts";
    let entries: Entries<'_> =
        serde_json::from_str(raw.get()).map_err(|_| format!("expected {expected}"))?;
    let entry =
        |(name, raw): (String, &RawValue)| value(raw, expected).map(|value: String| (name, value));
    unique(entries)?.into_iter().map(entry).collect()
}

/// An object as written: in order, and with its repetitions.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

fn unique(entries: Entries<'_>) -> Result<Vec<(String, &RawValue)>, String> {
    let Entries(entries) = entries;
    let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("`{}` appears more than once", pair[0])),
        None => Ok(entries),
    }
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::payload_source;

    #[test]
    fn defaults_are_read_as_written() {
        let defaults = parse(
            r#"{"instances": ["A"], "timeout": 5, "targets": "A-H", "payload": {"z": 1, "a": 2}, "aggregate": true,
                "selection": "ordered", "completion": {"quorum": 3, "failuresMax": 1}, "metadata": {"team": "x"}}"#,
        );
        let payload = payload_source::encode(r#"{"z":1,"a":2}"#, "test").unwrap();
        let expected = RequestDefaults {
            instances: vec!["A".to_owned()],
            targets: vec!["A-H".to_owned()],
            payload: Some(payload),
            aggregate: Some(true),
            timeout: Some(Duration::from_secs(5)),
            selection: Some(Selection::Ordered),
            policy: CallPolicy::default(),
            completion: Completion {
                failures_max: Some(1),
                rule: Some(Rule::Quorum(3)),
            },
            metadata: [("team".to_owned(), "x".to_owned())].into(),
        };
        assert_eq!(defaults, Ok(expected));
    }

    #[test]
    fn how_a_task_is_tried_is_read_as_the_command_line_would_say_it() {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let check = |text: &str, expected: CallPolicy| {
            assert_eq!(parse(text).unwrap().policy, expected, "{text}");
        };
        check(
            r#"{"retry": 3, "perTryTimeout": 2, "idempotent": true, "fallback": "any_healthy", "hedge": "1s",
                "waitForReady": true, "selection": "hash", "hashKey": "k"}"#,
            CallPolicy {
                attempts_max: 4,
                per_try_timeout: Some(seconds(2)),
                idempotent: true,
                fallback: Fallback::AnyHealthy.into(),
                hedge: Some(Hedge {
                    delay: Some(seconds(1)),
                }),
                wait_for_ready: true,
                hash_key: "k".to_owned(),
                ..CallPolicy::default()
            },
        );
        let hedge = Some(Hedge { delay: None });
        let usual = CallPolicy {
            hedge,
            ..CallPolicy::default()
        };
        check(r#"{"hedge": true}"#, usual);
        check(
            r#"{"hedge": false, "retry": 0}"#,
            CallPolicy {
                attempts_max: 1,
                ..CallPolicy::default()
            },
        );
    }

    #[test]
    fn a_mistake_is_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        };
        check(
            r#"{"timout": 5}"#,
            "unknown key `timout`, did you mean `timeout`?",
        );
        check(
            r#"{"port": 5}"#,
            "unknown key `port`; known are instances, targets, payload, aggregate, timeout, selection, hashKey, retry, perTryTimeout, \
             idempotent, fallback, hedge, waitForReady, completion, metadata",
        );
        check(r#"{"timeout": 0}"#, "`timeout`: a time is at least 1ms");
        check(
            r#"{"timeout": true}"#,
            "`timeout`: expected a number of seconds, or a text such as \"1m30s\"",
        );
        check(
            r#"{"timeout": 5, "timeout": 6}"#,
            "`timeout` appears more than once",
        );
        check(
            r#"{"completion": {"failures_max": 1}}"#,
            "`completion`: unknown key `failures_max`, did you mean `failuresMax`?",
        );
        check(
            r#"{"completion": {"first": 1, "quorum": 1}}"#,
            "`completion`: only one of first, quorum and majority is allowed",
        );
        check(
            r#"{"payload": {"id": 9007199254740993}}"#,
            "`payload`: at $.id: integer 9007199254740993 cannot travel exactly; send it as a string",
        );
        check(r#"{"retry": 5}"#, "`retry`: expected 0 to 4");
        check(r#"{"hedge": "soon"}"#, "`hedge`: expected number at 0");
        check(
            r#"{"fallback": "anywhere"}"#,
            "`fallback`: expected \"listed_only\" or \"any_healthy\"",
        );
        check(
            "[]",
            "invalid type: sequence, expected an object at line 1 column 0",
        );
    }
}
