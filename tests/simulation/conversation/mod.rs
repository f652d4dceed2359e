//! Sessions on a simulated network, over a simulated disk: clients that are cut off at any byte, instances that die
//! and forget, an orchestrator that is restarted or loses its power, a disk that is slow, full or broken.
//!
//! ```text
//! seed ─▶ plan ─▶ world (orchestrator, instances, clients, faults) ─▶ one history for each session ─▶ judge
//! ```
//!
//! Everything else is as with tasks: each seed has a process of its own, and its run ends with a phase without
//! faults, in which every session that has not ended must come to its end. A tick of the clock is longer, because
//! sessions have patience: a run that gives an instance up takes more than ten seconds.

use rand::random;

use crate::children::{self, Game};
use crate::{STUCK, number};

mod absence;
mod beginnings;
mod calls;
mod client;
mod coverage;
mod hall;
mod line;
mod plan;
mod post;
mod process;
mod told;
mod world;

use plan::Plan;

/// One seed of sessions.
const GAME: Game = Game {
    test: "conversation::one_session_seed",
    seed: "SESSION_SEED",
};
/// How many seeds from 0 on are played, unless `SESSION_SEEDS` says otherwise.
const SEEDS: u64 = 500;
/// How many seeds are played that nobody has played before.
const FRESH: u64 = 20;

/// Plays the seed of `SESSION_SEED`, and shows its history.
#[test]
fn one_session_seed() {
    let is_child = std::env::var_os(children::CHILD).is_some();
    if is_child {
        std::thread::spawn(|| {
            std::thread::sleep(STUCK);
            println!("stuck");
            std::process::exit(1);
        });
    }
    let plan = Plan::of(number(GAME.seed).unwrap_or(1));
    let run = world::run(&plan);
    if !is_child {
        println!("{plan:#?}");
        for line in &run.told {
            println!("{line}");
        }
    }
    println!("{}{:016x}", children::FINGERPRINT, run.fingerprint());
    println!("{}{:?}", coverage::COUNTED, run.counts);
    assert!(run.complaints.is_empty(), "{}", run.complaints.join("\n"));
}

#[test]
fn every_session_seed_keeps_every_promise() {
    let fixed = 0..number("SESSION_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<u64> = fixed.chain((0..FRESH).map(|_| random())).collect();
    let played = children::play_all(&GAME, &seeds);
    let failed: Vec<_> = played
        .iter()
        .filter_map(|(seed, output)| Some((*seed, children::failure(output)?)))
        .collect();
    assert!(failed.is_empty(), "{}", children::told(&GAME, &failed));
}

#[test]
fn the_same_session_seed_gives_the_same_history() {
    for seed in [3, 14, 15, 92] {
        let played = [(); 2].map(|()| children::fingerprint(&children::play(&GAME, seed)));
        assert!(played[0].is_some(), "seed {seed} plays");
        assert_eq!(played[0], played[1], "seed {seed}");
    }
}
