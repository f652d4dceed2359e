//! `orchestrator config`: checks a config file, and prints the schema of one. It needs no server.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::Format;
use super::door::DoorArguments;
use super::exit::{Error, Exit};
use super::output::Output;
use super::plain;
use crate::config::{self, Config, Mistakes, Planned, Reader};
use crate::domain::limit::CONFIG_BYTES_MAX;

const EXAMPLES: &str = "\
Examples:
  orchestrator config check orchestrator.json
  orchestrator config check --output json < orchestrator.json
  orchestrator config schema > orchestrator.schema.json

What a config points to is read too: files of certificates and tokens, and environment variables. What serve will be told
beside it, such as --allow-plaintext, belongs here too.

Exit codes: 0 the config can be used; 2 it cannot, and every mistake is on standard error; as json, on standard output too.";

/// `config`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read a config as `serve` would, and tell all of its mistakes at once.
    Check(Check),
    /// Print the JSON Schema (2020-12) of a config.
    Schema,
}

#[derive(Debug, Args)]
struct Check {
    /// The config file [default: standard input]
    file: Option<PathBuf>,
    #[command(flatten)]
    door: DoorArguments,
    /// How it is shown: table or json.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let mut output = Output::stdout();
    match &arguments.action {
        Action::Schema => output.json(&config::schema())?,
        Action::Check(check) => {
            let (name, config) = read(check)?;
            let config = match config {
                Ok(config) => config,
                Err(mistakes) => {
                    Found::of(&name, &mistakes).show(&mut output, check.output)?;
                    return Err(Error::BadConfig(mistakes.to_string()));
                }
            };
            if let Err(exposed) = config::refuse_exposure(&config) {
                let what = exposed.to_string();
                let mistake = FoundMistake {
                    line: None,
                    column: None,
                    path: "--listen",
                    what: &what,
                };
                let found = Found {
                    config: &name,
                    mistakes: vec![mistake],
                    untold: 0,
                };
                found.show(&mut output, check.output)?;
            }
            DoorArguments::judge(&config)?;
            let contents = Contents::of(&name, &config);
            match check.output {
                Format::Table => output.text(&contents.text())?,
                Format::Json => output.json(&contents)?,
                Format::Jsonl => output.jsonl(&contents)?,
            }
        }
    }
    Ok(Exit::Done)
}

fn read(check: &Check) -> Result<(String, Result<Config, Mistakes>), Error> {
    let reader = Reader {
        command_line: check.door.command_line(),
        ..Reader::new(&environment)
    };
    Ok(match &check.file {
        Some(path) => (path.display().to_string(), reader.read(path)),
        None => {
            let mut bytes = Vec::new();
            let input = std::io::stdin().lock();
            input.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            let name = "standard input";
            let config = reader.read_bytes(Path::new(name), &bytes);
            (name.to_owned(), config)
        }
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "the command line is where the environment is read"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is wrong with a config.
#[derive(Serialize)]
struct Found<'a> {
    config: &'a str,
    mistakes: Vec<FoundMistake<'a>>,
    /// Beyond those that are told.
    untold: usize,
}

#[derive(Serialize)]
struct FoundMistake<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    path: &'a str,
    what: &'a str,
}

impl<'a> Found<'a> {
    /// For who reads it by a program; people are told by the error.
    fn show(&self, output: &mut Output, format: Format) -> Result<(), Error> {
        match format {
            Format::Table => Ok(()),
            Format::Json => output.json(self),
            Format::Jsonl => output.jsonl(self),
        }
    }

    fn of(config: &'a str, found: &'a Mistakes) -> Self {
        let mistakes = found.told().iter().map(|mistake| FoundMistake {
            line: mistake.position.map(|position| position.line),
            column: mistake.position.map(|position| position.column),
            path: &mistake.path,
            what: &mistake.what,
        });
        Self {
            config,
            mistakes: mistakes.collect(),
            untold: found.untold(),
        }
    }
}

/// What a config comes to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Contents {
    config: String,
    listen: String,
    instances: usize,
    builtin_instances: usize,
    keys: Vec<String>,
}

impl Contents {
    fn of(name: &str, config: &Config) -> Self {
        let is_builtin = |planned: &&Planned| matches!(planned, Planned::Builtin(_));
        let keys = config.keys.keys.iter();
        Self {
            config: name.to_owned(),
            listen: config.listen.to_string(),
            instances: config.instances.len(),
            builtin_instances: config.instances.iter().filter(is_builtin).count(),
            keys: keys.map(|key| key.name.to_string()).collect(),
        }
    }

    fn text(&self) -> String {
        let builtin = match self.builtin_instances {
            0 => String::new(),
            count => format!(", {count} of them built in"),
        };
        let keys = if self.keys.is_empty() {
            "none: one must be in ORCHESTRATOR_API_KEY, or is made on loopback".to_owned()
        } else {
            self.keys.join(", ")
        };
        format!(
            "{} can be used\n  listen     {}\n  instances  {}{builtin}\n  keys       {}\n",
            plain::text(&self.config),
            self.listen,
            self.instances,
            plain::text(&keys),
        )
    }
}
