//! `orchestrator route`: one task, one answer.

use std::io::Read;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::arguments::{self, Format, RetryArguments, Selection, ServerArguments, TaskArguments};
use super::connection::{Connection, block_on, guard, timeout_field};
use super::exit::{Error, Exit};
use super::json_output::{self, NULL};
use super::output::{Look, Output};
use super::request_defaults::{self, RequestDefaults};
use super::{explain, table, task_request};
use crate::domain::idempotency::{BadWord, Word};
use crate::payload_json;
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::explain_request::Call;

const EXAMPLES: &str = "\
Examples:
  orchestrator route --instances A B --payload '{\"data\": \"task\"}'
  orchestrator route --instances A-H --payload @task.json --timeout 10s
  echo '[1,2,3]' | orchestrator route --instances A,C --payload - --output json
  orchestrator route --instances A --fallback any-healthy --retry 3 --idempotent
  orchestrator route --instances A-H --explain
  orchestrator route --instances A-H --idempotent --hedge=50ms --payload @task.json
  orchestrator route --instances A-H --idempotency-key order-17 --payload @task.json
  orchestrator route --config config.json

As json, a call that failed gives {\"error\": {\"code\", \"message\", \"instance\", \"retryable\", \"attempts\"}}.
The key is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `route`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The candidates: ids (A B), ranges (A-H, w01-w64), lists (A,C), or '*' for the whole fleet.
    #[arg(long, num_args = 1.., value_name = "INSTANCE")]
    instances: Vec<String>,
    /// How one is chosen: balanced by load unless given.
    #[arg(long, value_enum, value_name = "HOW")]
    selection: Option<Selection>,
    /// What always selects the same candidate; goes with --selection hash.
    #[arg(long, value_name = "KEY")]
    hash_key: Option<String>,
    /// Where else the task may be tried.
    #[arg(long, value_enum, value_name = "WHERE")]
    fallback: Option<Fallback>,
    /// Send the task to a second instance while the first takes long: longer than usual, or than DELAY.
    /// Only with --idempotent.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        value_name = "DELAY",
        value_parser = arguments::timeout,
        requires = "idempotent"
    )]
    hedge: Option<Option<Duration>>,
    /// Wait for an instance while none may be used, instead of failing at once.
    #[arg(long)]
    wait_for_ready: bool,
    /// Your own word for this request: repeated with it, the request joins the call that runs, or gets its answer.
    #[arg(long, value_name = "WORD", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    retry: RetryArguments,
    #[command(flatten)]
    task: TaskArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fallback {
    /// Only at the instances that are named.
    #[value(alias = "listed_only")]
    ListedOnly,
    /// At any healthy instance, once those that are named have been tried.
    #[value(alias = "any_healthy")]
    AnyHealthy,
}

