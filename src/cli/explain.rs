//! `--explain` of route and fanout: what the call would do, without doing it.

use std::time::Duration;

use super::arguments::{Format, ServerArguments};
use super::connection::{Connection, block_on, guard};
use super::exit::{Error, Exit};
use super::output::{Look, Output};
use super::{json_output, table};
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::explain_request::Call;

/// Time for the question itself: the call's own time is part of what is asked about.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks and shows.
pub(super) fn run(call: Call, server: &ServerArguments) -> Result<Exit, Error> {
    let response = block_on(async {
        let connection = Connection::open(&server.to, Some(TIMEOUT)).await?;
        let mut client = connection.orchestrator();
        let request = proto::ExplainRequest { call: Some(call) };
        // Without a deadline in its header: that would count as one of the call.
        let request = connection.request(request, None);
        let call = async { Ok(client.explain(request).await?.into_inner()) };
        guard(Some(TIMEOUT), call).await
    })?;
    let mut output = Output::stdout();
    match server.format() {
        Format::Table => output.text(&table::explain(&response, Look::detect()))?,
        Format::Json => output.json(&json_output::explain(&response))?,
        Format::Jsonl => output.jsonl(&json_output::explain(&response))?,
    }
    Ok(Exit::Done)
}
