//! How often tasks are tried again, and sent to a second instance.

use super::place::Place;
use super::{LONGEST, SHORTEST};
use crate::domain::budget::Share;
use crate::domain::limit::{ATTEMPTS_MAX, BUDGET_TOKENS_ASKED_MAX, HEDGE_SAMPLES_ASKED_MAX};
use crate::domain::retry::Backoff;
use crate::domain::{hedge, retry};

pub(super) fn retry(place: &Place<'_>) -> Option<retry::Settings> {
    let fields = place.fields(&[
        "attempts_default",
        "attempts_max",
        "backoff",
        "backoff_max",
        "budget",
        "instance_budget",
    ])?;
    let mut settings = retry::Settings::default();
    let count = |place: &Place<'_>| place.count(1..=ATTEMPTS_MAX.into());
    fields.set("attempts_max", &mut settings.attempts_max, count);
    // A default that nobody wrote follows a lower maximum silently; so does what follows here.
    let attempts_default = &mut settings.attempts_default;
    *attempts_default = settings.attempts_max.min(*attempts_default);
    fields.set("attempts_default", attempts_default, count);
    if settings.attempts_max < settings.attempts_default {
        let max = settings.attempts_max;
        fields.get_or_self("attempts_default").note(format!(
            "is more than retry.attempts_max ({max}): lower it or raise attempts_max"
        ));
    }
    let Backoff { first, max } = &mut settings.backoff;
    let time = |place: &Place<'_>| place.duration(&(SHORTEST..=LONGEST));
    fields.set("backoff", first, time);
    *max = if fields.get("backoff").is_some() {
        (*max).max(*first)
    } else {
        *max
    };
    fields.set("backoff_max", max, time);
    if fields.get("backoff").is_none() {
        *first = (*first).min(*max);
    }
    if *max < *first {
        let first = humantime::format_duration(*first);
        fields.get_or_self("backoff_max").note(format!(
            "is shorter than retry.backoff ({first}): raise it or lower backoff"
        ));
    }
    fields.set("budget", &mut settings.budget, |place| {
        budget(place, Share::default())
    });
    // Unless something else is said, what holds for all holds for each.
    settings.instance_budget = settings.budget;
    let of_all = settings.budget;
    fields.set("instance_budget", &mut settings.instance_budget, |place| {
        budget(place, of_all)
    });
    Some(settings)
}

pub(super) fn hedging(place: &Place<'_>) -> Option<hedge::Settings> {
    let fields = place.fields(&["percent", "floor", "kept_max", "samples_min"])?;
    let mut settings = hedge::Settings::default();
    share(&fields, &mut settings.share);
    fields.set("samples_min", &mut settings.samples_min, |place| {
        place.count(1..=HEDGE_SAMPLES_ASKED_MAX.into())
    });
    Some(settings)
}

fn budget(place: &Place<'_>, default: Share) -> Option<Share> {
    let fields = place.fields(&["percent", "floor", "per_second", "kept_max"])?;
    let mut budget = default;
    fields.set("per_second", &mut budget.per_second, tokens);
    share(&fields, &mut budget);
    Some(budget)
}

fn share(fields: &super::place::Fields<'_>, share: &mut Share) {
    let mut percent = None;
    fields.set("percent", &mut percent, |place| {
        place.count::<u32>(0..=100).map(Some)
    });
    if let Some(percent) = percent {
        share.per_call = f64::from(percent) / 100.0;
    }
    fields.set("floor", &mut share.floor, tokens);
    if fields.get("floor").is_some() {
        share.kept_max = share.kept_max.max(share.floor);
    }
    fields.set("kept_max", &mut share.kept_max, tokens);
    if fields.get("floor").is_none() {
        share.floor = share.floor.min(share.kept_max);
    }
    if share.kept_max < share.floor {
        let floor = share.floor;
        fields.get_or_self("kept_max").note(format!(
            "is less than floor ({floor}): raise it or lower floor"
        ));
    }
}

fn tokens(place: &Place<'_>) -> Option<f64> {
    let count: u32 = place.count(0..=BUDGET_TOKENS_ASKED_MAX)?;
    Some(f64::from(count))
}
