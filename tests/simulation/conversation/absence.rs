//! How a client leaves its session alone: until it has expired, or until what is safe has come to an instance.

use std::time::Duration;

use tokio::time::sleep;

use super::client::{Client, PAUSE, Phase};
use super::plan::End;
use crate::sessions::history::streamed;

/// How much longer than it lasts a session is left alone. An instance that has lost it again and again is asked ever
/// less often, and the time of the session begins anew when it takes it at last.
const LEFT_ALONE: Duration = Duration::from_millis(5_500);
/// How long after the faults what is safe may take to come to an instance.
const DELIVERED_WITHIN: u32 = 15_000 / PAUSE.as_millis() as u32;

impl Client {
    pub(super) fn leaves_alone(&self) -> bool {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        matches!(self.plan.end, End::LeftAlone(at) if at <= now)
    }

    pub(super) async fn has_left_alone(&self) {
        while !self.knows.borrow().has_left {
            sleep(Duration::from_millis(9)).await;
        }
    }

    /// Goes away until the session must have expired.
    pub(super) async fn leave_alone(&self) {
        if self.leaves_alone() && !self.knows.borrow().has_left {
            self.knows.borrow_mut().has_left = true;
            let mut phase = self.phase.clone();
            // Faults keep sessions alive: each restart gives them their whole time again.
            drop(phase.wait_for(|phase| Phase::Calm <= *phase).await);
            sleep(self.plan.idle_ttl + LEFT_ALONE).await;
        }
    }

    /// Whether it goes away now, and trusts that what it was told to be safe comes to an instance without it.
    pub(super) fn leaves_in_trust(&self) -> bool {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let leaves = matches!(self.plan.end, End::Trusts(at) if at <= now);
        leaves && !self.knows.borrow().has_trusted
    }

    /// Goes away until what is safe was delivered, whatever has happened to the orchestrator meanwhile.
    pub(super) async fn trust(&self) {
        if !self.leaves_in_trust() {
            return;
        }
        self.knows.borrow_mut().has_trusted = true;
        if !self.is_delivered() {
            self.told.count("trusted");
        }
        let mut phase = self.phase.clone();
        drop(phase.wait_for(|phase| Phase::Calm <= *phase).await);
        for _ in 0..DELIVERED_WITHIN {
            if self.is_delivered() || !self.told.is_open(&self.plan.id) {
                return;
            }
            sleep(PAUSE).await;
        }
        let id = &self.plan.id;
        self.told.complain(format!(
            "{id} has kept what is safe from its instance while its client was away"
        ));
    }

    /// Whether some instance has applied all that the client was told to be safe.
    fn is_delivered(&self) -> bool {
        let acked = self.knows.borrow().acked;
        let text = |seq| streamed(seq, self.plan.padding);
        (1..=acked).all(|seq| self.told.is_applied(&self.plan.id, &text(seq)))
    }
}
