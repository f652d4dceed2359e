//! Role: instances that answer with what they were sent, each on a port of its own, all in one thread.
//!
//! Bare h2, so that they cost little. A request and its answer have the same bytes: field 1 is the payload. Sessions
//! are taken and kept, and nothing is said in them.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{process, sessions};

/// `HealthCheckResponse { status: SERVING }`, with its prefix.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

/// Serves on as many ports as asked.
pub(crate) fn run(arguments: &[String]) {
    let count: usize = arguments[0].parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut instances = JoinSet::new();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            instances.spawn(accept(listener));
        }
        process::tell(&addresses);
        while instances.join_next().await.is_some() {}
    });
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        connections.spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) {
    let built = Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(1000)
        .handshake(stream);
    let Ok(mut connection) = built.await else {
        return;
    };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(async move {
            // A caller that goes away is no event here.
            let _ = answer(request, respond).await;
        });
        while calls.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    if request.uri().path() == "/openclaw.instance.v1.InstanceService/Session" {
        return sessions::converse(request.into_body(), respond).await;
    }
    let is_health = request.uri().path().starts_with("/grpc.health.");
    let message = read(request.into_body()).await?;
    let message = if is_health {
        Bytes::from_static(SERVING)
    } else {
        message
    };
    let mut head = Response::new(());
    head.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let mut stream: SendStream<Bytes> = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// A body that comes in one piece is not copied.
pub(crate) async fn read(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    Ok([first, rest.freeze()].concat().into())
}
