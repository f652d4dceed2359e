//! `orchestrator journal`: looks after the file that sessions live in. It needs no server, and may be used while one
//! runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::Format;
use super::data_directory;
use super::exit::{Error, Exit};
use super::output::Output;
use crate::store::sqlite::inspect::{self, Contents, Messages};

const EXAMPLES: &str = "\
Examples:
  orchestrator journal check
  orchestrator journal check --data-dir /var/lib/orchestrator --output json
  orchestrator journal backup --data-dir /var/lib/orchestrator /backup/journal.sqlite3

To restore a backup: stop the server, remove journal.sqlite3, journal.sqlite3-wal and journal.sqlite3-shm from the \
data directory, copy the backup there as journal.sqlite3, and start the server again.

Exit codes: 0 the journal is whole, or the copy is on the disk; 1 it is damaged, or cannot be read or written.";

/// `journal`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell what is in the journal, and whether all of it is whole.
    Check(Check),
    /// Write a copy of the journal as it is at this moment.
    Backup(Backup),
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    data: data_directory::DataArguments,
    /// How it is shown: table or json.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    data: data_directory::DataArguments,
    /// The file to write; it may not be there yet.
    to: PathBuf,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    match &arguments.action {
        Action::Check(check) => {
            let contents = inspect::check(&check.data.directory(None)?);
            let contents = contents.map_err(|error| Error::Journal(error.to_string()))?;
            let mut output = Output::stdout();
            match check.output {
                Format::Table => output.text(&text(&contents))?,
                Format::Json => output.json(&Document::from(&contents))?,
                Format::Jsonl => output.jsonl(&Document::from(&contents))?,
            }
            if contents.flaws.is_empty() {
                Ok(Exit::Done)
            } else {
                Ok(Exit::Failed)
            }
        }
        Action::Backup(backup) => {
            inspect::back_up(&backup.data.directory(None)?, &backup.to)
                .map_err(|error| Error::Journal(error.to_string()))?;
            Ok(Exit::Done)
        }
    }
}

/// What is in a journal, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    path: String,
    sqlite_version: &'a str,
    schema_version: usize,
    sessions_open: u64,
    sessions_closed: u64,
    messages_to_instances: u64,
    bytes_to_instances: u64,
    messages_to_clients: u64,
    bytes_to_clients: u64,
    flaws: &'a [String],
}

impl<'a> From<&'a Contents> for Document<'a> {
    fn from(contents: &'a Contents) -> Self {
        Self {
            path: contents.path.display().to_string(),
            sqlite_version: &contents.sqlite,
            schema_version: contents.version,
            sessions_open: contents.open,
            sessions_closed: contents.closed,
            messages_to_instances: contents.to_instance.count,
            bytes_to_instances: contents.to_instance.bytes,
            messages_to_clients: contents.to_client.count,
            bytes_to_clients: contents.to_client.bytes,
            flaws: &contents.flaws,
        }
    }
}

fn text(contents: &Contents) -> String {
    let messages = |messages: Messages| format!("{}, {} bytes", messages.count, messages.bytes);
    let verdict = if contents.flaws.is_empty() {
        "whole".to_owned()
    } else {
        format!("damaged\n  {}", contents.flaws.join("\n  "))
    };
    format!(
        "journal                {}\n\
         versions               schema {}, SQLite {}\n\
         sessions               {} open, {} closed\n\
         messages to instances  {}\n\
         messages to clients    {}\n\
         state                  {verdict}\n",
        contents.path.display(),
        contents.version,
        contents.sqlite,
        contents.open,
        contents.closed,
        messages(contents.to_instance),
        messages(contents.to_client),
    )
}
