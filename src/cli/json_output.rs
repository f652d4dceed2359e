//! Answers as JSON: camelCase keys, short lower-case enum values, durations such as "0.012s".
//!
//! Each view borrows one message of the contract. What is absent is left out.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{plain, words};
use crate::payload_json::{self, AsJson};
use crate::proto::orchestrator as proto;

/// `{"instance", "payload", "attempts"}`, and `"deduplicated": true` for the answer of an earlier request.
#[derive(Serialize)]
pub(super) struct Route<'a> {
    instance: &'a str,
    #[serde(flatten)]
    payload: Payload<'a>,
    attempts: Vec<Attempt<'a>>,
    #[serde(rename = "panicMode", skip_serializing_if = "is_false")]
    panic_mode: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deduplicated: bool,
}

/// What a fan-out was, with everything that arrived.
#[derive(Serialize)]
pub(super) struct Fanout<'a> {
    pub(super) roster: &'a [String],
    #[serde(rename = "panicMode", skip_serializing_if = "is_false")]
    pub(super) panic_mode: bool,
    pub(super) partials: Vec<Partial<'a>>,
    /// Null when the stream broke before its end.
    pub(super) summary: Option<Summary<'a>>,
}

/// One event of a fan-out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Event<'a> {
    #[serde(rename_all = "camelCase")]
    Started {
        roster: &'a [String],
        #[serde(skip_serializing_if = "is_false")]
        panic_mode: bool,
    },
    Partial(Partial<'a>),
    Summary(Summary<'a>),
}

/// `{"instance", "outcome", "payload" or "failure"}`, with attempts when any are told.
#[derive(Serialize)]
pub(super) struct Partial<'a> {
    instance: &'a str,
    outcome: String,
    #[serde(flatten)]
    payload: Option<Payload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Attempt<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary<'a> {
    counts: Counts,
    stop_reason: String,
    missing: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aggregate: Vec<Partial<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    answered: u32,
    failed: u32,
    timed_out: u32,
    cancelled: u32,
    skipped: u32,
}

/// `{"instance", "kind", "failure", "offset", "elapsed"}`.
#[derive(Serialize)]
pub(super) struct Attempt<'a> {
    instance: &'a str,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed: Option<String>,
}

#[derive(Serialize)]
struct Failure<'a> {
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    instance: &'a str,
    code: i32,
    retryable: bool,
}

/// `{"A": "healthy", "B": "down"}`, in the order of the answer.
pub(super) struct HealthWords<'a>(pub(super) &'a [proto::InstanceHealth]);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health<'a> {
    instance: &'a str,
    state: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_probe_latency: Option<String>,
    calls_outstanding: u32,
    #[serde(skip_serializing_if = "is_zero")]
    sessions_open: u32,
    admin: String,
    probed: String,
    observed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_until: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    drained: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a call would do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained<'a> {
    instances: Vec<ExplainedInstance<'a>>,
    panic_mode: bool,
    policy: Option<EffectivePolicy>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedInstance<'a> {
    instance: &'a str,
    exclusion: String,
    reason: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    fallback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<String>,
    #[serde(flatten)]
    known: Option<Known<'a>>,
}

#[derive(Serialize)]
struct Known<'a> {
    weight: u32,
    warmth: f64,
    health: Health<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EffectivePolicy {
    timeout: Option<String>,
    work_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_try_timeout: Option<String>,
    attempts_max: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    selection: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fallback: String,
    idempotent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge_delay: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wait_for_ready: bool,
}

/// An instance that has left the fleet, as a line of `health --watch`.
#[derive(Serialize)]
pub(super) struct Removed<'a> {
    pub(super) instance: &'a str,
    pub(super) removed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance<'a> {
    id: &'a str,
    address: &'a str,
    labels: std::collections::BTreeMap<&'a str, &'a str>,
    weight: u32,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health<'a>>,
}

/// `"payload": …`, or `"payloadError"` where an instance answered with what JSON cannot say: one such answer
/// must not take the others of a fan-out with it.
enum Payload<'a> {
    Json(AsJson<'a>),
    NoJson(payload_json::BadValue),
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut field = serializer.serialize_map(Some(1))?;
        match self {
            Self::Json(json) => field.serialize_entry("payload", json)?,
            Self::NoJson(bad) => field.serialize_entry("payloadError", &bad.to_string())?,
        }
        field.end()
    }
}

impl Serialize for HealthWords<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|health| (&health.instance, health_state(health))),
        )
    }
}

