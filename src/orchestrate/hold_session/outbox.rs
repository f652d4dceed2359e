//! What waits for a client to read it: bounded, and without memory while nothing waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_stream::Stream;

use super::frame::ServerFrame;
use crate::domain::failure::Failure;
use crate::domain::limit::{SESSION_FRAME_BYTES_QUEUED_MAX, SESSION_FRAMES_QUEUED_MAX};

#[derive(Default)]
struct Queue {
    frames: VecDeque<ServerFrame>,
    bytes: usize,
    /// How the stream ends once the frames have been read.
    end: Option<Result<(), Failure>>,
    reader_is_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared = Arc<Mutex<Queue>>;

/// Where the session puts what its client should read.
pub(super) struct Outbox(Shared);

/// What the client reads. Dropping it detaches the client.
pub struct Outgoing(Shared);

/// What a session can learn of its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// There is room for one more frame.
    HasRoom,
    /// It has left.
    Gone,
}

/// Whether the session has something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// It has.
    Room,
    /// It only wants to know when the reader leaves.
    Nothing,
}

/// The two ends of an empty queue.
pub(super) fn outbox() -> (Outbox, Outgoing) {
    let shared = Shared::default();
    (Outbox(Arc::clone(&shared)), Outgoing(shared))
}

fn lock(shared: &Shared) -> MutexGuard<'_, Queue> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(frame: &ServerFrame) -> usize {
    match frame {
        ServerFrame::Data { payload, .. } => payload.encoded().len(),
        ServerFrame::Ready(_)
        | ServerFrame::Ack { .. }
        | ServerFrame::Moved { .. }
        | ServerFrame::Lost { .. }
        | ServerFrame::GoAway { .. }
        | ServerFrame::Closed { .. } => 0,
    }
}

impl Outbox {
    /// Whether one more message should wait.
    pub(super) fn has_room(&self) -> bool {
        let queue = lock(&self.0);
        has_room(&queue)
    }

    /// Adds a frame, room or not: what is not a message is small, and comes seldom.
    pub(super) fn push(&self, frame: ServerFrame) {
        let mut queue = lock(&self.0);
        if queue.end.is_some() || queue.reader_is_gone {
            return;
        }
        queue.bytes += size(&frame);
        // The latest acknowledgement says all that an older one does.
        if let (ServerFrame::Ack { .. }, Some(ServerFrame::Ack { .. })) =
            (&frame, queue.frames.back())
        {
            queue.frames.pop_back();
        }
        queue.frames.push_back(frame);
        wake(queue.reader.take());
    }

    /// Ends the stream once everything before was read.
    pub(super) fn end(&self, how: Result<(), Failure>) {
        let mut queue = lock(&self.0);
        queue.end.get_or_insert(how);
        wake(queue.reader.take());
    }

    /// Waits for the reader.
    pub(super) fn poll(&self, want: Want, context: &mut Context<'_>) -> Poll<Reader> {
        let mut queue = lock(&self.0);
        if queue.reader_is_gone {
            return Poll::Ready(Reader::Gone);
        }
        if want == Want::Room && has_room(&queue) {
            return Poll::Ready(Reader::HasRoom);
        }
        queue.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

fn has_room(queue: &Queue) -> bool {
    queue.frames.len() < SESSION_FRAMES_QUEUED_MAX && queue.bytes < SESSION_FRAME_BYTES_QUEUED_MAX
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // An end that was not given is an end all the same.
        self.end(Ok(()));
    }
}

impl Stream for Outgoing {
    type Item = Result<ServerFrame, Failure>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ServerFrame, Failure>>> {
        let mut queue = lock(&self.0);
        if let Some(frame) = queue.frames.pop_front() {
            queue.bytes -= size(&frame);
            if queue.frames.is_empty() {
                // Most sessions say nothing most of the time.
                queue.frames = VecDeque::new();
            }
            wake(queue.writer.take());
            return Poll::Ready(Some(Ok(frame)));
        }
        match queue.end.take() {
            Some(Err(failure)) => {
                queue.end = Some(Ok(()));
                Poll::Ready(Some(Err(failure)))
            }
            Some(Ok(())) => {
                queue.end = Some(Ok(()));
                Poll::Ready(None)
            }
            None => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.reader_is_gone = true;
        queue.frames = VecDeque::new();
        wake(queue.writer.take());
    }
}
