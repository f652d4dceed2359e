//! grpc.health.v1 for the orchestrator itself: serving until it drains.

use std::pin::Pin;

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

/// What can be asked about; the empty name is the server as a whole.
const SERVICES: [&str; 3] = [
    "",
    "openclaw.orchestrator.v1.OrchestratorService",
    "openclaw.orchestrator.v1.ClusterService",
];

#[derive(Clone)]
pub(super) struct Serving {
    draining: CancellationToken,
}

impl Serving {
    pub(super) fn new(house: &House) -> Self {
        Self {
            draining: house.draining.clone(),
        }
    }

    fn answer(&self) -> HealthCheckResponse {
        let draining = self.draining.is_cancelled();
        let status = if draining {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

type Watched = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Serving {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            let failure = Failure::new(
                Reason::TargetUnknown,
                "no such service: ask with an empty name, or List",
            );
            return Err(failure_table::status(&failure));
        }
        Ok(Response::new(self.answer()))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = SERVICES
            .iter()
            .map(|service| ((*service).to_owned(), self.answer()))
            .collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Watched;

    /// A service that is not known is told as such and may come to be known (grpc.health.v1), which here it
    /// never does. The stream ends after NOT_SERVING: what follows is the end of the connection.
    async fn watch(
        &self,
        mut request: Request<HealthCheckRequest>,
    ) -> Result<Response<Watched>, Status> {
        let arrival = arrival(&mut request).map_err(|failure| failure_table::status(&failure))?;
        let known = SERVICES.contains(&request.into_inner().service.as_str());
        let first = if known {
            self.answer()
        } else {
            HealthCheckResponse {
                status: ServingStatus::ServiceUnknown.into(),
            }
        };
        let (serving, last) = (self.clone(), first.status());
        let watch = (serving, arrival, last);
        let rest = futures_util::stream::unfold(watch, |(serving, arrival, last)| async move {
            tokio::select! {
                biased;
                answer = serving.next(last) => {
                    let answer = answer?;
                    Some((Ok(answer), (serving, arrival, answer.status())))
                }
                late = arrival.caller_stops_waiting() => {
                    let late = failure_table::status(&late);
                    Some((Err(late), (serving, arrival, ServingStatus::NotServing)))
                }
            }
        });
        let stream = tokio_stream::once(Ok(first)).chain(rest);
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Serving {
    /// What is sent after `last`; nothing when the stream is over.
    async fn next(&self, last: ServingStatus) -> Option<HealthCheckResponse> {
        match last {
            ServingStatus::NotServing => None,
            ServingStatus::Serving => {
                self.draining.cancelled().await;
                Some(self.answer())
            }
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
                self.draining.cancelled().await;
                None
            }
        }
    }
}
