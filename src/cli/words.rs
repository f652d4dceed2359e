//! The short words of health and of explanations.

use super::plain::word;
use crate::proto::orchestrator as proto;

pub(super) fn admin_state(health: &proto::InstanceHealth) -> String {
    word(health.admin, proto::AdminState::as_str_name, "ADMIN_STATE_")
}

pub(super) fn probed_state(health: &proto::InstanceHealth) -> String {
    word(
        health.probed,
        proto::ProbedState::as_str_name,
        "PROBED_STATE_",
    )
}

pub(super) fn observed_state(health: &proto::InstanceHealth) -> String {
    word(
        health.observed,
        proto::ObservedState::as_str_name,
        "OBSERVED_STATE_",
    )
}

pub(super) fn exclusion(instance: &proto::ExplainedInstance) -> String {
    word(
        instance.exclusion,
        proto::Exclusion::as_str_name,
        "EXCLUSION_",
    )
}

/// Empty where a call has none.
pub(super) fn selection(policy: &proto::EffectivePolicy) -> String {
    if policy.selection == 0 {
        return String::new();
    }
    word(
        policy.selection,
        proto::Selection::as_str_name,
        "SELECTION_",
    )
}

/// Empty where a call has none.
pub(super) fn fallback(policy: &proto::EffectivePolicy) -> String {
    if policy.fallback == 0 {
        return String::new();
    }
    word(policy.fallback, proto::Fallback::as_str_name, "FALLBACK_")
}
