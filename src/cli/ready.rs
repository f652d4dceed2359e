//! `orchestrator ready`: whether an orchestrator takes calls. It asks without a key, as the health checks of containers
//! do.

use std::time::Duration;

use clap::Args;
use tonic::Status;

use super::arguments;
use super::connection::{Connection, block_on, guard};
use super::destination::Destination;
use super::exit::{Error, Exit};
use super::output::Output;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;

const EXAMPLES: &str = "\
Examples:
  orchestrator ready
  orchestrator ready --server https://127.0.0.1:7070 --ca ca.crt --timeout 2s
  until orchestrator ready; do sleep 1; done

It needs no key. Exit codes: 0 while calls are taken, 4 when it cannot be reached or is about to stop, 6 when it does not
answer in time; the rest: orchestrator --help";

/// `ready`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Time for the answer: 5s, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = arguments::timeout, default_value = "5s")]
    timeout: Duration,
    #[command(flatten)]
    to: Destination,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let status = block_on(ask(arguments))?;
    judge(status)?;
    Output::stdout().text("ready\n")?;
    Ok(Exit::Done)
}

async fn ask(arguments: &Arguments) -> Result<ServingStatus, Error> {
    let timeout = Some(arguments.timeout);
    let asked = async {
        let connection = Connection::without_key(&arguments.to, timeout).await?;
        let request = connection.request(HealthCheckRequest::default(), timeout);
        let answer = connection.health().check(request).await?.into_inner();
        Ok(answer.status())
    };
    guard(timeout, asked).await
}

fn judge(status: ServingStatus) -> Result<(), Error> {
    match status {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Status::unavailable("it is about to stop").into()),
        ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Err(Status::unavailable("it does not say that it serves").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_that_it_serves_is_ready() {
        let check = |status: ServingStatus| judge(status).map_err(|error| error.exit());
        assert_eq!(check(ServingStatus::Serving), Ok(()));
        for other in [
            ServingStatus::NotServing,
            ServingStatus::Unknown,
            ServingStatus::ServiceUnknown,
        ] {
            assert_eq!(check(other), Err(Exit::Unavailable), "{other:?}");
        }
    }
}
