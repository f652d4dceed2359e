//! Seeds in processes of their own: in a shared one a seed may go another way than it does alone.

use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Says which seed `one_seed` plays.
pub(crate) const SEED: &str = "SIMULATION_SEED";
/// Set for a process that was started here: it is brief, and it does not run for ever.
pub(crate) const CHILD: &str = "SIMULATION_CHILD";
/// Begins the line that tells the fingerprint of a history.
pub(crate) const FINGERPRINT: &str = "history ";

/// Plays one seed in a process of its own.
pub(crate) fn play(seed: u64) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env(SEED, seed.to_string())
        .env(CHILD, "1")
        .output()
        .unwrap()
}

/// Plays seeds, as many at once as there are cores; returns those that failed, with what they said.
pub(crate) fn play_all(seeds: &[u64]) -> Vec<(u64, String)> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = play(*seed);
                    if !output.status.success() {
                        failed.lock().unwrap().push((*seed, said(&output)));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

/// The fingerprint of the history that a process has played.
pub(crate) fn fingerprint(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let at = text.find(FINGERPRINT)?;
    text[at..].lines().next().map(str::to_owned)
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// How to play a seed again, and see everything that happens.
pub(crate) fn replay(seed: u64) -> String {
    format!("{SEED}={seed} cargo test --test simulation one_seed -- --exact --nocapture")
}
