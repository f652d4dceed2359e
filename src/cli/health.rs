//! `orchestrator health`: who is well, once or as it changes.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::arguments::{self, Format, ServerArguments};
use super::connection::{Connection, block_on, guard};
use super::exit::{Error, Exit};
use super::output::{Look, Output, while_read};
use super::{failure_text, json_output, table};
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator health
  orchestrator health --instances A-H --output json
  orchestrator health --instances A B --output json --verbose
  orchestrator health --watch --output jsonl | jq 'select(.state == \"down\")'
  orchestrator health --watch --interval 60s --output json | while read -r states; do ...; done

The exit code says whether the question was answered, not what the answer was. With --interval it goes on until it \
is interrupted (130): a server that is away for a while is told on standard error and asked again; a key that is \
refused ends it.
The key is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `health`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Who: ids (A B), ranges (A-H), lists (A,C). The whole fleet when absent.
    #[arg(long, num_args = 1.., value_name = "INSTANCE")]
    instances: Vec<String>,
    /// The three axes behind the word; as json, whole objects instead of one word each.
    #[arg(long)]
    verbose: bool,
    /// Follow: first the state of each, then every change, one a line.
    #[arg(long)]
    watch: bool,
    /// With --watch: the state of all at each interval, one document a line as json, instead of changes.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, requires = "watch")]
    interval: Option<Duration>,
    /// Time for the call: 10s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

impl Arguments {
    /// How its answers are shown; a watch shows lines.
    pub(super) fn format(&self) -> Format {
        let format = self.server.format();
        if self.watch && format == Format::Json {
            return Format::Jsonl;
        }
        format
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    if let Some(interval) = arguments.interval {
        return block_on(while_read(repeat(arguments, interval)));
    }
    if arguments.watch {
        return block_on(while_read(watch(arguments)));
    }
    let fleet = block_on(ask(arguments))?;
    show(&fleet, arguments)?;
    Ok(Exit::Done)
}

async fn ask(arguments: &Arguments) -> Result<Vec<proto::InstanceHealth>, Error> {
    let timeout = Some(arguments.timeout);
    let connection = Connection::open(&arguments.server.to, timeout).await?;
    let mut client = connection.orchestrator();
    let request = proto::HealthRequest {
        instances: arguments.instances.clone(),
    };
    let request = connection.request(request, timeout);
    let call = async { Ok(client.health(request).await?.into_inner()) };
    Ok(guard(timeout, call).await?.instances)
}

/// Asks anew each time: a server that was away is found again.
async fn repeat(arguments: &Arguments, interval: Duration) -> Result<Exit, Error> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut output = Output::stdout();
    loop {
        ticks.tick().await;
        let fleet = match ask(arguments).await {
            Ok(fleet) => fleet,
            Err(error) if may_pass(error.exit()) => {
                failure_text::report(&error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match arguments.server.format() {
            Format::Table => {
                let now = SystemTime::now();
                output.text(&format!("{}\n", humantime::format_rfc3339_seconds(now)))?;
                show(&fleet, arguments)?;
            }
            // A line for each time, so that a script can read it.
            Format::Json if !arguments.verbose => {
                output.jsonl(&json_output::HealthWords(&fleet))?;
            }
            Format::Json | Format::Jsonl => {
                output.jsonl(&fleet.iter().map(json_output::health).collect::<Vec<_>>())?;
            }
        }
    }
}

/// Whether asking again later is of any use.
fn may_pass(exit: Exit) -> bool {
    match exit {
        Exit::Unavailable | Exit::Deadline => true,
        Exit::Done
        | Exit::Failed
        | Exit::Usage
        | Exit::Denied
        | Exit::Partial
        | Exit::Interrupted => false,
    }
}

fn show(fleet: &[proto::InstanceHealth], arguments: &Arguments) -> Result<(), Error> {
    let mut output = Output::stdout();
    match arguments.server.format() {
        Format::Table if arguments.verbose => output.text(&table::health_axes(
            fleet,
            Look::detect(),
            SystemTime::now(),
        )),
        Format::Table => output.text(&table::health(fleet, Look::detect(), SystemTime::now())),
        Format::Json if arguments.verbose => {
            output.json(&fleet.iter().map(json_output::health).collect::<Vec<_>>())
        }
        Format::Json => output.json(&json_output::HealthWords(fleet)),
        Format::Jsonl => lines(&mut output, fleet),
    }
}

fn lines(output: &mut Output, fleet: &[proto::InstanceHealth]) -> Result<(), Error> {
    let mut fleet = fleet.iter();
    fleet.try_for_each(|health| output.jsonl(&json_output::health(health)))
}

/// Lasts until the server or the reader ends it, so the timeout is for connecting only.
async fn watch(arguments: &Arguments) -> Result<Exit, Error> {
    let connection = Connection::open(&arguments.server.to, Some(arguments.timeout)).await?;
    let mut client = connection.orchestrator();
    let request = proto::HealthWatchRequest {
        instances: arguments.instances.clone(),
    };
    let request = connection.request(request, None);
    let mut changes = client.health_watch(request).await?.into_inner();
    let mut output = Output::stdout();
    while let Some(change) = changes.message().await? {
        match arguments.server.format() {
            Format::Table => output.text(&change_lines(&change, SystemTime::now()))?,
            // A document without an end is of no use: json is written as jsonl here.
            Format::Json | Format::Jsonl => {
                lines(&mut output, &change.instances)?;
                for instance in &change.removed {
                    let removed = true;
                    output.jsonl(&json_output::Removed { instance, removed })?;
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn change_lines(change: &proto::HealthWatchResponse, now: SystemTime) -> String {
    let changed = change
        .instances
        .iter()
        .map(|health| table::health_change(health, now));
    let removed = change
        .removed
        .iter()
        .map(|id| table::health_removed(id, now));
    changed.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::samples;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_whole_fleet_is_meant_unless_instances_are_named() {
        let check = |words: &str, expected: &[&str]| {
            let Typed { arguments } =
                Typed::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(arguments.instances, expected);
        };
        check("health", &[]);
        check("health --instances A-H --output json", &["A-H"]);
        check("health --instances A B --verbose", &["A", "B"]);
    }

    #[test]
    fn a_change_is_one_line_for_each_instance() {
        let change = proto::HealthWatchResponse {
            instances: samples::health(),
            removed: vec!["C".to_owned()],
        };
        assert_eq!(
            change_lines(&change, samples::now()),
            "1970-01-01T00:16:40Z  B  down  connection refused\n\
             1970-01-01T00:16:40Z  A  healthy\n\
             1970-01-01T00:16:40Z  C  removed\n"
        );
    }
}
