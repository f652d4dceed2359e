//! An instance at the level of HTTP/2, for what no gRPC server does: each stream is in the hands of the test.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use orchestrator::proto::instance::session_request::Frame as Told;
use orchestrator::proto::instance::session_response::Frame as Said;
use orchestrator::proto::instance::{SessionOpened, SessionRequest, SessionResponse};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::raw::frame::message;
use crate::raw::soon;

/// What an instance does to the whole of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// GOAWAY that lets the streams go on which are there.
    GoAway,
    /// The socket closes.
    Break,
}

/// A listening instance. Each connection takes the orders that come.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    orders: broadcast::Sender<Order>,
    streams: mpsc::Receiver<Stream>,
    accepting: JoinHandle<()>,
}

/// One stream, as it came in.
pub(crate) struct Stream {
    pub(crate) request: Request<()>,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    unread: Vec<u8>,
}

impl Peer {
    /// An instance whose streams have this window.
    pub(crate) async fn start(window: u32) -> Self {
        let mut http = server::Builder::new();
        http.initial_window_size(window);
        Self::with(http).await
    }

    /// An instance that takes so many streams on one connection.
    pub(crate) async fn with_streams(streams: u32) -> Self {
        let mut http = server::Builder::new();
        http.max_concurrent_streams(streams);
        Self::with(http).await
    }

    async fn with(http: server::Builder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let orders = broadcast::Sender::new(4);
        let given = orders.clone();
        let (tx, streams) = mpsc::channel(4096);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (http, orders, streams) = (http.clone(), given.subscribe(), tx.clone());
                connections.spawn(serve(stream, http, orders, streams));
            }
        });
        Self {
            address,
            orders,
            streams,
            accepting,
        }
    }

    /// Does this to every connection there is.
    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// The next stream that comes.
    pub(crate) async fn stream(&mut self) -> Stream {
        soon(self.streams.recv()).await.unwrap()
    }
}

async fn serve(
    stream: TcpStream,
    http: server::Builder,
    mut orders: broadcast::Receiver<Order>,
    streams: mpsc::Sender<Stream>,
) {
    let Ok(mut connection) = http.handshake(stream).await else {
        return;
    };
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (head, body) = request.into_parts();
                let stream = Stream {
                    request: Request::from_parts(head, ()),
                    body,
                    respond,
                    unread: Vec::new(),
                };
                let _ = streams.send(stream).await;
            }
            Ok(order) = orders.recv() => match order {
                Order::GoAway => connection.graceful_shutdown(),
                Order::Break => return,
            },
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream {
    /// The next frame of the session.
    pub(crate) async fn told(&mut self) -> Told {
        soon(async {
            loop {
                if let Some(prefix) = self.unread.get(1..5) {
                    let length = u32::from_be_bytes(prefix.try_into().unwrap()) as usize;
                    if 5 + length <= self.unread.len() {
                        let rest = self.unread.split_off(5 + length);
                        let whole = std::mem::replace(&mut self.unread, rest);
                        return SessionRequest::decode(&whole[5..]).unwrap().frame.unwrap();
                    }
                }
                let data = self.body.data().await.expect("more comes").unwrap();
                self.body
                    .flow_control()
                    .release_capacity(data.len())
                    .unwrap();
                self.unread.extend(data);
            }
        })
        .await
    }

    /// Begins the answer, without a message.
    pub(crate) fn headers(&mut self) -> SendStream<Bytes> {
        let response = Response::builder().header("content-type", "application/grpc");
        self.respond
            .send_response(response.body(()).unwrap(), false)
            .unwrap()
    }

    /// Reads the open and agrees to it.
    pub(crate) async fn agree(&mut self) -> SendStream<Bytes> {
        assert!(matches!(self.told().await, Told::Open(_)));
        let mut sending = self.headers();
        say(&mut sending, Said::Opened(SessionOpened::default()));
        sending
    }
}

/// Why the orchestrator has reset a stream whose answer has begun.
pub(crate) async fn reset(sending: &mut SendStream<Bytes>) -> Reason {
    soon(std::future::poll_fn(|context| sending.poll_reset(context)))
        .await
        .unwrap()
}

/// One frame of a session, as it goes over the wire.
pub(crate) fn encoded(frame: Said) -> Vec<u8> {
    message(&SessionResponse { frame: Some(frame) })
}

/// Says one frame.
pub(crate) fn say(sending: &mut SendStream<Bytes>, frame: Said) {
    sending.send_data(encoded(frame).into(), false).unwrap();
}

/// Ends the answer with a status.
pub(crate) fn end(sending: &mut SendStream<Bytes>, status: &str, detail: &str) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers.insert("grpc-message", detail.parse().unwrap());
    sending.send_trailers(trailers).unwrap();
}
