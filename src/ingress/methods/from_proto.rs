//! Requests as they came in → values of the domain. What cannot be meant is refused by the name of its field.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost_types::Duration as ProtoDuration;

use crate::domain::failure::{Failure, Reason};
use crate::domain::gather;
use crate::domain::hedge;
use crate::domain::id::InstanceId;
use crate::domain::idempotency::Word;
use crate::domain::limit::{
    ATTEMPTS_MAX, DURATION_MAX, HASH_KEY_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, LEASE_DEFAULT,
    LEASE_MAX, LEASE_MIN, PAGE_MAX, WEIGHT_MAX,
};
use crate::domain::payload::Payload;
use crate::domain::retry;
use crate::domain::selection::Policy;
use crate::domain::target::BadTarget;
use crate::domain::task::Metadata;
use crate::fleet::registration::Registration;
use crate::instance::endpoint::Endpoint;
use crate::proto::orchestrator::{
    CallPolicy, Completion, Fallback, Instance, RegisterRequest, Selection, completion,
};

pub(super) fn invalid(field: &str, what: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::ArgumentInvalid, format!("{field}: {what}"))
}

pub(super) fn target(bad: BadTarget) -> Failure {
    let reason = if bad.is_missing() {
        Reason::TargetUnknown
    } else {
        Reason::TargetInvalid
    };
    Failure::new(reason, bad.to_string())
}

/// Absent means null.
pub(super) fn payload(encoded: Option<Bytes>) -> Result<Payload, Failure> {
    match encoded {
        None => Ok(Payload::null()),
        Some(encoded) => Payload::check(encoded)
            .map_err(|bad| Failure::new(Reason::PayloadInvalid, bad.to_string())),
    }
}

pub(super) fn metadata(entries: HashMap<String, String>) -> Result<Metadata, Failure> {
    Metadata::check(entries).map_err(|bad| invalid("metadata", bad))
}

pub(super) fn timeout(
    field: &str,
    timeout: Option<ProtoDuration>,
) -> Result<Option<Duration>, Failure> {
    let Some(timeout) = timeout else {
        return Ok(None);
    };
    let read = Duration::try_from(timeout)
        .ok()
        .filter(|timeout| !timeout.is_zero());
    read.map(|timeout| Some(timeout.min(DURATION_MAX)))
        .ok_or_else(|| invalid(field, "must be a positive duration such as 10s"))
}

pub(super) fn selection(policy: &CallPolicy) -> Result<Policy, Failure> {
    let selection = Selection::try_from(policy.selection);
    if policy.hash_key.is_empty() == (selection == Ok(Selection::Hash)) {
        return Err(invalid(
            "policy.hash_key",
            "goes with selection HASH, which needs it",
        ));
    }
    if HASH_KEY_BYTES_MAX < policy.hash_key.len() {
        return Err(invalid(
            "policy.hash_key",
            format!("may have at most {HASH_KEY_BYTES_MAX} bytes"),
        ));
    }
    match selection {
        Ok(Selection::Unspecified | Selection::Balanced) => Ok(Policy::Balanced),
        Ok(Selection::Ordered) => Ok(Policy::Ordered),
        Ok(Selection::Hash) => Ok(Policy::Hash(policy.hash_key.clone())),
        Err(_) => Err(invalid(
            "policy.selection",
            format!("{} is not a selection", policy.selection),
        )),
    }
}

/// What the call does not say, and how much it may ask for, the settings say.
pub(super) fn retry(
    policy: &CallPolicy,
    settings: &retry::Settings,
) -> Result<retry::Policy, Failure> {
    let fallback = match Fallback::try_from(policy.fallback) {
        Ok(Fallback::Unspecified | Fallback::ListedOnly) => retry::Fallback::ListedOnly,
        Ok(Fallback::AnyHealthy) => retry::Fallback::AnyHealthy,
        Err(_) => {
            return Err(invalid(
                "policy.fallback",
                format!("{} is not a fallback", policy.fallback),
            ));
        }
    };
    let attempts_max = settings.attempts_max.min(ATTEMPTS_MAX);
    if attempts_max < policy.attempts_max {
        return Err(invalid(
            "policy.attempts_max",
            format!("may be at most {attempts_max}"),
        ));
    }
    let attempts_max = if policy.attempts_max == 0 {
        settings.attempts_default.min(attempts_max)
    } else {
        policy.attempts_max
    };
    let repeat = if policy.idempotent {
        retry::Repeat::Idempotent
    } else {
        retry::Repeat::Unsafe
    };
    let per_try_timeout = timeout("policy.per_try_timeout", policy.per_try_timeout)?;
    Ok(retry::Policy {
        attempts_max,
        per_try_timeout,
        repeat,
        fallback,
        backoff: settings.backoff,
    })
}

