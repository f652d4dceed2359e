//! A stream that tells when the other side is heard for the first time, or why it never was.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::instance::endpoint::Connected;

/// The stream.
pub(super) struct Heard<S> {
    stream: S,
    tell: Option<oneshot::Sender<io::Result<()>>>,
}

/// The same stream, and what tells.
pub(super) fn heard<S: Connected>(stream: S) -> (Heard<S>, oneshot::Receiver<io::Result<()>>) {
    let (tell, told) = oneshot::channel();
    let tell = Some(tell);
    (Heard { stream, tell }, told)
}

impl<S: Connected> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        if let Some(tell) = self.tell.take() {
            let first = match &read {
                Ok(()) if into.filled().len() == before => {
                    Err(io::Error::other("the connection was closed at once"))
                }
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // Nobody may wait for it any more.
            let _ = tell.send(first);
        }
        Poll::Ready(read)
    }
}

impl<S: Connected> AsyncWrite for Heard<S> {
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
}
