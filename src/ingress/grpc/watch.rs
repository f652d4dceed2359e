//! Following the health of instances: the difference between what was sent last and what is now.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use super::{House, to_proto};
use crate::domain::failure::{Failure, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::FLEET_MAX;
use crate::fleet::Fleet;
use crate::fleet::view::{Health, Member, Members};
use crate::ingress::arrival::Arrival;
use crate::proto::orchestrator::HealthWatchResponse;

struct Watch {
    fleet: Arc<Fleet>,
    changes: watch::Receiver<u64>,
    draining: CancellationToken,
    arrival: Arrival,
    expressions: Vec<String>,
    sent: BTreeMap<InstanceId, (u64, Health)>,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

/// The states now, then each change, until the caller's time is over or the orchestrator drains.
pub(super) fn changes(
    house: &House,
    arrival: Arrival,
    expressions: Vec<String>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<HealthWatchResponse, Failure>> + Send + use<> {
    let watch = Watch {
        fleet: Arc::clone(&house.fleet),
        changes: house.fleet.changes(),
        draining: house.draining.clone(),
        arrival,
        expressions,
        sent: BTreeMap::new(),
        is_first: true,
        _place: place,
    };
    futures_util::stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(change) => Some((Ok(change), Some(watch))),
            Err(failure) => Some((Err(failure), None)),
        }
    })
}

impl Watch {
    async fn next(&mut self) -> Result<HealthWatchResponse, Failure> {
        loop {
            let members = self.selected();
            self.changes.borrow_and_update();
            let change = self.difference(&members);
            if self.is_first || !change.instances.is_empty() || !change.removed.is_empty() {
                self.is_first = false;
                return Ok(change);
            }
            tokio::select! {
                biased;
                late = self.arrival.caller_stops_waiting() => return Err(late),
                () = self.draining.cancelled() => {
                    return Err(Failure::new(Reason::Draining, "the orchestrator is stopping: watch again elsewhere"));
                }
                changed = self.changes.changed() => {
                    changed.map_err(|_| Failure::new(Reason::Draining, "the orchestrator is stopping"))?;
                }
            }
        }
    }

    /// An expression that selects nothing any more is no error here: its instances have left.
    fn selected(&self) -> Members {
        let view = self.fleet.view();
        if self.expressions.is_empty() {
            return Arc::clone(view.members());
        }
        let separator = |c: char| c == ',' || c.is_whitespace();
        let parts = self
            .expressions
            .iter()
            .flat_map(|text| text.split(separator));
        let mut unique = BTreeMap::new();
        for found in parts.filter_map(|part| view.resolve(&[part], FLEET_MAX).ok()) {
            unique.extend(
                found
                    .iter()
                    .map(|member| (member.id().clone(), Arc::clone(member))),
            );
        }
        unique.into_values().collect()
    }

    fn difference(&mut self, members: &[Arc<Member>]) -> HealthWatchResponse {
        let mut change = HealthWatchResponse::default();
        let mut now = BTreeMap::new();
        for member in members {
            let state = (member.serial, member.health.clone());
            if self.sent.get(member.id()) != Some(&state) {
                change.instances.push(to_proto::health(member));
            }
            now.insert(member.id().clone(), state);
        }
        let gone = self.sent.keys().filter(|id| !now.contains_key(*id));
        change.removed = gone.map(InstanceId::to_string).collect();
        self.sent = now;
        change
    }
}
