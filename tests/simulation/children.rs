//! Seeds in processes of their own: in a shared one a seed may go another way than it does alone.

use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::coverage::Counts;

/// Says which seed `one_seed` plays.
pub(crate) const SEED: &str = "SIMULATION_SEED";
/// Set for a process that was started here: it is brief, and it does not run for ever.
pub(crate) const CHILD: &str = "SIMULATION_CHILD";
/// Begins the line that tells the fingerprint of a history.
pub(crate) const FINGERPRINT: &str = "history ";
/// Begins the line that tells how often what was seen.
pub(crate) const COUNTS: &str = "counts ";

/// What is played: the test that plays one seed, and the variable that says which.
pub(crate) struct Game {
    pub(crate) test: &'static str,
    pub(crate) seed: &'static str,
}

/// Tasks.
pub(crate) const TASKS: Game = Game {
    test: "one_seed",
    seed: SEED,
};

/// Plays one seed in a process of its own.
pub(crate) fn play(game: &Game, seed: u64) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([game.test, "--exact", "--nocapture", "--test-threads=1"])
        .env(game.seed, seed.to_string())
        .env(CHILD, "1")
        .output()
        .unwrap()
}

/// Plays seeds, as many at once as there are cores.
pub(crate) fn play_all(game: &Game, seeds: &[u64]) -> Vec<(u64, Output)> {
    let (next, played) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = play(game, *seed);
                    played.lock().unwrap().push((*seed, output));
                }
            });
        }
    });
    played.into_inner().unwrap()
}

/// The fingerprint of the history that a process has played.
pub(crate) fn fingerprint(output: &Output) -> Option<String> {
    line(output, FINGERPRINT)
}

/// How often what was seen in it.
pub(crate) fn counts(output: &Output) -> Counts {
    Counts::read(&line(output, COUNTS).unwrap())
}

/// The rest of the line that begins like this.
fn line(output: &Output, begins: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let at = text.find(begins)? + begins.len();
    text[at..].lines().next().map(str::to_owned)
}

/// What a process said that has failed.
pub(crate) fn failure(output: &Output) -> Option<String> {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (!output.status.success()).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// How to play a seed again, and see everything that happens.
pub(crate) fn replay(game: &Game, seed: u64) -> String {
    let Game { test, seed: name } = game;
    format!("{name}={seed} cargo test --test simulation {test} -- --exact --nocapture")
}

/// All seeds that have failed, the first of them with what was said.
pub(crate) fn told(game: &Game, failed: &[(u64, String)]) -> String {
    let tell = |(seed, said): &(u64, String)| {
        format!("seed {seed}: {said}\nreplay: {}\n", replay(game, *seed))
    };
    let told: String = failed.iter().take(5).map(tell).collect();
    let others: Vec<_> = failed.iter().skip(5).map(|(seed, _)| seed).collect();
    format!("{told}failed too: {others:?}")
}
