//! A call that failed as JSON, in the form that it has over REST.

use prost::Message as _;
use serde::Serialize;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::json_output::{self, Attempt};
use crate::proto::orchestrator as proto;

/// How the details name the message that holds every try.
const FAILED_ATTEMPTS: &str = "/openclaw.orchestrator.v1.FailedAttempts";

/// What a server has told of a failure.
pub(super) struct Told {
    code: String,
    message: String,
    instance: Option<String>,
    retryable: bool,
    attempts: Vec<proto::Attempt>,
}

/// `{"error": {…}}`.
#[derive(Serialize)]
pub(super) struct Failed<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    retryable: bool,
    attempts: Vec<Attempt<'a>>,
}

impl Told {
    /// Nothing where the status was made up on this side.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        Some(Self {
            code: info.reason.to_lowercase(),
            message: status.message().to_owned(),
            instance: info.metadata.get("instance").cloned(),
            retryable: info
                .metadata
                .get("retryable")
                .is_some_and(|it| it == "true"),
            attempts: attempts(status),
        })
    }

    pub(super) fn json(&self) -> Failed<'_> {
        Failed {
            error: Error {
                code: &self.code,
                message: &self.message,
                instance: self.instance.as_deref(),
                retryable: self.retryable,
                attempts: self.attempts.iter().map(json_output::attempt).collect(),
            },
        }
    }
}

fn attempts(status: &Status) -> Vec<proto::Attempt> {
    let told = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    let details = told.details.iter();
    let details = details.filter(|detail| detail.type_url.ends_with(FAILED_ATTEMPTS));
    // What cannot be read is a newer server's: the rest is told all the same.
    let read = details.filter_map(|it| proto::FailedAttempts::decode(&it.value[..]).ok());
    read.flat_map(|it| it.attempts).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_failure_is_told_in_the_words_of_the_other_doors() {
        let metadata = [("instance", "A"), ("retryable", "true")];
        let metadata: HashMap<_, _> = metadata.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let details =
            ErrorDetails::with_error_info("INSTANCE_DOWN", "orchestrator.openclaw", metadata);
        let status = Status::with_error_details(Code::Unavailable, "down", details);
        let told = Told::of(&status).unwrap();
        assert_eq!(
            serde_json::to_string(&told.json()).unwrap(),
            r#"{"error":{"code":"instance_down","message":"down","instance":"A","retryable":true,"attempts":[]}}"#
        );
        assert!(Told::of(&Status::unavailable("no server")).is_none());
    }
}
