//! A request body that must arrive in time and is weighed as it comes, so that a half-sent request neither waits
//! for ever nor fills the memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::exchange::Exchange;
use super::failure_table;
use crate::domain::failure::{Failure, Reason};

/// A body that fails once its time is over, or memory is short. Most bodies are there at once and never start a timer.
pub struct Timely<B> {
    inner: B,
    ends: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    exchange: Arc<Exchange>,
}

impl<B> Timely<B> {
    /// A body that must have arrived whole by `ends`.
    pub fn new(inner: B, ends: Instant, exchange: Arc<Exchange>) -> Self {
        Self {
            inner,
            ends: Some(ends),
            timer: None,
            exchange,
        }
    }

    /// A body that lasts as long as both sides like. Whoever takes a message out of it says so to the exchange: then
    /// it weighs nothing until more of it comes.
    pub fn without_end(inner: B, exchange: Arc<Exchange>) -> Self {
        Self {
            inner,
            ends: None,
            timer: None,
            exchange,
        }
    }

    fn break_off(&self, failure: Failure) -> Status {
        let status = failure_table::status(&failure);
        self.exchange.break_off(failure);
        status
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes, Error = Failure> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| {
                let frame = frame.map_err(|failure| self.break_off(failure))?;
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match self.exchange.weigh(bytes) {
                    Ok(()) => Ok(frame),
                    Err(full) => Err(self.break_off(full)),
                }
            }));
        }
        let Some(ends) = self.ends else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends)));
        ready!(timer.as_mut().poll(context));
        let late = Failure::new(
            Reason::DeadlineExceeded,
            "the request did not arrive whole in time",
        );
        Poll::Ready(Some(Err(self.break_off(late))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
