//! What several commands take, exactly as typed, and how single values are read.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connection::timeout_field;
use super::destination::Destination;
use super::exit::Error;
use crate::domain::limit::{SESSION_TTL_MAX, SESSION_TTL_MIN};
use crate::proto::orchestrator as proto;

/// Where the server is and how its answer is shown.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerArguments {
    #[command(flatten)]
    pub(super) to: Destination,
    /// How the answer is shown: table on a terminal, json otherwise, unless given.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
}

/// What Route and Fanout have in common.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct TaskArguments {
    /// The task: JSON, @FILE, or - for standard input. null when absent.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(super) payload: Option<String>,
    /// Time for the whole call: 10s, 1m30s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = timeout, allow_hyphen_values = true)]
    pub(super) timeout: Option<Duration>,
    /// Sent to the instance as call metadata. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = metadata_entry)]
    pub(super) metadata: Vec<(String, String)>,
    /// A JSON file with defaults of a request, such as {"instances": ["A"], "timeout": 5}.
    ///
    /// Keys: instances, targets, payload, aggregate, timeout, selection, hashKey, retry, perTryTimeout, idempotent,
    /// fallback, hedge, waitForReady, completion, metadata. What the command line says wins; what only another
    /// command uses is left alone.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Show what the call would do, in which order and why, without doing it.
    #[arg(long)]
    pub(super) explain: bool,
}

/// How often a task is tried.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct RetryArguments {
    /// Further tries after the first: 0 to 4. What may have begun is tried again only with --idempotent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=4))]
    retry: Option<u32>,
    /// Time for one try: 2s, 500ms, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = timeout, allow_hyphen_values = true)]
    per_try_timeout: Option<Duration>,
    /// The task may be executed more than once.
    #[arg(long)]
    idempotent: bool,
}

impl RetryArguments {
    /// The part of the policy that they are: what is not typed is as in the defaults.
    pub(super) fn policy(&self, defaults: &proto::CallPolicy) -> Result<proto::CallPolicy, Error> {
        let per_try_timeout = timeout_field(self.per_try_timeout)?;
        Ok(proto::CallPolicy {
            attempts_max: self
                .retry
                .map_or(defaults.attempts_max, |retries| retries + 1),
            per_try_timeout: per_try_timeout.or(defaults.per_try_timeout),
            idempotent: self.idempotent || defaults.idempotent,
            ..proto::CallPolicy::default()
        })
    }
}

/// How one of several instances is chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Selection {
    /// The better of two candidates drawn at random.
    Balanced,
    /// The first candidate, in the order given, that is not excluded.
    Ordered,
    /// The same candidate for the same --hash-key.
    Hash,
}

impl Selection {
    /// In the words of the contract.
    pub(super) fn to_proto(self) -> proto::Selection {
        match self {
            Self::Balanced => proto::Selection::Balanced,
            Self::Ordered => proto::Selection::Ordered,
            Self::Hash => proto::Selection::Hash,
        }
    }
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line, as they come.
    Jsonl,
}

impl ServerArguments {
    /// The format asked for, or the one that suits whoever reads.
    pub(super) fn format(&self) -> Format {
        let suited = if std::io::stdout().is_terminal() {
            Format::Table
        } else {
            Format::Json
        };
        self.output.unwrap_or(suited)
    }
}

/// Reads `10s`, `1m30s`, or a bare number of seconds.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) {
        return Err("a time is at least 1ms".to_owned());
    }
    Ok(duration)
}

fn duration(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => Err("a time is not negative".to_owned()),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text.trim()).map_err(|error| error.to_string()),
    }
}

/// Reads how long a session lasts, written as a timeout is.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let (ttl, range) = (duration(text)?, SESSION_TTL_MIN..=SESSION_TTL_MAX);
    if !range.contains(&ttl) {
        let [min, max] = [SESSION_TTL_MIN, SESSION_TTL_MAX].map(humantime::format_duration);
        return Err(format!("a session lasts from {min} to {max}"));
    }
    Ok(ttl)
}

pub(super) fn metadata_entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_duration_or_a_number_of_seconds() {
        let check = |text: &str, expected: Option<u64>| {
            let found = timeout(text).ok();
            assert_eq!(found, expected.map(Duration::from_millis), "{text}");
        };
        check("10s", Some(10_000));
        check("1m30s", Some(90_000));
        check("250ms", Some(250));
        check("5", Some(5000));
        check("0.5", Some(500));
        for bad in ["", "0", "0s", "-1", "NaN", "inf", "1e300", "10 parsecs"] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_wrong_with_a_time_is_said_in_its_own_words() {
        let check = |found: Result<Duration, String>, expected: &str| {
            assert_eq!(found.unwrap_err(), expected);
        };
        check(timeout("-1"), "a time is not negative");
        check(timeout("0"), "a time is at least 1ms");
        for short in ["0", "0s", "20ms", "100y"] {
            check(ttl(short), "a session lasts from 1s to 7days");
        }
        check(ttl("-1"), "a time is not negative");
        assert_eq!(ttl("1s"), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn every_default_that_a_config_may_hold_is_in_the_help() {
        use clap::CommandFactory as _;
        #[derive(clap::Parser)]
        struct Typed {
            #[command(flatten)]
            _arguments: TaskArguments,
        }
        let help = Typed::command().render_long_help().to_string();
        for key in super::super::request_defaults::KEYS {
            assert!(help.contains(key), "{key}: {help}");
        }
    }

    #[test]
    fn metadata_has_a_name() {
        let entry = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(metadata_entry("a=b=c"), entry("a", "b=c"));
        assert_eq!(metadata_entry("a="), entry("a", ""));
        assert!(metadata_entry("=b").is_err());
        assert!(metadata_entry("a").is_err());
    }
}
