//! `orchestrator descriptors`: the contract, for programs that read it from a file.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, stdout};

use clap::Args;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

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
    Output::stdout().bytes(&contract()?)?;
    Ok(Exit::Done)
}

/// The contract, and the details of its failures, with each imported file once.
fn contract() -> Result<Vec<u8>, Error> {
    let mut names = BTreeSet::new();
    let mut whole = FileDescriptorSet::default();
    for encoded in [proto::DESCRIPTORS, tonic_types::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(encoded).map_err(io::Error::other)?;
        let new = |file: &FileDescriptorProto| names.insert(file.name().to_owned());
        whole.file.extend(set.file.into_iter().filter(new));
    }
    Ok(whole.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_file_imports_stands_before_it() {
        let set = FileDescriptorSet::decode(&contract().unwrap()[..]).unwrap();
        let mut names: Vec<&str> = Vec::new();
        for file in &set.file {
            let missing = file
                .dependency
                .iter()
                .find(|it| !names.contains(&it.as_str()));
            assert_eq!(missing, None, "{}", file.name());
            names.push(file.name());
        }
        for wanted in [
            "openclaw/orchestrator/v1/orchestrator.proto",
            "error_details.proto",
            "grpc/health/v1/health.proto",
        ] {
            assert!(names.iter().any(|name| name.ends_with(wanted)), "{names:?}");
        }
    }
}
