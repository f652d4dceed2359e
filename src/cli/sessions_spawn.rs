//! `orchestrator sessions_spawn`: begins a session.

use std::collections::HashMap;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::arguments::{self, Format, Selection, ServerArguments};
use super::connection::{Connection, block_on, guard, timeout_field};
use super::contract_json::Contract;
use super::exit::{Error, Exit};
use super::output::Output;
use super::session_output;
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator sessions_spawn --id session1
  orchestrator sessions_spawn --id session1 --instances A-D --loss-policy reassign --idle-ttl 1h
  orchestrator sessions_spawn --instances A-D --selection hash --hash-key customer-7
  orchestrator sessions_spawn --idempotency-key order-17 --output json

It prints the session's token once; the token, in ORCHESTRATOR_API_KEY, is good for this session's own calls.
The key is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `sessions_spawn`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Its name; made when absent.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Which instances may hold it: ids, ranges or lists; the whole fleet unless given.
    #[arg(long, num_args = 1.., value_name = "INSTANCE")]
    instances: Vec<String>,
    /// How one of them is chosen: the one with the fewest sessions, of two drawn at random, unless given.
    #[arg(long, value_enum, value_name = "HOW")]
    selection: Option<Selection>,
    /// What always selects the same instance; goes with --selection hash.
    #[arg(long, value_name = "KEY")]
    hash_key: Option<String>,
    /// What becomes of it when its instance is lost: it fails unless given.
    #[arg(long, value_enum, value_name = "POLICY")]
    loss_policy: Option<LossPolicy>,
    /// How long it lasts while nobody is attached and nothing is said: 5m unless given.
    #[arg(long, value_name = "TIME", value_parser = arguments::ttl, allow_hyphen_values = true)]
    idle_ttl: Option<Duration>,
    /// How long it lasts at most.
    #[arg(long, value_name = "TIME", value_parser = arguments::ttl, allow_hyphen_values = true)]
    lifetime: Option<Duration>,
    /// Keep its messages in memory only.
    #[arg(long)]
    not_durable: bool,
    /// Free words about it. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = arguments::metadata_entry)]
    label: Vec<(String, String)>,
    /// Repeating the command with the same one brings the same session, with a fresh token.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Time for the call.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LossPolicy {
    /// The session ends.
    Fail,
    /// Another instance gets what was not acknowledged.
    Reassign,
    /// Another instance gets the whole conversation again.
    Replay,
}

impl Arguments {
    /// How its answers are shown.
    pub(super) fn format(&self) -> Format {
        self.server.format()
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let request = request(arguments)?;
    let timeout = Some(arguments.timeout);
    let spawned = block_on(async {
        let connection = Connection::open(&arguments.server.to, timeout).await?;
        let mut client = connection.orchestrator();
        let request = connection.request(request, timeout);
        let call = async { Ok(client.session_spawn(request).await?.into_inner()) };
        guard(timeout, call).await
    })?;
    let (mut output, contract) = (Output::stdout(), Contract::read()?);
    match arguments.server.format() {
        Format::Table => output.text(&session_output::spawned(&spawned))?,
        Format::Json => output.json(&session_output::Spawned::of(&contract, &spawned)?)?,
        Format::Jsonl => output.jsonl(&session_output::Spawned::of(&contract, &spawned)?)?,
    }
    Ok(Exit::Done)
}

fn request(arguments: &Arguments) -> Result<proto::SessionSpawnRequest, Error> {
    let loss_policy = match arguments.loss_policy {
        None => proto::LossPolicy::Unspecified,
        Some(LossPolicy::Fail) => proto::LossPolicy::Fail,
        Some(LossPolicy::Reassign) => proto::LossPolicy::Reassign,
        Some(LossPolicy::Replay) => proto::LossPolicy::Replay,
    };
    let durability = if arguments.not_durable {
        proto::Durability::None
    } else {
        proto::Durability::Unspecified
    };
    let selection = arguments.selection.map(Selection::to_proto);
    let labels: HashMap<_, _> = arguments.label.iter().cloned().collect();
    Ok(proto::SessionSpawnRequest {
        session_id: arguments.id.clone().unwrap_or_default(),
        instances: arguments.instances.clone(),
        selection: selection.unwrap_or_default().into(),
        hash_key: arguments.hash_key.clone().unwrap_or_default(),
        idle_ttl: timeout_field(arguments.idle_ttl)?,
        lifetime: timeout_field(arguments.lifetime)?,
        loss_policy: loss_policy.into(),
        durability: durability.into(),
        labels,
        idempotency_key: arguments.idempotency_key.clone().unwrap_or_default(),
    })
}
