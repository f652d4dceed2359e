//! `orchestrator demo`: the whole job in about eleven seconds, told so that a person understands what happened.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::net::TcpListener;
use tokio::time;

use super::connection::{Connection, block_on};
use super::destination::Destination;
use super::exit::{Error, Exit};
use super::output::{Look, Output};
use super::{demo_session, table};
use crate::app::App;
use crate::config::{self, Builtin, Config, Planned};
use crate::domain::health::{State, Thresholds};
use crate::fleet::ProbeSettings;
use crate::ingress::caller::Key;
use crate::ingress::listener::Address;
use crate::instance::endpoint::Endpoint;
use crate::instance::{Spec, tls};
use crate::payload_json;
use crate::proto::orchestrator as proto;

const EXAMPLES: &str = "\
Examples:
  orchestrator demo

It needs no key and no other program, uses free ports on loopback, and is gone when it ends.";

/// `demo`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {}

const PAYLOAD: &str = r#"{"data": "task"}"#;
const TIMEOUT: Duration = Duration::from_secs(1);
/// How late C is: well beyond the deadline of the fan-out.
const SLOW: Duration = Duration::from_secs(3);
/// Instances are on this machine; they are known long before this.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// Runs the command.
pub(super) fn run(_: &Arguments) -> Result<Exit, Error> {
    block_on(async {
        let key = config::make_key();
        // Holds the instance that a session will outlive.
        let other = start(alone(demo_session::HOLDER)).await?;
        let app = start(config(&key, &other).await?).await?;
        let told = tell(&app, key, other).await;
        app.stop().await;
        told.map(|()| Exit::Done)
    })
}

async fn start(config: Config) -> Result<App, Error> {
    let started = App::start(config).await;
    started.map_err(|error| Error::Start(error.to_string()))
}

/// One built-in instance, in an orchestrator of its own that can be stopped before the other.
fn alone(id: &str) -> Config {
    let mut config = Config::embedded();
    config.listen = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    config.keys.keys = vec![Key::with_all_rights("demo", &config::make_key())];
    config.shutdown.grace = Duration::ZERO;
    config.instances.retain(|planned| match planned {
        Planned::Builtin(builtin) => builtin.id.as_str() == id,
        Planned::Remote(_) => false,
    });
    config
}

/// The embedded fleet, but C is slow, and nobody is where F should be.
async fn config(key: &str, other: &App) -> Result<Config, Error> {
    let mut config = Config::embedded();
    config.listen = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    config.keys.keys = vec![Key::with_all_rights("demo", key)];
    config.probe = ProbeSettings {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        thresholds: Thresholds {
            failures_down: 3,
            successes_up: 2,
        },
    };
    config.shutdown.grace = Duration::from_secs(1);
    for planned in &mut config.instances {
        let Planned::Builtin(builtin) = planned else {
            continue;
        };
        match builtin.id.as_str() {
            "C" => builtin.behaviour.delay = SLOW,
            "F" => *planned = elsewhere(builtin, nobody_there().await?),
            demo_session::HOLDER => {
                let view = other.fleet().view();
                let there = view.find(&builtin.id).map(|member| &member.spec);
                let there =
                    there.ok_or_else(|| Error::Start("the holder is not there".to_owned()))?;
                *planned = elsewhere(builtin, there.endpoint.clone());
            }
            _ => {}
        }
    }
    Ok(config)
}

/// The same instance, there.
fn elsewhere(builtin: &Builtin, endpoint: Endpoint) -> Planned {
    Planned::Remote(Spec {
        id: builtin.id.clone(),
        endpoint,
        labels: builtin.labels.clone(),
        weight: builtin.weight,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    })
}

/// A port that was free a moment ago.
async fn nobody_there() -> Result<Endpoint, Error> {
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    Endpoint::parse(&address.to_string()).map_err(|bad| Error::Start(bad.to_string()))
}

