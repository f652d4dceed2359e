//! `orchestrator drain` and `undrain`: instances get nothing new, or get work again.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use tokio::time::{Instant, sleep};

use super::arguments::{self, Format, ServerArguments};
use super::connection::{Connection, block_on, guard};
use super::exit::{Error, Exit};
use super::output::{Look, Output};
use super::{failure_text, json_output, table};
use crate::proto::orchestrator as proto;

const DRAIN_EXAMPLES: &str = "\
Examples:
  orchestrator drain A
  orchestrator drain A B-D --timeout 10m
  orchestrator drain A --wait false
  orchestrator drain A --move

A draining instance keeps the calls and the sessions that it has and gets nothing new, until undrain. It is drained \
once nothing is outstanding there and no session is left. With --move its sessions go to other instances; those with \
the loss policy fail may not, and stay until they end. The exit code is 0 then, and 6 when --timeout is over before; it goes on draining all the same.
The key needs the scope admin and is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

const UNDRAIN_EXAMPLES: &str = "\
Examples:
  orchestrator undrain A
  orchestrator undrain A B-D

Also takes back into use what the config says is disabled, until the orchestrator starts again.
The key needs the scope admin and is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// How often it is asked whether anything is left.
const ASKED_EVERY: Duration = Duration::from_millis(200);
/// Time for one question.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// `drain`, as typed.
#[derive(Debug, Args)]
#[command(after_help = DRAIN_EXAMPLES)]
pub(super) struct Arguments {
    /// Who: ids (A B), ranges (A-H), lists (A,C), or '*' for the whole fleet.
    #[arg(required = true, num_args = 1.., value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Move their sessions to other instances, as far as their loss policy lets them.
    #[arg(long = "move")]
    move_sessions: bool,
    /// Wait until they are drained.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait: 10m, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "5m")]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

/// `undrain`, as typed.
#[derive(Debug, Args)]
#[command(after_help = UNDRAIN_EXAMPLES)]
pub(super) struct Back {
    /// Who: ids (A B), ranges (A-H), lists (A,C), or '*' for the whole fleet.
    #[arg(required = true, num_args = 1.., value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Time for the call: 10s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

impl Arguments {
    /// How its answers are shown.
    pub(super) fn format(&self) -> Format {
        self.server.format()
    }
}

impl Back {
    /// How its answers are shown.
    pub(super) fn format(&self) -> Format {
        self.server.format()
    }
}

/// Runs `drain`.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let started = Instant::now();
    let (mut fleet, progress) = (Vec::new(), progress());
    let ended = block_on(async {
        let connection = Connection::open(&arguments.server.to, Some(CALL_TIMEOUT)).await?;
        let mut cluster = connection.cluster();
        loop {
            // Repeating it changes nothing, and tells how far it has come.
            let request = proto::DrainRequest {
                instances: arguments.instances.clone(),
                move_sessions: arguments.move_sessions,
            };
            let request = connection.request(request, Some(CALL_TIMEOUT));
            let call = async { Ok(cluster.drain(request).await?.into_inner()) };
            fleet = guard(Some(CALL_TIMEOUT), call).await?.instances;
            let left: u32 = fleet.iter().map(|health| health.calls_outstanding).sum();
            let sessions: u32 = fleet.iter().map(|health| health.sessions_open).sum();
            let waiting = fleet.iter().filter(|health| !health.drained).count();
            if waiting == 0 || !arguments.wait {
                return Ok(Exit::Done);
            }
            if arguments.timeout <= started.elapsed() {
                return Ok(Exit::Deadline);
            }
            progress.set_message(format!(
                "{waiting} of {} still have work: {left} calls and {sessions} sessions",
                fleet.len()
            ));
            progress.tick();
            sleep(ASKED_EVERY).await;
        }
    });
    progress.finish_and_clear();
    let exit = ended?;
    show(&fleet, &arguments.server)?;
    if exit == Exit::Deadline {
        failure_text::warn(
            "not everything is drained yet: it goes on, and may be waited for again",
        );
    }
    Ok(exit)
}

/// Runs `undrain`.
pub(super) fn undrain(arguments: &Back) -> Result<Exit, Error> {
    let timeout = Some(arguments.timeout);
    let response = block_on(async {
        let connection = Connection::open(&arguments.server.to, timeout).await?;
        let request = proto::UndrainRequest {
            instances: arguments.instances.clone(),
        };
        let request = connection.request(request, timeout);
        let mut cluster = connection.cluster();
        let call = async { Ok(cluster.undrain(request).await?.into_inner()) };
        guard(timeout, call).await
    })?;
    show(&response.instances, &arguments.server)?;
    Ok(Exit::Done)
}

fn show(fleet: &[proto::InstanceHealth], server: &ServerArguments) -> Result<(), Error> {
    let mut output = Output::stdout();
    let mut documents = fleet.iter().map(json_output::health);
    match server.format() {
        Format::Table => output.text(&table::health_axes(
            fleet,
            Look::detect(),
            SystemTime::now(),
        )),
        Format::Json => output.json(&documents.collect::<Vec<_>>()),
        Format::Jsonl => documents.try_for_each(|document| output.jsonl(&document)),
    }
}

/// For people only.
fn progress() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(None, target)
        .with_style(indicatif::ProgressStyle::default_spinner())
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

    #[test]
    fn it_waits_unless_told_otherwise_and_needs_a_name() {
        let check = |words: &str| Typed::try_parse_from(words.split(' ')).ok();
        let typed = check("drain A B-D --timeout 30").unwrap().arguments;
        assert_eq!(typed.instances, ["A", "B-D"]);
        assert!(typed.wait && typed.timeout == Duration::from_secs(30));
        assert!(!check("drain A --wait false").unwrap().arguments.wait);
        assert!(!check("drain A").unwrap().arguments.move_sessions);
        assert!(check("drain A --move").unwrap().arguments.move_sessions);
        assert!(check("drain").is_none());
    }
}
