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
    /// How often in a row it broke before it had lasted.
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

    /// Lets go of the stream. Another process may answer at the address next, so nothing is held against it.
    pub(super) fn close(&mut self) {
        *self = Self::default();
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
            let before = if LASTED <= lasted { 0 } else { self.breaks };
            let wait = REOPEN_FIRST.saturating_mul(1 << before.min(6));
            self.breaks = before + 1;
            self.reopen = Reopen::At(Instant::now() + wait.min(REOPEN_MAX));
            return Event::Broken(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;
    use crate::fleet::tests::Stage;

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_is_opened_again_after_a_second_then_two_and_so_on() {
        let stage = Stage::new(1).await;
        let (member, instance) = (stage.member("w00"), &stage.instances["w00"]);
        instance.break_watch();
        let mut following = Following::default();
        for round in ["at first", "once it was closed"] {
            for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
                following.open(&member, Instant::now());
                assert!(following.stream.is_some(), "{round}: {expected} s");
                let event = following.next().await;
                assert!(matches!(event, Event::Broken(_)), "{event:?}");
                time::advance(secs(expected) - Duration::from_millis(1)).await;
                following.open(&member, Instant::now());
                assert!(following.stream.is_none(), "{round}: before {expected} s");
                time::advance(Duration::from_millis(1)).await;
            }
            // Another process may answer at the address next.
            following.open(&member, Instant::now());
            let _ = following.next().await;
            following.close();
        }
        // One that has lasted has not failed from the start.
        instance.tell(Serving::Yes);
        following.open(&member, Instant::now());
        time::advance(LASTED).await;
        instance.break_watch();
        while let Event::Told(_) = following.next().await {}
        time::advance(secs(1)).await;
        following.open(&member, Instant::now());
        assert!(following.stream.is_some());
    }
}
