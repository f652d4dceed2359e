//! The built-in echo fleet: instances that answer with what they were sent, for a first look and for tests.
//!
//! They are real gRPC servers on loopback ports of their own; the orchestrator reaches them like any other.
//! They can be asked to misbehave, by config for all calls or, in one call, by an object under the key
//! `_builtin` in the payload: `{"_builtin": {"delay": "200ms", "fail": "UNAVAILABLE", "silent": true}}`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use prost_types::value::Kind;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{self, Instant};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use crate::domain::failure;
use crate::domain::limit::MESSAGE_BYTES_MAX;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::{Health, HealthServer};
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use crate::proto::instance::instance_service_server::{InstanceService, InstanceServiceServer};
use crate::proto::instance::{ExecuteRequest, ExecuteResponse, SessionRequest, SessionResponse};
use crate::tasks::Tasks;

/// The key under which a payload asks for misbehaviour.
const ASK_KEY: &str = "_builtin";

/// How a built-in instance behaves; it echoes at once by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// Answer this much later.
    pub delay: Duration,
    /// Answer with this status instead.
    pub fail: Option<failure::Status>,
    /// Take calls and never answer them, probes included.
    pub silent: bool,
    /// Serve for this long, then refuse for as long, and so on.
    pub flap: Option<Duration>,
}

/// Starts a built-in instance; returns where it listens. It lives as long as `tasks`.
pub async fn start(behaviour: Behaviour, tasks: &Tasks) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let echo = Echo {
        behaviour,
        started: Instant::now(),
    };
    let (stop, tasks_inner) = (tasks.stopping(), tasks.clone());
    tasks.spawn(async move {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => tasks_inner.spawn(serve(stream, echo.clone(), tasks_inner.clone())),
                    // Out of descriptors, most likely: give others time to close some.
                    Err(_) => time::sleep(Duration::from_millis(50)).await,
                },
                () = stop.cancelled() => return,
            }
        }
    });
    Ok(address)
}

async fn serve(stream: TcpStream, echo: Echo, tasks: Tasks) {
    // Only latency suffers without it.
    let _ = stream.set_nodelay(true);
    let instance = InstanceServiceServer::new(echo.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX + 1024);
    let health = HealthServer::new(echo);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut instance, mut health) = (instance.clone(), health.clone());
        async move {
            let request = request.map(Body::new);
            if request.uri().path().starts_with("/grpc.health.v1.Health/") {
                health.call(request).await
            } else {
                instance.call(request).await
            }
        }
    });
    let stop = tasks.stopping();
    let connection = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away is no event here.
        _ = connection => {}
        () = stop.cancelled() => {}
    }
}

#[derive(Clone)]
struct Echo {
    behaviour: Behaviour,
    started: Instant,
}

impl Echo {
    fn is_flapped_off(&self) -> bool {
        self.behaviour.flap.is_some_and(|period| {
            let period = period.max(Duration::from_millis(1)).as_nanos();
            (self.started.elapsed().as_nanos() / period) % 2 == 1
        })
    }

    fn serving(&self) -> HealthCheckResponse {
        let status = if self.is_flapped_off() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

#[tonic::async_trait]
impl InstanceService for Echo {
    async fn execute(
        &self,
        request: tonic::Request<ExecuteRequest>,
    ) -> Result<tonic::Response<ExecuteResponse>, Status> {
        let payload = request.into_inner().payload;
        let asked = match &payload {
            Some(payload) => asked(payload)
                .map_err(Status::invalid_argument)?
                .unwrap_or(self.behaviour),
            None => self.behaviour,
        };
        if asked.silent {
            return std::future::pending().await;
        }
        if !asked.delay.is_zero() {
            time::sleep(asked.delay).await;
        }
        if self.is_flapped_off() {
            return Err(Status::unavailable(
                "built-in instance is in its refusing phase",
            ));
        }
        match asked.fail {
            Some(status) => Err(Status::new(
                Code::from_i32(status.number().into()),
                "built-in instance was asked to fail",
            )),
            None => Ok(tonic::Response::new(ExecuteResponse { payload })),
        }
    }

    type SessionStream = tokio_stream::Empty<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        _: tonic::Request<tonic::Streaming<SessionRequest>>,
    ) -> Result<tonic::Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("no sessions yet"))
    }
}

type Watched = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Echo {
    async fn check(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if self.behaviour.silent {
            return std::future::pending().await;
        }
        Ok(tonic::Response::new(self.serving()))
    }

    async fn list(
        &self,
        _: tonic::Request<HealthListRequest>,
    ) -> Result<tonic::Response<HealthListResponse>, Status> {
        let statuses = [(String::new(), self.serving())].into();
        Ok(tonic::Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Watched;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Watched>, Status> {
        Err(Status::unimplemented("built-in instances answer Check"))
    }
}

/// What the payload asks for, when it does.
fn asked(payload: &Bytes) -> Result<Option<Behaviour>, String> {
    // Nearly every payload asks for nothing, and need not be decoded.
    if !payload
        .windows(ASK_KEY.len())
        .any(|window| window == ASK_KEY.as_bytes())
    {
        return Ok(None);
    }
    let Ok(prost_types::Value {
        kind: Some(Kind::StructValue(mut fields)),
    }) = prost_types::Value::decode(payload.clone())
    else {
        return Ok(None);
    };
    let Some(Kind::StructValue(asked)) = fields.fields.remove(ASK_KEY).and_then(|asked| asked.kind)
    else {
        return Ok(None);
    };
    let mut behaviour = Behaviour::default();
    for (key, value) in asked.fields {
        // Not the key: it is payload.
        let wrong =
            || format!("{ASK_KEY} takes delay \"200ms\", fail \"UNAVAILABLE\" or silent true");
        match (key.as_str(), value.kind) {
            ("delay", Some(Kind::StringValue(text))) => {
                behaviour.delay = humantime::parse_duration(&text).map_err(|_| wrong())?;
            }
            ("fail", Some(Kind::StringValue(name))) => {
                behaviour.fail = Some(failure::Status::from_name(&name).ok_or_else(wrong)?);
            }
            ("silent", Some(Kind::BoolValue(silent))) => behaviour.silent = silent,
            _ => return Err(wrong()),
        }
    }
    Ok(Some(behaviour))
}
