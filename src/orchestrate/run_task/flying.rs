//! The tries of one task that are with instances now.
//!
//! Mostly there is one, which lives where its task lives; only hedges are put on the heap.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

/// Tries on their way. Dropping it resets them at their instances.
pub(super) struct Flying<'a, F> {
    alone: Pin<&'a mut Option<F>>,
    others: Option<FuturesUnordered<F>>,
}

/// What runs beside a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing: the task is with nobody else.
    Nothing,
    /// Other tries of the task.
    Others,
}

impl<'a, F: Future> Flying<'a, F> {
    pub(super) fn new(place: Pin<&'a mut Option<F>>) -> Self {
        Self {
            alone: place,
            others: None,
        }
    }

    pub(super) fn push(&mut self, one: F) {
        if self.alone.is_none() {
            self.alone.set(Some(one));
        } else {
            self.others
                .get_or_insert_with(FuturesUnordered::new)
                .push(one);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_none() && self.others.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    /// What a further try would have beside it.
    pub(super) fn beside(&self) -> Beside {
        if self.is_empty() {
            Beside::Nothing
        } else {
            Beside::Others
        }
    }

    /// The next one that ends; never when there is none. May be dropped at any time without loss.
    pub(super) async fn next(&mut self) -> F::Output {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(alone) = self.alone.as_mut().as_pin_mut()
            && let Poll::Ready(landed) = alone.poll(context)
        {
            self.alone.set(None);
            return Poll::Ready(landed);
        }
        if let Some(others) = &mut self.others
            && let Poll::Ready(Some(landed)) = others.poll_next_unpin(context)
        {
            return Poll::Ready(landed);
        }
        Poll::Pending
    }
}
