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
    let (mut per_second, mut burst) = (None, None);
    fields.set("calls_per_second", &mut per_second, |place| {
        count(place).map(Some)
    });
    fields.set("calls_burst", &mut burst, |place| count(place).map(Some));
    quota.rate = match (per_second, burst, default.rate) {
        // A second's worth at once, unless something else is said.
        (Some(per_second), burst, _) => Some(Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        (None, Some(burst), Some(rate)) => Some(Rate { burst, ..rate }),
        (None, Some(_), None) => {
            if fields.get("calls_per_second").is_none() {
                fields
                    .get_or_self("calls_burst")
                    .note("limits nothing without calls_per_second: add it");
            }
            None
        }
        (None, None, rate) => rate,
    };
    Some(quota)
}
