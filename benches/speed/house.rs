//! Role: the orchestrator.

use std::time::Duration;

use orchestrator::app::App;
use orchestrator::config::{Config, Journal, Planned};
use orchestrator::domain::health::State;
use orchestrator::domain::id::InstanceId;
use orchestrator::fleet::ProbeSettings;
use orchestrator::ingress::caller::Key;
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Spec, tls};
use orchestrator::telemetry::{self, metric};
use tokio::runtime;

use crate::call::KEY;
use crate::{observed, process, sessions};

/// Serves in the runtime in which the command line runs it.
pub(crate) fn run(arguments: &[String]) {
    serve(
        runtime::Builder::new_multi_thread(),
        arguments,
        Config::empty(),
    );
}

/// Serves in one thread: what the runtime itself costs is the difference.
pub(crate) fn run_in_one_thread(arguments: &[String]) {
    serve(
        runtime::Builder::new_current_thread(),
        arguments,
        Config::empty(),
    );
}

/// The same for many sessions, with a journal in the folder that is named first.
pub(crate) fn run_with_sessions(arguments: &[String]) {
    let (journal, instances) = arguments.split_first().unwrap();
    let mut config = Config::empty();
    config.journal = Journal::Folder(journal.into());
    config.limits.streams = sessions::STREAMS_EACH as u32;
    serve(runtime::Builder::new_current_thread(), instances, config);
}

/// The same with metrics, a log and traces, of which the first two arguments say where they go and how many there are.
pub(crate) fn run_observed(arguments: &[String]) {
    let [endpoint, ratio, instances @ ..] = arguments else {
        panic!("where, and how many");
    };
    let mut config = Config::empty();
    config.traces = observed::traces(endpoint, ratio);
    telemetry::start("info", telemetry::Format::Json, telemetry::Colours::Never).unwrap();
    config.operators = Some("127.0.0.1:0".parse().unwrap());
    serve(runtime::Builder::new_current_thread(), instances, config);
}

/// Serves with the instances that the arguments name: `ID=ADDRESS`.
fn serve(mut runtime: runtime::Builder, arguments: &[String], mut config: Config) {
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.keys.keys = vec![Key::with_all_rights("bench", KEY)];
    // Probes of a thousand instances would be counted as the CPU of legs.
    config.probe = ProbeSettings {
        interval: Duration::from_secs(600),
        ..ProbeSettings::default()
    };
    config.instances = arguments
        .iter()
        .map(|argument| instance(argument))
        .collect();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let operators = config.operators;
        let exposition = operators.map(|_| metric::start().unwrap());
        let app = App::start(config).await.unwrap();
        if let (Some(address), Some(exposition)) = (operators, exposition) {
            app.show_operators(address, exposition).await.unwrap();
        }
        probed(&app).await;
        process::tell(&[app.address()]);
        app.run_until(std::future::pending()).await;
    });
}

fn instance(argument: &str) -> Planned {
    let (id, address) = argument.split_once('=').unwrap();
    Planned::Remote(Spec {
        id: InstanceId::parse(id).unwrap(),
        endpoint: Endpoint::parse(address).unwrap(),
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    })
}

/// Every instance has a connection once its first probe was answered.
async fn probed(app: &App) {
    let mut changes = app.fleet().changes();
    let all_well = || {
        let view = app.fleet().view();
        let mut members = view.members().iter();
        members.all(|member| member.health.state == State::Healthy)
    };
    while !all_well() {
        changes.changed().await.unwrap();
    }
}
