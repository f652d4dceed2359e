//! `orchestrator fanout`: one task for every target, partial results as they come.

use std::io::Read;
use std::time::Duration;

use clap::Args;
use tonic::Streaming;

use super::arguments::{Format, RetryArguments, ServerArguments, TaskArguments};
use super::connection::{Connection, block_on, guard, timeout_field};
use super::exit::{Error, Exit};
use super::failure_text;
use super::json_output;
use super::output::{Look, Output};
use super::progress::Progress;
use super::request_defaults::{self, RequestDefaults};
use super::{explain, failed_json, table, task_request};
use crate::proto::orchestrator::completion::Rule;
use crate::proto::orchestrator::explain_request::Call;
use crate::proto::orchestrator::fanout_response::Event;
use crate::proto::orchestrator::{self as proto, StopReason};

const EXAMPLES: &str = "\
Examples:
  orchestrator fanout --targets A-H --payload '{\"data\": \"task\"}' --timeout 10s
  orchestrator fanout --targets A-H --aggregate true > output.json
  orchestrator fanout --targets '*' --payload @task.json --output jsonl | jq .partial
  orchestrator fanout --targets A B C --quorum 2 --failures-max 1

As json, --aggregate gives an array in roster order, one object for each target; without it \
one object with roster, partials and summary.
The key is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `fanout`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The targets: ids (A B), ranges (A-H, w01-w64), lists (A,C), or '*' for the whole fleet.
    #[arg(long, num_args = 1.., value_name = "INSTANCE")]
    targets: Vec<String>,
    /// Collect the results at the server; they then come all at once, in roster order.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    aggregate: Option<bool>,
    /// Complete once this many have answered; goes on while answers can still come.
    #[arg(long, value_name = "K", group = "rule")]
    first: Option<u32>,
    /// Complete once this many have answered; given up as soon as that is out of reach.
    #[arg(long, value_name = "N", group = "rule")]
    quorum: Option<u32>,
    /// As --quorum, with more than half of the targets.
    #[arg(long, group = "rule")]
    majority: bool,
    /// Give up once more than this many have failed or timed out.
    #[arg(long, value_name = "N")]
    failures_max: Option<u32>,
    #[command(flatten)]
    retry: RetryArguments,
    #[command(flatten)]
    task: TaskArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let defaults = request_defaults::read(arguments.task.config.as_deref())?;
    let (request, timeout) = request(arguments, &defaults, std::io::stdin())?;
    if arguments.task.explain {
        return explain::run(Call::Fanout(request), &arguments.server);
    }
    let format = arguments.server.format();
    let mut gathered = Gathered {
        results: if request.aggregate {
            Results::Collected
        } else {
            Results::Streamed
        },
        ..Gathered::default()
    };
    let ended = block_on(async {
        let connection = Connection::open(&arguments.server.to, timeout).await?;
        let mut client = connection.orchestrator();
        let request = connection.request(request, timeout);
        let call = async {
            gathered
                .read(client.fanout(request).await?.into_inner(), format)
                .await
        };
        guard(timeout, call).await
    });
    if matches!(ended, Err(Error::ReaderGone | Error::Interrupted)) {
        return ended.map(|()| Exit::Done);
    }
    // Whatever ended the call: what has arrived is shown before the reason.
    gathered.show(format)?;
    if let Err(error) = ended {
        let is_told = format == Format::Json && gathered.has_document();
        if !is_told {
            failed_json::show(&error, format)?;
        }
        return Err(error);
    }
    let exit = gathered.exit()?;
    if exit == Exit::Partial {
        failure_text::warn(&gathered.missing_text());
    }
    Ok(exit)
}