pub(super) fn hedge(policy: &CallPolicy, retry: &retry::Policy) -> Result<hedge::Policy, Failure> {
    let Some(asked) = &policy.hedge else {
        return Ok(hedge::Policy::Off);
    };
    if !policy.idempotent {
        let what = "sends the task to two instances: set idempotent if that does no harm";
        return Err(invalid("policy.hedge", what));
    }
    if retry.attempts_max == 1 {
        let what = if policy.attempts_max == 1 {
            "is a second try, and policy.attempts_max allows one"
        } else {
            "is a second try, and this orchestrator makes one unless policy.attempts_max says otherwise"
        };
        return Err(invalid("policy.hedge", what));
    }
    let delay = timeout("policy.hedge.delay", asked.delay)?;
    Ok(delay.map_or(hedge::Policy::Usual, hedge::Policy::After))
}

/// Absent means that the call is not to be found again.
pub(super) fn idempotency_key(word: &str) -> Result<Option<Word>, Failure> {
    if word.is_empty() {
        return Ok(None);
    }
    let checked = Word::check(word).map(Some);
    checked.map_err(|bad| invalid("idempotency_key", bad))
}

/// A leg has nowhere else to go.
pub(super) fn leg_retry(
    policy: &CallPolicy,
    settings: &retry::Settings,
) -> Result<retry::Policy, Failure> {
    let elsewhere = policy.selection != 0 || policy.fallback != 0 || !policy.hash_key.is_empty();
    if elsewhere {
        let what = "a fan-out tries each target only at itself: leave out selection, fallback and hash_key";
        return Err(invalid("policy", what));
    }
    if policy.hedge.is_some() || policy.wait_for_ready {
        let what = "hedge and wait_for_ready are for a Route: leave them out";
        return Err(invalid("policy", what));
    }
    retry(policy, settings)
}

pub(super) fn completion(asked: Option<Completion>) -> Result<gather::Completion, Failure> {
    use gather::Rule;
    let Some(asked) = asked else {
        return Ok(gather::Completion::default());
    };
    let rule = match asked.rule {
        None => Rule::All,
        Some(completion::Rule::First(count)) => Rule::First(count),
        Some(completion::Rule::Quorum(count)) => Rule::Quorum(count),
        Some(completion::Rule::Majority(true)) => Rule::Majority,
        Some(completion::Rule::Majority(false)) => {
            return Err(invalid(
                "completion.majority",
                "only true is allowed: leave it out for all targets",
            ));
        }
    };
    Ok(gather::Completion {
        rule,
        failures_max: asked.failures_max,
    })
}

pub(super) fn registration(request: RegisterRequest) -> Result<Registration, Failure> {
    let Instance {
        id,
        address,
        labels,
        weight,
    } = request
        .instance
        .ok_or_else(|| invalid("instance", "is missing"))?;
    let lease = timeout("lease", request.lease)?.unwrap_or(LEASE_DEFAULT);
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        let (least, most) = (LEASE_MIN.as_secs(), LEASE_MAX.as_secs());
        return Err(invalid(
            "lease",
            format!("must be between {least} s and {most} s"),
        ));
    }
    if WEIGHT_MAX < weight {
        return Err(invalid(
            "instance.weight",
            format!("may be at most {WEIGHT_MAX}"),
        ));
    }
    Ok(Registration {
        id: instance_id("instance.id", &id)?,
        endpoint: Endpoint::parse(&address).map_err(|bad| invalid("instance.address", bad))?,
        labels: checked_labels("instance.labels", labels)?,
        weight: weight.max(1),
        incarnation: request.incarnation,
        lease,
    })
}

pub(super) fn instance_id(field: &str, id: &str) -> Result<InstanceId, Failure> {
    InstanceId::parse(id).map_err(|bad| invalid(field, bad))
}

pub(super) fn checked_labels(
    field: &str,
    labels: HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let too_long = |text: &String| LABEL_BYTES_MAX < text.len();
    if LABELS_MAX < labels.len()
        || labels
            .iter()
            .any(|(name, value)| too_long(name) || too_long(value))
    {
        let detail = format!("at most {LABELS_MAX} labels of {LABEL_BYTES_MAX} bytes each");
        return Err(invalid(field, detail));
    }
    Ok(labels.into_iter().collect())
}

pub(super) fn page_size(asked: i32) -> Result<usize, Failure> {
    match usize::try_from(asked) {
        Err(_negative) => Err(invalid("page_size", "may not be negative")),
        Ok(0) => Ok(PAGE_MAX),
        Ok(asked) => Ok(asked.min(PAGE_MAX)),
    }
}
