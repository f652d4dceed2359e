//! The whole program on a simulated network, one run for each seed; `checks` says what must never happen.
//!
//! ```text
//! seed ─▶ plan ─▶ world (orchestrator, instances, callers, faults) ─▶ history ─▶ checks ─▶ complaints
//! ```
//!
//! Time, randomness and the network are simulated and come from the seed; everything else is the program as it
//! is. A run ends with a phase without faults, in which all must succeed, and with a stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    reason = "a test may fail"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that starts itself again tells it by the environment what to do"
)]

use std::time::Duration;

mod answer;
mod caller;
mod checks;
mod children;
mod conversation;
mod coverage;
mod history;
mod instance;
/// Here, since the tests of real faults have no harness.
#[path = "../sessions/judge_tests.rs"]
mod judge_tests;
mod lie;
mod mood;
mod payload;
mod plan;
mod register;
mod request;
/// Shared with the tests of real faults.
#[path = "../sessions/mod.rs"]
mod sessions;
mod wire;
mod world;

use lie::Lie;
use plan::Plan;

/// How many seeds from 0 on are played, unless `SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 500;
/// How many seeds are played that nobody has played before.
const FRESH: u64 = 20;
/// How long a process may take over one seed before it counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

fn complaints(plan: &Plan, lie: Option<Lie>) -> (Vec<history::Record>, Vec<String>) {
    let run = world::run(plan, lie);
    let mut complaints = run.complaints;
    complaints.extend(checks::complaints(&run.records, plan));
    (run.records, complaints)
}

/// Plays the seed of `SIMULATION_SEED`, and shows its history.
#[test]
fn one_seed() {
    let is_child = std::env::var_os(children::CHILD).is_some();
    if is_child {
        std::thread::spawn(|| {
            std::thread::sleep(STUCK);
            println!("stuck");
            std::process::exit(1);
        });
    }
    let plan = Plan::of(number(children::SEED).unwrap_or(1));
    let (records, complaints) = complaints(&plan, None);
    if !is_child {
        for record in &records {
            println!("{:>10.3?} {:?}", record.at, record.what);
        }
    }
    println!(
        "{}{:016x}",
        children::FINGERPRINT,
        history::fingerprint(&records)
    );
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_seed_keeps_every_promise() {
    let fixed = 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<u64> = fixed.chain((0..FRESH).map(|_| rand::random())).collect();
    let failed = children::play_all(&children::TASKS, &seeds);
    assert!(
        failed.is_empty(),
        "{}",
        children::told(&children::TASKS, &failed)
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 14, 159, 2653] {
        let played =
            [(); 2].map(|()| children::fingerprint(&children::play(&children::TASKS, seed)));
        assert!(played[0].is_some(), "seed {seed} plays");
        assert_eq!(played[0], played[1], "seed {seed}");
    }
}

#[test]
fn everything_that_can_happen_does() {
    let mut unseen = coverage::Unseen::all();
    for seed in 0..60 {
        unseen.see(&complaints(&Plan::of(seed), None).0);
        if unseen.words().is_empty() {
            return;
        }
    }
    panic!("never seen: {:?}", unseen.words());
}

#[test]
fn every_lie_is_caught() {
    for (lie, words) in Lie::ALL {
        let caught = (0..20).any(|seed| {
            let (_, complaints) = complaints(&Plan::of(seed), Some(lie));
            complaints.iter().any(|complaint| complaint.contains(words))
        });
        assert!(caught, "{lie:?}");
    }
}
