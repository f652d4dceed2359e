//! What an instance's calls say about it, whatever its probes say.
//!
//! ```text
//!          failures in a row, or too few successes        time over, one try
//! trusted ────────────────────────────────────────▶ ejected ───────────────▶ succeeded: trusted
//!    ▲                                                 ▲                     failed: ejected, for longer
//!    └── cap reached: counting begins anew             └─────────────────────────┘
//! ```
//!
//! It asks for an ejection and does not decide it: whoever knows the whole fleet does, since only so many may be
//! ejected at once.

use std::fmt;
use std::time::{Duration, Instant};

pub use super::blame::{Said, said};
use super::window::Window;

/// What speaks against an instance, and for how long it is then left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that are too many; at least 1.
    pub failures_in_a_row: u32,
    /// Over how long successes are counted.
    pub window: Duration,
    /// Calls in the window without which their share says nothing; at least 1.
    pub calls_min: u32,
    /// Successes in the window that are too few, in percent of the calls.
    pub success_percent_min: u32,
    /// How long the first ejection lasts; the second twice as long, and so on.
    pub time: Duration,
    /// How long the longest ejection lasts.
    pub time_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            window: Duration::from_secs(10),
            calls_min: 20,
            success_percent_min: 50,
            time: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
        }
    }
}

/// How long an instance must be trusted until one of its ejections is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Ejections of instances that failed together should not end together.
const JITTER: f64 = 0.1;

/// Why an instance is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// So many failures in a row.
    InARow(u32),
    /// So many failures among so many calls.
    Rate {
        /// Failures.
        failures: u32,
        /// All calls that say something.
        calls: u32,
    },
    /// The one try after an ejection failed.
    OnTrial,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(failures) => write!(f, "{failures} calls in a row failed"),
            Self::Rate { failures, calls } => write!(f, "{failures} of {calls} calls failed"),
            Self::OnTrial => f.write_str("the call that tried it again failed"),
        }
    }
}

/// How an instance stands after what its calls said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It gets work.
    #[default]
    Trusted,
    /// It gets none before an instant; after it, one try decides.
    Ejected {
        /// When one try may decide.
        until: Instant,
        /// Why.
        cause: Cause,
    },
}

/// Whether a call may go to an instance, as far as its calls say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// As any other.
    Ordinary,
    /// As the one that decides. It must end with `end_trial`.
    Trial,
    /// No: not before that instant.
    Ejected(Instant),
    /// No: another call decides.
    OnTrial,
}

/// What one instance's calls have said so far.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    standing: Standing,
    failures_in_a_row: u32,
    window: Window,
    /// Ejections that are not forgotten.
    times: u32,
    trusted_since: Option<Instant>,
    is_on_trial: bool,
}

