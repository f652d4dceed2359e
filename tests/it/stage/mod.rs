//! A real orchestrator in front of real instances, all on ports of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub(crate) use orchestrator::app::App;
use orchestrator::app::Outside;
use orchestrator::chance::Chance;
pub(crate) use orchestrator::config::Config;
use orchestrator::config::Planned;
use orchestrator::domain::health::{State, Thresholds};
use orchestrator::domain::id::InstanceId;
use orchestrator::fleet::ProbeSettings;
use orchestrator::fleet::view::Member;
use orchestrator::ingress::caller::Key;
use orchestrator::ingress::listener::{self, Address};
use orchestrator::instance::endpoint::{Endpoint, dial_tcp};
use orchestrator::instance::{Spec, tls};
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::store::Store;
use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Uri};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

pub(crate) mod authority;
pub(crate) mod instance;
pub(crate) mod peer;
pub(crate) mod program;

/// The one key of the stage.
pub(crate) const KEY: &str = "stage-key-7f1e";

/// A config without instances, with the key of the stage, on a port of its own.
pub(crate) fn config() -> Config {
    let mut config = Config::empty();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.keys.keys = vec![Key::with_all_rights("stage", KEY)];
    config.probe = ProbeSettings {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(1000),
        thresholds: Thresholds {
            failures_down: 2,
            successes_up: 1,
        },
    };
    config
}

/// The eight built-in instances, with the key of the stage.
pub(crate) fn embedded() -> Config {
    Config {
        instances: Config::embedded().instances,
        ..config()
    }
}

/// An instance of the config that listens there.
pub(crate) fn planned(id: &str, address: SocketAddr) -> Planned {
    Planned::Remote(Spec {
        id: InstanceId::parse(id).unwrap(),
        endpoint: Endpoint::parse(&address.to_string()).unwrap(),
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    })
}

/// Starts an orchestrator and waits until every instance has been probed.
pub(crate) async fn start(config: Config) -> App {
    let app = App::start(config).await.unwrap();
    settled(&app, |state| {
        !matches!(state, State::Unknown | State::Starting)
    })
    .await;
    app
}

/// The same, with sessions that are kept in a store of the test's own.
pub(crate) async fn start_over(config: Config, store: Arc<dyn Store>) -> App {
    let listener = listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let outside = Outside {
        address: Address::Tcp(listener.local_addr().unwrap()),
        listener,
        dial: dial_tcp(),
        chance: Chance::default(),
        wall_clock: std::time::SystemTime::now,
    };
    let app = App::start_over(outside, config, store).await.unwrap();
    settled(&app, |state| {
        !matches!(state, State::Unknown | State::Starting)
    })
    .await;
    app
}

/// Waits until the state of every instance is as wanted.
pub(crate) async fn settled(app: &App, wanted: impl Fn(State) -> bool) {
    let mut changes = app.fleet().changes();
    let all = async {
        while !app
            .fleet()
            .view()
            .members()
            .iter()
            .all(|member| wanted(member.health.state))
        {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("instances settle");
}

/// Waits until every instance but one has been probed for good.
pub(crate) async fn settled_but(app: &App, unprobed: &str) {
    let mut changes = app.fleet().changes();
    let is_settled = |member: &Arc<Member>| {
        let state = member.health.state;
        !matches!(state, State::Unknown | State::Starting) || member.id().as_str() == unprobed
    };
    let all = async {
        while !app.fleet().view().members().iter().all(is_settled) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("instances settle");
}

/// A client without any key.
pub(crate) async fn channel(address: SocketAddr) -> Channel {
    let uri: Uri = format!("http://{address}").parse().unwrap();
    Channel::builder(uri).connect().await.unwrap()
}

pub(crate) type Client = OrchestratorServiceClient<InterceptedService<Channel, Bearer>>;
pub(crate) type ClusterClient = ClusterServiceClient<InterceptedService<Channel, Bearer>>;

/// A client with the key of the stage.
pub(crate) async fn client(app: &App) -> Client {
    OrchestratorServiceClient::with_interceptor(
        channel(app.address()).await,
        Bearer(Arc::from(KEY)),
    )
    .max_decoding_message_size(16 << 20)
    .max_encoding_message_size(16 << 20)
}

/// A client of the cluster service with the key of the stage.
pub(crate) async fn cluster(app: &App) -> ClusterClient {
    ClusterServiceClient::with_interceptor(channel(app.address()).await, Bearer(Arc::from(KEY)))
}

#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) Arc<str>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// An encoded Value.
pub(crate) fn text(text: &str) -> Option<Bytes> {
    Some(prost_types::Value::from(text).encode_to_vec().into())
}

/// The reason of a failure, from its details.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map_or_else(
        || format!("no ErrorInfo: {status:?}"),
        |info| info.reason.clone(),
    )
}
