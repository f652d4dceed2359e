//! What a history of probes says about an instance.
//!
//! ```text
//!                 ok                      failures_down in a row
//! unknown ───────────────────▶ healthy ──────────────────────────▶ down
//!    │ failed        ▲  ok      │    ▲                              │ ▲
//!    ▼               │    slow  ▼    │ ok                           │ │
//! starting ──────────┘         busy ─┘   ──failures_down in a row───┼─┘
//!    └── failures_down in a row ──▶ down    successes_up in a row ──┘──▶ healthy
//! ```
//!
//! A probe that is slow while the instance works for us is forgiven a few times in a row: it is busy, not down.
//! Beyond that a slow probe is a failed one, or a process that has stalled would never be down.

/// The state of an instance as its probes tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not probed yet.
    #[default]
    Unknown,
    /// Has been probed, and has not answered so far.
    Starting,
    /// Answers its probes.
    Healthy,
    /// Answered, and does not in time while it works.
    Busy,
    /// Does not answer.
    Down,
}

impl State {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Busy => "busy",
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
    /// Slow probes since the last answer.
    slow: u32,
}

/// What one probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The instance serves.
    Serving,
    /// It does not, or did not answer.
    NotServing,
    /// It did not answer in time, while it had work of ours.
    Slow,
}

impl Probed {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes one probe into account; returns the new state when it has changed.
    #[must_use]
    pub fn observe(
        &mut self,
        answer: Answer,
        thresholds: Thresholds,
        busy_probes_max: u32,
    ) -> Option<State> {
        let is_serving = match answer {
            Answer::Serving => true,
            Answer::NotServing => false,
            Answer::Slow => {
                self.slow = self.slow.saturating_add(1);
                let was_well = matches!(self.state, State::Healthy | State::Busy);
                if was_well && self.slow <= busy_probes_max {
                    return self.enter(State::Busy);
                }
                false
            }
        };
        if is_serving {
            self.slow = 0;
        }
        if is_serving && self.state != State::Down {
            self.against = 0;
            return self.enter(State::Healthy);
        }
        if !is_serving && self.state == State::Down {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if is_serving {
            if self.against < thresholds.successes_up {
                return None;
            }
            self.against = 0;
            return self.enter(State::Healthy);
        }
        if thresholds.failures_down <= self.against {
            self.against = 0;
            return self.enter(State::Down);
        }
        match self.state {
            State::Unknown => self.enter(State::Starting),
            State::Starting | State::Healthy | State::Busy | State::Down => None,
        }
    }

    /// Takes the instance at its own word, told without being asked: no run of probes is needed.
    #[must_use]
    pub fn told(&mut self, answer: Answer) -> Option<State> {
        (self.against, self.slow) = (0, 0);
        match answer {
            Answer::Serving => self.enter(State::Healthy),
            Answer::NotServing | Answer::Slow => self.enter(State::Down),
        }
    }

    fn enter(&mut self, state: State) -> Option<State> {
        if self.state == state {
            return None;
        }
        self.state = state;
        Some(state)
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
    const BUSY_MAX: u32 = 2;

    /// `+` serving, `-` not, `s` slow while it works, `!` tells that it does not serve, `^` that it does.
    fn play(history: &str) -> String {
        let mut probed = Probed::default();
        history
            .chars()
            .map(|c| {
                let mut observe = |answer| probed.observe(answer, THRESHOLDS, BUSY_MAX);
                let _ = match c {
                    '+' => observe(Answer::Serving),
                    '-' => observe(Answer::NotServing),
                    's' => observe(Answer::Slow),
                    '!' => probed.told(Answer::NotServing),
                    _ => probed.told(Answer::Serving),
                };
                match probed.state() {
                    State::Unknown => 'u',
                    State::Starting => 'S',
                    State::Healthy => 'H',
                    State::Busy => 'B',
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
        check("", "");
        check("+", "H");
        check("---", "SSD");
        check("--+", "SSH");
        check("+--+---", "HHHHHHD");
        check("---+-++", "SSDDDDH");
    }

    #[test]
    fn a_slow_probe_of_an_instance_that_works_is_forgiven_a_few_times() {
        check("+ss+", "HBBH");
        check("+sssss", "HBBBBD");
        check("+ss--s", "HBBBBD");
        check("sss", "SSD");
        check("---s+s+", "SSDDDDD");
    }

    #[test]
    fn what_an_instance_tells_by_itself_holds_at_once() {
        check("+!", "HD");
        check("+!^", "HDH");
        check("+!++", "HDDH");
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

        #[test]
        fn an_instance_that_never_answers_in_time_is_down_however_much_it_works(history in "[+s!^-]{0,40}") {
            let stalled = history.clone() + &"s".repeat((BUSY_MAX + THRESHOLDS.failures_down) as usize);
            prop_assert!(play(&stalled).ends_with('D'), "{}", history);
        }
    }
}
