//! How often the orchestrator of one run tries again and sends hedges: mostly as usual, and in some runs hardly at
//! all, so that what is bounded is met.

use orchestrator::domain::budget::Share;
use orchestrator::domain::{hedge, retry};
use rand::RngExt as _;
use rand::rngs::SmallRng;

/// What is told to the orchestrator of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Means {
    pub(crate) retry: retry::Settings,
    pub(crate) hedging: hedge::Settings,
}

/// What holds where nothing is said.
pub(crate) fn usual() -> Means {
    Means {
        retry: retry::Settings::default(),
        hedging: hedge::Settings::default(),
    }
}

pub(crate) fn draw(dice: &mut SmallRng) -> Means {
    let mut means = usual();
    if dice.random_bool(0.6) {
        // A run has few answers: with the usual number it is over before anybody knows how long they take.
        means.hedging.samples_min = dice.random_range(5..25);
    }
    if dice.random_bool(0.3) {
        means.retry.attempts_default = dice.random_range(2..=5);
    }
    if dice.random_bool(0.35) {
        means.retry.budget = share(0..25, 0..8, dice);
    }
    if dice.random_bool(0.35) {
        means.retry.instance_budget = share(0..15, 0..3, dice);
    }
    if dice.random_bool(0.35) {
        means.hedging.share = Share {
            per_second: 0.0,
            ..share(0..40, 0..8, dice)
        };
    }
    means
}

fn share(percent: std::ops::Range<u32>, floor: std::ops::Range<u32>, dice: &mut SmallRng) -> Share {
    Share {
        per_call: f64::from(dice.random_range(percent)) / 100.0,
        floor: f64::from(dice.random_range(floor)),
        per_second: f64::from(dice.random_range(0..3)),
        kept_max: f64::from(dice.random_range(8..100)),
    }
}
