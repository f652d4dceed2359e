//! Ends sessions whose time is over, and forgets what ended long ago.
//!
//! Each session is looked at when its time may be over, and not before: what a sweep costs goes by how many are, and
//! not by how many there are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;

use super::House;
use super::entry::{Entry, Signal};
use crate::domain::limit::{
    POSTS_REMEMBERED_FOR, SESSIONS_FORGOTTEN_AT_ONCE, SESSIONS_LOOKED_AT_ONCE,
};
use crate::store::Readiness;
use crate::store::record::Old;

/// How exactly the time of a session is kept.
const RESOLUTION: Duration = Duration::from_secs(1);
/// How exactly the time of what is remembered of posts is kept. The store looks at all sessions for that.
const POSTS_RESOLUTION: Duration = Duration::from_secs(60);

impl Entry {
    /// When the time of the session is looked at next. An attached client may leave, and a lifetime that is long may
    /// be overtaken by silence, but not before the session's idle time has passed once more.
    pub(super) fn look_at(&self, now: Instant) -> Instant {
        let soonest = now + self.lifetime.idle_ttl;
        let expires = self.expires().unwrap_or(soonest);
        expires.min(soonest).max(now + RESOLUTION)
    }
}

impl House {
    /// Sweeps once a second.
    pub(super) async fn keep_time(self: &Arc<Self>) {
        let mut next = Instant::now() + RESOLUTION;
        let mut posts_next = Instant::now() + POSTS_RESOLUTION;
        loop {
            tokio::time::sleep_until(next).await;
            let now = Instant::now();
            next = now + RESOLUTION;
            if self.check_room().is_err() {
                self.try_to_take_up().await;
                continue;
            }
            // Whoever asks whether sessions are taken sends none while it is told that they are not.
            if *self.store.readiness().borrow() == Readiness::NoSpace {
                // Tried again soon.
                drop(self.store.try_room().await);
            }
            self.sweep(now).await;
            if posts_next <= now {
                posts_next = now + POSTS_RESOLUTION;
                self.forget_posts().await;
            }
        }
    }

    async fn sweep(self: &Arc<Self>, now: Instant) {
        loop {
            let looked_at = self.look_at_some(now);
            let are_all = looked_at.len() < SESSIONS_LOOKED_AT_ONCE;
            let over = looked_at.into_iter();
            let over: Vec<_> = over.filter_map(|entry| self.end(entry, now)).collect();
            // Beside each other, so that the store can write many of them at once.
            stream::iter(over)
                .map(|entry| self.forget_closed(entry))
                .buffer_unordered(SESSIONS_FORGOTTEN_AT_ONCE)
                .for_each(|()| std::future::ready(()))
                .await;
            if are_all {
                return;
            }
            // Whoever moves a session comes first.
            tokio::task::yield_now().await;
        }
    }

    fn look_at_some(&self, now: Instant) -> Vec<Arc<Entry>> {
        let mut registry = self.change_registry();
        std::iter::from_fn(|| registry.next_look(now))
            .take(SESSIONS_LOOKED_AT_ONCE)
            .collect()
    }

    /// Ends a session whose time is over; one that has ended already, and whom nobody reads any more, is to be
    /// forgotten.
    fn end(self: &Arc<Self>, entry: Arc<Entry>, now: Instant) -> Option<Arc<Entry>> {
        if entry.expires().is_none_or(|expires| now < expires) {
            return None;
        }
        if !entry.closed.load(Ordering::Relaxed) {
            self.call(&entry, Signal::Expire);
            return None;
        }
        if entry.attached.load(Ordering::Relaxed) {
            return None;
        }
        entry.end();
        Some(entry)
    }

    async fn forget_closed(&self, entry: Arc<Entry>) {
        let id = &entry.terms.id;
        // One that cannot be forgotten now is when the orchestrator is started again.
        if let Err(error) = self.store.forget(id).await {
            tracing::warn!(session = %id, %error, "a closed session could not be forgotten");
        }
        self.forget(&entry);
    }

    async fn forget_posts(&self) {
        let remembered = u64::try_from(POSTS_REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX);
        let old = Old {
            closed_before_ms: 0,
            posted_before_ms: self.now_ms().saturating_sub(remembered),
        };
        // Tried again soon.
        drop(self.store.forget_old(old).await);
    }
}
