//! The whole program on a simulated network, one run for each seed; `checks` says what must never happen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail"
)]

mod answer;
mod caller;
mod history;
mod instance;
mod lie;
mod mood;
mod payload;
mod plan;
mod request;
mod wire;
mod world;

#[test]
fn one_seed() {
    let seed = std::env::var("SIMULATION_SEED").map_or(1, |seed| seed.parse().unwrap());
    let started = std::time::Instant::now();
    let run = world::run(&plan::Plan::of(seed), None);
    for record in &run.records {
        println!(
            "{:>6} {:?}",
            record.at.as_micros() as f64 / 1000.0,
            record.what
        );
    }
    println!(
        "{} records, {:?}, {:?}, {:x}",
        run.records.len(),
        run.complaints,
        started.elapsed(),
        history::fingerprint(&run.records)
    );
}
