//! The network of the simulation as the program and its callers need it.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use orchestrator::ingress::listener::{Listen, Peer};
use orchestrator::instance::endpoint::{Connected, Dial};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinHandle, spawn_local};
use tonic::body::Body;
use tower::Service;
use turmoil::net::{TcpListener, TcpStream};

/// How often a caller tests its connection, and how long it waits for the answer.
const KEEPALIVE: Duration = Duration::from_millis(100);

/// The orchestrator's door.
pub(crate) struct Door(pub(crate) TcpListener);

impl Listen for Door {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((stream, Peer::Address(peer)))
    }
}

/// The orchestrator's way to its instances.
pub(crate) fn dial() -> Dial {
    Arc::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Connected>)
        })
    })
}

/// What the wall says there: time goes on while a host is down.
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + turmoil::since_epoch().expect("a host of the simulation")
}

/// A caller's connection.
#[derive(Clone)]
pub(crate) struct Wire(SendRequest<Body>);

impl Wire {
    /// Opens one; aborting the task closes it.
    pub(crate) async fn open(to: IpAddr, port: u16) -> Result<(Self, JoinHandle<()>), ()> {
        let stream = TcpStream::connect((to, port)).await.map_err(drop)?;
        Self::over(stream, KEEPALIVE).await
    }

    /// Opens one over a stream that is there, and tests it so often.
    pub(crate) async fn over<T>(
        stream: T,
        keepalive: Duration,
    ) -> Result<(Self, JoinHandle<()>), ()>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(drop)?;
        let driver = spawn_local(async move {
            // How it ends is seen by the calls on it.
            let _ = connection.await;
        });
        Ok((Self(sender), driver))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Runs what a connection spawns on its own host.
#[derive(Clone)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(async move {
            task.await;
        });
    }
}
