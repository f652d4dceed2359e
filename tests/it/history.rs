//! The history of one session, as its client saw it, and the judge of it.
//!
//! A session is a log with one writer for each direction, so no search is needed: each event is held against the
//! few numbers that those before it have left.

use std::collections::BTreeMap;

/// What happened, in the order in which the client, or the instance, saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The client sent a message with this number, perhaps not for the first time.
    Sent(u64, String),
    /// The client learned that its messages up to here are safe.
    Acked(u64),
    /// The client was attached in this epoch, and told how far its messages have come.
    Ready {
        epoch: u64,
        last_received: u64,
        first: u64,
    },
    /// The client got a message: its number, what it replies to, what it says.
    Received(u64, Option<u64>, String),
    /// The instance applied a message, in this epoch.
    Applied { epoch: u64, position: u64 },
    /// The client was told that its messages from here to there are lost.
    Lost(u64, u64),
}

/// What is wrong with a history whose session has come to rest: everything was delivered, or told to be lost.
pub(crate) fn judge(history: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut sent: BTreeMap<u64, String> = BTreeMap::new();
    let mut replies: BTreeMap<u64, u64> = BTreeMap::new();
    let mut received: BTreeMap<u64, String> = BTreeMap::new();
    let (mut acked, mut epoch, mut next) = (0, 0, 1);
    let (mut applied, mut applied_epoch) = (0, 0);
    let mut lost: Vec<(u64, u64)> = Vec::new();
    for event in history {
        match event {
            Event::Sent(seq, text) => {
                let before = sent.insert(*seq, text.clone());
                if before.is_some_and(|before| before != *text) {
                    wrong.push(format!("{seq} was sent with two bodies"));
                }
            }
            Event::Acked(seq) => {
                if *seq < acked {
                    wrong.push(format!(
                        "the acknowledgement went back from {acked} to {seq}"
                    ));
                }
                if sent.keys().last().is_none_or(|last| last < seq) {
                    wrong.push(format!("{seq} was acknowledged and never sent"));
                }
                acked = acked.max(*seq);
            }
            Event::Ready {
                epoch: now,
                last_received,
                first,
            } => {
                if *now < epoch {
                    wrong.push(format!("the epoch went back from {epoch} to {now}"));
                }
                epoch = epoch.max(*now);
                if *last_received < acked {
                    let what = "acknowledged messages are gone";
                    wrong.push(format!("{what}: {acked} were, {last_received} are there"));
                }
                acked = acked.max(*last_received);
                if next < *first {
                    wrong.push(format!("{next} was skipped: the server begins at {first}"));
                }
            }
            Event::Received(seq, reply, text) => {
                if next < *seq {
                    wrong.push(format!("{seq} came where {next} was next"));
                }
                next = next.max(seq + 1);
                let before = received.insert(*seq, text.clone());
                if before.is_some_and(|before| before != *text) {
                    wrong.push(format!("{seq} came with two bodies"));
                }
                if let Some(answered) = reply
                    && let Some(other) = replies.insert(*answered, *seq)
                    && other != *seq
                {
                    wrong.push(format!("{answered} was applied twice: {other} and {seq}"));
                }
            }
            Event::Applied {
                epoch: now,
                position,
            } => {
                if *now < applied_epoch {
                    wrong.push(format!(
                        "a frame of epoch {now} was taken after {applied_epoch}"
                    ));
                }
                applied_epoch = applied_epoch.max(*now);
                if *position != applied + 1 {
                    wrong.push(format!("{position} was applied after {applied}"));
                }
                applied = applied.max(*position);
            }
            Event::Lost(first, last) => lost.push((*first, *last)),
        }
    }
    let told = |seq: &u64| {
        lost.iter()
            .any(|(first, last)| (first..=last).contains(&seq))
    };
    for seq in (1..=acked).filter(|seq| !replies.contains_key(seq) && !told(seq)) {
        wrong.push(format!("{seq} was acknowledged and never answered"));
    }
    for (answered, seq) in &replies {
        if sent.get(answered) != received.get(seq) {
            wrong.push(format!("{seq} is no echo of {answered}"));
        }
    }
    let in_order = replies.values().zip(replies.values().skip(1));
    for (one, other) in in_order.filter(|(one, other)| other <= one) {
        wrong.push(format!("replies {one} and {other} are out of order"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seq: u64) -> Event {
        Event::Sent(seq, format!("m{seq}"))
    }

    fn got(seq: u64, answered: u64) -> Event {
        Event::Received(seq, Some(answered), format!("m{answered}"))
    }

    fn ready(epoch: u64, last_received: u64, first: u64) -> Event {
        Event::Ready {
            epoch,
            last_received,
            first,
        }
    }

    fn applied(epoch: u64, position: u64) -> Event {
        Event::Applied { epoch, position }
    }

    #[test]
    fn good_histories_pass() {
        let check = |history: &[Event]| assert_eq!(judge(history), [""; 0], "{history:?}");
        check(&[]);
        check(&[
            ready(1, 0, 1),
            sent(1),
            Event::Acked(1),
            applied(1, 1),
            got(1, 1),
        ]);
        // Cut, sent again, delivered again.
        check(&[
            ready(1, 0, 1),
            sent(1),
            ready(2, 1, 1),
            sent(1),
            got(1, 1),
            got(1, 1),
        ]);
        // Never acknowledged: it may be gone.
        check(&[ready(1, 0, 1), sent(1), ready(2, 0, 1)]);
        // Said to be lost.
        check(&[ready(1, 0, 1), sent(1), Event::Acked(1), Event::Lost(1, 1)]);
    }

    #[test]
    fn bad_histories_are_refused() {
        let check = |expected: &str, history: &[Event]| {
            let wrong = judge(history);
            let told = wrong.iter().any(|wrong| wrong.contains(expected));
            assert!(told, "{expected}: {wrong:?}");
        };
        let begun = [ready(1, 0, 1), sent(1), Event::Acked(1)];
        let then = |more: &[Event]| [&begun, more].concat();
        check("never answered", &begun);
        check("acknowledged messages are gone", &then(&[ready(2, 0, 1)]));
        check("applied twice", &then(&[got(1, 1), got(2, 1)]));
        check("came where 1 was next", &then(&[got(2, 1)]));
        check("skipped", &then(&[ready(2, 1, 2)]));
        check("epoch went back", &then(&[ready(3, 1, 1), ready(2, 1, 1)]));
        check("went back from 1 to 0", &then(&[Event::Acked(0)]));
        check("never sent", &[ready(1, 0, 1), Event::Acked(1)]);
        check("two bodies", &then(&[Event::Sent(1, "other".into())]));
        check("out of order", &[sent(1), sent(2), got(1, 2), got(2, 1)]);
        let other = Event::Received(1, Some(1), "other".into());
        check("no echo", &then(std::slice::from_ref(&other)));
        check("two bodies", &then(&[got(1, 1), other]));
        check("was taken after", &[applied(2, 1), applied(1, 2)]);
        check("was applied after", &[applied(1, 1), applied(1, 1)]);
        check("was applied after", &[applied(1, 1), applied(1, 3)]);
    }
}
