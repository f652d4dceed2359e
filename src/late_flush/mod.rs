//! A stream that gathers small writes and lets them out one turn of the scheduler after they were flushed.
//!
//! HTTP/2 flushes after each call's frames. What other ready tasks have to say in the same turn then leaves in
//! the same system call, which is most of what a proxied call costs.
//!
//! ```text
//! write ──▶ waiting ──flush: due, and the task wakes itself──▶ next read, shutdown or full: out
//! ```
//!
//! A connection on which waiting gathers nothing, because it has one call at a time, is let out at once; now and
//! then it is tried again.
//!
//! `poll_flush` is ready at once, so this fits only a protocol that reads whenever its task is woken and shuts
//! the stream down before it drops it, as HTTP/2 does. A peer that does not read fills what may wait, and then
//! writes are pending as they would be on the stream itself.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait before writes go no further.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// A write of so many bytes is worth a system call of its own.
const LARGE_WRITE_BYTES: usize = 32 * 1024;
/// Room for a few frames; given back whenever nothing waits, so that an idle connection holds none.
const ROOM_BYTES: usize = 8 * 1024;
/// Rooms that a thread keeps for the connection that writes next.
const SPARE_ROOMS_MAX: usize = 4;
/// After so many waits in vain, flushes are let out at once.
const IN_VAIN_MAX: u8 = 4;
/// Then every so manyth flush waits again.
const TRIED_AGAIN_EVERY: u8 = 8;

thread_local! {
    /// Given back last, taken first: that one is still in the processor's cache, and has grown to what is usual.
    static SPARE_ROOMS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A stream whose flushes come late.
#[derive(Debug)]
pub struct LateFlush<S> {
    stream: S,
    mode: Mode,
    waiting: Vec<u8>,
    /// How much of `waiting` is out already.
    out: usize,
    /// Whether what waits was flushed, and leaves with the next turn.
    is_due: bool,
    /// Length of `waiting` when it became due.
    due_bytes: usize,
    /// Waits in a row that gathered nothing, and flushes let out at once since the last wait.
    in_vain: u8,
    at_once: u8,
    /// Whether there was a flush since the last read: another one means that there is something to gather.
    has_flushed: bool,
    /// Kept back until what the peer has said is read: it may be the reason.
    broken: Option<io::Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AtOnce,
    Late,
}

impl<S> LateFlush<S> {
    /// Every flush comes late.
    pub fn new(stream: S) -> Self {
        Self {
            mode: Mode::Late,
            ..Self::at_once(stream)
        }
    }

    /// Passes everything through until `begin`.
    pub fn at_once(stream: S) -> Self {
        Self {
            stream,
            mode: Mode::AtOnce,
            waiting: Vec::new(),
            out: 0,
            is_due: false,
            due_bytes: 0,
            in_vain: 0,
            at_once: 0,
            has_flushed: false,
            broken: None,
        }
    }

    /// From now on flushes come late.
    pub fn begin(&mut self) {
        self.mode = Mode::Late;
    }
}

impl<S: AsyncWrite + Unpin> LateFlush<S> {
    /// Lets out everything that waits.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out < self.waiting.len() {
            let written =
                ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting[self.out..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out += written;
        }
        give_back(std::mem::take(&mut self.waiting));
        self.out = 0;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.is_due = false;
        Poll::Ready(Ok(()))
    }

    /// Whether the flush that comes now is better put off.
    fn is_worth_a_wait(&mut self) -> bool {
        if self.has_flushed {
            self.in_vain = 0;
        }
        self.has_flushed = true;
        if self.in_vain < IN_VAIN_MAX {
            return true;
        }
        self.at_once = (self.at_once + 1) % TRIED_AGAIN_EVERY;
        self.at_once == 0
    }

    fn learn(&mut self) {
        self.in_vain = if self.due_bytes < self.waiting.len() {
            0
        } else {
            self.in_vain.saturating_add(1)
        };
    }

    fn take_broken(&mut self) -> io::Result<()> {
        self.broken.take().map_or(Ok(()), Err)
    }
}

fn spare_room() -> Vec<u8> {
    let spare = SPARE_ROOMS.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

fn give_back(mut room: Vec<u8>) {
    if room.capacity() == 0 || WAITING_BYTES_MAX < room.capacity() {
        return;
    }
    room.clear();
    // At the end of a thread there is nobody to keep it for.
    let _ = SPARE_ROOMS.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_ROOMS_MAX {
            spare.push(room);
        }
    });
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LateFlush<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.has_flushed = false;
        if self.is_due && self.broken.is_none() {
            if self.out == 0 {
                self.learn();
            }
            if let Poll::Ready(Err(error)) = self.drain(context) {
                self.broken = Some(error);
            }
        }
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => match self.broken.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LateFlush<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.take_broken()?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if self.mode == Mode::Late {
            if WAITING_BYTES_MAX < self.waiting.len() - self.out + bytes && !self.waiting.is_empty()
            {
                ready!(self.drain(context))?;
            }
            if bytes < LARGE_WRITE_BYTES || !self.waiting.is_empty() {
                if self.waiting.capacity() == 0 {
                    self.waiting = spare_room();
                    self.waiting.reserve(ROOM_BYTES.max(bytes));
                }
                for part in parts {
                    self.waiting.extend_from_slice(part);
                }
                return Poll::Ready(Ok(bytes));
            }
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.take_broken()?;
        if self.waiting.is_empty() {
            return Pin::new(&mut self.stream).poll_flush(context);
        }
        if self.is_due {
            return Poll::Ready(Ok(()));
        }
        if !self.is_worth_a_wait() {
            return self.drain(context);
        }
        self.is_due = true;
        self.due_bytes = self.waiting.len();
        context.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.take_broken()?;
        ready!(self.drain(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
