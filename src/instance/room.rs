//! Room for streams on connections that many calls share, and the queue of the calls that wait for some.
//!
//! A peer says how many streams it takes on a connection (RFC 9113, 5.1.2). One more would wait inside the connection
//! with its headers written: its deadline would be too long by the wait, and nobody could tell that it never left. So
//! calls wait here, in the order in which they came.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::domain::limit::STREAM_ROOM_LOOK_INTERVAL;

/// The calls that wait for room on the connections to one instance.
#[derive(Default)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    freed: Notify,
}

/// The streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    open: Arc<AtomicUsize>,
    queue: Arc<Queue>,
}

/// The place of one stream among those of its connection.
pub(super) struct Place(Streams);

/// Who looks for room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// One that has just come: it goes behind those who wait.
    Comes,
    /// One whose turn it is.
    Has,
}

impl Streams {
    pub(super) fn new(queue: &Arc<Queue>) -> Self {
        Self {
            open: Arc::default(),
            queue: Arc::clone(queue),
        }
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn take(&self) -> Place {
        self.open.fetch_add(1, Ordering::SeqCst);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        if 0 < self.0.queue.waiting.load(Ordering::SeqCst) {
            self.0.queue.freed.notify_one();
        }
    }
}

impl Queue {
    /// Whether one that has this turn may take what room there is.
    pub(super) fn lets_in(&self, turn: Turn) -> bool {
        turn == Turn::Has || self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Whoever waits looks again: connections have come or gone.
    pub(super) fn look_again(&self) {
        self.freed.notify_waiters();
    }

    /// Waits until `look` finds something.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let is_first = self.waiting.fetch_add(1, Ordering::SeqCst) == 0;
        let _counted = Waits(self);
        let mut may_have_missed = is_first;
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            // What was freed before anybody was seen to wait was told to nobody.
            if std::mem::take(&mut may_have_missed)
                && let Some(found) = look()
            {
                return found;
            }
            // A peer may also take more than it did, of which nothing is heard.
            while timeout(STREAM_ROOM_LOOK_INTERVAL, freed.as_mut())
                .await
                .is_err()
            {
                if let Some(found) = look() {
                    return found;
                }
            }
            if let Some(found) = look() {
                return found;
            }
        }
    }
}

struct Waits<'a>(&'a Queue);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// Takes a place where at most `most` are to be had.
    async fn take(streams: &Streams, most: usize) -> Place {
        let look = |turn| {
            let has_room = streams.queue.lets_in(turn) && streams.open() < most;
            has_room.then(|| streams.take())
        };
        match look(Turn::Comes) {
            Some(place) => place,
            None => streams.queue.wait(|| look(Turn::Has)).await,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_passes_those_who_wait_and_never_more_than_there_is_room_for() {
        let streams = Streams::new(&Arc::default());
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut all = JoinSet::new();
        for at in 0..100 {
            let (streams, served) = (streams.clone(), Arc::clone(&served));
            all.spawn(async move {
                let place = take(&streams, 3).await;
                assert!(streams.open() <= 3);
                served.lock().unwrap().push(at);
                yield_now().await;
                drop(place);
            });
            yield_now().await;
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), Vec::from_iter(0..100));
        assert_eq!(streams.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_leaves_the_queue_takes_nobody_with_it() {
        let streams = Streams::new(&Arc::default());
        let held = take(&streams, 1).await;
        let mut leaves = Box::pin(take(&streams, 1));
        let mut stays = Box::pin(take(&streams, 1));
        assert!(futures_util::poll!(&mut leaves).is_pending());
        assert!(futures_util::poll!(&mut stays).is_pending());
        drop(held);
        // It was told, and goes without having looked.
        drop(leaves);
        let place = stays.await;
        assert_eq!(streams.open(), 1);
        drop(place);
        drop(take(&streams, 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_comes_without_a_word_is_found() {
        let streams = Streams::new(&Arc::default());
        let held = take(&streams, 1).await;
        let most = AtomicUsize::new(1);
        let look = || (streams.open() < most.load(Ordering::SeqCst)).then(|| streams.take());
        let mut waits = pin!(streams.queue.wait(look));
        assert!(futures_util::poll!(&mut waits).is_pending());
        most.store(2, Ordering::SeqCst);
        drop(waits.await);
        drop(held);
    }
}
