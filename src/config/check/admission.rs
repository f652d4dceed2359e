//! How much work is taken: of all callers, of each key, and for each instance.

use super::place::{Fields, Place};
use crate::config::Admission;
use crate::domain::admission::{Quota, Rate};
use crate::domain::limit::{BUFFERED_BYTES_MIN, CALLS_ASKED_MAX};

pub(super) fn admission(place: &Place<'_>) -> Option<Admission> {
    let fields = place.fields(&[
        "calls_in_flight_max",
        "calls_per_second",
        "calls_burst",
        "calls_waiting_max",
        "legs_in_flight_max",
        "each_key",
        "instance_calls_in_flight_max",
        "instance_calls_per_second",
        "instance_calls_burst",
        "buffered_bytes",
    ])?;
    let mut admission = Admission::default();
    let calls = &mut admission.calls;
    if let Some(all) = quota(&fields, calls.all) {
        (calls.all, calls.each) = (all, Quota { rate: None, ..all });
    }
    let default = calls.each;
    fields.set("each_key", &mut calls.each, |place| {
        let fields = place.fields(&["calls_in_flight_max", "calls_per_second", "calls_burst"])?;
        quota(&fields, default)
    });
    fields.set("calls_waiting_max", &mut calls.waiting_max, |place| {
        place.count(0..=CALLS_ASKED_MAX)
    });
    let count = |place: &Place<'_>| place.count(1..=CALLS_ASKED_MAX);
    fields.set("legs_in_flight_max", &mut calls.legs_max, count);
    let instance_calls_max = &mut admission.instance_calls_max;
    fields.set("instance_calls_in_flight_max", instance_calls_max, count);
    let names = ["instance_calls_per_second", "instance_calls_burst"];
    admission.instance_rate = rate(&fields, names, None);
    fields.set("buffered_bytes", &mut admission.buffered_bytes, |place| {
        place.count(BUFFERED_BYTES_MIN..=u64::MAX / 2).map(Some)
    });
    Some(admission)
}

/// What stands in `fields` of a quota, and for the rest the default; nothing when nothing of it is there.
pub(super) fn quota(fields: &Fields<'_>, default: Quota) -> Option<Quota> {
    let written = ["calls_in_flight_max", "calls_per_second", "calls_burst"];
    if written.iter().all(|name| fields.get(name).is_none()) {
        return None;
    }
    let mut quota = default;
    let count = |place: &Place<'_>| place.clone().open().count(1..=CALLS_ASKED_MAX);
    fields.set("calls_in_flight_max", &mut quota.in_flight_max, count);
    quota.rate = rate(fields, ["calls_per_second", "calls_burst"], default.rate);
    Some(quota)
}

/// The rate that stands under two names, and for the rest the default.
fn rate(fields: &Fields<'_>, names: [&str; 2], default: Option<Rate>) -> Option<Rate> {
    let [per_second_name, burst_name] = names;
    let count = |place: &Place<'_>| place.clone().open().count(1..=CALLS_ASKED_MAX).map(Some);
    let (mut per_second, mut burst) = (None, None);
    fields.set(per_second_name, &mut per_second, count);
    fields.set(burst_name, &mut burst, count);
    match (per_second, burst, default) {
        // A second's worth at once, unless something else is said.
        (Some(per_second), burst, _) => Some(Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        (None, Some(burst), Some(rate)) => Some(Rate { burst, ..rate }),
        (None, Some(_), None) => {
            if fields.get(per_second_name).is_none() {
                let what = format!("limits nothing without {per_second_name}: add it");
                fields.get_or_self(burst_name).note(what);
            }
            None
        }
        (None, None, rate) => rate,
    }
}
