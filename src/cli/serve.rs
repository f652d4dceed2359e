//! `orchestrator serve`: runs an orchestrator until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sd_notify::NotifyState;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::data_directory;
use super::door::DoorArguments;
use super::exit::{Error, Exit};
use super::failure_text;
use super::output::{self, Output};
use crate::app::{App, Follow, Outcome, Reading};
use crate::config::{self, Config, Journal, Reader, Settled};
use crate::ingress::listener::Address;
use crate::telemetry;
use crate::telemetry::metric;

const EXAMPLES: &str = "\
Examples:
  orchestrator serve
  ORCHESTRATOR_API_KEY=... orchestrator serve --listen 127.0.0.1:7171
  orchestrator serve --config orchestrator.json

Without --config it serves eight built-in echo instances, A to H. The key is read from ORCHESTRATOR_API_KEY \
and from the config; without either, and on loopback only, one is made and shown once.
SIGHUP, or a change of the config file: it is read again, and taken over when all of it is right.
SIGTERM or Ctrl-C: not ready, then running calls finish, then it stops; a second one stops it at once.";

/// `serve`, as typed.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The config file, JSON.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    door: DoorArguments,
    /// Threads that serve [default: one for each core; 1 where there are no more than two]. With 1 a call costs least.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    data: data_directory::DataArguments,
    /// What is logged to standard error: a level, or target=level pairs.
    #[arg(
        long,
        value_name = "FILTER",
        env = "ORCHESTRATOR_LOG",
        default_value = "info"
    )]
    log: String,
    /// How log lines look: human on a terminal and json otherwise, unless given.
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let format = match arguments.log_format {
        Some(LogFormat::Human) => telemetry::Format::Human,
        Some(LogFormat::Json) => telemetry::Format::Json,
        None => telemetry::Format::detect(),
    };
    let colours = if output::is_plain_wanted() {
        telemetry::Colours::Never
    } else {
        telemetry::Colours::OnTerminals
    };
    telemetry::start(&arguments.log, format, colours)
        .map_err(|bad| Error::usage(bad.to_string(), "see --help"))?;
    let (config, made_key) = config(arguments, &reader(arguments), None)?;
    // Connections are descriptors; the usual soft limit of 1024 is for programs that use select(2).
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let runtime = runtime(arguments.threads).map_err(Error::System)?;
    let stopped = runtime.block_on(serve(config, made_key, arguments.clone()));
    // What is left would only hold up the end.
    runtime.shutdown_background();
    stopped
}

/// One thread needs no work stealing, which costs a third of a call: on two cores it serves more calls than two
/// threads do (benches/README.md).
fn runtime(threads: Option<u16>) -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match (threads, cores) {
        (Some(1), _) | (None, ..=2) => Builder::new_current_thread(),
        (Some(threads), _) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads.into());
            builder
        }
        (None, _) => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

fn reader(arguments: &Arguments) -> Reader<'static> {
    Reader {
        command_line: arguments.door.command_line(),
        ..Reader::new(&environment)
    }
}

/// The config, and the key that was made because there is none: `made`, if that happened before.
fn config(
    arguments: &Arguments,
    reader: &Reader<'_>,
    made: Option<&str>,
) -> Result<(Config, Option<String>), Error> {
    let mut config = match &arguments.config {
        None => {
            let mut config = Config::embedded();
            config.obey(&reader.command_line);
            config
        }
        Some(path) => reader
            .read(path)
            .map_err(|mistakes| Error::Config(mistakes.to_string()))?,
    };
    let configured = config.sessions.data_directory.clone();
    config.journal = Journal::Folder(arguments.data.directory(configured)?);
    let from_environment = environment("ORCHESTRATOR_API_KEY");
    let make = || made.map_or_else(config::make_key, str::to_owned);
    let settled = config::settle_keys(&mut config, from_environment.as_deref(), make)
        .map_err(|bad| Error::ServerKey(bad.to_string()))?;
    DoorArguments::judge(&config)?;
    let made = match settled {
        Settled::Made(key) => Some(key),
        Settled::Configured | Settled::Environment => None,
    };
    Ok((config, made))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the command line is where the environment is read"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The config file as it is now, read as at the start.
fn read_again(arguments: &Arguments, made: Option<&str>) -> Reading {
    let reader = reader(arguments);
    let config = config(arguments, &reader, made);
    let told = |error: Error| {
        if let Error::Config(what) | Error::ServerKey(what) = error {
            return what;
        }
        failure_text::lines(&error).trim_end().to_owned()
    };
    let config = config.map(|(config, _)| config).map_err(told);
    let files = reader.files.take();
    Reading { config, files }
}

async fn serve(
    config: Config,
    made_key: Option<String>,
    arguments: Arguments,
) -> Result<Exit, Error> {
    // Before anything else: until it is there, the signal would end the process.
    let hang_up = signal(SignalKind::hangup()).map_err(Error::System)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::System)?;
    let speaks = match config.tls {
        Some(_) => Speaks::Tls,
        None => Speaks::Plaintext,
    };
    let operators = config.operators;
    // Before anything is counted.
    let exposition = match operators {
        Some(_) => Some(metric::start().map_err(|error| Error::Start(error.to_string()))?),
        None => None,
    };
    let app = App::start(config)
        .await
        .map_err(|error| Error::Start(error.to_string()))?;
    let instances = app.fleet().view().members().len();
    let address = app.listening();
    tracing::info!(%address, tls = speaks == Speaks::Tls, instances, "serving");
    if let (Some(address), Some(exposition)) = (operators, exposition) {
        let shown = app.show_operators(address, exposition).await;
        let address = shown.map_err(|error| Error::Start(error.to_string()))?;
        tracing::info!(%address, "operators see metrics, health and the config");
    }
    match show(address, speaks, instances, made_key.as_deref()) {
        // Nobody reads what it prints: it serves all the same.
        Ok(()) | Err(Error::ReaderGone) => {}
        Err(error) => return Err(error),
    }
    let follow = match arguments.config.clone() {
        None => None,
        Some(path) => {
            let read = move || read_again(&arguments, made_key.as_deref());
            Some(app.follow(&path, read).map_err(Error::System)?)
        }
    };
    tell_supervisor(&[NotifyState::Ready]);
    let (stop, fallen) = (CancellationToken::new(), app.fallen());
    let asked_twice = async {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tell_supervisor(&[NotifyState::Stopping]);
            stop.cancel();
        }
    };
    tokio::select! {
        _ = app.run_until(stop.cancelled()) => {}
        () = asked_twice => tracing::warn!("stopping at once: asked a second time"),
        () = reread_on(hang_up, follow) => {}
    }
    if fallen() {
        return Err(Error::Start(
            "a part without which nothing works has died: see the log".to_owned(),
        ));
    }
    Ok(Exit::Done)
}

