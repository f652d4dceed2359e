//! The journal behind its own door: an orchestrator in a process of its own, and for each writer a session that is
//! attached. A message counts once its acknowledgement has come; its instance takes it and says nothing.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_server::{Health, HealthServer};
use orchestrator::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use orchestrator::proto::instance::instance_service_server::{
    InstanceService, InstanceServiceServer,
};
use orchestrator::proto::instance::session_request::Frame as Told;
use orchestrator::proto::instance::session_response::Frame as Said;
use orchestrator::proto::instance::{
    ExecuteRequest, ExecuteResponse, SessionAck as Taken, SessionOpened, SessionRequest,
    SessionResponse,
};
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::session_send_request::Frame as Out;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::{
    SessionClientData, SessionHello, SessionSendRequest, SessionSendResponse, SessionSpawnRequest,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::{CONNECTIONS, PAYLOAD_BYTES, Round, WRITERS, load};

const KEY: &str = "bench";
/// How many messages the instance acknowledges at once, as for the journal alone.
const ACK_EVERY: u64 = 16;
/// How long the instance may take to be found healthy.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(25);

/// An orchestrator that ends with this.
struct House(Child);

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One round.
pub(crate) async fn round(disk: &Path) -> Round {
    let directory = tempfile::tempdir_in(disk).unwrap();
    let (instance, serving) = instance().await;
    let (house, address) = house(directory.path(), instance);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.tcp_nodelay(true);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(endpoint.connect().await.unwrap());
    }
    let mut writers = Vec::new();
    for at in 0..WRITERS {
        let channel = channels[at % CONNECTIONS].clone();
        let attached = Arc::new(Mutex::new(attach(channel, format!("s{at}")).await));
        writers.push(move || write(Arc::clone(&attached)));
    }
    let round = load(writers).await;
    drop(house);
    serving.abort();
    round
}

fn house(directory: &Path, instance: SocketAddr) -> (House, SocketAddr) {
    let config = directory.join("orchestrator.json");
    let named = format!(r#"{{"instances": [{{"id": "A", "address": "{instance}"}}]}}"#);
    std::fs::write(&config, named).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .args(["serve", "--log", "off", "--listen", "127.0.0.1:0"])
        .arg("--config")
        .arg(config)
        .arg("--data-dir")
        .arg(directory)
        .env("ORCHESTRATOR_API_KEY", KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let told = child.stdout.take().unwrap();
    BufReader::new(told).read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = started["listening"].as_str().unwrap().parse().unwrap();
    (House(child), address)
}

fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {KEY}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// A stream of a session, and how far it is.
struct Attached {
    to: mpsc::Sender<SessionSendRequest>,
    from: Streaming<SessionSendResponse>,
    payload: Bytes,
    seq: u64,
}

async fn attach(channel: Channel, session_id: String) -> Attached {
    let mut client = OrchestratorServiceClient::new(channel);
    for tried in 0.. {
        let spawn = authorized(SessionSpawnRequest {
            session_id: session_id.clone(),
            ..SessionSpawnRequest::default()
        });
        match client.session_spawn(spawn).await {
            Ok(_) => break,
            // The instance was not looked at yet.
            Err(_) if tried < TRIES => tokio::time::sleep(PAUSE).await,
            Err(status) => panic!("{status}"),
        }
    }
    let (to, outgoing) = mpsc::channel(4);
    let hello = SessionHello {
        session_id,
        last_received_seq: None,
    };
    to.try_send(frame(Out::Hello(hello))).unwrap();
    let answers = client.session_send(authorized(ReceiverStream::new(outgoing)));
    let mut from = answers.await.unwrap().into_inner();
    let ready = from.message().await.unwrap().and_then(|first| first.frame);
    assert!(matches!(ready, Some(In::Ready(_))), "{ready:?}");
    // A tag and a length come before the text.
    let text = prost_types::Value::from("x".repeat(PAYLOAD_BYTES - 3));
    Attached {
        to,
        from,
        payload: text.encode_to_vec().into(),
        seq: 0,
    }
}

fn frame(frame: Out) -> SessionSendRequest {
    SessionSendRequest { frame: Some(frame) }
}

/// Sends one message and waits until it is safe.
async fn write(attached: Arc<Mutex<Attached>>) {
    let mut attached = attached.lock().await;
    attached.seq += 1;
    let (seq, payload) = (attached.seq, attached.payload.clone());
    let data = frame(Out::Data(SessionClientData {
        seq,
        payload: Some(payload),
        in_reply_to: 0,
    }));
    attached.to.send(data).await.unwrap();
    loop {
        let heard = attached.from.message().await.unwrap().expect("it goes on");
        match heard.frame {
            Some(In::Ack(ack)) if ack.seq == seq => return,
            Some(In::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Starts the instance of all sessions, in this process.
async fn instance() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let serving = Server::builder()
            .tcp_nodelay(true)
            .add_service(InstanceServiceServer::new(Taker))
            .add_service(HealthServer::new(Taker))
            .serve_with_incoming(TcpListenerStream::new(listener));
        serving.await.unwrap();
    });
    (address, serving)
}

/// Takes every message and answers none.
struct Taker;

type Says = Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

fn say(frame: Said) -> Option<Result<SessionResponse, Status>> {
    Some(Ok(SessionResponse { frame: Some(frame) }))
}

#[tonic::async_trait]
impl InstanceService for Taker {
    async fn execute(
        &self,
        _: Request<ExecuteRequest>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    type SessionStream = Says;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Says>, Status> {
        let said = request.into_inner().filter_map(|told| match told {
            Ok(SessionRequest {
                frame: Some(Told::Open(_)),
            }) => say(Said::Opened(SessionOpened::default())),
            Ok(SessionRequest {
                frame: Some(Told::Data(data)),
            }) if data.seq.is_multiple_of(ACK_EVERY) => say(Said::Ack(Taken { through: data.seq })),
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(Box::pin(said)))
    }
}

#[tonic::async_trait]
impl Health for Taker {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