pub(super) fn route(response: &proto::RouteResponse) -> Route<'_> {
    Route {
        instance: &response.instance,
        payload: payload(response.payload.as_deref().unwrap_or(NULL)),
        attempts: response.attempts.iter().map(attempt).collect(),
        panic_mode: response.panic_mode,
        deduplicated: response.deduplicated,
    }
}

pub(super) fn partial(partial: &proto::Partial) -> Partial<'_> {
    Partial {
        instance: &partial.instance,
        outcome: outcome(partial),
        payload: partial.payload.as_deref().map(payload),
        failure: partial.failure.as_ref().map(failure),
        attempts: partial.attempts.iter().map(attempt).collect(),
    }
}

pub(super) fn summary(summary: &proto::Summary) -> Summary<'_> {
    let counts = summary.counts.unwrap_or_default();
    Summary {
        counts: Counts {
            answered: counts.answered,
            failed: counts.failed,
            timed_out: counts.timed_out,
            cancelled: counts.cancelled,
            skipped: counts.skipped,
        },
        stop_reason: stop_reason(summary),
        missing: &summary.missing,
        aggregate: summary.aggregate.iter().map(partial).collect(),
    }
}

pub(super) fn health(health: &proto::InstanceHealth) -> Health<'_> {
    Health {
        instance: &health.instance,
        state: health_state(health),
        reason: &health.reason,
        since: health.since.map(|since| since.to_string()),
        last_probe_latency: health.last_probe_latency.map(|latency| latency.to_string()),
        calls_outstanding: health.calls_outstanding,
        sessions_open: health.sessions_open,
        admin: words::admin_state(health),
        probed: words::probed_state(health),
        observed: words::observed_state(health),
        ejected_until: health.ejected_until.map(|until| until.to_string()),
        drained: health.drained,
    }
}

pub(super) fn explain(explained: &proto::ExplainResponse) -> Explained<'_> {
    let instances = explained.instances.iter().map(|instance| {
        let known = instance.health.as_ref().map(|of| Known {
            weight: instance.weight,
            warmth: instance.warmth,
            health: health(of),
        });
        ExplainedInstance {
            instance: &instance.instance,
            exclusion: words::exclusion(instance),
            reason: &instance.reason,
            fallback: instance.fallback,
            latency: instance.latency.map(|latency| latency.to_string()),
            known,
        }
    });
    let policy = explained.policy.as_ref().map(|policy| EffectivePolicy {
        timeout: policy.timeout.map(|time| time.to_string()),
        work_time: policy.work_time.map(|time| time.to_string()),
        per_try_timeout: policy.per_try_timeout.map(|time| time.to_string()),
        attempts_max: policy.attempts_max,
        selection: words::selection(policy),
        fallback: words::fallback(policy),
        idempotent: policy.idempotent,
        hedge_delay: policy.hedge_delay.map(|time| time.to_string()),
        wait_for_ready: policy.wait_for_ready,
    });
    Explained {
        instances: instances.collect(),
        panic_mode: explained.panic_mode,
        policy,
    }
}

pub(super) fn instance<'a>(
    listed: &'a proto::ListedInstance,
    instance: &'a proto::Instance,
) -> Instance<'a> {
    let labels = instance.labels.iter();
    Instance {
        id: &instance.id,
        address: &instance.address,
        labels: labels
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
        weight: instance.weight,
        origin: origin(listed),
        expire_time: listed.expire_time.map(|time| time.to_string()),
        health: listed.health.as_ref().map(health),
    }
}

// === the short words of the contract ===

pub(super) fn outcome(partial: &proto::Partial) -> String {
    plain::word(partial.outcome, proto::Outcome::as_str_name, "OUTCOME_")
}

pub(super) fn stop_reason(summary: &proto::Summary) -> String {
    plain::word(
        summary.stop_reason,
        proto::StopReason::as_str_name,
        "STOP_REASON_",
    )
}

pub(super) fn attempt_kind(attempt: &proto::Attempt) -> String {
    plain::word(
        attempt.kind,
        proto::AttemptKind::as_str_name,
        "ATTEMPT_KIND_",
    )
}

pub(super) fn health_state(health: &proto::InstanceHealth) -> String {
    plain::word(
        health.state,
        proto::HealthState::as_str_name,
        "HEALTH_STATE_",
    )
}

pub(super) fn origin(listed: &proto::ListedInstance) -> String {
    plain::word(
        listed.origin,
        proto::InstanceOrigin::as_str_name,
        "INSTANCE_ORIGIN_",
    )
}

