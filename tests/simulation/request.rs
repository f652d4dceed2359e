//! A planned call as a request.

use orchestrator::proto::orchestrator as proto;

use crate::ask::{Ask, Hedge, Kind, Rule, Selection, TimeoutIn};
use crate::payload;

pub(crate) fn route(ask: &Ask) -> proto::RouteRequest {
    let mut policy = policy(ask);
    if let Kind::Route {
        selection,
        anywhere,
    } = &ask.kind
    {
        let (word, key) = match selection {
            Selection::Balanced => (proto::Selection::Balanced, ""),
            Selection::Ordered => (proto::Selection::Ordered, ""),
            Selection::Hash(key) => (proto::Selection::Hash, key.as_str()),
        };
        policy.set_selection(word);
        policy.hash_key = key.to_owned();
        if *anywhere {
            policy.set_fallback(proto::Fallback::AnyHealthy);
        }
        policy.wait_for_ready = ask.waits_for_ready;
        policy.hedge = match ask.hedge {
            Hedge::Never => None,
            Hedge::Usual => Some(proto::Hedge { delay: None }),
            Hedge::After(delay) => Some(proto::Hedge {
                delay: delay.try_into().ok(),
            }),
        };
    }
    proto::RouteRequest {
        instances: ask.targets.clone(),
        payload: Some(payload::of(ask.task, ask.order)),
        timeout: timeout(ask),
        policy: Some(policy),
        idempotency_key: ask.word.clone().unwrap_or_default(),
        ..Default::default()
    }
}

pub(crate) fn fan_out(ask: &Ask) -> proto::FanoutRequest {
    let (mut completion, mut aggregates) = (None, false);
    if let Kind::Fanout {
        rule,
        failures_max,
        aggregate,
        ..
    } = &ask.kind
    {
        use proto::completion::Rule as Wire;
        aggregates = *aggregate;
        completion = Some(proto::Completion {
            rule: match rule {
                Rule::All => None,
                Rule::First(count) => Some(Wire::First(*count)),
                Rule::Quorum(count) => Some(Wire::Quorum(*count)),
                Rule::Majority => Some(Wire::Majority(true)),
            },
            failures_max: *failures_max,
        });
    }
    proto::FanoutRequest {
        targets: ask.targets.clone(),
        payload: Some(payload::of(ask.task, ask.order)),
        aggregate: aggregates,
        timeout: timeout(ask),
        policy: Some(policy(ask)),
        completion,
        ..Default::default()
    }
}

fn policy(ask: &Ask) -> proto::CallPolicy {
    proto::CallPolicy {
        per_try_timeout: ask.per_try.map(|timeout| timeout.try_into().unwrap()),
        attempts_max: ask.attempts_max,
        idempotent: ask.idempotent,
        ..Default::default()
    }
}

fn timeout(ask: &Ask) -> Option<prost_types::Duration> {
    (ask.timeout_in == TimeoutIn::Field).then(|| ask.timeout.try_into().unwrap())
}
