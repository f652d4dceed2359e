//! The bounded way from the driver of a fan-out to its reader, counted in events and in bytes.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time;
use tokio_stream::Stream;

use super::Event;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::limit::{EVENT_BYTES_QUEUED_MAX, EVENTS_QUEUED_MAX, READER_STUCK_MAX};
use crate::tasks::Owned;

/// The events of one fan-out, then its failure if it has one. Dropping it ends the fan-out.
pub struct Events {
    queue: Queue,
    /// Ends the driver, and with it every leg.
    _driver: Owned,
}

/// The reader's side of the way.
pub(super) struct Queue {
    events: mpsc::Receiver<Queued>,
    verdict: Verdict,
    is_over: bool,
}

/// The driver's side of the way.
pub(super) struct Feed {
    events: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
}

/// How the call ended; read once all events are. It is set before the way is closed.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<OnceLock<Result<(), Failure>>>);

struct Queued {
    event: Event,
    _bytes: OwnedSemaphorePermit,
}

pub(super) fn channel() -> (Feed, Verdict, Queue) {
    let (tx, rx) = mpsc::channel(EVENTS_QUEUED_MAX);
    let verdict = Verdict::default();
    let feed = Feed {
        events: tx,
        bytes: Arc::new(Semaphore::new(EVENT_BYTES_QUEUED_MAX)),
    };
    let queue = Queue {
        events: rx,
        verdict: verdict.clone(),
        is_over: false,
    };
    (feed, verdict, queue)
}

impl Verdict {
    pub(super) fn set(&self, ended: Result<(), Failure>) {
        // There is one driver, which ends once.
        let _ = self.0.set(ended);
    }
}

impl Feed {
    /// Keeps the way open for as long as what comes back is held.
    pub(super) fn hold_open(&self) -> impl Sized + Send + use<> {
        self.events.clone()
    }

    /// Hands the event over, or gives it back when the reader lags behind.
    pub(super) fn try_send(&self, event: Event) -> Result<Option<Event>, Failure> {
        let Ok(bytes) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes_of(&event)) else {
            return Ok(Some(event));
        };
        match self.events.try_send(Queued {
            event,
            _bytes: bytes,
        }) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(queued)) => Ok(Some(queued.event)),
            Err(TrySendError::Closed(_)) => Err(gone()),
        }
    }

    /// Hands the event over; waits for a reader who lags behind, up to a limit.
    pub(super) fn send(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let (events, bytes) = (self.events.clone(), Arc::clone(&self.bytes));
        async move {
            let sending = async {
                let bytes = bytes
                    .acquire_many_owned(bytes_of(&event))
                    .await
                    .map_err(|_| gone())?;
                events
                    .send(Queued {
                        event,
                        _bytes: bytes,
                    })
                    .await
                    .map_err(|_| gone())
            };
            match time::timeout(READER_STUCK_MAX, sending).await {
                Ok(sent) => sent,
                Err(_elapsed) => {
                    let detail = format!("nothing was read for {} s", READER_STUCK_MAX.as_secs());
                    // Events wait for so long only where legs have brought them.
                    Err(Failure {
                        progress: Progress::MayHaveBegun,
                        ..Failure::new(Reason::SlowConsumer, detail)
                    })
                }
            }
        }
    }
}

/// Legs may have begun by then.
fn gone() -> Failure {
    Failure {
        progress: Progress::MayHaveBegun,
        ..Failure::new(Reason::CallerGone, "the caller ended the call")
    }
}

/// What an event weighs in the queue; one event always fits.
fn bytes_of(event: &Event) -> u32 {
    // Names, failure texts and tries: small, and bounded where they are made.
    const ENVELOPE: usize = 512;
    let bytes = match event {
        Event::Started(roster, _) => roster.len() * 64,
        Event::Partial(leg) => leg
            .payload
            .as_ref()
            .map_or(0, |payload| payload.encoded().len()),
        Event::Summary(summary) => {
            let payloads = summary
                .aggregate
                .iter()
                .filter_map(|leg| leg.payload.as_ref());
            payloads.map(|payload| payload.encoded().len()).sum()
        }
    };
    (ENVELOPE + bytes).min(EVENT_BYTES_QUEUED_MAX) as u32
}

impl Events {
    pub(super) fn new(queue: Queue, driver: Owned) -> Self {
        Self {
            queue,
            _driver: driver,
        }
    }
}

impl Stream for Events {
    type Item = Result<Event, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let queue = &mut self.queue;
        if queue.is_over {
            return Poll::Ready(None);
        }
        match queue.events.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(queued)) => Poll::Ready(Some(Ok(queued.event))),
            Poll::Ready(None) => {
                queue.is_over = true;
                let ended = queue.verdict.0.get().cloned();
                let broken_off = || Err(Failure::new(Reason::Internal, "the fan-out broke off"));
                Poll::Ready(ended.unwrap_or_else(broken_off).err().map(Err))
            }
        }
    }
}
