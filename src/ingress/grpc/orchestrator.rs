//! OrchestratorService.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{House, arrival, from_proto, sessions, to_proto, watch};
use crate::domain::failure::{Failure, Reason};
use crate::domain::idempotency::Fingerprint;
use crate::domain::limit::{FANOUT_TARGETS_MAX, FLEET_MAX, WATCHERS_MAX};
use crate::domain::target::BadTarget;
use crate::domain::task::Task;
use crate::fleet::view::{FleetNow, Members, View};
use crate::ingress::arrival::Arrival;
use crate::ingress::failure_table;
use crate::orchestrate::deduplicate::{Identity, Origin};
use crate::orchestrate::fan_out::{FanOut, fan_out};
use crate::orchestrate::run_task::{Route, Tries, Unanswered, run_task};
use crate::proto::orchestrator::orchestrator_service_server::OrchestratorService;
use crate::proto::orchestrator::{
    ExplainRequest, ExplainResponse, FanoutRequest, FanoutResponse, HealthRequest, HealthResponse,
    HealthWatchRequest, HealthWatchResponse, RouteRequest, RouteResponse, SessionCloseRequest,
    SessionCloseResponse, SessionGetRequest, SessionGetResponse, SessionListRequest,
    SessionListResponse, SessionPostRequest, SessionPostResponse, SessionSendRequest,
    SessionSpawnRequest, SessionSpawnResponse,
};

#[derive(Clone)]
pub(super) struct Orchestrator {
    pub(super) house: House,
    fleet_now: FleetNow,
    watchers: Arc<Semaphore>,
}

