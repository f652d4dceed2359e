//! Everything that can happen to a session has to happen in some run: a check of what never happens checks nothing.

use std::collections::BTreeMap;

use crate::children;

use super::GAME;

/// Begins the line that tells how often what has happened.
pub(super) const COUNTED: &str = "counted ";

/// What has to happen within a hundred seeds.
const WORDS: [&str; 27] = [
    // What the world does.
    "power cut",
    "restart",
    "rival",
    "crash, forgets",
    "crash, remembers",
    "instance loses",
    "instance loses one way",
    "instance holds",
    "client loses",
    "client holds",
    "disk full",
    "sync fails",
    // What clients do and learn.
    "attached",
    "cut at a byte",
    "said no more",
    "superseded",
    "sent again",
    "posted",
    "post given up",
    "moved",
    "lost",
    "lost posts",
    "closed",
    "over",
    "no space",
    "sent away",
    "trusted",
];

/// What a process has counted.
fn counted(output: &str) -> BTreeMap<String, usize> {
    let line = output.lines().find_map(|line| line.strip_prefix(COUNTED));
    let line = line.expect("it tells what it has counted");
    serde_json::from_str(line).expect("a map in braces")
}

#[test]
fn everything_that_can_happen_to_a_session_does() {
    let mut sum = BTreeMap::<String, usize>::new();
    let is_seen = |sum: &BTreeMap<String, usize>| WORDS.iter().all(|word| sum.contains_key(*word));
    for seed in 0..150 {
        let output = children::play(&GAME, seed);
        for (what, count) in counted(&String::from_utf8_lossy(&output.stdout)) {
            *sum.entry(what).or_default() += count;
        }
        if is_seen(&sum) {
            return;
        }
    }
    let unseen: Vec<_> = WORDS
        .iter()
        .filter(|word| !sum.contains_key(**word))
        .collect();
    panic!("never seen: {unseen:?}");
}
