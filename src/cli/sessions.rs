//! `orchestrator sessions list | show | close | attach`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};

use super::arguments::{self, Format, ServerArguments};
use super::connection::{Connection, block_on, guard};
use super::contract_json::Contract;
use super::destination::Destination;
use super::exit::{Error, Exit};
use super::output::Output;
use super::{session_attach, session_output};
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator sessions list
  orchestrator sessions list --state open --label team=red --instance A
  orchestrator sessions show --id session1
  orchestrator sessions close --id session1
  orchestrator sessions attach --id session1

The key, or for one session its own token, is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `sessions`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the sessions.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        call: CallArguments,
    },
    /// Show one session.
    Show {
        #[command(flatten)]
        one: One,
    },
    /// End a session for both sides.
    Close {
        #[command(flatten)]
        one: One,
    },
    /// Converse: each line of standard input is a message, each message of the instance a line of output. It comes
    /// back by itself when the connection or the server is lost.
    Attach {
        /// The session.
        #[arg(long, value_name = "ID")]
        id: String,
        #[command(flatten)]
        to: Destination,
    },
}

/// Which sessions are listed.
#[derive(Debug, Args)]
struct Filter {
    /// Only those in this state.
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<State>,
    /// Only those that this instance holds.
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
    /// Only those with this label. May be repeated: then only those with all of them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = arguments::metadata_entry)]
    label: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// They go on.
    Open,
    /// They have ended, and are not forgotten yet.
    Closed,
}

#[derive(Debug, Args)]
struct One {
    /// The session.
    #[arg(long, value_name = "ID")]
    id: String,
    #[command(flatten)]
    call: CallArguments,
}

#[derive(Debug, Args)]
struct CallArguments {
    /// Time for one call: 10s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArguments,
}

impl Arguments {
    /// How its answers are shown; a conversation is text.
    pub(super) fn format(&self) -> Format {
        match &self.what {
            What::List { call, .. } => call.server.format(),
            What::Show { one } | What::Close { one } => one.call.server.format(),
            What::Attach { .. } => Format::Table,
        }
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    match &arguments.what {
        What::List { filter, call } => {
            let sessions = block_on(list(call, filter.request()))?;
            show(&sessions, Many::Several, call)
        }
        What::Show { one } => {
            let session = block_on(get(one))?;
            show(&[session], Many::One, &one.call)
        }
        What::Close { one } => {
            let session = block_on(close(one))?;
            show(&[session], Many::One, &one.call)
        }
        What::Attach { id, to } => block_on(session_attach::converse(id, to)),
    }
}

enum Many {
    One,
    Several,
}

fn show(sessions: &[proto::Session], many: Many, call: &CallArguments) -> Result<Exit, Error> {
    let mut output = Output::stdout();
    let contract = Contract::read()?;
    let documents = sessions.iter();
    let documents = documents.map(|session| contract.document("Session", session));
    let mut documents = documents.collect::<Result<Vec<_>, _>>()?.into_iter();
    match (call.server.format(), many) {
        (Format::Table, _) => {
            output.text(&session_output::table(sessions, SystemTime::now()))?;
        }
        (Format::Json, Many::Several) => output.json(&documents.collect::<Vec<_>>())?,
        (Format::Json, Many::One) => {
            documents.try_for_each(|document| output.json(&document))?;
        }
        (Format::Jsonl, _) => documents.try_for_each(|document| output.jsonl(&document))?,
    }
    Ok(Exit::Done)
}

impl Filter {
    fn request(&self) -> proto::SessionListRequest {
        let state = match self.state {
            None => proto::SessionState::Unspecified,
            Some(State::Open) => proto::SessionState::Open,
            Some(State::Closed) => proto::SessionState::Closed,
        };
        proto::SessionListRequest {
            state: state.into(),
            instance: self.instance.clone().unwrap_or_default(),
            labels: self.label.iter().cloned().collect(),
            ..proto::SessionListRequest::default()
        }
    }
}

async fn list(
    call: &CallArguments,
    asked: proto::SessionListRequest,
) -> Result<Vec<proto::Session>, Error> {
    let timeout = Some(call.timeout);
    let connection = Connection::open(&call.server.to, timeout).await?;
    let mut client = connection.orchestrator();
    let (mut sessions, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::SessionListRequest {
            page_token,
            ..asked.clone()
        };
        let request = connection.request(request, timeout);
        let page = async { Ok(client.session_list(request).await?.into_inner()) };
        let page = guard(timeout, page).await?;
        sessions.extend(page.sessions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(sessions);
        }
    }
}

async fn get(one: &One) -> Result<proto::Session, Error> {
    let timeout = Some(one.call.timeout);
    let connection = Connection::open(&one.call.server.to, timeout).await?;
    let mut client = connection.orchestrator();
    let session_id = one.id.clone();
    let request = connection.request(proto::SessionGetRequest { session_id }, timeout);
    let got = async { Ok(client.session_get(request).await?.into_inner()) };
    Ok(guard(timeout, got).await?.session.unwrap_or_default())
}

async fn close(one: &One) -> Result<proto::Session, Error> {
    let timeout = Some(one.call.timeout);
    let connection = Connection::open(&one.call.server.to, timeout).await?;
    let mut client = connection.orchestrator();
    let session_id = one.id.clone();
    let request = connection.request(proto::SessionCloseRequest { session_id }, timeout);
    let closed = async { Ok(client.session_close(request).await?.into_inner()) };
    Ok(guard(timeout, closed).await?.session.unwrap_or_default())
}
