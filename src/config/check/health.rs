//! How instances are probed, and how their health is judged.

use super::place::Place;
use super::{LONGEST, SHORTEST};
use crate::domain::health::{Settings, observed};
use crate::domain::limit::PROBES_IN_A_ROW_MAX;
use crate::fleet::ProbeSettings;

pub(super) fn health(place: &Place<'_>) -> Option<(ProbeSettings, Settings)> {
    let fields = place.fields(&[
        "interval",
        "timeout",
        "failures_down",
        "successes_up",
        "busy_probes_max",
        "slow_start",
        "panic_below_percent",
        "ejection",
    ])?;
    let (mut probe, mut health) = (ProbeSettings::default(), Settings::default());
    let time = |place: &Place<'_>| place.duration(&(SHORTEST..=LONGEST));
    fields.set("interval", &mut probe.interval, time);
    fields.set("timeout", &mut probe.timeout, time);
    let count = |place: &Place<'_>| place.count(1..=PROBES_IN_A_ROW_MAX);
    let thresholds = &mut probe.thresholds;
    fields.set("failures_down", &mut thresholds.failures_down, count);
    fields.set("successes_up", &mut thresholds.successes_up, count);
    fields.set("busy_probes_max", &mut health.busy_probes_max, |place| {
        place.count(0..=PROBES_IN_A_ROW_MAX)
    });
    fields.set("slow_start", &mut health.slow_start, |place| {
        place.duration(&(std::time::Duration::ZERO..=LONGEST))
    });
    let panic = &mut health.panic_below_percent;
    fields.set("panic_below_percent", panic, percent);
    if let Some(place) = fields.get("ejection") {
        ejection(&place, &mut health);
    }
    Some((probe, health))
}

fn percent(place: &Place<'_>) -> Option<u32> {
    place.count(0..=100)
}

fn ejection(place: &Place<'_>, health: &mut Settings) {
    let Some(fields) = place.fields(&[
        "failures_in_a_row",
        "window",
        "calls_min",
        "success_percent_min",
        "time",
        "time_max",
        "percent_max",
    ]) else {
        return;
    };
    fields.set("percent_max", &mut health.ejected_percent_max, percent);
    let observed::Settings {
        failures_in_a_row,
        window,
        calls_min,
        success_percent_min,
        time,
        time_max,
    } = &mut health.ejection;
    let count = |place: &Place<'_>| place.count(1..=u32::MAX.into());
    fields.set("failures_in_a_row", failures_in_a_row, count);
    fields.set("calls_min", calls_min, count);
    fields.set("success_percent_min", success_percent_min, percent);
    let duration = |place: &Place<'_>| place.duration(&(SHORTEST..=LONGEST));
    fields.set("window", window, duration);
    fields.set("time", time, duration);
    // A longest time that nobody wrote follows a longer first one silently.
    *time_max = (*time_max).max(*time);
    fields.set("time_max", time_max, duration);
    if *time_max < *time {
        let time = humantime::format_duration(*time);
        fields.get_or_self("time_max").note(format!(
            "is shorter than health.ejection.time ({time}): raise it or lower time"
        ));
    }
}