impl Orchestrator {
    pub(super) fn new(house: House) -> Self {
        Self {
            fleet_now: house.fleet.now(),
            house,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    /// The call, and what it is to be found by when it has an idempotency key.
    pub(super) fn read_route(
        &self,
        arrival: Arrival,
        request: RouteRequest,
        resolve: impl FnOnce(&View, &[String]) -> Result<Members, BadTarget>,
    ) -> Result<(Route, Option<Identity>), Failure> {
        let timeout = from_proto::timeout("timeout", request.timeout)?;
        let policy = request.policy.unwrap_or_default();
        let selection = from_proto::selection(&policy)?;
        let retry = from_proto::retry(&policy)?;
        let fleet = self.house.fleet.view();
        let candidates = resolve(&fleet, &request.instances).map_err(from_proto::target)?;
        let limits = self.house.timeouts;
        // With the payload its weight goes, however long it is needed.
        let kept = |payload: Option<Bytes>| payload.map(|bytes| arrival.exchange.keep(bytes));
        let payload = from_proto::payload(kept(request.payload))?;
        let mut metadata = from_proto::metadata(request.metadata)?;
        let word = from_proto::idempotency_key(&request.idempotency_key)?;
        let identity = word.map(|word| {
            metadata.add_idempotency_key(&word);
            let caller = arrival.caller.0.clone();
            let fingerprint = Fingerprint::of(&request.instances, &payload);
            Identity::new(caller, "Route", word, fingerprint)
        });
        let readiness = policy
            .wait_for_ready
            .then(|| Arc::clone(&self.house.readiness));
        let route = Route {
            panic: fleet.panic_among(&candidates),
            candidates,
            selection,
            retry,
            hedge: from_proto::hedge(&policy)?,
            readiness,
            fleet_now: Arc::clone(&self.fleet_now),
            retries: Arc::clone(&self.house.retries),
            hedges: Some(Arc::clone(&self.house.hedges)),
            lag: None,
            chance: self.house.chance.clone(),
            arrived: arrival.at,
            deadline: arrival.deadline(timeout, limits.route, limits.max),
            task: Arc::new(Task {
                payload,
                metadata,
                names: arrival.names,
            }),
        };
        Ok((route, identity))
    }

    pub(super) fn read_fan_out(
        &self,
        arrival: Arrival,
        request: FanoutRequest,
        resolve: impl FnOnce(&View, &[String]) -> Result<Members, BadTarget>,
    ) -> Result<FanOut, Failure> {
        let timeout = from_proto::timeout("timeout", request.timeout)?;
        let completion = from_proto::completion(request.completion)?;
        let retry = from_proto::leg_retry(&request.policy.unwrap_or_default())?;
        let fleet = self.house.fleet.view();
        let roster = resolve(&fleet, &request.targets).map_err(from_proto::target)?;
        let limits = self.house.timeouts;
        // With the payload its weight goes, however long it is needed.
        let kept = |payload: Option<Bytes>| payload.map(|bytes| arrival.exchange.keep(bytes));
        Ok(FanOut {
            panic: fleet.panic_among(&roster),
            roster,
            completion,
            retry,
            fleet_now: Arc::clone(&self.fleet_now),
            retries: Arc::clone(&self.house.retries),
            chance: self.house.chance.clone(),
            aggregate: request.aggregate,
            arrived: arrival.at,
            deadline: arrival.deadline(timeout, limits.fanout, limits.max),
            task: Arc::new(Task {
                payload: from_proto::payload(kept(request.payload))?,
                metadata: from_proto::metadata(request.metadata)?,
                names: arrival.names,
            }),
        })
    }

    fn members(&self, expressions: &[String]) -> Result<Members, Failure> {
        let view = self.house.fleet.view();
        if expressions.is_empty() {
            return Ok(Arc::clone(view.members()));
        }
        view.resolve(expressions, FLEET_MAX)
            .map_err(from_proto::target)
    }
}

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
        let caller = arrival.caller.counted();
        let resolve = |fleet: &View, named: &[String]| fleet.resolve(named, FLEET_MAX);
        let read = self.read_route(arrival, request.into_inner(), resolve);
        let (route, identity) = read.map_err(status)?;
        let admitted = self.house.gate.admit(&caller, 0, route.deadline).await;
        let _place = admitted.map_err(status)?;
        let (outcome, origin) = match identity {
            None => (run_task(route, &Tries::default()).await, Origin::Own),
            Some(identity) => self.house.deduplicate.run_task(identity, route).await,
        };
        match outcome {
            Ok(answered) => Ok(Response::new(to_proto::route(answered, origin))),
            Err(Unanswered {
                failure,
                attempts,
                stop,
            }) => {
                let attempts = to_proto::failed_attempts(attempts);
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
        let caller = arrival.caller.counted();
        let resolve = |fleet: &View, named: &[String]| fleet.resolve(named, FANOUT_TARGETS_MAX);
        let call = self.read_fan_out(arrival, request.into_inner(), resolve);
        let call = call.map_err(status)?;
        let legs = call.roster.len();
        let admitted = self.house.gate.admit(&caller, legs, call.deadline).await;
        let place = admitted.map_err(status)?;
        let events = fan_out(call, &self.house.tasks)
            .map_err(|bad| status(from_proto::invalid("completion", bad)))?;
        let events = events.map(move |event| {
            // Given back when the stream is dropped.
            let _place = &place;
            event.map(to_proto::event).map_err(status)
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn session_spawn(
        &self,
        request: Request<SessionSpawnRequest>,
    ) -> Result<Response<SessionSpawnResponse>, Status> {
        let spawned = sessions::spawn(&self.house.sessions, request).await;
        spawned.map(Response::new).map_err(status)
    }

    type SessionSendStream = sessions::Frames;

    async fn session_send(
        &self,
        request: Request<Streaming<SessionSendRequest>>,
    ) -> Result<Response<Self::SessionSendStream>, Status> {
        sessions::send(&self.house, request).await.map_err(status)
    }

    async fn session_post(
        &self,
        request: Request<SessionPostRequest>,
    ) -> Result<Response<SessionPostResponse>, Status> {
        let posted = sessions::post(&self.house, request).await;
        posted.map(Response::new).map_err(status)
    }

    async fn session_get(
        &self,
        request: Request<SessionGetRequest>,
    ) -> Result<Response<SessionGetResponse>, Status> {
        let got = sessions::get(&self.house.sessions, request).await;
        got.map(Response::new).map_err(status)
    }

    async fn session_list(
        &self,
        request: Request<SessionListRequest>,
    ) -> Result<Response<SessionListResponse>, Status> {
        let listed = sessions::list(&self.house.sessions, request).await;
        listed.map(Response::new).map_err(status)
    }

    async fn session_close(
        &self,
        request: Request<SessionCloseRequest>,
    ) -> Result<Response<SessionCloseResponse>, Status> {
        let closed = sessions::close(&self.house.sessions, request).await;
        closed.map(Response::new).map_err(status)
    }

    async fn explain(
        &self,
        mut request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let explained = self.explained(arrival, request.into_inner());
        Ok(Response::new(explained.map_err(status)?))
    }

    async fn health(
        &self,
        request: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        let members = self
            .members(&request.into_inner().instances)
            .map_err(status)?;
        let instances = members
            .iter()
            .map(|member| to_proto::health(member))
            .collect();
        Ok(Response::new(HealthResponse { instances }))
    }

    type HealthWatchStream = Events<HealthWatchResponse>;

    async fn health_watch(
        &self,
        mut request: Request<HealthWatchRequest>,
    ) -> Result<Response<Self::HealthWatchStream>, Status> {
        let arrival = arrival(&mut request).map_err(status)?;
        let expressions = request.into_inner().instances;
        self.members(&expressions).map_err(status)?;
        let place = Arc::clone(&self.watchers)
            .try_acquire_owned()
            .map_err(|_| {
                status(Failure::new(
                    Reason::TooMany,
                    format!("{WATCHERS_MAX} watches are open already"),
                ))
            })?;
        let changes = watch::changes(&self.house, arrival, expressions, place);
        Ok(Response::new(Box::pin(
            changes.map(|change| change.map_err(status)),
        )))
    }
}
