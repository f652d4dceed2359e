//! Where the orchestrator listens, and how, as far as the command line says it: for those that run one or judge a config.

use clap::Args;

use super::exit::Error;
use crate::config::{self, CommandLine, Config, Plaintext};
use crate::ingress::listener::Address;

/// The front door, as typed.
#[derive(Debug, Clone, Args)]
pub(super) struct DoorArguments {
    /// Where to listen, instead of what the config says [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    listen: Option<Address>,
    /// Speak plain text beyond this machine: a mesh, or a network that is trusted, keeps others out.
    #[arg(long)]
    allow_plaintext: bool,
}

impl DoorArguments {
    /// What a config is read together with.
    pub(super) fn command_line(&self) -> CommandLine {
        CommandLine {
            listen: self.listen.clone(),
            plaintext: self.allow_plaintext.then_some(Plaintext::Allowed),
        }
    }

    /// Refuses what the command line makes of a config that is right.
    pub(super) fn judge(config: &Config) -> Result<(), Error> {
        config::refuse_exposure(config)
            .map_err(|exposed| Error::usage(exposed.to_string(), "see README.md, TLS"))
    }
}
