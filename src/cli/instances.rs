//! `orchestrator instances`: the fleet, page by page.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::arguments::{self, Format, ServerArguments};
use super::connection::{Connection, block_on, guard};
use super::exit::{Error, Exit};
use super::json_output;
use super::output::{Look, Output};
use super::table;
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator instances
  orchestrator instances --output json
  orchestrator instances --output jsonl | jq -r .id

The key is read from ORCHESTRATOR_API_KEY. Exit codes: orchestrator --help";

/// `instances`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Time for one page: 10s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, allow_hyphen_values = true, default_value = "10s")]
    timeout: Duration,
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
    let format = arguments.server.format();
    let mut output = Output::stdout();
    let fleet = block_on(list(arguments, |page| match format {
        Format::Jsonl => documents(page).try_for_each(|instance| output.jsonl(&instance)),
        Format::Table | Format::Json => Ok(()),
    }))?;
    match format {
        Format::Table => {
            output.text(&table::instances(&fleet, Look::detect(), SystemTime::now()))?;
        }
        Format::Json => output.json(&documents(&fleet).collect::<Vec<_>>())?,
        Format::Jsonl => {}
    }
    Ok(Exit::Done)
}

fn documents(listed: &[proto::ListedInstance]) -> impl Iterator<Item = json_output::Instance<'_>> {
    let named = listed
        .iter()
        .filter_map(|listed| Some((listed, listed.instance.as_ref()?)));
    named.map(|(listed, instance)| json_output::instance(listed, instance))
}

async fn list(
    arguments: &Arguments,
    mut page_arrived: impl FnMut(&[proto::ListedInstance]) -> Result<(), Error>,
) -> Result<Vec<proto::ListedInstance>, Error> {
    let timeout = Some(arguments.timeout);
    let connection = Connection::open(&arguments.server.to, timeout).await?;
    let mut client = connection.cluster();
    let (mut fleet, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::ListInstancesRequest {
            page_size: 0,
            page_token: page_token.clone(),
        };
        let request = connection.request(request, timeout);
        let call = async { Ok(client.list_instances(request).await?.into_inner()) };
        let page = guard(timeout, call).await?;
        page_arrived(&page.instances)?;
        fleet.extend(page.instances);
        match next(&page_token, page.next_page_token)? {
            Some(token) => page_token = token,
            None => return Ok(fleet),
        }
    }
}

/// The token of the page after this one; a server that names the same page again would be asked for ever.
fn next(asked: &str, named: String) -> Result<Option<String>, Error> {
    if named.is_empty() {
        Ok(None)
    } else if named == asked {
        Err(Error::Answer(
            "the server names the same page again and again".to_owned(),
        ))
    } else {
        Ok(Some(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn the_listing_ends_with_the_last_page() {
        assert_eq!(next("", String::new()).unwrap(), None);
        assert_eq!(next("", "M".to_owned()).unwrap().as_deref(), Some("M"));
        assert!(next("M", "M".to_owned()).is_err());
    }

    #[test]
    fn an_entry_without_an_instance_is_no_instance() {
        let nameless = proto::ListedInstance::default();
        assert_eq!(documents(&[nameless, samples::listed()]).count(), 1);
    }
}
