//! How a connection to the server is opened, and whether it has spoken.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tower::{Service, ServiceExt as _};

use crate::instance::tls::Connector;

/// Through what the calls travel.
#[derive(Clone)]
pub(super) enum Way {
    Tcp,
    Tls(Connector),
    Unix(PathBuf),
}

/// Opens connections.
#[derive(Clone)]
pub(super) struct Dial {
    way: Way,
    tcp: HttpConnector,
    heard: Arc<Notify>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that tells when the other side has said its first word, or has left.
pub(super) struct Heard {
    stream: Box<dyn Stream>,
    untold: Option<Arc<Notify>>,
}

impl Dial {
    pub(super) fn new(way: Way) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let heard = Arc::default();
        Self { way, tcp, heard }
    }

    /// Told once the server has spoken.
    pub(super) fn heard(&self) -> Arc<Notify> {
        Arc::clone(&self.heard)
    }

    async fn open(self, to: Uri) -> io::Result<TokioIo<Heard>> {
        let stream: Box<dyn Stream> = match self.way {
            Way::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Way::Tcp => Box::new(tcp(self.tcp, to).await?),
            Way::Tls(with) => {
                let stream = tcp(self.tcp, to).await?;
                let shaken = with.connector.connect(with.name, stream).await;
                Box::new(shaken.map_err(named_if_plain)?)
            }
        };
        let untold = Some(self.heard);
        Ok(TokioIo::new(Heard { stream, untold }))
    }
}

async fn tcp(connector: HttpConnector, to: Uri) -> io::Result<tokio::net::TcpStream> {
    let connected = connector.oneshot(to).await.map_err(io::Error::other)?;
    Ok(connected.into_inner())
}

/// A server in plain text answers a handshake with words of its own, which TLS calls corrupt.
fn named_if_plain(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            io::Error::other("the port speaks no TLS, most likely: write http:// instead")
        }
        Some(_) | None => error,
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Heard>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().open(to))
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_ready()
            && let Some(heard) = self.untold.take()
        {
            heard.notify_one();
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
