//! The built-in echo fleet: instances that answer with what they were sent, for a first look and for tests.
//!
//! They are real gRPC servers on loopback ports of their own; the orchestrator reaches them like any other.
//! They can be asked to misbehave, by config for all calls or, in one call, by an object under the key
//! `_builtin` in the payload: `{"_builtin": {"delay": "200ms", "fail": "UNAVAILABLE", "silent": true}}`. A message
//! of a session may also ask for its end: `{"_builtin": {"close": "DONE"}}`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{self, Instant};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use crate::domain::failure;
use crate::domain::limit::{LINK_STREAM_WINDOW, MESSAGE_BYTES_MAX, WINDOW_MAX};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::{Health, HealthServer};
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use crate::proto::instance::instance_service_server::{InstanceService, InstanceServiceServer};
use crate::proto::instance::{ExecuteRequest, ExecuteResponse, SessionRequest, SessionResponse};
use crate::tasks::Tasks;

mod asked;
mod session;

use asked::Asked;
use session::{Sessions, Taking};

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
    start_until(behaviour, tasks, tasks.stopping()).await
}

/// As `start`; it takes no more connections once `over` fires. Those it has go on.
pub async fn start_until(
    behaviour: Behaviour,
    tasks: &Tasks,
    over: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let echo = Echo {
        behaviour,
        started: Instant::now(),
        sessions: Arc::default(),
    };
    let tasks_inner = tasks.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => tasks_inner.spawn(serve(stream, echo.clone(), tasks_inner.clone())),
                    // Out of descriptors, most likely: give others time to close some.
                    Err(_) => time::sleep(Duration::from_millis(50)).await,
                },
                () = over.cancelled() => return,
            }
        }
    });
    Ok(address)
}

/// Concurrent calls of one connection. All their windows together are within what HTTP/2 can say.
const STREAMS_MAX: u32 = 1024;
const _: () = assert!((STREAMS_MAX as u64 * LINK_STREAM_WINDOW as u64) <= WINDOW_MAX);

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
        .max_concurrent_streams(STREAMS_MAX)
        // No session that is not read takes the window of another.
        .initial_stream_window_size(LINK_STREAM_WINDOW)
        .initial_connection_window_size(STREAMS_MAX * LINK_STREAM_WINDOW)
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
    sessions: Arc<Sessions>,
}

impl Echo {
    fn is_flapped_off(&self, flap: Option<Duration>) -> bool {
        flap.is_some_and(|period| {
            let period = period.max(Duration::from_millis(1)).as_nanos();
            (self.started.elapsed().as_nanos() / period) % 2 == 1
        })
    }

    /// Whether it serves is a matter of the instance, unless a payload asks for phases of its own.
    fn refuse_flapped_off(&self, asked: Option<Duration>) -> Result<(), Status> {
        if self.is_flapped_off(asked.or(self.behaviour.flap)) {
            let what = "built-in instance is in its refusing phase";
            return Err(Status::unavailable(what));
        }
        Ok(())
    }

    /// What a payload asks for, and else how this instance is.
    fn asked(&self, payload: Option<&Bytes>) -> Result<Asked, Status> {
        let asked = payload.map(asked::read).transpose();
        let asked = asked.map_err(Status::invalid_argument)?.flatten();
        Ok(asked.unwrap_or(Asked {
            behaviour: self.behaviour,
            close: None,
        }))
    }

    /// Waits until it serves after it did not, or the other way round.
    async fn next_phase(&self) {
        let Some(period) = self.behaviour.flap else {
            return std::future::pending().await;
        };
        let period = period.max(Duration::from_millis(1));
        let phase = self.started.elapsed().as_nanos() / period.as_nanos() + 1;
        let phase = u32::try_from(phase).unwrap_or(u32::MAX);
        time::sleep_until(self.started + period.saturating_mul(phase)).await;
    }

    fn serving(&self) -> HealthCheckResponse {
        let status = if self.is_flapped_off(self.behaviour.flap) {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

fn as_asked(status: failure::Status) -> Status {
    Status::new(
        Code::from_i32(status.number().into()),
        "built-in instance was asked to fail",
    )
}

#[tonic::async_trait]
impl InstanceService for Echo {
    async fn execute(
        &self,
        request: tonic::Request<ExecuteRequest>,
    ) -> Result<tonic::Response<ExecuteResponse>, Status> {
        let payload = request.into_inner().payload;
        let asked = self.asked(payload.as_ref())?;
        if asked.close.is_some() {
            return Err(Status::invalid_argument(
                "only a message of a session may ask for its end",
            ));
        }
        let asked = asked.behaviour;
        if asked.silent {
            return std::future::pending().await;
        }
        if !asked.delay.is_zero() {
            time::sleep(asked.delay).await;
        }
        self.refuse_flapped_off(asked.flap)?;
        match asked.fail {
            Some(status) => Err(as_asked(status)),
            None => Ok(tonic::Response::new(ExecuteResponse { payload })),
        }
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: tonic::Request<tonic::Streaming<SessionRequest>>,
    ) -> Result<tonic::Response<Self::SessionStream>, Status> {
        if self.behaviour.silent {
            return std::future::pending().await;
        }
        self.refuse_flapped_off(None)?;
        if let Some(status) = self.behaviour.fail {
            return Err(as_asked(status));
        }
        let taking = Taking::open(self.clone(), request.into_inner()).await?;
        Ok(tonic::Response::new(Box::pin(taking.answers())))
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
        if self.behaviour.silent {
            return std::future::pending().await;
        }
        let rest = futures_util::stream::unfold(self.clone(), |echo| async move {
            echo.next_phase().await;
            Some((Ok(echo.serving()), echo))
        });
        let stream = tokio_stream::once(Ok(self.serving())).chain(rest);
        Ok(tonic::Response::new(Box::pin(stream)))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::value::Kind;

    use super::*;

    fn object(key: &str, value: Kind) -> Kind {
        let value = prost_types::Value { kind: Some(value) };
        let fields = [(key.to_owned(), value)].into();
        Kind::StructValue(prost_types::Struct { fields })
    }

    #[tokio::test(start_paused = true)]
    async fn phases_that_a_payload_asks_for_are_those_of_its_call_alone() {
        let echo = Echo {
            behaviour: Behaviour::default(),
            started: Instant::now(),
            sessions: Arc::default(),
        };
        let flap = object("flap", Kind::StringValue("1s".to_owned()));
        let kind = Some(object("_builtin", flap));
        let asks: Bytes = prost_types::Value { kind }.encode_to_vec().into();
        let serves = async |payload: Option<Bytes>| {
            let request = tonic::Request::new(ExecuteRequest { payload });
            echo.execute(request).await.map(drop)
        };
        for _ in 0..2 {
            serves(Some(asks.clone())).await.unwrap();
            time::advance(Duration::from_secs(1)).await;
            let refused = serves(Some(asks.clone())).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            serves(None).await.unwrap();
            assert_eq!(echo.serving().status(), ServingStatus::Serving);
            time::advance(Duration::from_secs(1)).await;
        }
    }
}
