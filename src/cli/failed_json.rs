//! A call that failed as JSON, in the form that it has over REST.

use prost::Message as _;
use serde::Serialize;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::arguments::Format;
use super::exit::Error;
use super::json_output::{self, Attempt};
use super::output::Output;
use super::{failure_text, plain};
use crate::proto::orchestrator as proto;

/// How the details name the message that holds every try.
const FAILED_ATTEMPTS: &str = "/openclaw.orchestrator.v1.FailedAttempts";

/// What is known of a failure.
struct Told {
    code: String,
    message: String,
    instance: Option<String>,
    retryable: bool,
    attempts: Vec<proto::Attempt>,
}

/// Whoever reads JSON gets a failure as such too, with every try; what is for people comes after it, on standard
/// error.
pub(super) fn show(error: &Error, format: Format) -> Result<(), Error> {
    let Some(told) = Told::of(error) else {
        return Ok(());
    };
    let mut output = Output::stdout();
    match format {
        Format::Table => Ok(()),
        Format::Json => output.json(&told.json()),
        Format::Jsonl => output.jsonl(&told.json()),
    }
}

/// `{"error": {…}}`.
#[derive(Serialize)]
struct Failed<'a> {
    error: Document<'a>,
}

#[derive(Serialize)]
struct Document<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    retryable: bool,
    attempts: Vec<Attempt<'a>>,
}

impl Told {
    /// Nothing where nobody was asked, or nobody reads.
    fn of(error: &Error) -> Option<Self> {
        let made_here = |code: &str, message: &str, retryable| {
            Some(Self {
                code: code.to_owned(),
                message: plain::text(message),
                instance: None,
                retryable,
                attempts: Vec::new(),
            })
        };
        match error {
            Error::Call(status) => Some(Self::of_status(status)),
            Error::Key(what) => made_here("key_missing", what, false),
            Error::Connect { what, .. } => made_here("server_unreachable", what, true),
            Error::Overdue => made_here("deadline_exceeded", "the server did not answer", false),
            Error::Answer(what) => made_here("answer_malformed", what, false),
            Error::Usage { .. }
            | Error::Config(_)
            | Error::BadConfig(_)
            | Error::Journal(_)
            | Error::Start(_)
            | Error::ServerKey(_)
            | Error::System(_)
            | Error::ReaderGone
            | Error::Interrupted => None,
        }
    }

    fn of_status(status: &Status) -> Self {
        use std::error::Error as _;
        let Some(info) = status.get_details_error_info() else {
            let code = if failure_text::is_local_timeout(status) {
                "deadline_exceeded".to_owned()
            } else if status.source().is_some() {
                "connection_lost".to_owned()
            } else {
                failure_text::code_name(status.code()).to_lowercase()
            };
            return Self {
                code,
                message: plain::text(&failure_text::what(status)),
                instance: None,
                retryable: false,
                attempts: Vec::new(),
            };
        };
        Self {
            code: info.reason.to_lowercase(),
            message: status.message().to_owned(),
            instance: info.metadata.get("instance").cloned(),
            retryable: info
                .metadata
                .get("retryable")
                .is_some_and(|it| it == "true"),
            attempts: attempts(status),
        }
    }

    fn json(&self) -> Failed<'_> {
        Failed {
            error: Document {
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
        let check = |error: Error, expected: &str| {
            let told = Told::of(&error).unwrap();
            assert_eq!(serde_json::to_string(&told.json()).unwrap(), expected);
        };
        check(
            status.into(),
            r#"{"error":{"code":"instance_down","message":"down","instance":"A","retryable":true,"attempts":[]}}"#,
        );
        check(
            Status::cancelled("Timeout expired").into(),
            r#"{"error":{"code":"deadline_exceeded","message":"time ran out before the server answered","retryable":false,"attempts":[]}}"#,
        );
        check(
            Status::from_error("reset".into()).into(),
            r#"{"error":{"code":"connection_lost","message":"the connection to the server broke: reset","retryable":false,"attempts":[]}}"#,
        );
        check(
            Error::Key("none".to_owned()),
            r#"{"error":{"code":"key_missing","message":"none","retryable":false,"attempts":[]}}"#,
        );
        assert!(Told::of(&Error::usage("what", "hint")).is_none());
    }
}
