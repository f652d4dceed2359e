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

mod allowance;
mod answer;
mod ask;
mod caller;
mod checks;
mod children;
mod conversation;
mod coverage;
mod history;
mod house;
mod inside;
mod instance;
/// Here, since the tests of real faults have no harness.
#[path = "../sessions/judge_tests.rs"]
mod judge_tests;
mod lie;
mod means;
mod mood;
mod operator;
mod payload;
mod plan;
mod register;
mod request;
/// Shared with the tests of real faults.
#[path = "../sessions/mod.rs"]
mod sessions;
mod watch;
mod wire;
mod world;

use coverage::Counts;
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
    let lines: Vec<_> = records.iter().map(history::Record::line).collect();
    if !is_child {
        println!("{}", lines.join("\n"));
    }
    let counts = Counts::of(&records, &lines).write();
    println!("{}{counts}", children::COUNTS);
    let fingerprint = history::fingerprint(&lines);
    println!("{}{fingerprint:016x}", children::FINGERPRINT);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_seed_keeps_every_promise() {
    let fixed = 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let fresh = (0..FRESH).map(|_| rand::random());
    let seeds: Vec<u64> = fixed.clone().chain(fresh).collect();
    let played = children::play_all(&children::TASKS, &seeds);
    let failed: Vec<_> = played
        .iter()
        .filter_map(|(seed, output)| Some((*seed, children::failure(output)?)))
        .collect();
    assert!(
        failed.is_empty(),
        "{}",
        children::told(&children::TASKS, &failed)
    );
    // What happens in the fixed seeds does not depend on luck.
    let mut sum = Counts::none();
    for (_, output) in played.iter().filter(|(seed, _)| fixed.contains(seed)) {
        sum.add(&children::counts(output));
    }
    let mut rare = Vec::new();
    for (what, count, least) in sum.table() {
        println!("{count:>8}  {what}");
        if count < least {
            rare.push(format!("{what}: seen {count} times, {least} are enough"));
        }
    }
    assert!(fixed.end < SEEDS || rare.is_empty(), "{}", rare.join("\n"));
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
fn every_lie_is_caught() {
    let mut believed = Vec::new();
    for (lie, words) in Lie::ALL {
        let caught = (0..20).any(|seed| {
            let (_, complaints) = complaints(&Plan::of(seed), Some(lie));
            complaints.iter().any(|complaint| complaint.contains(words))
        });
        if !caught {
            believed.push(lie);
        }
    }
    assert!(believed.is_empty(), "{believed:?}");
}
