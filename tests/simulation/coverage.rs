//! Everything that a run can show has to show in some run: a check of what never happens checks nothing.

use crate::history::Record;

/// Words of histories.
const WORDS: [&str; 37] = [
    // What instances do.
    "begun: No",
    "how: Answered",
    "how: Failed",
    "how: Refused",
    "how: Reset",
    "how: Lost",
    "said: Serving",
    "said: NotServing",
    "said: Nothing",
    "HungUp(",
    // What the world does.
    "Crashed(",
    "Restarted(",
    "Loses)",
    "LosesOneWay)",
    "Holds)",
    "Mended(",
    // What callers get.
    "end: Answered",
    "end: Broken",
    "end: LeftEarly",
    "verdict: Ok",
    "verdict: LeftEarly",
    "OUTCOME_FAILED",
    "OUTCOME_TIMED_OUT",
    "OUTCOME_CANCELLED",
    "ATTEMPT_KIND_TRANSPARENT_RETRY",
    "ATTEMPT_KIND_RETRY",
    "ATTEMPT_KIND_FALLBACK",
    "STOP_REASON_ALL_TERMINAL",
    "STOP_REASON_COMPLETION_MET",
    "STOP_REASON_COMPLETION_IMPOSSIBLE",
    "STOP_REASON_FAILURES_MAX",
    "STOP_REASON_DEADLINE",
    "reason: \"INSTANCE_LOST\"",
    "reason: \"INSTANCE_FAILED\"",
    "reason: \"DEADLINE_EXCEEDED\"",
    "reason: \"ANSWER_MALFORMED\"",
    "reason: \"COMPLETION_UNMET\"",
];

/// The words that were not seen yet.
pub(crate) struct Unseen(Vec<&'static str>);

impl Unseen {
    pub(crate) fn all() -> Self {
        Self(WORDS.to_vec())
    }

    pub(crate) fn see(&mut self, records: &[Record]) {
        let text: String = records
            .iter()
            .map(|record| format!("{record:?}\n"))
            .collect();
        self.0.retain(|word| !text.contains(word));
    }

    pub(crate) fn words(&self) -> &[&'static str] {
        &self.0
    }
}
