//! The load: callers that send the next call when the last one was answered. Bare h2, in the bench's own thread.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, client};
use http::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::Call;

/// Connections to one address, and calls that are under way on each.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) calls_each: usize,
}

/// Open connections to one address.
pub(crate) struct Connections {
    senders: Vec<SendRequest<Bytes>>,
    authority: String,
    _drivers: JoinSet<()>,
}

impl Connections {
    pub(crate) async fn open(address: SocketAddr, count: usize) -> Self {
        let mut drivers = JoinSet::new();
        let mut senders = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection): (SendRequest<Bytes>, client::Connection<_, _>) =
                Builder::new()
                    .initial_window_size(4 << 20)
                    .initial_connection_window_size(16 << 20)
                    .handshake(stream)
                    .await
                    .unwrap();
            drivers.spawn(async move {
                let _ = connection.await;
            });
            senders.push(sender);
        }
        Self {
            senders,
            authority: address.to_string(),
            _drivers: drivers,
        }
    }

    /// Another handle of the first connection.
    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.senders[0].clone()
    }

    /// Sends one call on the first connection and returns its answer once the headers are there.
    pub(crate) async fn send(&self, call: &Call) -> RecvStream {
        let request = call.request(&self.authority);
        begin(self.senders[0].clone(), request, call.message.clone()).await
    }

    /// Sends calls for so long; returns how long each took, in nanoseconds.
    pub(crate) async fn keep_busy(
        &self,
        call: &Call,
        calls_each: usize,
        time: Duration,
    ) -> Vec<u32> {
        let ends = Instant::now() + time;
        let mut callers = JoinSet::new();
        for sender in &self.senders {
            for _ in 0..calls_each {
                let (sender, message) = (sender.clone(), call.message.clone());
                let request = call.request(&self.authority);
                callers.spawn(async move {
                    let mut took = Vec::new();
                    let mut began = Instant::now();
                    while began < ends {
                        let bytes = one(sender.clone(), request.clone(), message.clone()).await;
                        // An answer that lost the payload would be a cheap one.
                        assert!(1024 < bytes, "the payload did not come back");
                        let now = Instant::now();
                        took.push((now - began).as_nanos() as u32);
                        began = now;
                    }
                    took
                });
            }
        }
        callers.join_all().await.concat()
    }
}

async fn begin(sender: SendRequest<Bytes>, request: Request<()>, message: Bytes) -> RecvStream {
    let mut sender = sender.ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(message, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        response.headers().get("grpc-status").is_none(),
        "{response:?}"
    );
    response.into_body()
}

/// Sends one call and reads its answer; returns how many bytes it had.
pub(crate) async fn one(sender: SendRequest<Bytes>, request: Request<()>, message: Bytes) -> usize {
    let mut body = begin(sender, request, message).await;
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().expect("trailers");
    assert_eq!(
        trailers.get("grpc-status").map(|status| status.as_bytes()),
        Some(&b"0"[..]),
        "{trailers:?}"
    );
    bytes
}

/// The middle of what calls took, in microseconds.
pub(crate) fn p50_us(took: &mut [u32]) -> f64 {
    let middle = took.len() / 2;
    f64::from(*took.select_nth_unstable(middle).1) / 1000.0
}
