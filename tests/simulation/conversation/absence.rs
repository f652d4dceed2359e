//! How a client leaves its session alone until it has expired.

use std::time::Duration;

use tokio::time::sleep;

use super::client::{Client, Phase};
use super::plan::End;

/// How much longer than it lasts a session is left alone. An instance that has lost it again and again is asked ever
/// less often, and the time of the session begins anew when it takes it at last.
const LEFT_ALONE: Duration = Duration::from_millis(5_500);

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
}