fn request(
    arguments: &Arguments,
    defaults: &RequestDefaults,
    stdin: impl Read,
) -> Result<(proto::FanoutRequest, Option<Duration>), Error> {
    let targets = task_request::targets(&arguments.targets, &defaults.targets, "--targets")?;
    let task = task_request::merge(&arguments.task, defaults, stdin)?;
    let first = arguments.first.map(Rule::First);
    let quorum = arguments.quorum.map(Rule::Quorum);
    let majority = arguments.majority.then_some(Rule::Majority(true));
    let completion = proto::Completion {
        rule: first.or(quorum).or(majority).or(defaults.completion.rule),
        failures_max: arguments.failures_max.or(defaults.completion.failures_max),
    };
    let request = proto::FanoutRequest {
        targets,
        payload: task.payload,
        aggregate: arguments.aggregate.or(defaults.aggregate).unwrap_or(false),
        timeout: timeout_field(task.timeout)?,
        policy: Some(arguments.retry.policy(&defaults.policy)?)
            .filter(|policy| *policy != proto::CallPolicy::default()),
        completion: Some(completion)
            .filter(|completion| *completion != proto::Completion::default()),
        metadata: task.metadata,
    };
    Ok((request, task.timeout))
}

/// How many that did not answer are named in the warning; the output names all.
const MISSING_NAMED_MAX: usize = 10;

/// Where the results of the targets are.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Results {
    /// In the partials.
    #[default]
    Streamed,
    /// In the summary.
    Collected,
}

/// What has arrived; with jsonl only what the exit code depends on.
#[derive(Default)]
struct Gathered {
    results: Results,
    roster: Vec<String>,
    panic_mode: bool,
    partials: Vec<proto::Partial>,
    summary: Option<proto::Summary>,
}

impl Gathered {
    async fn read(
        &mut self,
        mut events: Streaming<proto::FanoutResponse>,
        format: Format,
    ) -> Result<(), Error> {
        let mut output = Output::stdout();
        let mut progress = Progress::new(format);
        while let Some(proto::FanoutResponse { event }) = events.message().await? {
            // An event of a newer server: nothing that is known here depends on it.
            let Some(event) = event else { continue };
            if format == Format::Jsonl {
                output.jsonl(&line(&event))?;
            }
            match event {
                Event::Started(started) => {
                    progress.started(started.roster.len());
                    self.roster = started.roster;
                    self.panic_mode = started.panic_mode;
                }
                Event::Partial(partial) => {
                    progress.arrived(partial.outcome);
                    if format != Format::Jsonl {
                        self.partials.push(partial);
                    }
                }
                Event::Summary(summary) => self.summary = Some(summary),
            }
        }
        Ok(())
    }

    fn show(&self, format: Format) -> Result<(), Error> {
        let mut output = Output::stdout();
        match (format, &self.summary) {
            (Format::Table, summary) if !self.roster.is_empty() => {
                let collected = summary.iter().flat_map(|summary| &summary.aggregate);
                let partials: Vec<_> = self.partials.iter().chain(collected).collect();
                let look = Look::detect();
                output.text(&table::fanout(
                    &self.roster,
                    &partials,
                    summary.as_ref(),
                    look,
                ))
            }
            (Format::Json, Some(summary)) if self.results == Results::Collected => {
                let collected: Vec<_> =
                    summary.aggregate.iter().map(json_output::partial).collect();
                output.json(&collected)
            }
            (Format::Json, summary)
                if self.results == Results::Streamed && !self.roster.is_empty() =>
            {
                output.json(&json_output::Fanout {
                    roster: &self.roster,
                    panic_mode: self.panic_mode,
                    partials: self.partials.iter().map(json_output::partial).collect(),
                    summary: summary.as_ref().map(json_output::summary),
                })
            }
            (Format::Table | Format::Json | Format::Jsonl, _) => Ok(()),
        }
    }

    /// Whether a document was shown: there is never a second one.
    fn has_document(&self) -> bool {
        match self.results {
            Results::Collected => self.summary.is_some(),
            Results::Streamed => !self.roster.is_empty(),
        }
    }

    /// For a call that ended OK.
    fn exit(&self) -> Result<Exit, Error> {
        let summary = self.summary.as_ref().ok_or_else(|| {
            Error::Answer("the server ended the stream without a summary".to_owned())
        })?;
        // A rule that was met makes the others needless: nobody who was wanted is missing.
        let met = summary.stop_reason == i32::from(StopReason::CompletionMet);
        if met || summary.missing.is_empty() {
            return Ok(Exit::Done);
        }
        Ok(Exit::Partial)
    }

