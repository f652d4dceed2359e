//! Every limit of the front door holds, against peers that keep to nothing; and a peer that meets one does
//! no harm to the others.

use bytes::Bytes;
use orchestrator::app::App;
use orchestrator::ingress::listener::Limits;
use orchestrator::proto::orchestrator::RouteRequest;
use tokio::sync::watch;

use crate::raw::frame::{self, Frame};
use crate::stage::instance::{Act, Instance};
use crate::stage::{self, Config, KEY, client, config, planned, start, text};

mod connection;
mod key;
mod live;
mod message;
mod stream;
mod timeout;

const ROUTE: &str = "/openclaw.orchestrator.v1.OrchestratorService/Route";
const FANOUT: &str = "/openclaw.orchestrator.v1.OrchestratorService/Fanout";

/// An orchestrator with three instances: `echo` answers at once, `held` once it is let go, `silent` never.
struct House {
    app: App,
    config: Config,
    echo: Instance,
    held: Instance,
    silent: Instance,
    let_go: watch::Sender<bool>,
}

impl House {
    async fn with(limits: Limits) -> Self {
        let (let_go, gate) = watch::channel(false);
        let echo = Instance::start(Act::Echo).await;
        let held = Instance::start(Act::EchoOnce(gate)).await;
        let silent = Instance::start(Act::Silent).await;
        let config = Config {
            instances: vec![
                planned("echo", echo.address),
                planned("held", held.address),
                planned("silent", silent.address),
            ],
            limits,
            ..config()
        };
        let app = start(config.clone()).await;
        Self {
            app,
            config,
            echo,
            held,
            silent,
            let_go,
        }
    }

    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    fn address(&self) -> std::net::SocketAddr {
        self.app.address()
    }

    /// Somebody else comes, on a connection of their own, and is served.
    async fn serves_others(&self) {
        let answer = client(&self.app)
            .await
            .route(route("echo", text("still here")))
            .await;
        let answer = answer.expect("others are served").into_inner();
        assert_eq!(answer.payload, text("still here"));
    }
}

fn route(instance: &str, payload: Option<Bytes>) -> RouteRequest {
    RouteRequest {
        instances: vec![instance.into()],
        payload,
        ..Default::default()
    }
}

/// The headers of a Route that has ten minutes.
fn route_fields(bearer: &str) -> [(&str, &str); 8] {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", ROUTE),
        (":authority", "house"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "10M"),
        ("authorization", bearer),
    ]
}

fn bearer() -> String {
    format!("Bearer {KEY}")
}

/// The headers of a Route, with its body still to come.
fn opened(stream: u32) -> Frame {
    frame::headers(stream, &route_fields(&bearer()), 0)
}

/// A whole Route.
fn call(stream: u32, instance: &str) -> [Frame; 2] {
    let message = frame::message(&route(instance, stage::text("task")));
    [
        opened(stream),
        frame::data(stream, &message, frame::END_STREAM),
    ]
}

/// The streams that a client opens, in order.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| index * 2 + 1)
}
