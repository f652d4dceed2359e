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

/// Plays one seed in a process of its own.
pub(crate) fn play(seed: u64) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env(SEED, seed.to_string())
        .env(CHILD, "1")
        .output()
        .unwrap()
}

/// Plays seeds, as many at once as there are cores.
pub(crate) fn play_all(seeds: &[u64]) -> Vec<(u64, Output)> {
    let (next, played) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = play(*seed);
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
pub(crate) fn replay(seed: u64) -> String {
    format!("{SEED}={seed} cargo test --test simulation one_seed -- --exact --nocapture")
}
