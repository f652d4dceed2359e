//! A connection that breaks at a byte.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// How many bytes still pass; without limit as long as it is not set.
#[derive(Clone, Default)]
pub(super) struct Shears {
    pub(super) reads: Rc<Cell<Option<usize>>>,
    pub(super) writes: Rc<Cell<Option<usize>>>,
}

/// A stream under shears.
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) shears: Shears,
}

fn is_cut(left: &Cell<Option<usize>>) -> bool {
    left.get() == Some(0)
}

fn cut() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if is_cut(&self.shears.reads) || is_cut(&self.shears.writes) {
            return Poll::Ready(Err(cut()));
        }
        let Some(left) = self.shears.reads.get() else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        let mut bytes = vec![0; left.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut part);
        buffer.put_slice(part.filled());
        self.shears.reads.set(Some(left - part.filled().len()));
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_cut(&self.shears.writes) {
            return Poll::Ready(Err(cut()));
        }
        let left = self.shears.writes.get();
        let bytes = &bytes[..left.unwrap_or(bytes.len()).min(bytes.len())];
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let (Some(left), Poll::Ready(Ok(count))) = (left, &written) {
            self.shears.writes.set(Some(left - count));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
