//! An instance in a process of its own: this same test binary, started again.
//!
//! It tells on its standard output what happens to it, line by line and at once, so that nothing is lost when it is
//! killed: `listening ADDRESS`, then `began TASK` and `answered TASK` for each call, and `event` for what happens to a
//! session. A line on its standard input changes what it does: `echo`, `fail`, or `padded BYTES` (an answer of that
//! size). What it remembers of sessions dies with it.

use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_server::{Health, HealthServer};
use orchestrator::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use orchestrator::proto::instance::instance_service_server::{
    InstanceService, InstanceServiceServer,
};
use orchestrator::proto::instance::{ExecuteRequest, ExecuteResponse, SessionRequest};
use prost::Message as _;
use prost_types::Value;
use prost_types::value::Kind;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::sessions::instance::{Manner, Mind};
use crate::{sessions, talk};

/// Set in the process that is to be an instance: the address on which it listens.
pub(crate) const LISTEN: &str = "FAULTS_INSTANCE_LISTEN";

#[derive(Clone, Copy)]
enum Act {
    Echo,
    Fail,
    Padded(usize),
}

/// Serves until its process ends.
pub(crate) fn serve(listen: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.unwrap();
        say(&format!("listening {}", listener.local_addr().unwrap()));
        let act = Arc::new(Mutex::new(Act::Echo));
        let told = Arc::clone(&act);
        std::thread::spawn(move || obey(&told));
        let mind = Mind::new(format!("{}", std::process::id()));
        let sessions = sessions::instance::Instance {
            mind,
            manner: Arc::new(Manner::default),
            tell: Arc::new(|session, event| {
                if let Some(line) = talk::line(session, &event) {
                    say(&line);
                }
            }),
        };
        let service = Service { act, sessions };
        Server::builder()
            .add_service(InstanceServiceServer::new(service.clone()))
            .add_service(HealthServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
}

/// Does what it is told; without anybody to tell it anything it ends.
fn obey(act: &Mutex<Act>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let next = match line.split_once(' ') {
            None if line == "echo" => Act::Echo,
            None if line == "fail" => Act::Fail,
            Some(("padded", bytes)) => Act::Padded(bytes.parse().unwrap()),
            None | Some(_) => panic!("what is `{line}`?"),
        };
        *act.lock().unwrap() = next;
        say(&format!("now {line}"));
    }
    std::process::exit(0);
}

/// One system call a line: what was said has left the process.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[derive(Clone)]
struct Service {
    act: Arc<Mutex<Act>>,
    sessions: sessions::instance::Instance,
}

#[tonic::async_trait]
impl InstanceService for Service {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        let payload = request.into_inner().payload.unwrap_or_default();
        let task = match Value::decode(payload.clone()).unwrap().kind {
            Some(Kind::StringValue(task)) => task,
            other => return Err(Status::invalid_argument(format!("{other:?} is no task"))),
        };
        say(&format!("began {task}"));
        let act = *self.act.lock().unwrap();
        let payload = match act {
            Act::Echo => payload,
            Act::Fail => return Err(Status::unavailable("as the test wants it")),
            Act::Padded(bytes) => padded(bytes),
        };
        say(&format!("answered {task}"));
        Ok(Response::new(ExecuteResponse {
            payload: Some(payload),
        }))
    }

    type SessionStream = <sessions::instance::Instance as InstanceService>::SessionStream;

    async fn session(
        &self,
        request: Request<tonic::Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.sessions.session(request).await
    }
}

fn padded(bytes: usize) -> Bytes {
    Value::from("x".repeat(bytes)).encode_to_vec().into()
}

type Watched = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

#[tonic::async_trait]
impl Health for Service {
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

    type WatchStream = Watched;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Watched>, Status> {
        Err(Status::unimplemented(""))
    }
}
