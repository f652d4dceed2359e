//! The stream on which an instance tells how it is by itself, where it has one: opened when it answers, opened
//! again when it breaks, and not asked for again where there is none.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::view::Member;
use crate::domain::failure::{Failure, Reason, Status};
use crate::instance::{Pending, Serving};

/// Until a stream that broke is opened again; doubled each time.
const REOPEN_FIRST: Duration = Duration::from_secs(1);
/// The longest of these waits.
const REOPEN_MAX: Duration = Duration::from_secs(60);
/// A stream that lasted so long has not failed from the start.
const LASTED: Duration = Duration::from_secs(60);

/// What came of following.
#[derive(Debug)]
pub(super) enum Event {
    /// The instance tells that it has changed.
    Told(Serving),
    /// The stream is over.
    Broken(Failure),
}

/// The stream, when there is one.
#[derive(Default)]
pub(super) struct Following {
    stream: Option<Stream>,
    breaks: u32,
    /// Not before; never while the instance has said that it has no such stream.
    reopen: Reopen,
}

#[derive(Default)]
enum Reopen {
    #[default]
    Now,
    At(Instant),
    Never,
}

struct Stream {
    watching: Pending<Failure>,
    /// How many messages have come, and the latest.
    told: watch::Receiver<(u64, Serving)>,
    opened: Instant,
}

impl Following {
    /// Opens the stream unless it is open, or has been refused.
    pub(super) fn open(&mut self, member: &Member, now: Instant) {
        let is_time = match self.reopen {
            Reopen::Now => true,
            Reopen::At(then) => then <= now,
            Reopen::Never => false,
        };
        if self.stream.is_some() || !is_time {
            return;
        }
        let (tx, told) = watch::channel((0, Serving::NotSaid));
        let hear =
            move |serving| tx.send_modify(|(count, said)| (*count, *said) = (*count + 1, serving));
        self.stream = Some(Stream {
            watching: member.client.watch(Box::new(hear)),
            told,
            opened: now,
        });
    }

    /// Lets go of the stream. Another process may answer at the address next, so everything is open again.
    pub(super) fn close(&mut self) {
        self.stream = None;
        if let Reopen::Never = self.reopen {
            self.reopen = Reopen::Now;
        }
    }

    /// What the instance tells next; never without a stream. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let Some(stream) = &mut self.stream else {
                return std::future::pending().await;
            };
            let failure = tokio::select! {
                // In this order: what was told before the end still counts.
                biased;
                Ok(()) = stream.told.changed() => {
                    let (count, serving) = *stream.told.borrow_and_update();
                    // The first message says what a probe has just said, unless it says otherwise.
                    if count == 1 && serving == Serving::Yes {
                        continue;
                    }
                    return Event::Told(serving);
                }
                failure = &mut stream.watching => failure,
            };
            let lasted = stream.opened.elapsed();
            self.stream = None;
            if failure.reason == Reason::InstanceFailed(Status::Unimplemented) {
                self.reopen = Reopen::Never;
                continue;
            }
            self.breaks = if LASTED <= lasted { 0 } else { self.breaks + 1 };
            let wait = REOPEN_FIRST.saturating_mul(1 << self.breaks.min(6));
            self.reopen = Reopen::At(Instant::now() + wait.min(REOPEN_MAX));
            return Event::Broken(failure);
        }
    }
}
