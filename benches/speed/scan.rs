//! The look over a payload where it comes in: what it takes, and its share of a Route.

use std::hint::black_box;

use orchestrator::domain::payload::Payload;

use crate::call;
use crate::process::{self, median};

const BATCHES: usize = 15;
const SCANS: u32 = 100_000;
/// A Route looks over what is asked and what is answered.
const SCANS_PER_ROUTE: f64 = 2.0;

/// Prints the figure; `route_us` is what one Route costs, when that was measured.
pub(crate) fn measure(route_us: Option<f64>) {
    let payload = call::payload();
    let batch = |_| {
        let before = process::own_cpu();
        for _ in 0..SCANS {
            assert!(Payload::check(black_box(payload.clone())).is_ok());
        }
        (process::own_cpu() - before).as_secs_f64() * 1e9 / f64::from(SCANS)
    };
    let ns = median((0..BATCHES).map(batch).collect());
    let share = route_us.map_or(String::new(), |route_us| {
        let share = SCANS_PER_ROUTE * ns / (route_us * 1000.0) * 100.0;
        format!("; the two of a Route are {share:.1} % of its CPU")
    });
    println!(
        "Payload scan, 1 KiB: {ns:.0} ns of CPU, median of {BATCHES} × {SCANS} scans{share}\n"
    );
}
