//! What a connection runs over: the socket itself, or TLS on it; and the handshake by which it gets there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Peer;
use super::keeper::{Keeper, Standing};
use crate::domain::limit::{HANDSHAKE_LINES_MAX, LINES_INTERVAL};
use crate::telemetry::lines::Lines;

/// A connection, with TLS or without.
pub(super) enum Wire<S> {
    Plain(S),
    Secure(Box<TlsStream<S>>),
}

impl<S> Wire<S> {
    /// What requests are made with here, as URLs name it.
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Secure(_) => "https",
        }
    }

    /// What the peer has shown, and was found to be good.
    pub(super) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }
}

/// TLS at the front door, for all of its connections.
pub(super) struct Handshakes {
    keeper: Arc<Keeper>,
    lines: Lines,
}

impl Handshakes {
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        Self {
            keeper,
            lines: Lines::new(HANDSHAKE_LINES_MAX, LINES_INTERVAL),
        }
    }

    /// Makes a connection secure, within so long. What keeps it from that is told here.
    pub(super) async fn shake<S>(
        &self,
        stream: S,
        peer: Peer,
        limit: Duration,
    ) -> Option<(Wire<S>, Option<Standing>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Before it is judged: what changes meanwhile is heard of afterwards.
        let since = self.keeper.now();
        let acceptor = TlsAcceptor::from(self.keeper.config());
        let what = match timeout(limit, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                let standing = chain.map(|chain| Standing::new(chain, since));
                return Some((Wire::Secure(Box::new(stream)), standing));
            }
            // Whoever only looks whether the port is open says nothing and leaves.
            Ok(Err(error)) if is_gone(&error) => {
                tracing::debug!(%peer, %error, "peer left during its tls handshake");
                return None;
            }
            Ok(Err(error)) => what_failed(&error),
            Err(_elapsed) => format!("not done within {}", humantime::format_duration(limit)),
        };
        if let Some(untold) = self.lines.next(Instant::now()) {
            tracing::warn!(%peer, what, untold, "tls handshake failed");
        }
        None
    }
}

impl Handshakes {
    /// Ends once what a peer has shown was taken back; never where it has shown nothing.
    pub(super) async fn until_denied(&self, standing: Option<Standing>) {
        match standing {
            Some(standing) => self.keeper.until_denied(standing).await,
            None => std::future::pending().await,
        }
    }

    /// Ends once what a peer has shown has expired; never where it has shown nothing.
    pub(super) async fn until_expired(&self, standing: Option<Standing>) {
        match standing {
            Some(standing) => self.keeper.until_expired(standing).await,
            None => std::future::pending().await,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
    ];
    gone.contains(&error.kind())
}

fn what_failed(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the peer does not speak TLS, or not as it should".to_owned()
        }
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }
}
