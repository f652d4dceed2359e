//! What is said of instances that are not asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::admission::Rate;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::health::{Exclusion, Panic};
use crate::fleet::view::Member;

/// Why an instance is not asked, in words.
#[must_use]
pub fn why(member: &Member, exclusion: Exclusion) -> String {
    let reason = &member.health.reason;
    match exclusion {
        Exclusion::Draining => "draining: it gets nothing new".to_owned(),
        Exclusion::Disabled => "disabled: it gets no work".to_owned(),
        Exclusion::Down => {
            let since = member.health.since.elapsed().unwrap_or(Duration::ZERO);
            let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
            format!("down for {since}: {reason}")
        }
        Exclusion::Ejected { until } => {
            let left = until.saturating_duration_since(Instant::now().into_std());
            // Less than a second is left, not none.
            let left = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
            format!("ejected for {left} more: {reason}")
        }
        Exclusion::OnTrial => "ejected, and another call tries it again now".to_owned(),
    }
}

/// Why nothing is sent to an instance that has as many calls as it may have, in words.
#[must_use]
pub fn at_limit(member: &Member) -> String {
    let (max, outstanding) = (member.load.outstanding_max(), member.load.outstanding());
    match member.load.rate() {
        Some(Rate { per_second, .. }) if outstanding < max => {
            format!("at its limit: it may have {per_second} calls a second")
        }
        Some(_) | None => {
            format!("at its limit: it has {max} calls, which is the most it may have")
        }
    }
}

/// The failure of a task that would have gone to an instance which is not asked.
pub(super) fn excluded(member: &Member, exclusion: Exclusion) -> Failure {
    let reason = match exclusion {
        Exclusion::Draining | Exclusion::Disabled => Reason::InstanceDraining,
        Exclusion::Down | Exclusion::Ejected { .. } | Exclusion::OnTrial => Reason::InstanceDown,
    };
    let detail = why(member, exclusion);
    Failure::at(member.id(), reason, Progress::NeverSent, detail)
}

/// The failure of a task that no candidate may have.
pub(super) fn nobody(candidates: &[std::sync::Arc<Member>], panic: Panic) -> Failure {
    let now = Instant::now();
    // One that may have work after all has changed since it was looked at.
    let exclusions = candidates.iter().filter_map(|member| {
        let exclusion = member.exclusion(panic, now)?;
        Some((member, exclusion))
    });
    let exclusions: Vec<_> = exclusions.collect();
    if let ([_], [(only, exclusion)]) = (candidates, &exclusions[..]) {
        return excluded(only, *exclusion);
    }
    let is_down = |exclusion: &Exclusion| matches!(exclusion, Exclusion::Down);
    let is_set_aside =
        |exclusion: &Exclusion| matches!(exclusion, Exclusion::Draining | Exclusion::Disabled);
    let all = candidates.len();
    let told = |word: fn(&Member, Exclusion) -> String| {
        let told = exclusions.iter().take(3);
        let told = told
            .map(|(member, exclusion)| format!("{}: {}", member.id(), word(member, *exclusion)));
        told.collect::<Vec<_>>().join("; ")
    };
    if exclusions.is_empty() {
        let detail = "every candidate changed while it was asked";
        return Failure::new(Reason::NoInstance, detail);
    }
    if exclusions.iter().all(|(_, exclusion)| is_down(exclusion)) {
        let told = told(|member, _| member.health.reason.to_string());
        return Failure::new(
            Reason::NoInstance,
            format!("all {all} candidates are down ({told})"),
        );
    }
    if exclusions
        .iter()
        .all(|(_, exclusion)| is_set_aside(exclusion))
    {
        let told = told(why);
        let detail = format!("all {all} candidates are draining or disabled ({told})");
        return Failure::new(Reason::InstanceDraining, detail);
    }
    let told = told(why);
    Failure::new(
        Reason::NoInstance,
        format!("none of {all} candidates takes work ({told})"),
    )
}
