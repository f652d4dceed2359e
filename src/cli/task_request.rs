//! What Route and Fanout send alike: the command line over the defaults of `--config`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;

use super::arguments::TaskArguments;
use super::exit::Error;
use super::payload_source;
use super::request_defaults::RequestDefaults;
use crate::domain::task::Metadata;

/// The common part of a request, checked as far as that can be done here.
#[derive(Debug, PartialEq)]
pub(super) struct TaskRequest {
    pub(super) payload: Option<Bytes>,
    pub(super) timeout: Option<Duration>,
    pub(super) metadata: HashMap<String, String>,
}

/// Takes each part from the command line where it is given, otherwise from the defaults.
pub(super) fn merge(
    typed: &TaskArguments,
    defaults: &RequestDefaults,
    stdin: impl Read,
) -> Result<TaskRequest, Error> {
    let payload = match &typed.payload {
        Some(typed) => Some(payload_source::read(typed, stdin)?),
        None => defaults.payload.clone(),
    };
    Ok(TaskRequest {
        payload,
        timeout: typed.timeout.or(defaults.timeout),
        metadata: metadata(&typed.metadata, &defaults.metadata)?,
    })
}

/// The targets typed, or else the defaults.
pub(super) fn targets(
    typed: &[String],
    defaults: &[String],
    flag: &str,
) -> Result<Vec<String>, Error> {
    let targets = if typed.is_empty() { defaults } else { typed };
    if targets.is_empty() {
        return Err(Error::usage(
            format!("no target given: {flag} is missing"),
            format!("name instances: {flag} A B, {flag} A-H, or {flag} '*' for the whole fleet"),
        ));
    }
    Ok(targets.to_vec())
}

fn metadata(
    typed: &[(String, String)],
    defaults: &BTreeMap<String, String>,
) -> Result<HashMap<String, String>, Error> {
    let mut given = BTreeMap::new();
    for (name, value) in typed {
        if given.insert(name.clone(), value.clone()).is_some() {
            return Err(Error::usage(
                format!("--metadata {name} is given twice"),
                "a name has one value",
            ));
        }
    }
    let mut merged = defaults.clone();
    merged.extend(given);
    Metadata::check(merged.clone())
        .map_err(|bad| Error::usage(format!("--metadata: {bad}"), "write --metadata NAME=VALUE"))?;
    Ok(merged.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_command_line_wins_over_the_defaults() {
        let defaults = RequestDefaults {
            payload: Some(payload_source::encode("1", "test").unwrap()),
            timeout: Some(Duration::from_secs(5)),
            metadata: [entry("a", "file"), entry("b", "file")].into(),
            ..RequestDefaults::default()
        };
        let untyped = merge(&TaskArguments::default(), &defaults, &[][..]).unwrap();
        assert_eq!(untyped.payload, defaults.payload);
        assert_eq!(untyped.timeout, defaults.timeout);
        let typed = TaskArguments {
            payload: Some("2".to_owned()),
            timeout: Some(Duration::from_secs(1)),
            metadata: vec![entry("a", "typed")],
            ..TaskArguments::default()
        };
        let expected = TaskRequest {
            payload: Some(payload_source::encode("2", "test").unwrap()),
            timeout: Some(Duration::from_secs(1)),
            metadata: [entry("a", "typed"), entry("b", "file")].into(),
        };
        assert_eq!(merge(&typed, &defaults, &[][..]).unwrap(), expected);
    }

    #[test]
    fn targets_are_needed_from_somewhere() {
        let list = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let check =
            |typed: &str, defaults: &str| targets(&list(typed), &list(defaults), "--targets").ok();
        assert_eq!(check("A B", "C"), Some(list("A B")));
        assert_eq!(check("", "C"), Some(list("C")));
        assert_eq!(check("", ""), None);
    }

    #[test]
    fn metadata_that_cannot_travel_is_refused_here() {
        let check = |typed: &[(String, String)]| metadata(typed, &BTreeMap::new()).is_err();
        assert!(check(&[entry("authorization", "x")]));
        assert!(check(&[entry("Upper", "x")]));
        assert!(check(&[entry("a", "1"), entry("a", "2")]));
        assert!(!check(&[entry("team", "red")]));
    }
}
