//! Explain: the call is read as the call itself would be, and then only looked at.

use std::time::Duration;

use super::orchestrator::Orchestrator;
use super::{from_proto, to_proto};
use crate::domain::deadline::Deadline;
use crate::domain::failure::Failure;
use crate::domain::health::{Exclusion, Panic};
use crate::domain::limit::{FANOUT_TARGETS_MAX, FLEET_MAX};
use crate::domain::retry::{self, Fallback, Repeat};
use crate::domain::selection::Policy;
use crate::domain::target::BadTarget;
use crate::fleet::view::{Members, View};
use crate::ingress::arrival::Arrival;
use crate::orchestrate::explain::{self, Excluded, Explained, Place};
use crate::orchestrate::hold_session::Sessions;
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::explain_request::Call;

impl Orchestrator {
    /// Tells what a Route or a Fanout would do, without doing it.
    pub(crate) fn explain(
        &self,
        arrival: Arrival,
        request: proto::ExplainRequest,
    ) -> Result<proto::ExplainResponse, Failure> {
        let arrived = arrival.at.into_std();
        let mut absent = Vec::new();
        match request.call {
            Some(Call::Route(request)) => {
                let resolve =
                    |fleet: &View, named: &[String]| present(fleet, named, FLEET_MAX, &mut absent);
                let (route, _identity) = self.read_route(arrival, request, resolve)?;
                let policy = proto::EffectivePolicy {
                    selection: selection(&route.selection).into(),
                    fallback: fallback(route.retry.fallback).into(),
                    hedge_delay: route.hedge_delay().map(to_proto::duration),
                    wait_for_ready: route.readiness.is_some(),
                    ..policy(&route.retry, route.deadline, arrived)
                };
                let explained = explain::route(&route);
                Ok(self.answer(explained, absent, route.panic, policy))
            }
            Some(Call::Fanout(request)) => {
                let resolve = |fleet: &View, named: &[String]| {
                    present(fleet, named, FANOUT_TARGETS_MAX, &mut absent)
                };
                let call = self.read_fan_out(arrival, request, resolve)?;
                let policy = policy(&call.retry, call.deadline, arrived);
                let explained = explain::fan_out(&call);
                Ok(self.answer(explained, absent, call.panic, policy))
            }
            None => Err(from_proto::invalid(
                "call",
                "is missing: give route or fanout",
            )),
        }
    }
}

fn present(
    fleet: &View,
    named: &[String],
    max: usize,
    absent: &mut Vec<String>,
) -> Result<Members, BadTarget> {
    let (positions, missing) = fleet.resolve_present(named, max)?;
    *absent = missing;
    let member = |at: usize| fleet.members()[at].clone();
    Ok(positions.into_iter().map(member).collect())
}

impl Orchestrator {
    fn answer(
        &self,
        explained: Vec<Explained>,
        absent: Vec<String>,
        panic: Panic,
        policy: proto::EffectivePolicy,
    ) -> proto::ExplainResponse {
        let absent = absent.into_iter().map(|part| proto::ExplainedInstance {
            reason: "selects no instance of the fleet: the call would be refused".to_owned(),
            exclusion: proto::Exclusion::NotInFleet.into(),
            instance: part,
            ..proto::ExplainedInstance::default()
        });
        let instances = explained.into_iter();
        let instances = instances.map(|explained| instance(explained, &self.house.sessions));
        proto::ExplainResponse {
            instances: instances.chain(absent).collect(),
            panic_mode: panic == Panic::On,
            policy: Some(policy),
        }
    }
}

fn instance(explained: Explained, sessions: &Sessions) -> proto::ExplainedInstance {
    let exclusion = match explained.exclusion {
        None => proto::Exclusion::None,
        Some(Excluded::Unwell(Exclusion::Draining)) => proto::Exclusion::Draining,
        Some(Excluded::Unwell(Exclusion::Disabled)) => proto::Exclusion::Disabled,
        Some(Excluded::Unwell(Exclusion::Down)) => proto::Exclusion::Down,
        Some(Excluded::Unwell(Exclusion::Ejected { .. })) => proto::Exclusion::Ejected,
        Some(Excluded::Unwell(Exclusion::OnTrial)) => proto::Exclusion::OnTrial,
        Some(Excluded::AtLimit) => proto::Exclusion::AtLimit,
    };
    let member = explained.member;
    let latency = member.load.compared(tokio::time::Instant::now()).latency_ns;
    proto::ExplainedInstance {
        instance: member.id().to_string(),
        exclusion: exclusion.into(),
        reason: explained.reason,
        health: Some(to_proto::health(&member, sessions)),
        weight: member.spec.weight,
        latency: (0.0 < latency).then(|| to_proto::duration(Duration::from_nanos(latency as u64))),
        warmth: explained.warmth,
        fallback: explained.place == Place::Fallback,
    }
}

fn policy(
    retry: &retry::Policy,
    deadline: Deadline,
    arrived: std::time::Instant,
) -> proto::EffectivePolicy {
    proto::EffectivePolicy {
        timeout: Some(to_proto::duration(deadline.ends() - arrived)),
        work_time: Some(to_proto::duration(deadline.work_ends() - arrived)),
        per_try_timeout: retry.per_try_timeout.map(to_proto::duration),
        attempts_max: retry.attempts_max,
        selection: proto::Selection::Unspecified.into(),
        fallback: proto::Fallback::Unspecified.into(),
        idempotent: retry.repeat == Repeat::Idempotent,
        hedge_delay: None,
        wait_for_ready: false,
    }
}

fn selection(policy: &Policy) -> proto::Selection {
    match policy {
        Policy::Balanced => proto::Selection::Balanced,
        Policy::Ordered => proto::Selection::Ordered,
        Policy::Hash(_) => proto::Selection::Hash,
    }
}

fn fallback(fallback: Fallback) -> proto::Fallback {
    match fallback {
        Fallback::ListedOnly => proto::Fallback::ListedOnly,
        Fallback::AnyHealthy => proto::Fallback::AnyHealthy,
    }
}
