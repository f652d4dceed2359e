//! `orchestrator descriptors`: the contract, for programs that read it from a file.

use std::io::{IsTerminal as _, stdout};

use clap::Args;

use super::exit::{Error, Exit};
use super::output::Output;
use crate::proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator descriptors > orchestrator.binpb
  grpcurl -protoset orchestrator.binpb describe openclaw.orchestrator.v1.OrchestratorService";

/// `descriptors`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {}

/// Runs the command.
pub(super) fn run(_arguments: &Arguments) -> Result<Exit, Error> {
    if stdout().is_terminal() {
        return Err(Error::usage(
            "the contract is not text".to_owned(),
            "write it to a file: orchestrator descriptors > orchestrator.binpb",
        ));
    }
    Output::stdout().bytes(proto::DESCRIPTORS)?;
    Ok(Exit::Done)
}
