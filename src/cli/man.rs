//! `orchestrator man`: the manual pages.

use std::path::PathBuf;

use clap::{Args, Command};

use super::exit::{Error, Exit};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  orchestrator man | man -l -
  orchestrator man --directory /usr/local/share/man/man1";

/// `man`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Write a page for each command into this folder, instead of the main page to standard output.
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
}

/// Runs the command. `command` is the whole command line.
pub(super) fn run(arguments: &Arguments, command: Command) -> Result<Exit, Error> {
    match &arguments.directory {
        Some(directory) => {
            clap_mangen::generate_to(command, directory).map_err(Error::System)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(Error::System)?;
            Output::stdout().text(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Done)
}
