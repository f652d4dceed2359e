//! A request body that must arrive in time, so that a half-sent request does not wait for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::failure_table;
use crate::domain::failure::{Failure, Reason};

/// A body that fails once its time is over. Most bodies are there at once and never start a timer.
pub struct Timely<B> {
    inner: B,
    ends: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Timely<B> {
    /// A body that must have arrived whole by `ends`.
    pub fn new(inner: B, ends: Instant) -> Self {
        Self {
            inner,
            ends: Some(ends),
            timer: None,
        }
    }

    /// A body that lasts as long as both sides like.
    pub fn without_end(inner: B) -> Self {
        Self {
            inner,
            ends: None,
            timer: None,
        }
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| cut_off(&error))));
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
        Poll::Ready(Some(Err(failure_table::status(&late))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn cut_off(error: &impl std::fmt::Display) -> Status {
    let failure = Failure::new(
        Reason::CallerGone,
        format!("the request was cut off: {error}"),
    );
    failure_table::status(&failure)
}
