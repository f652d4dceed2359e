//! `orchestrator sessions_send`: one message to a session, and its reply.

use std::time::Duration;

use clap::Args;

use super::arguments::{self, Format, ServerArguments};
use super::connection::{Connection, block_on, guard, timeout_field};
use super::contract_json::Contract;
use super::exit::{Error, Exit};
use super::output::Output;
use super::{payload_source, session_output};
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator sessions_send --id session1 --data '{\"key\": \"value\"}'
  orchestrator sessions_send --id session1 --data @message.json --no-wait
  orchestrator sessions_send --id session1 --data '\"pay\"' --idempotency-key order-17

It neither attaches to the session nor disturbs whoever is attached. The key, or the session's own token, is read \
from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `sessions_send`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The session.
    #[arg(long, value_name = "ID")]
    id: String,
    /// The message: JSON, @FILE, or - for standard input. null when absent.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    data: Option<String>,
    /// The number of the instance's message that this one replies to.
    #[arg(
        long,
        value_name = "SEQ",
        default_value_t = 0,
        hide_default_value = true
    )]
    in_reply_to: u64,
    /// Do not wait for the reply: answer once the message is safe.
    #[arg(long)]
    no_wait: bool,
    /// Repeating the command with the same one sends nothing more and brings the same reply.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Time to wait: 10s, 1m30s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    #[command(flatten)]
    server: ServerArguments,
}

impl Arguments {
    /// How its answers are shown.
    pub(super) fn format(&self) -> Format {
        self.server.format()
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let data = arguments.data.as_deref();
    let payload = data.map(|typed| payload_source::read(typed, std::io::stdin()));
    let request = proto::SessionPostRequest {
        session_id: arguments.id.clone(),
        payload: payload.transpose()?,
        idempotency_key: arguments.idempotency_key.clone().unwrap_or_default(),
        no_wait: arguments.no_wait,
        timeout: timeout_field(arguments.timeout)?,
        in_reply_to: arguments.in_reply_to,
    };
    let timeout = arguments.timeout;
    let posted = block_on(async {
        let connection = Connection::open(&arguments.server.to, timeout).await?;
        let mut client = connection.orchestrator();
        let request = connection.request(request, timeout);
        let call = async { Ok(client.session_post(request).await?.into_inner()) };
        guard(timeout, call).await
    })?;
    let (mut output, contract) = (Output::stdout(), Contract::read()?);
    let document = contract.document("SessionPostResponse", &posted)?;
    match arguments.server.format() {
        Format::Table => output.text(&session_output::posted(&posted)?)?,
        Format::Json => output.json(&document)?,
        Format::Jsonl => output.jsonl(&document)?,
    }
    Ok(Exit::Done)
}
