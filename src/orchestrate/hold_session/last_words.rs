//! The last word to an instance that has been given a session by an earlier run, and was not asked to go on since:
//! the session has ended, and it need not keep anything of it any more.
//!
//! The session is opened for that, in its latest epoch, after its end was written down: nobody goes on with it. It is a
//! courtesy. Few such openings are under way at once and a bounded number waits, however many sessions end together;
//! whoever finds no room or is not reached in time is not told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout, timeout_at};

use super::House;
use super::held::Held;
use super::instance_side::is_reachable;
use super::owner::Owner;
use crate::domain::id::InstanceId;
use crate::domain::limit::{SESSION_LAST_WORDS_WITHIN, SESSION_OPEN_TIMEOUT};
use crate::domain::session;
use crate::instance::session::{CloseReason, Open};

/// What an instance is told when a session ends so.
pub(super) fn last_word(reason: session::CloseReason) -> CloseReason {
    match reason {
        session::CloseReason::Expired => CloseReason::Expired,
        session::CloseReason::ByClient
        | session::CloseReason::ByInstance
        | session::CloseReason::InstanceLost
        | session::CloseReason::Restarted => CloseReason::Done,
    }
}

impl Owner {
    /// Tells an instance that was not asked to go on since the orchestrator has started.
    pub(super) fn tell_instance_of_before(&mut self, reason: session::CloseReason) {
        if !self.entry.known_from_before.swap(false, Ordering::Relaxed) {
            return;
        }
        let Ok(room) = Arc::clone(&self.house.last_words_waiting).try_acquire_owned() else {
            return;
        };
        let (open, word) = (self.opening(), last_word(reason));
        let (house, instance) = (Arc::clone(&self.house), self.session.instance.clone());
        let told = async move {
            let _room = room;
            house.say_last_word(&instance, open, word).await;
        };
        self.house.tasks.spawn(self.house.tasks.until_stop(told));
    }
}

impl House {
    async fn say_last_word(&self, instance: &InstanceId, open: Open, word: CloseReason) {
        // Whoever has no place by then is not told, nor whoever gets one just then.
        let until = Instant::now() + SESSION_LAST_WORDS_WITHIN;
        let Ok(Ok(_place)) = timeout_at(until, self.last_words.acquire()).await else {
            return;
        };
        if until <= Instant::now() {
            return;
        }
        let fleet = (self.fleet_now)();
        let member = fleet.find(instance).filter(|member| is_reachable(member));
        let Some(member) = member else { return };
        let opening = member.client.open_session(open);
        if let Ok(Ok(opened)) = timeout(SESSION_OPEN_TIMEOUT, opening).await {
            let held = Held::new(opened, 0, self.settings.bounds);
            Box::new(held).farewell(word).await;
        }
    }
}
