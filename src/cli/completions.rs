//! `orchestrator completions`: what a shell needs to complete the command line.

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::{Error, Exit};
use super::output::Output;

const EXAMPLES: &str = "\
Examples:
  orchestrator completions bash > /etc/bash_completion.d/orchestrator
  orchestrator completions zsh > \"${fpath[1]}/_orchestrator\"
  orchestrator completions fish > ~/.config/fish/completions/orchestrator.fish";

/// `completions`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command. `command` is the whole command line.
pub(super) fn run(arguments: &Arguments, mut command: Command) -> Result<Exit, Error> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    Output::stdout().text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
