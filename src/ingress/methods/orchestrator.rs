//! The methods of OrchestratorService.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt as _};

use super::{House, from_proto, to_proto, watch};
use crate::domain::failure::{Failure, Reason};
use crate::domain::idempotency::Fingerprint;
use crate::domain::limit::{FANOUT_TARGETS_MAX, FLEET_MAX, WATCHERS_MAX};
use crate::domain::target::BadTarget;
use crate::domain::task::{Form, Task};
use crate::fleet::view::{FleetNow, Members, View};
use crate::ingress::arrival::Arrival;
use crate::orchestrate::admit::Turn;
use crate::orchestrate::deduplicate::{Identity, Origin};
use crate::orchestrate::fan_out::{FanOut, fan_out};
use crate::orchestrate::run_task::{Route, Tries, Unanswered, run_task};
use crate::proto::orchestrator::{
    FanoutRequest, FanoutResponse, HealthRequest, HealthResponse, HealthWatchRequest,
    HealthWatchResponse, RouteRequest, RouteResponse,
};

/// Why a Route has brought no answer.
#[derive(Debug)]
pub(crate) enum NotRouted {
    /// It was not let in: no instance was looked for.
    Refused(Failure),
    /// It was tried, or nobody was there to try it.
    Unanswered(Unanswered),
}

/// The methods of OrchestratorService. Clones share what there is one of.
#[derive(Clone)]
pub(crate) struct Orchestrator {
    pub(super) house: House,
    fleet_now: FleetNow,
    watchers: Arc<Semaphore>,
}

impl Orchestrator {
    pub(crate) fn new(house: House) -> Self {
        Self {
            fleet_now: house.fleet.now(),
            house,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    /// Hands one task to one instance.
    pub(crate) async fn route(
        &self,
        arrival: Arrival,
        request: RouteRequest,
    ) -> Result<RouteResponse, NotRouted> {
        let caller = arrival.caller.counted();
        let resolve = |fleet: &View, named: &[String]| fleet.resolve(named, FLEET_MAX);
        let read = self.read_route(arrival, request, resolve);
        let (mut route, identity) = read.map_err(NotRouted::Refused)?;
        let admitted = self.house.gate.admit(&caller, 0, route.deadline).await;
        let place = admitted.map_err(NotRouted::Refused)?;
        if place.turn() == Turn::AfterAWait {
            route.look_again();
        }
        let (outcome, origin) = match identity {
            None => (run_task(route, &Tries::default()).await, Origin::Own),
            Some(identity) => {
                let deduplicate = &self.house.deduplicate;
                deduplicate.run_task(identity, route, place).await
            }
        };
        let answered = outcome.map_err(NotRouted::Unanswered)?;
        Ok(to_proto::route(answered, origin))
    }

    /// Hands one task to every target. Dropping the events resets every leg that still runs.
    pub(crate) async fn fanout(
        &self,
        arrival: Arrival,
        request: FanoutRequest,
    ) -> Result<impl Stream<Item = Result<FanoutResponse, Failure>> + Send + use<>, Failure> {
        let caller = arrival.caller.counted();
        let resolve = |fleet: &View, named: &[String]| fleet.resolve(named, FANOUT_TARGETS_MAX);
        let mut call = self.read_fan_out(arrival, request, resolve)?;
        let legs = call.roster.len();
        let place = self.house.gate.admit(&caller, legs, call.deadline).await?;
        if place.turn() == Turn::AfterAWait {
            call.look_again();
        }
        let events = fan_out(call, &self.house.tasks)
            .map_err(|bad| from_proto::invalid("completion", bad))?;
        Ok(events.map(move |event| {
            // Given back when the stream is dropped.
            let _place = &place;
            event.map(to_proto::event)
        }))
    }

    /// Tells who is well.
    pub(crate) fn health(&self, request: &HealthRequest) -> Result<HealthResponse, Failure> {
        let members = self.members(&request.instances)?;
        let instances = members
            .iter()
            .map(|member| to_proto::health(member, &self.house.sessions))
            .collect();
        Ok(HealthResponse { instances })
    }

    /// Tells who is well, and each change.
    pub(crate) fn health_watch(
        &self,
        arrival: Arrival,
        request: HealthWatchRequest,
    ) -> Result<impl Stream<Item = Result<HealthWatchResponse, Failure>> + Send + use<>, Failure>
    {
        let expressions = request.instances;
        self.members(&expressions)?;
        let place = Arc::clone(&self.watchers)
            .try_acquire_owned()
            .map_err(|_| {
                let detail = format!("{WATCHERS_MAX} watches are open already");
                Failure::new(Reason::TooMany, detail)
            })?;
        Ok(watch::changes(&self.house, arrival, expressions, place))
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
        let retry = from_proto::retry(&policy, &self.house.retry())?;
        let fleet = self.house.fleet.view();
        let candidates = resolve(&fleet, &request.instances).map_err(from_proto::target)?;
        let limits = self.house.timeouts();
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
            weight_max: fleet.weight_max(),
            candidates,
            selection,
            retry,
            hedge: from_proto::hedge(&policy, &retry)?,
            readiness,
            fleet_now: Arc::clone(&self.fleet_now),
            retries: Arc::clone(&self.house.retries),
            hedges: Some(Arc::clone(&self.house.hedges)),
            lag: None,
            within: arrival.exchange.within().clone(),
            chance: self.house.chance.clone(),
            arrived: arrival.at,
            deadline: arrival.deadline(timeout, limits.route, limits.max),
            task: Arc::new(Task {
                payload,
                metadata,
                names: arrival.names,
                form: Form::default(),
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
        let policy = request.policy.unwrap_or_default();
        let retry = from_proto::leg_retry(&policy, &self.house.retry())?;
        let fleet = self.house.fleet.view();
        let roster = resolve(&fleet, &request.targets).map_err(from_proto::target)?;
        let limits = self.house.timeouts();
        // With the payload its weight goes, however long it is needed.
        let kept = |payload: Option<Bytes>| payload.map(|bytes| arrival.exchange.keep(bytes));
        Ok(FanOut {
            panic: fleet.panic_among(&roster),
            roster,
            completion,
            retry,
            fleet_now: Arc::clone(&self.fleet_now),
            retries: Arc::clone(&self.house.retries),
            within: arrival.exchange.within().clone(),
            chance: self.house.chance.clone(),
            aggregate: request.aggregate,
            arrived: arrival.at,
            deadline: arrival.deadline(timeout, limits.fanout, limits.max),
            task: Arc::new(Task {
                payload: from_proto::payload(kept(request.payload))?,
                metadata: from_proto::metadata(request.metadata)?,
                names: arrival.names,
                form: Form::default(),
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
