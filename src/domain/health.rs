//! Who is well: what a history of probes says about an instance.
//!
//! ```text
//!            ok                 failures_down in a row
//! unknown ────────▶ healthy ──────────────────────────▶ down
//!    │                 ▲                                  │
//!    │                 └────────── successes_up in a row ─┘
//!    └── failures_down in a row ──▶ down
//! ```

/// The state of an instance as its probes tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not probed yet.
    #[default]
    Unknown,
    /// Answers its probes.
    Healthy,
    /// Does not.
    Down,
}

impl State {
    /// The word that is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Down => "down",
        }
    }
}

/// How many probes in a row change a state; at least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures until an instance is down.
    pub failures_down: u32,
    /// Successes until an instance that was down is healthy. At the start one is enough.
    pub successes_up: u32,
}

/// What one instance's probes have said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probed {
    state: State,
    /// Probes in a row that speak against the state.
    against: u32,
}

/// What one probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The instance serves.
    Serving,
    /// It does not, or did not answer.
    NotServing,
}

impl Probed {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes one probe into account; returns the new state when it has changed.
    #[must_use]
    pub fn observe(&mut self, answer: Answer, thresholds: Thresholds) -> Option<State> {
        let (next, needed) = match (self.state, answer) {
            (State::Unknown, Answer::Serving) => (State::Healthy, 1),
            (State::Unknown | State::Healthy, Answer::NotServing) => {
                (State::Down, thresholds.failures_down)
            }
            (State::Down, Answer::Serving) => (State::Healthy, thresholds.successes_up),
            (State::Healthy, Answer::Serving) | (State::Down, Answer::NotServing) => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.state = next;
        self.against = 0;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        failures_down: 3,
        successes_up: 2,
    };

    fn play(history: &str) -> String {
        let mut probed = Probed::default();
        history
            .chars()
            .map(|c| {
                let answer = if c == '+' {
                    Answer::Serving
                } else {
                    Answer::NotServing
                };
                let _ = probed.observe(answer, THRESHOLDS);
                match probed.state() {
                    State::Unknown => 'u',
                    State::Healthy => 'H',
                    State::Down => 'D',
                }
            })
            .collect()
    }

    fn check(history: &str, expected: &str) {
        assert_eq!(play(history), expected, "{history}");
    }

    #[test]
    fn states_change_after_as_many_probes_as_set() {
        check("+", "H");
        check("---", "uuD");
        check("--+", "uuH");
        check("+--+---", "HHHHHHD");
        check("---+-++", "uuDDDDH");
    }

    proptest! {
        #[test]
        fn an_instance_is_down_exactly_after_a_run_of_failures_not_yet_outweighed(history in "[+-]{0,60}") {
            let played = play(&history);
            for (at, state) in played.char_indices() {
                let past = &history[..=at];
                if past.ends_with("---") {
                    prop_assert_eq!(state, 'D');
                }
                if past.ends_with("++") {
                    prop_assert_eq!(state, 'H');
                }
            }
        }
    }
}
