//! Opens a connection, on which either HTTP/1.1 or HTTP/2 is spoken then.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;

use super::Body;
use super::heard::heard;
use crate::domain::limit::{
    CONNECT_TIMEOUT, HEADER_LIST_BYTES_MAX, LINK_CONNECTION_WINDOW, LINK_KEEPALIVE_INTERVAL,
    LINK_KEEPALIVE_TIMEOUT, LINK_STREAM_WINDOW,
};
use crate::instance::Pending;
use crate::instance::endpoint::{Connected, Dial, Endpoint};
use crate::instance::tls::Connector;
use crate::tasks::Tasks;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// One call at a time.
    Http1,
    /// Many calls at once.
    Http2,
}

/// An open connection, and what drives it until it ends.
pub(super) enum Opened {
    Http1(http1::SendRequest<Body>, Pending<()>),
    Http2(Http2, Pending<()>),
}

/// A connection that many calls share.
#[derive(Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Body>,
    /// Calls that the peer takes at once, as it said last.
    pub(super) room: Arc<AtomicUsize>,
}

/// Connects, in a time that is bounded.
pub(super) async fn open(
    endpoint: &Endpoint,
    dial: &Dial,
    secure: Option<&Connector>,
    tasks: &Tasks,
) -> io::Result<Opened> {
    let opened = async {
        let stream = endpoint.connect(dial).await?;
        let Some(secure) = secure else {
            return http1(stream).await;
        };
        let name = secure.name.clone();
        let stream = secure.connector.connect(name, stream).await?;
        // Who does not choose speaks what everybody speaks.
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if is_http2 {
            http2(stream, tasks).await
        } else {
            http1(stream).await
        }
    };
    time::timeout(CONNECT_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_elapsed| {
            let seconds = CONNECT_TIMEOUT.as_secs();
            Err(io::Error::other(format!("no answer within {seconds} s")))
        })
}

async fn http1(stream: impl Connected + 'static) -> io::Result<Opened> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_LIST_BYTES_MAX as usize);
    let shaken = builder.handshake::<_, Body>(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    Ok(Opened::Http1(sender, Box::pin(ended(connection))))
}

async fn http2(stream: impl Connected + 'static, tasks: &Tasks) -> io::Result<Opened> {
    let mut builder = http2::Builder::new(tasks.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(LINK_STREAM_WINDOW)
        .initial_connection_window_size(LINK_CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(200)
        .max_local_error_reset_streams(1024)
        .keep_alive_interval(LINK_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(LINK_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let (stream, heard) = heard(stream);
    let shaken = builder.handshake::<_, Body>(TokioIo::new(stream)).await;
    let (sender, mut connection) = shaken.map_err(io::Error::other)?;
    // Its SETTINGS come first (RFC 9113, 3.4). Over TLS 1.3 it says only now that it does not trust us.
    heard
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))?;
    let room = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let told = Arc::clone(&room);
    let drive = std::future::poll_fn(move |context| {
        let polled = Pin::new(&mut connection).poll(context);
        told.store(connection.current_max_send_streams(), Ordering::Relaxed);
        polled
    });
    Ok(Opened::Http2(
        Http2 { sender, room },
        Box::pin(ended(drive)),
    ))
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to instance ended");
    }
}