/// Reads the config again at each SIGHUP, for as long as it is asked.
async fn reread_on(mut hang_up: Signal, follow: Option<Follow>) {
    loop {
        if hang_up.recv().await.is_none() {
            return std::future::pending().await;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell_supervisor(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot tell the supervisor"),
        }
        let outcome = match &follow {
            Some(follow) => follow.read_again().await,
            None => {
                tracing::warn!("there is no config file that could be read again");
                Some(Outcome::Taken)
            }
        };
        let status = match outcome {
            Some(Outcome::Taken) => "serving",
            Some(Outcome::Refused) => "serving; the new config was refused: see the log",
            // About to stop, which is another message.
            None => return std::future::pending().await,
        };
        tell_supervisor(&[NotifyState::Ready, NotifyState::Status(status)]);
    }
}

/// Tells systemd, or whoever else speaks its protocol; nobody where `$NOTIFY_SOCKET` is not set.
fn tell_supervisor(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the supervisor");
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started<'a> {
    listening: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<bool>,
    instances: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

/// What whoever calls has to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tls,
    Plaintext,
}

fn show(
    address: &Address,
    speaks: Speaks,
    instances: usize,
    made_key: Option<&str>,
) -> Result<(), Error> {
    let mut output = Output::stdout();
    if std::io::stdout().is_terminal() {
        output.text(&welcome(address, speaks, instances, made_key))
    } else {
        output.jsonl(&Started {
            listening: address.to_string(),
            tls: (speaks == Speaks::Tls).then_some(true),
            instances,
            api_key: made_key,
        })
    }
}

/// What it listens on, and three commands to paste.
fn welcome(address: &Address, speaks: Speaks, instances: usize, made_key: Option<&str>) -> String {
    let key = match made_key {
        Some(key) => format!(
            "No key was configured, so this one was made. It is shown once and lasts until the server stops:\n\n  \
             export ORCHESTRATOR_API_KEY={key}\n\n"
        ),
        None => String::new(),
    };
    let (elsewhere, trust) = match speaks {
        Speaks::Tls => (
            format!(" --server https://{address} --ca ca.pem"),
            "-cacert ca.pem",
        ),
        Speaks::Plaintext if *address == Address::Tcp(config::LISTEN_DEFAULT) => {
            (String::new(), "-plaintext")
        }
        Speaks::Plaintext => (format!(" --server {address}"), "-plaintext"),
    };
    // grpcurl wants the form with an authority, which is empty.
    let dialled = match address {
        Address::Unix(path) => format!("unix://{}", path.display()),
        Address::Tcp(address) => address.to_string(),
    };
    format!(
        "orchestrator {} serves gRPC on {address}, with {instances} instances.\n\n{key}Try, in another terminal:\n\n  \
         orchestrator route{elsewhere} --instances A B --payload '{{\"data\": \"task\"}}'\n  \
         orchestrator fanout{elsewhere} --targets A-H --payload '{{\"data\": \"task\"}}' --timeout 10s\n  \
         grpcurl {trust} -H \"authorization: Bearer $ORCHESTRATOR_API_KEY\" {dialled} list\n\n",
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_has_three_commands_and_the_key_only_when_it_was_made() {
        let other: Address = "127.0.0.1:9999".parse().unwrap();
        let usual = Address::Tcp(config::LISTEN_DEFAULT);
        let text = welcome(&usual, Speaks::Plaintext, 8, None);
        assert!(
            text.contains("127.0.0.1:7070")
                && !text.contains("--server")
                && !text.contains("export"),
            "{text}"
        );
        let text = welcome(&other, Speaks::Tls, 8, None);
        assert!(text.contains("--server https://127.0.0.1:9999"), "{text}");
        assert!(text.contains("grpcurl -cacert ca.pem"), "{text}");
        let text = welcome(&other, Speaks::Plaintext, 8, Some("made-key"));
        assert!(
            text.contains("export ORCHESTRATOR_API_KEY=made-key"),
            "{text}"
        );
        assert!(text.contains("route --server 127.0.0.1:9999"), "{text}");
        let socket: Address = "unix:/run/o.sock".parse().unwrap();
        let text = welcome(&socket, Speaks::Plaintext, 8, None);
        assert!(text.contains("route --server unix:/run/o.sock"), "{text}");
        assert!(text.contains(" unix:///run/o.sock list"), "{text}");
    }
}
