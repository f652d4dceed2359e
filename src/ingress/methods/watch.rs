//! Following the health of instances: the difference between what was sent last and what is now.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use super::{House, to_proto};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::FLEET_MAX;
use crate::fleet::Fleet;
use crate::fleet::view::{Member, View};
use crate::ingress::arrival::Arrival;
use crate::orchestrate::hold_session::Sessions;
use crate::proto::orchestrator::HealthWatchResponse;

struct Watch {
    fleet: Arc<Fleet>,
    sessions: Sessions,
    changes: watch::Receiver<u64>,
    draining: CancellationToken,
    arrival: Arrival,
    expressions: Vec<String>,
    /// What was sent last.
    sent: Arc<View>,
    /// Where those that are followed stand in it.
    positions: Positions,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

/// Where instances stand in the views of one membership.
enum Positions {
    All,
    Some(Vec<usize>),
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
        sessions: house.sessions.clone(),
        changes: house.fleet.changes(),
        draining: house.draining.clone(),
        arrival,
        expressions,
        sent: Arc::default(),
        positions: Positions::Some(Vec::new()),
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
            // Before the view: a change in between is then seen twice, and never missed.
            self.changes.borrow_and_update();
            let change = self.difference(self.fleet.view());
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

    /// Compares what was sent with what is. A member that has not changed is the same object in both views, and
    /// as long as nobody comes or goes each stands where it stood.
    fn difference(&mut self, view: Arc<View>) -> HealthWatchResponse {
        let mut change = HealthWatchResponse::default();
        if view.membership() == self.sent.membership() {
            let pairs = view.members().iter().zip(self.sent.members().iter());
            let changed = |(now, sent): (&Arc<Member>, &Arc<Member>)| {
                (!Arc::ptr_eq(now, sent)).then(|| to_proto::health(now, &self.sessions))
            };
            change.instances = match &self.positions {
                Positions::All => pairs.filter_map(changed).collect(),
                Positions::Some(positions) => {
                    let (now, sent) = (view.members(), self.sent.members());
                    let pairs = positions.iter().map(|&at| (&now[at], &sent[at]));
                    pairs.filter_map(changed).collect()
                }
            };
        } else {
            let positions = self.resolve(&view);
            let chosen = positions.of(view.members());
            for member in chosen {
                let sent = self.sent.find(member.id());
                if !sent.is_some_and(|sent| Arc::ptr_eq(sent, member)) {
                    change
                        .instances
                        .push(to_proto::health(member, &self.sessions));
                }
            }
            let was = self.positions.of(self.sent.members());
            let gone = was.filter(|member| view.find(member.id()).is_none());
            change.removed = gone.map(|member| member.id().to_string()).collect();
            self.positions = positions;
        }
        self.sent = view;
        change
    }

    /// An expression that selects nothing any more is no error here: its instances have left.
    fn resolve(&self, view: &View) -> Positions {
        if self.expressions.is_empty() {
            return Positions::All;
        }
        let found = view.resolve_present(&self.expressions, FLEET_MAX);
        Positions::Some(found.map(|(positions, _)| positions).unwrap_or_default())
    }
}

impl Positions {
    fn of<'m>(
        &self,
        members: &'m [Arc<Member>],
    ) -> impl Iterator<Item = &'m Arc<Member>> + use<'m> {
        let positions = match self {
            Self::All => (0..members.len()).collect(),
            Self::Some(positions) => positions.clone(),
        };
        positions.into_iter().filter_map(|at| members.get(at))
    }
}
