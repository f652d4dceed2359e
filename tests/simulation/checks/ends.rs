//! How and when calls end, and what is left when they have.

use std::time::Duration;

use super::Facts;
use crate::history::{Begun, End, Remains, Stream, Tried, Verdict};

/// 9 and 14: every call ends, in time, by a name that fits.
pub(super) fn every_call_ends_in_time_and_by_its_name(facts: &Facts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, call) in &facts.calls {
        let Some((at, end)) = call.ended else {
            found.push(format!("call {number} never ended"));
            continue;
        };
        let latest = call.deadline() + facts.latency * 2 + call.ask.reading_time();
        let is_clear = facts.caller_is_clear(call, at);
        if is_clear && latest < at {
            let late = at - call.deadline();
            found.push(format!("call {number} ended {late:?} after its deadline"));
        }
        let (code, reason) = match end {
            End::Failed { code, reason, .. } => (code, reason),
            End::Streamed(Stream {
                verdict: Verdict::Failed { code, reason, .. },
                ..
            }) => (code, reason),
            End::Broken
            | End::Streamed(Stream {
                verdict: Verdict::Broken,
                ..
            }) => {
                if is_clear {
                    found.push(format!("call {number} was dropped without a word"));
                }
                continue;
            }
            End::Answered { .. } | End::Streamed(_) | End::LeftEarly | End::GaveUp => continue,
        };
        if code == "Cancelled" || code == "Unknown" || reason == "INTERNAL" {
            found.push(format!("call {number} ended as {code}, {reason}"));
        }
        if reason.starts_with("no reason") {
            found.push(format!("call {number} ended unnamed: {reason}"));
        }
        // What is kept back for the way of the answer.
        let reserve =
            (call.ask.timeout / 20).clamp(Duration::from_millis(5), Duration::from_millis(250));
        let is_alone = facts.who_ask(call.ask.task).count() == 1;
        let is_its_own = call.ask.per_try.is_none() && is_alone;
        if reason == "DEADLINE_EXCEEDED" && is_its_own && at + reserve < call.deadline() {
            let early = call.deadline() - at;
            found.push(format!(
                "call {number} was late {early:?} before its deadline"
            ));
        }
    }
    found
}

/// When the faults are over, everything works as if there had been none.
pub(super) fn when_all_is_well_all_calls_succeed(facts: &Facts<'_>) -> Vec<String> {
    let Some(calm) = facts.calm else {
        return vec!["the faults were never over".to_owned()];
    };
    let mut found = Vec::new();
    let (mut seen, mut reported) = (0, 0);
    for (number, call) in facts.calls.iter().filter(|(_, call)| calm <= call.asked) {
        let is_good = match call.ended {
            Some((
                _,
                End::Answered {
                    attempts,
                    deduplicated,
                    ..
                },
            )) => {
                // Those of an earlier call are told once more.
                reported += if *deduplicated { 0 } else { sent(attempts) };
                true
            }
            Some((_, End::Streamed(stream))) => {
                let parts = stream.partials.iter();
                reported += parts.map(|part| sent(&part.attempts)).sum::<usize>();
                stream.verdict == Verdict::Ok
                    && stream
                        .partials
                        .iter()
                        .all(|part| part.outcome == "OUTCOME_ANSWERED")
            }
            _ => false,
        };
        seen += facts
            .of_task(*number)
            .filter(|execution| execution.arrival.begun == Begun::Yes)
            .count();
        if !is_good {
            let end = call.ended.map(|(_, end)| end);
            found.push(format!("call {number} failed when all was well: {end:?}"));
        }
    }
    if seen != reported {
        found.push(format!(
            "{seen} tries were seen when all was well, {reported} reported"
        ));
    }
    found
}

/// How many of these have left for an instance: one that is full was not sent anything.
fn sent(attempts: &[Tried]) -> usize {
    let is_sent = |tried: &&Tried| tried.failure.as_deref() != Some("INSTANCE_BUSY");
    attempts.iter().filter(is_sent).count()
}

const NOTHING: Remains = Remains {
    clean: true,
    tasks: 0,
    bytes_held: 0,
    admitted: false,
    outstanding: 0,
};

/// 20: nothing outlives the orchestrator, and its own account of the calls that are with instances is settled.
pub(super) fn nothing_is_left_behind(facts: &Facts<'_>) -> Vec<String> {
    match facts.remains {
        Some(remains) if remains == NOTHING => Vec::new(),
        Some(remains) => vec![format!("left behind: {remains:?}")],
        None => vec!["it never stopped".to_owned()],
    }
}
