//! Any history of the two lines keeps their promises.

use bytes::Bytes;
use proptest::prelude::*;

use super::Bounds;
use super::to_client::{self, NoResume, Reply, ToClient};
use super::to_instance::{Accepted, Refused, Source, ToInstance};
use crate::domain::limit::{UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_MAX};
use crate::domain::payload::Payload;

fn payload(number: u64) -> Payload {
    let mut encoded = vec![0x11];
    encoded.extend((number as f64).to_le_bytes());
    Payload::check(Bytes::from(encoded)).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Stream,
    Again(u64),
    Post,
    Store(u64),
    Forget,
    Deliver,
    Ack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Stream),
        1 => (1..20_u64).prop_map(Step::Again),
        1 => Just(Step::Post),
        3 => (0..40_u64).prop_map(Step::Store),
        1 => Just(Step::Forget),
        4 => Just(Step::Deliver),
        2 => (0..40_u64).prop_map(Step::Ack),
    ]
}

proptest! {
    #[test]
    fn what_goes_to_the_instance_has_no_hole_and_nothing_leaves_before_it_is_stored(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut line = ToInstance::default();
        let (mut last_seq, mut posts, mut sent) = (0, 1000, 0);
        let mut positions: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            let (acked, stored, stored_seq) = (line.acked(), line.stored(), line.stored_seq());
            match step {
                Step::Stream => {
                    let accepted = line.stream(last_seq + 1, 0, payload(last_seq + 1));
                    let position = positions.last().map_or(0, |(at, _)| *at) + 1;
                    prop_assert_eq!(accepted, Ok(Accepted::New(position)));
                    last_seq += 1;
                    positions.push((position, last_seq));
                }
                Step::Again(seq) if seq <= last_seq => {
                    let again = line.stream(seq, 0, payload(seq));
                    prop_assert_eq!(again, Ok(Accepted::Before));
                }
                Step::Again(seq) => {
                    let gap = line.stream(seq.max(last_seq + 2), 0, payload(seq));
                    let is_gap = matches!(gap, Err(Refused::Gap { .. }));
                    prop_assert!(is_gap);
                }
                Step::Post => {
                    posts += 1;
                    let position = line.post(0, payload(posts)).unwrap();
                    positions.push((position, 0));
                }
                Step::Store(through) => line.store(through),
                Step::Forget => {
                    line.forget_unstored();
                    positions.retain(|(at, _)| *at <= line.stored());
                    last_seq = positions.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
                    prop_assert_eq!(line.unstored().count(), 0);
                }
                Step::Deliver => {
                    if let Some(next) = line.next(sent) {
                        prop_assert_eq!(next.position, sent + 1);
                        prop_assert!(next.position <= line.stored(), "not before it is stored");
                        sent = next.position;
                    }
                }
                Step::Ack(through) => match line.ack(through, sent) {
                    Ok(news) => prop_assert_eq!(news, acked < through),
                    Err(_) => prop_assert!(sent < through),
                },
            }
            prop_assert!(acked <= line.acked() && stored <= line.stored());
            prop_assert!(stored_seq <= line.stored_seq() && line.stored_seq() <= last_seq);
            let kept: Vec<_> = line.after(0).map(|message| message.position).collect();
            let expected: Vec<_> = positions.iter().map(|(at, _)| *at).collect();
            let unacked: Vec<_> = expected.into_iter().filter(|at| line.acked() < *at).collect();
            prop_assert_eq!(kept, unacked);
            for (position, seq) in &positions {
                if let Some(found) = line.seq_at(*position) {
                    prop_assert_eq!(found, *seq);
                }
            }
        }
    }

    #[test]
    fn whoever_resumes_gets_exactly_the_rest_or_is_told(
        count in 0..60_u64,
        acks in prop::collection::vec(0..60_u64, 0..5),
        taken in prop::collection::vec(1..60_u64, 0..20),
        has in prop::option::of(0..70_u64),
    ) {
        let mut line = ToClient::default();
        for seq in 1..=count {
            let reply = Some(Reply::Posted(seq));
            prop_assert_eq!(line.accept(seq, reply, payload(seq)), Ok(to_client::Accepted::New));
        }
        prop_assert!(line.next(0).is_none(), "nothing is sent before it is stored");
        line.store(count);
        for ack in acks {
            let before = line.acked();
            let is_good = line.ack(ack, count).is_ok();
            prop_assert_eq!(is_good, ack <= count);
            prop_assert!(before <= line.acked());
        }
        for seq in &taken {
            line.take(*seq);
        }
        let acked = line.acked();
        match line.resume(has) {
            Err(NoResume::Truncated { .. }) => prop_assert!(has.unwrap() < acked),
            Err(NoResume::NeverSent { .. }) => prop_assert!(count < has.unwrap()),
            Ok(from) => {
                let asked = has.unwrap_or(acked);
                prop_assert!(asked <= from);
                // What is passed over was handed to somebody else.
                for skipped in asked + 1..=from {
                    prop_assert!(taken.contains(&skipped));
                }
                let mut sent = from;
                while let Some(message) = line.next(sent) {
                    prop_assert_eq!(message.seq, sent + 1);
                    sent = message.seq;
                }
                prop_assert_eq!(sent, count);
            }
        }
    }
}

#[test]
fn a_number_never_changes_its_payload_also_after_it_was_acknowledged() {
    let mut line = ToInstance::default();
    for seq in 1..=3 {
        line.stream(seq, 0, payload(seq)).unwrap();
    }
    line.store(3);
    line.ack(2, 3).unwrap();
    for seq in 1..=3 {
        assert_eq!(line.stream(seq, 0, payload(seq)), Ok(Accepted::Before));
        let changed = line.stream(seq, 0, payload(99));
        assert_eq!(changed, Err(Refused::Changed(seq)));
    }
    assert_eq!(line.stream(0, 0, payload(0)), Err(Refused::Zero));
}

#[test]
fn a_line_is_full_at_its_bounds_and_one_message_always_fits() {
    let mut line = ToInstance::default();
    for seq in 1..=UNACKNOWLEDGED_MAX as u64 {
        line.stream(seq, 0, payload(seq)).unwrap();
    }
    assert_eq!(line.post(0, payload(0)), Err(Refused::Full));
    let mut text = vec![0x1a, 0x80, 0x80, 0x80, 0x01];
    text.resize(5 + 2 * UNACKNOWLEDGED_BYTES_MAX, b'x');
    let large = Payload::check(Bytes::from(text)).unwrap();
    let mut line = ToInstance::default();
    assert_eq!(line.post(0, large.clone()), Ok(1));
    assert_eq!(line.post(0, large), Err(Refused::Full));
    assert!(!line.has_room(1));
}

#[test]
fn a_line_that_was_stored_is_the_same_line() {
    let mut line = ToInstance::default();
    for seq in 1..=4 {
        line.stream(seq, 0, payload(seq)).unwrap();
    }
    line.post(0, payload(5)).unwrap();
    line.store(5);
    line.ack(2, 5).unwrap();
    let counters = super::to_instance::Counters {
        acked: 2,
        last: 5,
        last_seq: 4,
    };
    let kept: Vec<_> = line.after(0).cloned().collect();
    let recovered = ToInstance::recovered(Bounds::default(), counters, kept);
    let sources = |line: &ToInstance| line.after(0).map(|kept| kept.source).collect::<Vec<_>>();
    assert_eq!(sources(&recovered), sources(&line));
    assert_eq!(sources(&line).last(), Some(&Source::Posted));
    assert_eq!(recovered.stored_seq(), line.stored_seq());
}
