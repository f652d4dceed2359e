//! When a fan-out is complete, and what came of each of its targets.
//!
//! Every target gets exactly one outcome. Outcomes are counted as they come; the first one that decides the
//! call says why it stops, and the targets that are left get their outcome from `close`.

/// How a target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instance answered.
    Answered,
    /// It could not be reached, refused, or answered with an error.
    Failed,
    /// Time ran out while the task was with it.
    TimedOut,
    /// The call was complete while the task was with it.
    Cancelled,
    /// The call was complete, or out of time, before the task was sent.
    Skipped,
}

impl Outcome {
    /// Every outcome there is.
    pub const ALL: [Self; 5] = [
        Self::Answered,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// The outcome as a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// When a fan-out is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// When every target has an outcome.
    #[default]
    All,
    /// When this many have answered; keeps going while answers can still come.
    First(u32),
    /// When this many have answered; given up as soon as that cannot be reached any more.
    Quorum(u32),
    /// Quorum of more than half of the roster.
    Majority,
}

/// When a fan-out ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Completion {
    /// When it is complete.
    pub rule: Rule,
    /// Given up once more than this many targets have failed or timed out.
    pub failures_max: Option<u32>,
}

/// Why a fan-out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every target has an outcome.
    AllTerminal,
    /// The rule was met.
    Met,
    /// The rule cannot be met any more.
    Impossible,
    /// Too many targets failed.
    FailuresMax,
    /// Time ran out.
    Deadline,
    /// The results were larger than an answer may be.
    TooLarge,
}

/// How many targets ended in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named after the outcomes")]
pub struct Counts {
    pub answered: u32,
    pub failed: u32,
    pub timed_out: u32,
    pub cancelled: u32,
    pub skipped: u32,
}

/// Why a completion cannot be asked of a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCompletion {
    /// Zero answers are no goal.
    #[error("0 answers are no goal: ask for at least 1")]
    Zero,
    /// More answers than targets.
    #[error("{wanted} answers are asked of {roster} targets")]
    BeyondRoster {
        /// What was asked for.
        wanted: u32,
        /// How many targets there are.
        roster: u32,
    },
}

/// The state of one fan-out.
#[derive(Debug)]
pub struct Gather {
    outcomes: Vec<Option<Outcome>>,
    counts: Counts,
    /// Answers that are needed, and whether to give up early; `None` for all.
    wanted: Option<(u32, Early)>,
    failures_max: Option<u32>,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Early {
    GiveUp,
    KeepGoing,
}

impl Gather {
    /// Begins a fan-out over a roster of this size.
    pub fn new(roster: u32, completion: Completion) -> Result<Self, BadCompletion> {
        let wanted = match completion.rule {
            Rule::All => None,
            Rule::First(wanted) => Some((wanted, Early::KeepGoing)),
            Rule::Quorum(wanted) => Some((wanted, Early::GiveUp)),
            Rule::Majority => Some((roster / 2 + 1, Early::GiveUp)),
        };
        match wanted {
            Some((0, _)) => return Err(BadCompletion::Zero),
            Some((wanted, _)) if roster < wanted => {
                return Err(BadCompletion::BeyondRoster { wanted, roster });
            }
            Some(_) | None => {}
        }
        Ok(Self {
            outcomes: vec![None; roster as usize],
            counts: Counts::default(),
            wanted,
            failures_max: completion.failures_max,
            stop: None,
        })
    }

    /// Takes the outcome of one target. A second outcome for a target is a bug of the caller.
    pub fn record(&mut self, position: usize, outcome: Outcome) {
        assert!(
            self.outcomes[position].is_none(),
            "target {position} has an outcome already"
        );
        self.outcomes[position] = Some(outcome);
        let count = match outcome {
            Outcome::Answered => &mut self.counts.answered,
            Outcome::Failed => &mut self.counts.failed,
            Outcome::TimedOut => &mut self.counts.timed_out,
            Outcome::Cancelled => &mut self.counts.cancelled,
            Outcome::Skipped => &mut self.counts.skipped,
        };
        *count += 1;
        if self.stop.is_none() {
            self.stop = self.decide();
        }
    }

    /// Ends the fan-out for a reason from outside; the first reason stands.
    pub fn end(&mut self, stop: Stop) {
        self.stop.get_or_insert(stop);
    }

