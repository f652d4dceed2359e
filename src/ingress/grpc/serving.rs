//! grpc.health.v1 for the orchestrator itself: serving until it drains; and for its sessions, which also need a journal
//! that takes what they say.

use std::pin::Pin;

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::arrival;
use crate::domain::failure::{Failure, Reason};
use crate::ingress::failure_table;
use crate::ingress::methods::House;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use crate::store::Readiness;

/// What can be asked about; the empty name is the server as a whole. Route and Fanout need no journal, and go on where
/// there is none.
const SERVICES: [(&str, Needs); 4] = [
    ("", Needs::Nothing),
    (
        "openclaw.orchestrator.v1.OrchestratorService",
        Needs::Nothing,
    ),
    ("openclaw.orchestrator.v1.ClusterService", Needs::Nothing),
    // No service of the contract: the methods of OrchestratorService that begin with Session.
    ("openclaw.orchestrator.v1.Sessions", Needs::Journal),
];

/// What a service needs besides an orchestrator that is not about to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Journal,
}

#[derive(Clone)]
pub(super) struct Serving {
    draining: CancellationToken,
    journal: watch::Receiver<Readiness>,
}

impl Serving {
    pub(super) fn new(house: &House) -> Self {
        Self {
            draining: house.draining.clone(),
            journal: house.sessions.readiness(),
        }
    }

    fn status(&self, needs: Needs) -> ServingStatus {
        let has_what_it_needs = match needs {
            Needs::Nothing => true,
            Needs::Journal => self.journal.borrow().complaint().is_none(),
        };
        if self.draining.is_cancelled() || !has_what_it_needs {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }
}

fn find(service: &str) -> Option<Needs> {
    let found = SERVICES.iter().find(|(name, _)| *name == service);
    found.map(|(_, needs)| *needs)
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

type Watched = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Serving {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let Some(needs) = find(&request.into_inner().service) else {
            let failure = Failure::new(
                Reason::TargetUnknown,
                "no such service: ask with an empty name, or List",
            );
            return Err(failure_table::status(&failure));
        };
        Ok(Response::new(answer(self.status(needs))))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = SERVICES
            .iter()
            .map(|(service, needs)| ((*service).to_owned(), answer(self.status(*needs))))
            .collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Watched;

    /// A service that is not known is told as such and may come to be known (grpc.health.v1), which here it
    /// never does. The stream ends once the orchestrator is about to stop: what follows is the end of the connection.
    async fn watch(
        &self,
        mut request: Request<HealthCheckRequest>,
    ) -> Result<Response<Watched>, Status> {
        let arrival = arrival(&mut request).map_err(|failure| failure_table::status(&failure))?;
        let needs = find(&request.into_inner().service);
        let mut serving = self.clone();
        // What changes from here on is told.
        serving.journal.mark_unchanged();
        let is_last = serving.draining.is_cancelled();
        let told = needs.map_or(ServingStatus::ServiceUnknown, |needs| serving.status(needs));
        let watching = Watching {
            serving,
            needs,
            told,
            is_last,
        };
        let rest = futures_util::stream::unfold(
            (watching, arrival),
            |(mut watching, arrival)| async move {
                tokio::select! {
                    biased;
                    status = watching.next() => Some((Ok(answer(status?)), (watching, arrival))),
                    late = arrival.caller_stops_waiting() => {
                        watching.is_last = true;
                        Some((Err(failure_table::status(&late)), (watching, arrival)))
                    }
                }
            },
        );
        let stream = tokio_stream::once(Ok(answer(told))).chain(rest);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Somebody who is told of each change.
struct Watching {
    serving: Serving,
    /// None for a service that is not known.
    needs: Option<Needs>,
    told: ServingStatus,
    /// Whether nothing follows what was told.
    is_last: bool,
}

impl Watching {
    /// What is told next; nothing when the stream is over.
    async fn next(&mut self) -> Option<ServingStatus> {
        while !self.is_last {
            self.changed().await;
            let is = match self.needs {
                None => ServingStatus::ServiceUnknown,
                Some(needs) => self.serving.status(needs),
            };
            if std::mem::replace(&mut self.told, is) != is {
                return Some(is);
            }
        }
        None
    }

    async fn changed(&mut self) {
        let Serving { draining, journal } = &mut self.serving;
        let journal = async {
            match self.needs {
                Some(Needs::Journal) if journal.changed().await.is_ok() => {}
                // Never again.
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = draining.cancelled() => self.is_last = true,
            () = journal => {}
        }
    }
}