/// The Value `null`, which an absent payload means.
pub(super) const NULL: &[u8] = &[0x08, 0x00];

fn payload(encoded: &[u8]) -> Payload<'_> {
    match payload_json::to_json(encoded) {
        Ok(_) => Payload::Json(AsJson(encoded)),
        Err(bad) => Payload::NoJson(bad),
    }
}

pub(super) fn attempt(attempt: &proto::Attempt) -> Attempt<'_> {
    Attempt {
        instance: &attempt.instance,
        kind: attempt_kind(attempt),
        failure: attempt.failure.as_ref().map(failure),
        offset: attempt.offset.map(|offset| offset.to_string()),
        elapsed: attempt.elapsed.map(|elapsed| elapsed.to_string()),
    }
}

fn failure(failure: &proto::Failure) -> Failure<'_> {
    Failure {
        reason: &failure.reason,
        message: &failure.message,
        instance: &failure.instance,
        code: failure.code,
        retryable: failure.retryable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    fn check(document: &impl Serialize, expected: &str) {
        assert_eq!(serde_json::to_string(document).unwrap(), expected);
    }

    #[test]
    fn a_route_tells_who_answered_what_after_which_tries() {
        check(
            &route(&samples::route()),
            r#"{"instance":"B","payload":{"data":"task","n":1},"attempts":[{"instance":"A","kind":"first","failure":{"reason":"INSTANCE_DOWN","message":"connection refused","instance":"A","code":14,"retryable":true},"offset":"0s","elapsed":"0.001s"},{"instance":"B","kind":"transparent_retry","offset":"0.001s","elapsed":"0.012s"}]}"#,
        );
        let silent = proto::RouteResponse::default();
        check(
            &route(&silent),
            r#"{"instance":"","payload":null,"attempts":[]}"#,
        );
    }

    #[test]
    fn a_partial_has_a_payload_or_a_failure() {
        let partials = samples::partials();
        check(
            &partial(&partials[0]),
            r#"{"instance":"A","outcome":"answered","payload":{"data":"task","n":1}}"#,
        );
        check(
            &Event::Partial(partial(&partials[1])),
            r#"{"partial":{"instance":"B","outcome":"timed_out","failure":{"reason":"DEADLINE_EXCEEDED","message":"no answer in 0.1 s","instance":"B","code":4,"retryable":false}}}"#,
        );
    }

    #[test]
    fn an_answer_that_json_cannot_say_leaves_the_others_alone() {
        let odd = proto::Partial {
            payload: Some([&[0x11][..], &f64::NAN.to_le_bytes()].concat().into()),
            outcome: 1,
            ..Default::default()
        };
        check(
            &partial(&odd),
            r#"{"instance":"","outcome":"answered","payloadError":"payload has no JSON form: NaN is not a JSON number"}"#,
        );
    }

    #[test]
    fn a_summary_counts_and_names_who_is_missing() {
        check(
            &Event::Summary(summary(&samples::summary())),
            r#"{"summary":{"counts":{"answered":1,"failed":0,"timedOut":1,"cancelled":0,"skipped":0},"stopReason":"deadline","missing":["B"]}}"#,
        );
        let roster = ["A".to_owned(), "B".to_owned()];
        check(
            &Event::Started {
                roster: &roster,
                panic_mode: true,
            },
            r#"{"started":{"roster":["A","B"],"panicMode":true}}"#,
        );
    }

    #[test]
    fn health_is_a_plain_map_unless_more_is_asked() {
        let fleet = samples::health();
        check(&HealthWords(&fleet), r#"{"B":"down","A":"healthy"}"#);
        check(
            &health(&fleet[0]),
            r#"{"instance":"B","state":"down","reason":"connection refused","since":"1970-01-01T00:13:20Z","callsOutstanding":0,"admin":"draining","probed":"down","observed":"trusted","drained":true}"#,
        );
    }

    #[test]
    fn an_instance_is_told_with_its_health() {
        let listed = samples::listed();
        check(
            &instance(&listed, listed.instance.as_ref().unwrap()),
            r#"{"id":"A","address":"grpc://10.0.0.1:7000","labels":{"gpu":"a","zone":"x"},"weight":2,"origin":"registered","expireTime":"1970-01-01T00:17:00Z","health":{"instance":"A","state":"healthy","lastProbeLatency":"0.002s","callsOutstanding":3,"admin":"active","probed":"healthy","observed":"trusted"}}"#,
        );
    }
}