impl Arguments {
    /// How its answers are shown.
    pub(super) fn format(&self) -> Format {
        self.server.format()
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let defaults = request_defaults::read(arguments.task.config.as_deref())?;
    let (request, timeout) = request(arguments, &defaults, std::io::stdin())?;
    if arguments.task.explain {
        return explain::run(Call::Route(request), &arguments.server);
    }
    let answered = block_on(async {
        let connection = Connection::open(&arguments.server.to, timeout).await?;
        let mut client = connection.orchestrator();
        let request = connection.request(request, timeout);
        let call = async { Ok(client.route(request).await?.into_inner()) };
        guard(timeout, call).await
    });
    show(&answered?, arguments.server.format())
}

fn request(
    arguments: &Arguments,
    defaults: &RequestDefaults,
    stdin: impl Read,
) -> Result<(proto::RouteRequest, Option<Duration>), Error> {
    let instances =
        task_request::targets(&arguments.instances, &defaults.instances, "--instances")?;
    let task = task_request::merge(&arguments.task, defaults, stdin)?;
    let selection = arguments.selection.map(Selection::to_proto);
    let selection = selection.or(defaults.selection);
    let fallback = match arguments.fallback {
        Some(Fallback::ListedOnly) => proto::Fallback::ListedOnly,
        Some(Fallback::AnyHealthy) => proto::Fallback::AnyHealthy,
        None => defaults.policy.fallback(),
    };
    // Of the defaults, a key goes only with its selection: another one may have been typed.
    let default_key =
        (selection == Some(proto::Selection::Hash)).then_some(&defaults.policy.hash_key);
    let hash_key = arguments.hash_key.as_ref().or(default_key);
    let policy = proto::CallPolicy {
        selection: selection.unwrap_or(proto::Selection::Unspecified).into(),
        hash_key: hash_key.cloned().unwrap_or_default(),
        fallback: fallback.into(),
        hedge: arguments
            .hedge
            .map(hedge)
            .transpose()?
            .or(defaults.policy.hedge),
        wait_for_ready: arguments.wait_for_ready || defaults.policy.wait_for_ready,
        ..arguments.retry.policy(&defaults.policy)?
    };
    let request = proto::RouteRequest {
        instances,
        payload: task.payload,
        timeout: timeout_field(task.timeout)?,
        policy: Some(policy).filter(|policy| *policy != proto::CallPolicy::default()),
        idempotency_key: arguments.idempotency_key.clone().unwrap_or_default(),
        metadata: task.metadata,
    };
    Ok((request, task.timeout))
}

fn hedge(delay: Option<Duration>) -> Result<proto::Hedge, Error> {
    let delay = timeout_field(delay)?;
    Ok(proto::Hedge { delay })
}

fn idempotency_key(text: &str) -> Result<String, BadWord> {
    Word::check(text).map(|word| word.as_str().to_owned())
}

fn show(response: &proto::RouteResponse, format: Format) -> Result<Exit, Error> {
    let mut output = Output::stdout();
    match format {
        Format::Table => output.text(&table::route(response, Look::detect()))?,
        Format::Json => output.json(&json_output::route(response))?,
        Format::Jsonl => output.jsonl(&json_output::route(response))?,
    }
    // It has been shown as well as it could be, yet a script must not take it for an answer.
    let payload = response.payload.as_deref().unwrap_or(NULL);
    payload_json::to_json(payload).map_err(|bad| Error::Answer(bad.to_string()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn typed(words: &[&str]) -> proto::RouteRequest {
        typed_over(proto::CallPolicy::default(), words)
    }

    fn typed_over(policy: proto::CallPolicy, words: &[&str]) -> proto::RouteRequest {
        let words = [&["route"], words].concat();
        let Typed { arguments } =
            Typed::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let defaults = RequestDefaults {
            instances: vec!["Z".to_owned()],
            policy,
            ..RequestDefaults::default()
        };
        request(&arguments, &defaults, &b"[1]"[..]).unwrap().0
    }

    #[test]
    fn how_a_task_is_tried_may_stand_in_the_config_and_what_is_typed_wins() {
        let defaults = proto::CallPolicy {
            attempts_max: 4,
            idempotent: true,
            fallback: proto::Fallback::AnyHealthy.into(),
            hedge: Some(proto::Hedge { delay: None }),
            wait_for_ready: true,
            hash_key: "k".to_owned(),
            ..proto::CallPolicy::default()
        };
        let policy = |words: &[&str]| typed_over(defaults.clone(), words).policy.unwrap();
        let expected = proto::CallPolicy {
            hash_key: String::new(),
            ..defaults.clone()
        };
        assert_eq!(policy(&[]), expected);
        let hash = policy(&["--selection", "hash"]);
        assert_eq!(hash.hash_key, "k");
        let typed = policy(&["--retry", "0", "--fallback", "listed-only"]);
        let listed_only = i32::from(proto::Fallback::ListedOnly);
        assert_eq!((typed.attempts_max, typed.fallback), (1, listed_only));
    }

    #[test]
    fn what_is_typed_is_what_is_asked() {
        let request = typed(&[
            "--instances",
            "A",
            "B",
            "--payload",
            "{\"data\":\"task\"}",
            "--timeout",
            "10s",
        ]);
        assert_eq!(request.instances, ["A", "B"]);
        let payload = payload_json::to_json(&request.payload.unwrap());
        assert_eq!(payload.as_deref(), Ok("{\"data\":\"task\"}"));
        assert_eq!(request.timeout.map(|timeout| timeout.seconds), Some(10));
        assert_eq!(request.policy, None);
    }

    #[test]
    fn a_hedge_may_name_its_delay_and_needs_the_caller_s_word() {
        let policy = |words: &[&str]| typed(words).policy.unwrap();
        let hedge = |delay: Option<i32>| {
            Some(proto::Hedge {
                delay: delay.map(|nanos| prost_types::Duration { seconds: 0, nanos }),
            })
        };
        assert_eq!(policy(&["--idempotent", "--hedge"]).hedge, hedge(None));
        let named = policy(&["--hedge=50ms", "--idempotent"]);
        assert_eq!(named.hedge, hedge(Some(50_000_000)));
        assert!(Typed::try_parse_from(["route", "--hedge"]).is_err());
        assert!(policy(&["--wait-for-ready"]).wait_for_ready);
        assert_eq!(
            typed(&["--idempotency-key", "order-17"]).idempotency_key,
            "order-17"
        );
        assert!(Typed::try_parse_from(["route", "--idempotency-key", "a b"]).is_err());
    }

    #[test]
    fn what_is_not_typed_is_absent_or_a_default() {
        let request = typed(&[]);
        assert_eq!(request.instances, ["Z"]);
        assert_eq!((request.payload, request.timeout), (None, None));
    }

    #[test]
    fn a_dash_is_standard_input_and_a_selection_is_a_policy() {
        let request = typed(&[
            "--payload",
            "-",
            "--selection",
            "ordered",
            "--metadata",
            "team=red",
        ]);
        let payload = payload_json::to_json(&request.payload.unwrap());
        assert_eq!(payload.as_deref(), Ok("[1]"));
        assert_eq!(request.policy.map(|policy| policy.selection), Some(2));
        assert_eq!(
            request.metadata.get("team").map(String::as_str),
            Some("red")
        );
    }
}