impl Observed {
    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether the call that decides about an ejection is under way.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.is_on_trial
    }

    /// Takes one ordinary call into account; returns the cause when the instance should be ejected. What is said
    /// of an ejected instance counts for nothing: only its trial does.
    #[must_use]
    pub fn observe(&mut self, said: Said, now: Instant, settings: &Settings) -> Option<Cause> {
        if self.standing != Standing::Trusted || said == Said::Nothing {
            return None;
        }
        self.window.count(said, now, settings.window);
        if said == Said::Success {
            self.failures_in_a_row = 0;
            return None;
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if settings.failures_in_a_row <= self.failures_in_a_row {
            return Some(Cause::InARow(self.failures_in_a_row));
        }
        let (calls, failures) = self.window.sums(now, settings.window);
        let successes = u64::from(calls - failures);
        let few = successes * 100 < u64::from(calls) * u64::from(settings.success_percent_min);
        (settings.calls_min <= calls && few).then_some(Cause::Rate { failures, calls })
    }

    /// Ejects it: for longer each time, with jitter. `random` is uniform.
    pub fn eject(&mut self, cause: Cause, now: Instant, random: u32, settings: &Settings) {
        let trusted_for = self
            .trusted_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let forgotten = trusted_for.as_secs() / FORGOTTEN_AFTER.as_secs();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(forgotten).saturating_add(1);
        let time = settings
            .time
            .saturating_mul(self.times)
            .min(settings.time_max);
        let share = 1.0 - JITTER * f64::from(random) / f64::from(u32::MAX);
        self.standing = Standing::Ejected {
            until: now + time.mul_f64(share),
            cause,
        };
        self.begin_anew();
    }

    /// It stays although it should be ejected: too many are already. It is judged by what comes from now on.
    pub fn keep(&mut self) {
        self.begin_anew();
    }

    /// It is trusted again without a trial: fewer may be ejected than are.
    pub fn pardon(&mut self, now: Instant) {
        self.standing = Standing::Trusted;
        self.trusted_since = Some(now);
        self.begin_anew();
    }

    /// Whether a call may go there now. A trial is taken by asking.
    pub fn ask_leave(&mut self, now: Instant) -> Leave {
        match self.standing {
            Standing::Trusted => Leave::Ordinary,
            Standing::Ejected { until, .. } if now < until => Leave::Ejected(until),
            Standing::Ejected { .. } if self.is_on_trial => Leave::OnTrial,
            Standing::Ejected { .. } => {
                self.is_on_trial = true;
                Leave::Trial
            }
        }
    }

    /// Ends the trial. A success brings the instance back, a failure ejects it for longer, and what says nothing
    /// leaves the decision to another call. Returns whether it now stands otherwise.
    pub fn end_trial(
        &mut self,
        said: Said,
        now: Instant,
        random: u32,
        settings: &Settings,
    ) -> bool {
        // A pardon may have come in between.
        if !std::mem::take(&mut self.is_on_trial) {
            return false;
        }
        match said {
            Said::Nothing => false,
            Said::Success => {
                self.pardon(now);
                true
            }
            Said::Failure => {
                self.eject(Cause::OnTrial, now, random, settings);
                true
            }
        }
    }

    fn begin_anew(&mut self) {
        self.failures_in_a_row = 0;
        self.window = Window::default();
        self.is_on_trial = false;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings {
        failures_in_a_row: 5,
        window: Duration::from_secs(10),
        calls_min: 20,
        success_percent_min: 50,
        time: Duration::from_secs(30),
        time_max: Duration::from_secs(300),
    };

    fn said(c: char) -> Said {
        match c {
            '+' => Said::Success,
            '-' => Said::Failure,
            _ => Said::Nothing,
        }
    }

    /// Plays calls, one each `millis`; the cause and the number of the call that asked for an ejection.
    fn play(history: &str, millis: u64) -> Option<(Cause, usize)> {
        let start = Instant::now();
        let mut observed = Observed::default();
        history.chars().enumerate().find_map(|(at, c)| {
            let now = start + Duration::from_millis(at as u64 * millis);
            let cause = observed.observe(said(c), now, &SETTINGS)?;
            Some((cause, at + 1))
        })
    }

    /// How long an ejection that begins `now` lasts at its longest.
    fn ejected(observed: &mut Observed, now: Instant) -> u64 {
        observed.eject(Cause::InARow(5), now, 0, &SETTINGS);
        until(observed).duration_since(now).as_secs()
    }

    fn until(observed: &Observed) -> Instant {
        match observed.standing() {
            Standing::Ejected { until, .. } => until,
            Standing::Trusted => panic!("it is trusted"),
        }
    }

    #[test]
    fn failures_in_a_row_or_too_few_successes_ask_for_an_ejection() {
        assert_eq!(play("-----", 1), Some((Cause::InARow(5), 5)));
        assert_eq!(play("----+----", 1), None);
        assert_eq!(
            play("--o--oo-", 1),
            Some((Cause::InARow(5), 8)),
            "faults of callers change nothing"
        );
        let rate = Cause::Rate {
            failures: 15,
            calls: 20,
        };
        assert_eq!(play(&"+---".repeat(5), 1), Some((rate, 20)));
        assert_eq!(
            play(&"+---".repeat(5), 1000),
            None,
            "they are forgotten with the window"
        );
        assert_eq!(play(&"+-".repeat(100), 1), None, "half of them is enough");
    }

    #[test]
    fn an_ejection_lasts_longer_each_time_and_the_times_are_forgotten() {
        let start = Instant::now();
        let mut observed = Observed::default();
        assert_eq!(ejected(&mut observed, start), 30);
        for expected in (2..).map(|n| (n * 30).min(300)).take(12) {
            let now = until(&observed);
            assert_eq!(observed.ask_leave(now), Leave::Trial);
            assert!(observed.end_trial(Said::Failure, now, 0, &SETTINGS));
            assert_eq!(until(&observed).duration_since(now).as_secs(), expected);
        }
        let now = until(&observed);
        assert_eq!(observed.ask_leave(now), Leave::Trial);
        assert!(observed.end_trial(Said::Success, now, 0, &SETTINGS));
        assert_eq!(observed.standing(), Standing::Trusted);
        assert_eq!(
            ejected(&mut observed.clone(), now + Duration::from_secs(59)),
            300
        );
        assert_eq!(
            ejected(&mut observed.clone(), now + Duration::from_secs(3600)),
            30
        );
    }

    #[test]
    fn one_call_decides_after_an_ejection_and_one_that_says_nothing_leaves_it_to_another() {
        let start = Instant::now();
        let mut observed = Observed::default();
        ejected(&mut observed, start);
        let over = until(&observed);
        assert_eq!(
            observed.ask_leave(over - Duration::from_millis(1)),
            Leave::Ejected(over)
        );
        assert_eq!(observed.ask_leave(over), Leave::Trial);
        assert_eq!(observed.ask_leave(over), Leave::OnTrial);
        assert_eq!(observed.observe(Said::Success, over, &SETTINGS), None);
        assert!(!observed.end_trial(Said::Nothing, over, 0, &SETTINGS));
        assert_eq!(observed.ask_leave(over), Leave::Trial);
        observed.pardon(over);
        assert!(
            !observed.end_trial(Said::Failure, over, 0, &SETTINGS),
            "it is trusted already"
        );
        assert_eq!(observed.ask_leave(over), Leave::Ordinary);
    }

    proptest! {
        #[test]
        fn no_history_is_ejected_without_a_cause_or_kept_with_one(history in "[+o-]{0,200}", millis in 1_u64..2000) {
            let asked = play(&history, millis);
            let judged: String = history.chars().filter(|c| *c != 'o').collect();
            let row = judged.contains("-----");
            if row {
                prop_assert!(asked.is_some());
            }
            if let Some((cause, at)) = asked {
                let past = &history[..at];
                let said: String = past.chars().filter(|c| *c != 'o').collect();
                prop_assert!(past.ends_with('-'), "only a failure speaks against an instance");
                match cause {
                    Cause::InARow(count) => prop_assert!(count == 5 && said.ends_with("-----")),
                    Cause::Rate { failures, calls } => {
                        prop_assert!(20 <= calls && calls as usize <= said.len());
                        prop_assert!((calls - failures) * 2 < calls);
                        prop_assert!(u64::from(calls) <= 11_000 / millis + 1, "no call outlives the window");
                    }
                    Cause::OnTrial => prop_assert!(false, "there was no trial"),
                }
            }
        }

        #[test]
        fn no_time_is_longer_than_the_longest_and_none_shorter_than_the_first(trials in "[+o-]{1,60}", randoms in proptest::collection::vec(any::<u32>(), 60)) {
            let mut now = Instant::now();
            let mut observed = Observed::default();
            for (c, random) in trials.chars().zip(randoms) {
                if observed.standing() == Standing::Trusted {
                    observed.eject(Cause::InARow(5), now, random, &SETTINGS);
                    let time = until(&observed).duration_since(now);
                    prop_assert!(SETTINGS.time.mul_f64(0.9 - 1e-9) <= time && time <= SETTINGS.time_max);
                }
                now = until(&observed);
                prop_assert_eq!(observed.ask_leave(now), Leave::Trial);
                let _ = observed.end_trial(said(c), now, random, &SETTINGS);
                prop_assert_eq!(observed.standing() == Standing::Trusted, c == '+');
            }
        }
    }
}
