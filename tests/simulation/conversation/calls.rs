//! The calls of a client besides its streams, and what it makes of a refusal.

use std::time::Duration;

use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::{
    Durability, LossPolicy, SessionCloseRequest, SessionLost, SessionSendResponse,
    SessionSpawnRequest,
};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use super::client::{Client, On, PATIENCE, PAUSE, Phase, authorized};
use super::plan::End;
use crate::sessions::history::Event;

impl Client {
    pub(super) async fn spawn(&self) {
        let request = SessionSpawnRequest {
            session_id: self.plan.id.clone(),
            loss_policy: self.plan.policy.into(),
            durability: self.plan.durability.into(),
            idle_ttl: Some(self.plan.idle_ttl.try_into().unwrap()),
            lifetime: self
                .plan
                .lifetime
                .map(|lifetime| lifetime.try_into().unwrap()),
            idempotency_key: format!("spawn {}", self.plan.id),
            ..Default::default()
        };
        loop {
            if let Some((mut stub, driver, _)) = self.connect().await {
                let spawned = timeout(PATIENCE, stub.session_spawn(authorized(request.clone())));
                let spawned = spawned.await;
                driver.abort();
                match spawned {
                    Ok(Ok(_)) => return,
                    Ok(Err(status)) if self.refused(&status) == On::No => return,
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) async fn close(self, at: Duration) {
        sleep(at.saturating_sub(turmoil::sim_elapsed().unwrap_or_default())).await;
        let request = SessionCloseRequest {
            session_id: self.plan.id.clone(),
        };
        while !self.knows.borrow().is_over {
            if let Some((mut stub, driver, _)) = self.connect().await {
                let closed = timeout(PATIENCE, stub.session_close(authorized(request.clone())));
                let closed = closed.await;
                driver.abort();
                if matches!(closed, Ok(Ok(_))) {
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// The session has ended. There must be a reason for that.
    pub(super) fn over(&self, reason: &str) {
        self.knows.borrow_mut().is_over = true;
        let is_ours = match self.plan.end {
            End::Stays | End::Trusts(_) => false,
            End::ClosedByFrame => self.has_all(),
            End::ClosedByCall(_) | End::LeftAlone(_) | End::Outlived => true,
        };
        if !is_ours && !self.may_be_lost() {
            let id = &self.plan.id;
            self.told
                .complain(format!("{id} has ended for no reason: {reason}"));
        }
    }

    fn may_be_lost(&self) -> bool {
        let restarted = self.plan.durability == Durability::None && 1 < self.told.runs();
        restarted || self.plan.policy == LossPolicy::Fail
    }

    /// Messages are lost, of the stream or posted.
    pub(super) fn lost(&self, lost: &SessionLost) {
        self.told.count("lost");
        if lost.first_position != 0 {
            let (first, last) = (lost.first_position, lost.last_position);
            self.told.count("lost posts");
            return self.tell(Event::LostPosts { first, last });
        }
        let (first, last) = (lost.first_seq, lost.last_seq);
        self.tell(Event::Lost { first, last });
        self.knows.borrow_mut().settled.extend(first..=last);
    }

    /// What a refusal means; whether to try again.
    pub(super) fn refused(&self, status: &Status) -> On {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone());
        match reason.as_deref() {
            Some("SESSION_CLOSED") => self.is_over("SESSION_CLOSED"),
            // The one that is relieved has forgotten it.
            Some("SESSION_UNKNOWN") if self.told.has_rival() => On::Yes,
            Some("SESSION_UNKNOWN") if self.knows.borrow().has_left => {
                self.is_over("SESSION_UNKNOWN")
            }
            Some(refusal @ ("JOURNAL_FULL" | "JOURNAL_FAILED" | "SESSION_FULL" | "DRAINING")) => {
                self.told.count(match refusal {
                    "JOURNAL_FULL" => "no space",
                    "JOURNAL_FAILED" => "journal failed",
                    "SESSION_FULL" => "full",
                    _ => "draining",
                });
                On::Yes
            }
            Some(
                "SESSION_SUPERSEDED" | "SESSION_STALE" | "INSTANCE_DOWN" | "DEADLINE_EXCEEDED",
            ) => On::Yes,
            // A connection that broke.
            None => On::Yes,
            Some(other) => {
                let id = &self.plan.id;
                let what = format!("{id} is refused: {other}: {}", status.message());
                self.told.complain(what);
                self.is_over(other)
            }
        }
    }

    fn is_over(&self, reason: &str) -> On {
        if !self.knows.borrow().is_over {
            self.told.count("over");
            self.over(reason);
            self.tell(Event::Over(reason.to_owned()));
        }
        On::No
    }

    /// Whether a failed call is to be made again.
    pub(super) fn goes_on_after(&self, status: &Status) -> bool {
        self.refused(status) == On::Yes
    }

    /// A newer stream closes an older one, and says so.
    pub(super) async fn hear_to_the_end(
        &self,
        mut rx: Streaming<SessionSendResponse>,
        attached: u64,
    ) {
        let mut superseded_for = 0;
        loop {
            let told = match timeout(PATIENCE, rx.message()).await {
                Ok(Ok(Some(frame))) if matches!(frame.frame, Some(In::Closed(_))) => return,
                Ok(Ok(Some(_))) => continue,
                Ok(Ok(None)) => "ends without a word",
                // It says why, or its connection is broken.
                Ok(Err(_)) => return,
                Err(_elapsed) if Phase::Over <= self.phase() => return,
                Err(_elapsed) => {
                    superseded_for += u32::from(attached < self.knows.borrow().attached);
                    if superseded_for < 2 {
                        continue;
                    }
                    "goes on beside a newer one"
                }
            };
            let id = &self.plan.id;
            return self.told.complain(format!("a stream of {id} {told}"));
        }
    }
}
