//! What is not work: the operator's questions.

use std::time::Duration;

use super::Facts;
use crate::history::What;

/// For what the orchestrator itself takes, and turns of the clock.
const AT_ONCE: Duration = Duration::from_millis(10);

/// Health and drains are answered at once, however many calls there are.
pub(super) fn what_is_no_work_is_never_refused_for_load(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for record in facts.records {
        let What::Desk {
            what,
            took,
            refused,
        } = &record.what
        else {
            continue;
        };
        let at = record.at;
        match refused.as_deref() {
            // It may be one that registers, and has not yet.
            Some("TARGET_UNKNOWN") => {}
            Some(reason) => found.push(format!("{what} was refused at {at:?}: {reason}")),
            None if facts.latency * 2 + AT_ONCE < *took => {
                found.push(format!("{what} took {took:?}, asked at {at:?}"));
            }
            None => {}
        }
    }
    found
}