    /// Why the fan-out has ended, once it has.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The targets without an outcome, in roster order.
    pub fn open(&self) -> impl Iterator<Item = usize> + '_ {
        self.outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(at, _)| at)
    }

    /// The targets that did not answer, in roster order.
    pub fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        let missing = |outcome: &Option<Outcome>| *outcome != Some(Outcome::Answered);
        self.outcomes
            .iter()
            .enumerate()
            .filter(move |(_, outcome)| missing(outcome))
            .map(|(at, _)| at)
    }

    /// How many targets have ended in which way.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// True when the rule is met: the call ends OK.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.stop {
            Some(Stop::Met) => true,
            // ALL is satisfied by outcomes of any kind: the summary tells. A stopper alone unmakes it.
            Some(Stop::AllTerminal | Stop::Deadline) => self.wanted.is_none(),
            Some(Stop::Impossible | Stop::FailuresMax | Stop::TooLarge) | None => false,
        }
    }

    fn decide(&self) -> Option<Stop> {
        let failures = self.counts.failed + self.counts.timed_out;
        if self
            .wanted
            .is_some_and(|(wanted, _)| wanted <= self.counts.answered)
        {
            return Some(Stop::Met);
        }
        if self.failures_max.is_some_and(|max| max < failures) {
            return Some(Stop::FailuresMax);
        }
        let open = self.open_count();
        if let Some((wanted, Early::GiveUp)) = self.wanted
            && self.counts.answered + open < wanted
        {
            return Some(Stop::Impossible);
        }
        (open == 0).then_some(Stop::AllTerminal)
    }

    fn open_count(&self) -> u32 {
        let Counts {
            answered,
            failed,
            timed_out,
            cancelled,
            skipped,
        } = self.counts;
        self.outcomes.len() as u32 - (answered + failed + timed_out + cancelled + skipped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(c: char) -> Outcome {
        match c {
            'a' => Outcome::Answered,
            'f' => Outcome::Failed,
            't' => Outcome::TimedOut,
            'c' => Outcome::Cancelled,
            _ => Outcome::Skipped,
        }
    }

    /// Plays outcomes in the order of the roster until the call stops: how many it took, why, and whether it was met.
    fn check(
        roster: u32,
        rule: Rule,
        failures_max: Option<u32>,
        arrivals: &str,
        expected: (usize, Option<Stop>, bool),
    ) {
        let mut gather = Gather::new(roster, Completion { rule, failures_max }).unwrap();
        let mut taken = 0;
        for (at, c) in arrivals.chars().enumerate() {
            gather.record(at, outcome(c));
            taken += 1;
            if gather.stop().is_some() {
                break;
            }
        }
        assert_eq!(
            (taken, gather.stop(), gather.is_met()),
            expected,
            "{rule:?} {arrivals}"
        );
    }

    #[test]
    fn all_ends_once_everyone_has_an_outcome() {
        check(
            3,
            Rule::All,
            None,
            "aft",
            (3, Some(Stop::AllTerminal), true),
        );
        check(3, Rule::All, None, "af", (2, None, false));
    }

    #[test]
    fn first_keeps_going_and_quorum_gives_up() {
        check(5, Rule::First(2), None, "afa", (3, Some(Stop::Met), true));
        check(
            5,
            Rule::First(4),
            None,
            "ffffa",
            (5, Some(Stop::AllTerminal), false),
        );
        check(
            5,
            Rule::Quorum(4),
            None,
            "ffffa",
            (2, Some(Stop::Impossible), false),
        );
        check(5, Rule::Majority, None, "afafa", (5, Some(Stop::Met), true));
        check(
            4,
            Rule::Majority,
            None,
            "affa",
            (3, Some(Stop::Impossible), false),
        );
    }

    #[test]
    fn failures_beyond_the_allowed_number_stop_the_call() {
        check(
            5,
            Rule::All,
            Some(1),
            "afata",
            (4, Some(Stop::FailuresMax), false),
        );
        check(
            3,
            Rule::All,
            Some(0),
            "aaa",
            (3, Some(Stop::AllTerminal), true),
        );
    }

    #[test]
    fn a_completion_beyond_the_roster_is_refused() {
        let new = |rule| {
            Gather::new(
                3,
                Completion {
                    rule,
                    failures_max: None,
                },
            )
            .map(|_| ())
        };
        assert_eq!(new(Rule::First(0)), Err(BadCompletion::Zero));
        assert_eq!(
            new(Rule::Quorum(4)),
            Err(BadCompletion::BeyondRoster {
                wanted: 4,
                roster: 3
            })
        );
        assert_eq!(new(Rule::First(3)), Ok(()));
    }

    proptest! {
        #[test]
        fn every_target_has_exactly_one_outcome_and_the_sum_is_the_roster(
            arrivals in proptest::collection::vec("[aft]", 1..40),
            rule in prop_oneof![Just(Rule::All), (1_u32..40).prop_map(Rule::First), (1_u32..40).prop_map(Rule::Quorum), Just(Rule::Majority)],
            failures_max in proptest::option::of(0_u32..10),
        ) {
            let roster = arrivals.len() as u32;
            let Ok(mut gather) = Gather::new(roster, Completion { rule, failures_max }) else { return Ok(()) };
            for (at, arrival) in arrivals.iter().enumerate() {
                gather.record(at, outcome(arrival.chars().next().unwrap()));
                if gather.stop().is_some() { break }
            }
            let open: Vec<_> = gather.open().collect();
            for at in open { gather.record(at, Outcome::Cancelled) }
            let counts = gather.counts();
            prop_assert_eq!(counts.answered + counts.failed + counts.timed_out + counts.cancelled + counts.skipped, roster);
            prop_assert_eq!(gather.missing().count() as u32, roster - counts.answered);
            // A call that was met has its answers.
            if gather.is_met() && let Some((wanted, _)) = gather.wanted {
                prop_assert!(wanted <= counts.answered);
            }
        }
    }
}