    fn missing_text(&self) -> String {
        let missing = self.summary.iter().flat_map(|summary| &summary.missing);
        let mut named: Vec<&str> = missing.map(String::as_str).collect();
        let (count, roster) = (named.len(), self.roster.len());
        if MISSING_NAMED_MAX < count {
            named.truncate(MISSING_NAMED_MAX);
            named.push("…");
        }
        let named = named.join(", ");
        format!("{count} of {roster} targets did not answer: {named}")
    }
}

fn line(event: &Event) -> json_output::Event<'_> {
    match event {
        Event::Started(started) => json_output::Event::Started {
            roster: &started.roster,
            panic_mode: started.panic_mode,
        },
        Event::Partial(partial) => json_output::Event::Partial(json_output::partial(partial)),
        Event::Summary(summary) => json_output::Event::Summary(json_output::summary(summary)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::samples;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn typed(words: &str, defaults: &RequestDefaults) -> proto::FanoutRequest {
        let words = ["fanout"].into_iter().chain(words.split(' '));
        let Typed { arguments } =
            Typed::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        request(&arguments, defaults, &[][..]).unwrap().0
    }

    #[test]
    fn aggregate_is_a_flag_that_may_be_spelled_out() {
        let on = RequestDefaults {
            aggregate: Some(true),
            ..RequestDefaults::default()
        };
        let off = RequestDefaults::default();
        let check = |words: &str, defaults: &RequestDefaults, expected: bool| {
            assert_eq!(typed(words, defaults).aggregate, expected, "{words}");
        };
        check("--targets A-H --aggregate true", &off, true);
        check("--aggregate --targets A-H", &off, true);
        check("--targets A-H --aggregate false", &on, false);
        check("--targets A-H", &on, true);
        check("--targets A-H", &off, false);
    }

    #[test]
    fn a_rule_that_is_typed_replaces_the_default_one() {
        let defaults = RequestDefaults {
            completion: proto::Completion {
                rule: Some(Rule::Majority(true)),
                failures_max: Some(2),
            },
            ..RequestDefaults::default()
        };
        let check = |words: &str, rule: Rule, failures_max: u32| {
            let completion = typed(words, &defaults).completion.unwrap();
            assert_eq!(
                (completion.rule, completion.failures_max),
                (Some(rule), Some(failures_max))
            );
        };
        check("--targets A", Rule::Majority(true), 2);
        check("--targets A --first 2", Rule::First(2), 2);
        check(
            "--targets A --quorum 3 --failures-max 0",
            Rule::Quorum(3),
            0,
        );
        assert_eq!(
            typed("--targets A", &RequestDefaults::default()).completion,
            None
        );
        let both = ["fanout", "--targets", "A", "--first", "1", "--majority"];
        assert!(Typed::try_parse_from(both).is_err());
    }

    #[test]
    fn the_warning_names_a_few_of_those_who_are_missing() {
        let check = |count: usize, expected: &str| {
            let gathered = Gathered {
                roster: vec![String::new(); 64],
                summary: Some(proto::Summary {
                    missing: (0..count).map(|at| format!("w{at}")).collect(),
                    ..samples::summary()
                }),
                ..Gathered::default()
            };
            assert_eq!(gathered.missing_text(), expected);
        };
        check(1, "1 of 64 targets did not answer: w0");
        check(
            12,
            "12 of 64 targets did not answer: w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, …",
        );
    }

    #[test]
    fn a_fanout_is_partial_when_an_answer_that_was_wanted_is_missing() {
        let check = |stop_reason: StopReason, missing: &[&str], expected: Exit| {
            let gathered = Gathered {
                summary: Some(proto::Summary {
                    stop_reason: stop_reason.into(),
                    missing: missing.iter().map(|id| (*id).to_owned()).collect(),
                    ..samples::summary()
                }),
                ..Gathered::default()
            };
            assert_eq!(gathered.exit().unwrap(), expected);
        };
        check(StopReason::AllTerminal, &[], Exit::Done);
        check(StopReason::AllTerminal, &["B"], Exit::Partial);
        check(StopReason::Deadline, &["B"], Exit::Partial);
        check(StopReason::CompletionMet, &["B"], Exit::Done);
        assert!(Gathered::default().exit().is_err());
    }
}
