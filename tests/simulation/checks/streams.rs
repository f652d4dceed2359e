//! What a fan-out tells its caller.

use std::collections::BTreeMap;

use super::Facts;
use crate::history::{End, Stream, Verdict};
use crate::payload;

const OUTCOMES: [&str; 5] = [
    "OUTCOME_ANSWERED",
    "OUTCOME_FAILED",
    "OUTCOME_TIMED_OUT",
    "OUTCOME_CANCELLED",
    "OUTCOME_SKIPPED",
];

/// 10: the roster, then exactly one outcome for each target, then a summary that adds up.
pub(super) fn every_target_has_one_outcome(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        if let Some((_, End::Streamed(stream))) = call.ended {
            let complaints = judge(*number, stream);
            found.extend(complaints.map(|what| format!("call {number}: {what}")));
        }
    }
    found
}

fn judge(call: u32, stream: &Stream) -> impl Iterator<Item = String> {
    let mut found = stream
        .misplaced
        .iter()
        .map(|what| format!("{what} at the wrong place"))
        .collect::<Vec<_>>();
    let mut outcomes: BTreeMap<&str, &str> = BTreeMap::new();
    let roster = stream.roster.clone().unwrap_or_default();
    for part in &stream.partials {
        if outcomes.insert(&part.instance, &part.outcome).is_some() {
            found.push(format!("{} has two outcomes", part.instance));
        }
        if !roster.contains(&part.instance) {
            found.push(format!("{} was not asked", part.instance));
        }
        let is_own = |payload: &String| payload::is_answer(payload, call, &part.instance);
        if !part.payload.iter().all(is_own) {
            found.push(format!("{} has the answer of another", part.instance));
        }
    }
    let ends_whole = match &stream.verdict {
        Verdict::Ok => true,
        // Refused before it began, or over with its verdict.
        Verdict::Failed { .. } => stream.roster.is_some() && stream.summary.is_some(),
        Verdict::Broken | Verdict::LeftEarly | Verdict::GaveUp => false,
    };
    if !ends_whole {
        return found.into_iter();
    }
    if outcomes.len() != roster.len() {
        found.push(format!(
            "{} outcomes for {} targets",
            outcomes.len(),
            roster.len()
        ));
    }
    let Some(summary) = &stream.summary else {
        found.push("no summary".to_owned());
        return found.into_iter();
    };
    let counted = OUTCOMES.map(|word| {
        let of_word = outcomes.values().filter(|outcome| **outcome == word);
        of_word.count() as u32
    });
    if counted != summary.counts {
        found.push(format!("{counted:?} are counted as {:?}", summary.counts));
    }
    let missing: Vec<_> = roster
        .iter()
        .filter(|id| outcomes.get(id.as_str()) != Some(&OUTCOMES[0]))
        .cloned()
        .collect();
    if missing != summary.missing {
        found.push(format!(
            "{missing:?} are missing, not {:?}",
            summary.missing
        ));
    }
    for part in &summary.aggregate {
        let is_own = |payload: &String| payload::is_answer(payload, call, &part.instance);
        let is_answered = part.outcome == OUTCOMES[0];
        if outcomes.get(part.instance.as_str()) != Some(&part.outcome.as_str())
            || is_answered != part.payload.as_ref().is_some_and(is_own)
        {
            found.push(format!("{} is collected wrongly", part.instance));
        }
    }
    found.into_iter()
}