async fn tell(app: &App, key: String, other: App) -> Result<(), Error> {
    let (mut output, look) = (Output::stdout(), Look::detect());
    let server = app.address().to_string();
    output.text(&format!(
        "A fleet of eight instances, A to H, behind an orchestrator on {server}.\n\
         C needs {} for each task, and nobody listens where F should be.\n\n",
        humantime::format_duration(SLOW),
    ))?;
    settled(app).await?;
    let connection =
        Connection::open_with(Some(key), &Destination::plain(&server), Some(TIMEOUT)).await?;

    output.text(&format!("1. Route: one task for A or B, whichever has less to do.\n   orchestrator route --instances A B --payload '{PAYLOAD}'\n\n"))?;
    let routed = route(&connection).await?;
    output.text(&indented(&table::route(&routed, look)))?;

    output.text(&format!(
        "\n2. Fanout: the same task for all eight, within one second; every target gets exactly one outcome.\n   \
         orchestrator fanout --targets A-H --payload '{PAYLOAD}' --timeout 1s\n\n"
    ))?;
    let fanned = fan_out(&connection).await?;
    let partials: Vec<_> = fanned.partials.iter().collect();
    output.text(&indented(&table::fanout(
        &fanned.roster,
        &partials,
        fanned.summary.as_ref(),
        look,
    )))?;
    output.text(&indented(&story(&fanned)))?;

    output.text(
        "\n3. Health: who is well, and why not.\n   orchestrator health --instances A-H\n\n",
    )?;
    let health = health(&connection).await?;
    output.text(&indented(&table::health(&health, look, SystemTime::now())))?;

    output.text(
        "\n4. Session: a conversation with G, which is killed in the middle of it.\n   \
         orchestrator sessions_spawn --id demo --instances G H --loss-policy replay\n   \
         orchestrator sessions_send --id demo --data '\"one\"'\n\n",
    )?;
    output.text(&indented(&demo_session::tell(&connection, other).await?))?;
    output.text("\nNext: `orchestrator serve` keeps such a fleet running and prints the commands to use it.\n")
}

/// Until every instance has been probed often enough to be known.
async fn settled(app: &App) -> Result<(), Error> {
    let mut changes = app.fleet().changes();
    let known = || {
        app.fleet()
            .view()
            .members()
            .iter()
            .all(|member| !matches!(member.health.state, State::Unknown | State::Starting))
    };
    let settled = async { while !known() && changes.changed().await.is_ok() {} };
    time::timeout(SETTLE_MAX, settled)
        .await
        .map_err(|_| Error::Start("the built-in instances do not answer".to_owned()))
}

fn payload() -> Result<Option<bytes::Bytes>, Error> {
    let payload = payload_json::from_json(PAYLOAD).map_err(|bad| Error::Answer(bad.to_string()))?;
    Ok(Some(payload.into_encoded()))
}

async fn route(connection: &Connection) -> Result<proto::RouteResponse, Error> {
    let request = proto::RouteRequest {
        instances: vec!["A".to_owned(), "B".to_owned()],
        payload: payload()?,
        ..proto::RouteRequest::default()
    };
    Ok(connection
        .orchestrator()
        .route(connection.request(request, Some(TIMEOUT)))
        .await?
        .into_inner())
}

#[derive(Default)]
struct FannedOut {
    roster: Vec<String>,
    partials: Vec<proto::Partial>,
    summary: Option<proto::Summary>,
}

async fn fan_out(connection: &Connection) -> Result<FannedOut, Error> {
    use proto::fanout_response::Event;
    let request = proto::FanoutRequest {
        targets: vec!["A-H".to_owned()],
        payload: payload()?,
        ..proto::FanoutRequest::default()
    };
    let request = connection.request(request, Some(TIMEOUT));
    let mut events = connection
        .orchestrator()
        .fanout(request)
        .await?
        .into_inner();
    let mut fanned = FannedOut::default();
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Started(started)) => fanned.roster = started.roster,
            Some(Event::Partial(partial)) => fanned.partials.push(partial),
            Some(Event::Summary(summary)) => fanned.summary = Some(summary),
            None => {}
        }
    }
    Ok(fanned)
}

/// In which order the outcomes came, which the table does not show.
fn story(fanned: &FannedOut) -> String {
    let order: Vec<_> = fanned
        .partials
        .iter()
        .map(|partial| partial.instance.as_str())
        .collect();
    format!(
        "They came in this order: {}. C's call was reset when time ran out; F was not even asked.\n",
        order.join(" ")
    )
}

async fn health(connection: &Connection) -> Result<Vec<proto::InstanceHealth>, Error> {
    let request = proto::HealthRequest {
        instances: vec!["A-H".to_owned()],
    };
    let answer = connection
        .orchestrator()
        .health(connection.request(request, Some(TIMEOUT)))
        .await?;
    Ok(answer.into_inner().instances)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
