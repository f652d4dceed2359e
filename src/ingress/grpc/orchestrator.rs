//! OrchestratorService over gRPC.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::arrival;
use crate::domain::failure::Failure;
use crate::ingress::failure_table;
use crate::ingress::methods::{self, NotRouted, SESSION, failed_attempts};
use crate::proto::orchestrator::orchestrator_service_server::OrchestratorService;
use crate::proto::orchestrator::{
    ExplainRequest, ExplainResponse, FanoutRequest, FanoutResponse, HealthRequest, HealthResponse,
    HealthWatchRequest, HealthWatchResponse, RouteRequest, RouteResponse, SessionCloseRequest,
    SessionCloseResponse, SessionGetRequest, SessionGetResponse, SessionListRequest,
    SessionListResponse, SessionPostRequest, SessionPostResponse, SessionSendRequest,
    SessionSendResponse, SessionSpawnRequest, SessionSpawnResponse,
};

#[derive(Clone)]
pub(super) struct Orchestrator(pub(super) methods::Orchestrator);

fn status(failure: Failure) -> Status {
    failure_table::status(&failure)
}

pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl OrchestratorService for Orchestrator {
    async fn route(
        &self,
        mut request: Request<RouteRequest>,
    ) -> Result<Response<RouteResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        match self.0.route(arrival, request.into_inner()).await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(NotRouted::Refused(failure)) => Err(status(failure)),
            Err(NotRouted::Unanswered(unanswered)) => {
                let attempts = failed_attempts(unanswered.attempts);
                let (failure, stop) = (unanswered.failure, unanswered.stop);
                Err(failure_table::unanswered(&failure, stop, attempts))
            }
        }
    }

    type FanoutStream = Events<FanoutResponse>;

    async fn fanout(
        &self,
        mut request: Request<FanoutRequest>,
    ) -> Result<Response<Self::FanoutStream>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let events = self.0.fanout(arrival, request.into_inner()).await;
        let events = events.map_err(status)?;
        Ok(Response::new(Box::pin(
            events.map(|event| event.map_err(status)),
        )))
    }

    async fn session_spawn(
        &self,
        mut request: Request<SessionSpawnRequest>,
    ) -> Result<Response<SessionSpawnResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let answered = self.0.session_spawn(arrival, request.into_inner()).await;
        answered.map(Response::new).map_err(status)
    }

    type SessionSendStream = Events<SessionSendResponse>;

    async fn session_send(
        &self,
        mut request: Request<Streaming<SessionSendRequest>>,
    ) -> Result<Response<Self::SessionSendStream>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let (metadata, _, incoming) = request.into_parts();
        let named = metadata.get(SESSION);
        let named = named.map(|name| name.to_str().unwrap_or_default());
        let incoming =
            incoming.map(|frame| frame.map_err(|status| failure_table::cut_off(&status)));
        let frames = self.0.session_send(arrival, named, incoming).await;
        let frames = frames.map_err(status)?;
        Ok(Response::new(Box::pin(
            frames.map(|frame| frame.map_err(status)),
        )))
    }

    async fn session_post(
        &self,
        mut request: Request<SessionPostRequest>,
    ) -> Result<Response<SessionPostResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let answered = self.0.session_post(arrival, request.into_inner()).await;
        answered.map(Response::new).map_err(status)
    }

    async fn session_get(
        &self,
        mut request: Request<SessionGetRequest>,
    ) -> Result<Response<SessionGetResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let answered = self.0.session_get(arrival, request.into_inner()).await;
        answered.map(Response::new).map_err(status)
    }

    async fn session_list(
        &self,
        mut request: Request<SessionListRequest>,
    ) -> Result<Response<SessionListResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let listed = self.0.session_list(arrival, request.into_inner()).await;
        listed.map(Response::new).map_err(status)
    }

    async fn session_close(
        &self,
        mut request: Request<SessionCloseRequest>,
    ) -> Result<Response<SessionCloseResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let answered = self.0.session_close(arrival, request.into_inner()).await;
        answered.map(Response::new).map_err(status)
    }

    async fn explain(
        &self,
        mut request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let explained = self.0.explain(arrival, request.into_inner());
        Ok(Response::new(explained.map_err(status)?))
    }

    async fn health(
        &self,
        request: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        let answer = self.0.health(request.get_ref()).map_err(status)?;
        Ok(Response::new(answer))
    }

    type HealthWatchStream = Events<HealthWatchResponse>;

    async fn health_watch(
        &self,
        mut request: Request<HealthWatchRequest>,
    ) -> Result<Response<Self::HealthWatchStream>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let changes = self.0.health_watch(arrival, request.into_inner());
        let changes = changes.map_err(status)?;
        Ok(Response::new(Box::pin(
            changes.map(|change| change.map_err(status)),
        )))
    }
}
