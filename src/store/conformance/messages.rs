//! Messages: their numbers, what is recognised, what is refused, what is removed.

use super::*;
use crate::domain::limit::{
    APPEND_MAX, HELD_MAX, POSTS_REMEMBERED_MAX, SETTLED_KEPT, UNACKNOWLEDGED_BYTES_MAX,
    UNACKNOWLEDGED_MAX,
};
use crate::store::{Bound, Error};

on_every_engine! {
    messages_are_numbered_without_a_hole_and_read_back_also_after_a_crash
    a_repeated_message_is_recognised_and_a_changed_one_refused
    a_call_is_kept_as_a_whole_or_not_at_all
    acknowledgements_never_go_back_and_never_lead
    a_log_at_its_bound_refuses_and_loses_nothing
    one_message_always_fits
    settled_messages_go_from_the_old_end_and_a_few_stay_to_be_recognised
    for_replay_acknowledged_messages_stay
    a_reply_that_was_taken_counts_as_acknowledged
    a_post_is_remembered_with_its_reply_when_both_are_gone
    a_reply_names_what_it_answers
    a_page_has_as_many_bytes_as_asked_for_and_at_least_one_message
}

type Answers = Result<Vec<Appended>, Error>;

async fn ask(store: &dyn Store, s: &SessionId, messages: Vec<NewToInstance>) -> Answers {
    store.append_to_instance(s, &fence(), messages).await
}

async fn say(store: &dyn Store, s: &SessionId, messages: Vec<NewToClient>) -> Answers {
    store.append_to_client(s, &fence(), messages).await
}

async fn ack(
    store: &dyn Store,
    s: &SessionId,
    direction: Direction,
    through: u64,
) -> Result<(), Error> {
    store.acknowledge(s, &fence(), direction, through).await
}

async fn messages_are_numbered_without_a_hole_and_read_back_also_after_a_crash(
    engine: impl Engine,
) {
    let (a, b) = (
        make(engine.store(), "a").await,
        make(engine.store(), "b").await,
    );
    let store = engine.store();
    let mixed = vec![streamed(1, "one"), posted(None, "post"), streamed(2, "two")];
    let answers = ask(store, &a, mixed).await.unwrap();
    assert_eq!(answers, [1, 2, 3].map(Appended::New));
    let answers = ask(store, &b, vec![streamed(1, "other")]).await.unwrap();
    assert_eq!(answers, [Appended::New(1)], "each session counts by itself");
    let words = vec![said(1, 0, "x"), said(2, 3, "y")];
    say(store, &a, words).await.unwrap();
    let engine = engine.crash();
    let store = engine.store();
    let expected = ["1 one", "2 post", "3 two"];
    assert_eq!(to_instance(store, &a, 0).await, expected);
    assert_eq!(to_instance(store, &a, 2).await, expected[2..]);
    assert_eq!(to_instance(store, &b, 0).await, ["1 other"]);
    assert_eq!(to_client(store, &a, 0).await, ["1 x", "2 y"]);
    let read = store.read_to_instance(&a, 0, usize::MAX).await.unwrap();
    let seqs: Vec<_> = read.messages.iter().map(|m| m.client_seq).collect();
    assert_eq!(seqs, [1, 0, 2]);
    let session = store.get(&a).await.unwrap();
    assert_eq!(
        (session.to_instance.last, session.to_instance.sender_seq),
        (3, 2)
    );
    let answers = ask(store, &a, vec![streamed(3, "three")]).await.unwrap();
    assert_eq!(answers, [Appended::New(4)]);
}

async fn a_repeated_message_is_recognised_and_a_changed_one_refused(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let first = vec![
        streamed(1, "one"),
        posted(Some("k"), "post"),
        streamed(2, "two"),
    ];
    ask(engine.store(), &s, first).await.unwrap();
    say(engine.store(), &s, vec![said(1, 0, "x")])
        .await
        .unwrap();
    let engine = engine.crash();
    let store = engine.store();
    let before = store.get(&s).await.unwrap();
    let again = vec![
        streamed(2, "two"),
        posted(Some("k"), "post"),
        streamed(1, "one"),
    ];
    let answers = ask(store, &s, again).await.unwrap();
    assert_eq!(answers, [3, 2, 1].map(Appended::Repeated));
    for changed in [streamed(2, "TWO"), posted(Some("k"), "posted")] {
        assert_eq!(ask(store, &s, vec![changed]).await, Err(Error::Conflict));
    }
    let answers = say(store, &s, vec![said(1, 0, "x")]).await.unwrap();
    assert_eq!(answers, [Appended::Repeated(1)]);
    assert_eq!(
        say(store, &s, vec![said(1, 0, "X")]).await,
        Err(Error::Conflict)
    );
    assert_eq!(store.get(&s).await.unwrap(), before, "nothing has changed");
    // Within one call too.
    let twice = vec![streamed(3, "three"), streamed(3, "three")];
    let answers = ask(store, &s, twice).await.unwrap();
    assert_eq!(answers, [Appended::New(4), Appended::Repeated(4)]);
    let twice = vec![
        posted(Some("l"), "p"),
        posted(Some("l"), "p"),
        posted(None, "p"),
    ];
    let answers = ask(store, &s, twice).await.unwrap();
    let expected = [Appended::New(5), Appended::Repeated(5), Appended::New(6)];
    assert_eq!(answers, expected);
}

async fn a_call_is_kept_as_a_whole_or_not_at_all(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    ask(store, &s, vec![streamed(1, "one")]).await.unwrap();
    ask(store, &s, vec![posted(Some("k"), "post")])
        .await
        .unwrap();
    let before = store.get(&s).await.unwrap();
    let gap = vec![
        streamed(2, "two"),
        posted(Some("l"), "p"),
        streamed(4, "four"),
    ];
    assert_eq!(ask(store, &s, gap).await, Err(Error::Gap { expected: 3 }));
    let zero = vec![streamed(0, "none")];
    assert_eq!(ask(store, &s, zero).await, Err(Error::Gap { expected: 2 }));
    let other = vec![streamed(2, "two"), streamed(2, "TWO")];
    assert_eq!(ask(store, &s, other).await, Err(Error::Conflict));
    let gap = vec![said(1, 2, "reply"), said(3, 0, "x")];
    assert_eq!(say(store, &s, gap).await, Err(Error::Gap { expected: 2 }));
    assert_eq!(store.get(&s).await.unwrap(), before);
    let post = store.find_post(&s, "k").await.unwrap().unwrap();
    assert_eq!(post.reply, None, "its reply was not kept");
    assert_eq!(store.find_post(&s, "l").await, Ok(None));
    let many = (0..=APPEND_MAX).map(|_| posted(None, "p")).collect();
    assert_eq!(ask(store, &s, many).await, Err(Error::Full(Bound::Append)));
    let engine = engine.crash();
    assert_eq!(
        to_instance(engine.store(), &s, 0).await,
        ["1 one", "2 post"]
    );
    let answers = ask(engine.store(), &s, vec![streamed(2, "two")]).await;
    assert_eq!(answers, Ok(vec![Appended::New(3)]));
}

async fn acknowledgements_never_go_back_and_never_lead(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let three = vec![streamed(1, "a"), streamed(2, "b"), streamed(3, "c")];
    ask(store, &s, three).await.unwrap();
    for (direction, last) in [(Direction::ToInstance, 3), (Direction::ToClient, 0)] {
        let lead = ack(store, &s, direction, last + 1).await;
        assert_eq!(lead, Err(Error::OverAck { last }));
    }
    assert_eq!(
        store.take(&s, &fence(), 1).await,
        Err(Error::OverAck { last: 0 })
    );
    assert_eq!(
        store.take(&s, &fence(), 0).await,
        Err(Error::OverAck { last: 0 })
    );
    for (through, acked) in [(2, 2), (1, 2), (0, 2), (2, 2), (3, 3)] {
        ack(store, &s, Direction::ToInstance, through)
            .await
            .unwrap();
        let counters = store.get(&s).await.unwrap().to_instance;
        assert_eq!((counters.acked, counters.settled), (acked, acked));
    }
    // A durable call of any session makes what was acknowledged before it durable.
    make(store, "other").await;
    let engine = engine.crash();
    let counters = engine.store().get(&s).await.unwrap().to_instance;
    assert_eq!((counters.last, counters.acked), (3, 3));
}

async fn a_log_at_its_bound_refuses_and_loses_nothing(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let last = UNACKNOWLEDGED_MAX as u64;
    let words = (1..=last).map(|seq| streamed(seq, "m")).collect();
    ask(store, &s, words).await.unwrap();
    let words = (1..=last).map(|seq| said(seq, 0, "m")).collect();
    say(store, &s, words).await.unwrap();
    let full = Err(Error::Full(Bound::Messages));
    assert_eq!(ask(store, &s, vec![streamed(last + 1, "n")]).await, full);
    assert_eq!(say(store, &s, vec![said(last + 1, 0, "n")]).await, full);
    let repeated = ask(store, &s, vec![streamed(last, "m")]).await;
    assert_eq!(repeated, Ok(vec![Appended::Repeated(last)]));
    ack(store, &s, Direction::ToInstance, 1).await.unwrap();
    ack(store, &s, Direction::ToClient, 1).await.unwrap();
    let engine = engine.crash();
    let store = engine.store();
    // Where the acknowledgements were forgotten they come again.
    ack(store, &s, Direction::ToInstance, 1).await.unwrap();
    ack(store, &s, Direction::ToClient, 1).await.unwrap();
    let room = Ok(vec![Appended::New(last + 1)]);
    assert_eq!(ask(store, &s, vec![streamed(last + 1, "n")]).await, room);
    assert_eq!(say(store, &s, vec![said(last + 1, 0, "n")]).await, room);
    let pending = to_instance(store, &s, 1).await;
    assert_eq!(pending.len(), UNACKNOWLEDGED_MAX);
    assert_eq!(pending.last(), Some(&format!("{} n", last + 1)));
}

async fn one_message_always_fits(engine: impl Engine) {
    let store = engine.store();
    let s = make(store, "s").await;
    let large = "x".repeat(UNACKNOWLEDGED_BYTES_MAX + 1);
    let fits = ask(store, &s, vec![streamed(1, &large)]).await;
    assert_eq!(fits, Ok(vec![Appended::New(1)]));
    let full = ask(store, &s, vec![streamed(2, "")]).await;
    assert_eq!(full, Err(Error::Full(Bound::Bytes)));
    ack(store, &s, Direction::ToInstance, 1).await.unwrap();
    let fits = ask(store, &s, vec![streamed(2, &large)]).await;
    assert_eq!(fits, Ok(vec![Appended::New(2)]));
}

async fn settled_messages_go_from_the_old_end_and_a_few_stay_to_be_recognised(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let last = 10 * SETTLED_KEPT as u64;
    for seq in 1..=last {
        ask(store, &s, vec![streamed(seq, "m")]).await.unwrap();
        say(store, &s, vec![said(seq, seq, "m")]).await.unwrap();
        ack(store, &s, Direction::ToInstance, seq).await.unwrap();
        ack(store, &s, Direction::ToClient, seq).await.unwrap();
    }
    make(store, "other").await;
    let before = store.get(&s).await.unwrap();
    let engine = engine.crash();
    let store = engine.store();
    let session = store.get(&s).await.unwrap();
    assert_eq!(session, before);
    for counters in [session.to_instance, session.to_client] {
        assert_eq!((counters.last, counters.settled), (last, last));
        let kept = usize::try_from(last - counters.removed).unwrap();
        assert!((SETTLED_KEPT..=2 * SETTLED_KEPT).contains(&kept), "{kept}");
    }
    let removed = session.to_instance.removed;
    let read = store.read_to_instance(&s, 0, usize::MAX).await.unwrap();
    assert_eq!(read.removed, removed);
    assert_eq!(read.messages[0].position, removed + 1);
    let repeat = |seq| ask(store, &s, vec![streamed(seq, "m")]);
    assert_eq!(repeat(removed).await, Ok(vec![Appended::Forgotten]));
    let kept = Ok(vec![Appended::Repeated(removed + 1)]);
    assert_eq!(repeat(removed + 1).await, kept);
    assert_eq!(repeat(last + 1).await, Ok(vec![Appended::New(last + 1)]));
    assert_eq!(session.spoken, Some(Epoch::FIRST));
}

async fn for_replay_acknowledged_messages_stay(engine: impl Engine) {
    let mut new = new_session("s");
    new.terms.loss_policy = LossPolicy::Replay;
    engine.store().create(new).await.unwrap();
    let s = id("s");
    let last = HELD_MAX as u64 + 1;
    let mut seq = 0;
    while seq < last {
        let next = last.min(seq + APPEND_MAX as u64);
        let store = engine.store();
        let words = (seq + 1..=next).map(|seq| streamed(seq, "m")).collect();
        ask(store, &s, words).await.unwrap();
        ack(store, &s, Direction::ToInstance, next - 1)
            .await
            .unwrap();
        assert_eq!(store.get(&s).await.unwrap().to_instance.removed, 0);
        ack(store, &s, Direction::ToInstance, next).await.unwrap();
        seq = next;
    }
    // Beyond its bound the oldest half goes.
    let store = engine.store();
    let counters = store.get(&s).await.unwrap().to_instance;
    assert_eq!(counters.last - counters.removed, HELD_MAX as u64 / 2);
    ask(store, &s, vec![streamed(last + 1, "m")]).await.unwrap();
    let engine = engine.crash();
    let kept = to_instance(engine.store(), &s, 0).await;
    assert_eq!(kept.len(), HELD_MAX / 2 + 1);
}

async fn a_reply_that_was_taken_counts_as_acknowledged(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let words = (1..=4).map(|seq| said(seq, 0, "m")).collect();
    say(store, &s, words).await.unwrap();
    let settled = async |store: &dyn Store| {
        let counters = store.get(&s).await.unwrap().to_client;
        (counters.acked, counters.settled)
    };
    store.take(&s, &fence(), 3).await.unwrap();
    store.take(&s, &fence(), 3).await.unwrap();
    assert_eq!(settled(store).await, (0, 0), "older ones are not settled");
    store.take(&s, &fence(), 1).await.unwrap();
    assert_eq!(settled(store).await, (0, 1));
    make(store, "other").await;
    let engine = engine.crash();
    let store = engine.store();
    assert_eq!(settled(store).await, (0, 1));
    ack(store, &s, Direction::ToClient, 2).await.unwrap();
    assert_eq!(settled(store).await, (2, 3));
    let read = store.read_to_client(&s, 0, usize::MAX).await.unwrap();
    let taken: Vec<_> = read.messages.iter().map(|m| m.taken).collect();
    assert_eq!(taken, [Taken::Yes, Taken::No, Taken::Yes, Taken::No]);
    // Those that were taken do not count against the bound.
    let last = UNACKNOWLEDGED_MAX as u64 + 3;
    let words = (5..=last).map(|seq| said(seq, 0, "m")).collect();
    say(store, &s, words).await.unwrap();
    let full = say(store, &s, vec![said(last + 1, 0, "m")]).await;
    assert_eq!(full, Err(Error::Full(Bound::Messages)));
    store.take(&s, &fence(), last).await.unwrap();
    let room = say(store, &s, vec![said(last + 1, 0, "m")]).await;
    assert_eq!(room, Ok(vec![Appended::New(last + 1)]));
}

async fn a_post_is_remembered_with_its_reply_when_both_are_gone(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    ask(store, &s, vec![posted(Some("k"), "question")])
        .await
        .unwrap();
    let post = store.find_post(&s, "k").await.unwrap().unwrap();
    assert_eq!((post.position, post.body, post.reply), (1, hash(8), None));
    let words = vec![said(1, 1, "answer"), said(2, 1, "second thought")];
    say(store, &s, words).await.unwrap();
    store.take(&s, &fence(), 1).await.unwrap();
    let last = 3 * SETTLED_KEPT as u64;
    for seq in 3..=last {
        say(store, &s, vec![said(seq, 0, "m")]).await.unwrap();
        ask(store, &s, vec![streamed(seq - 2, "m")]).await.unwrap();
        ack(store, &s, Direction::ToInstance, seq - 1)
            .await
            .unwrap();
        ack(store, &s, Direction::ToClient, seq).await.unwrap();
    }
    make(store, "other").await;
    let engine = engine.crash();
    let store = engine.store();
    let session = store.get(&s).await.unwrap();
    assert!(1 < session.to_client.removed && 1 < session.to_instance.removed);
    let post = store.find_post(&s, "k").await.unwrap().unwrap();
    let reply = Reply {
        seq: 1,
        payload: bytes("answer"),
    };
    assert_eq!((post.position, post.reply), (1, Some(reply)));
    let again = ask(store, &s, vec![posted(Some("k"), "question")]).await;
    assert_eq!(again, Ok(vec![Appended::Repeated(1)]));
    // The oldest of too many is forgotten.
    for at in 0..POSTS_REMEMBERED_MAX {
        ask(store, &s, vec![posted(Some(&format!("k{at}")), "p")])
            .await
            .unwrap();
        let last = store.get(&s).await.unwrap().to_instance.last;
        ack(store, &s, Direction::ToInstance, last).await.unwrap();
    }
    assert_eq!(store.find_post(&s, "k").await, Ok(None));
    assert!(store.find_post(&s, "k0").await.unwrap().is_some());
}

async fn a_reply_names_what_it_answers(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let words = vec![
        streamed(1, "a"),
        posted(None, "p"),
        streamed(2, "b"),
        posted(Some("k"), "q"),
        streamed(3, "c"),
    ];
    ask(engine.store(), &s, words).await.unwrap();
    let words = (1..=7).map(|seq| said(seq, seq - 1, "r")).collect();
    say(engine.store(), &s, words).await.unwrap();
    let engine = engine.crash();
    let store = engine.store();
    let stream = |position, seq| ReplyTo::Stream { position, seq };
    let post = |position| ReplyTo::Post { position };
    let unknown = |position| ReplyTo::Unknown { position };
    let check = async |after, expected: &[ReplyTo]| {
        let read = store.read_to_client(&s, after, usize::MAX).await.unwrap();
        let found: Vec<_> = read.messages.iter().map(|m| m.reply_to).collect();
        assert_eq!(found, expected);
    };
    let expected = [
        ReplyTo::Nothing,
        stream(1, 1),
        post(2),
        stream(3, 2),
        post(4),
        stream(5, 3),
        unknown(6),
    ];
    check(0, &expected).await;
    // When the posts are forgotten, only what is newer than all of them is still known.
    let old = Old {
        closed_before_ms: 0,
        posted_before_ms: u64::MAX,
    };
    store.forget_old(old).await.unwrap();
    let words = vec![said(8, 3, "r"), said(9, 4, "r"), said(10, 5, "r")];
    say(store, &s, words).await.unwrap();
    check(7, &[unknown(3), unknown(4), stream(5, 3)]).await;
}

async fn a_page_has_as_many_bytes_as_asked_for_and_at_least_one_message(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let words = (1..=5).map(|seq| streamed(seq, "xxxx")).collect();
    ask(store, &s, words).await.unwrap();
    let words = (1..=5).map(|seq| said(seq, 0, "xxxx")).collect();
    say(store, &s, words).await.unwrap();
    for (bytes_max, expected) in [(0, 1), (4, 1), (7, 1), (8, 2), (20, 5), (100, 5)] {
        let read = store.read_to_instance(&s, 0, bytes_max).await.unwrap();
        assert_eq!(read.messages.len(), expected, "{bytes_max}");
        let read = store.read_to_client(&s, 0, bytes_max).await.unwrap();
        assert_eq!(read.messages.len(), expected, "{bytes_max}");
    }
    let read = store.read_to_instance(&s, 5, 100).await.unwrap();
    assert_eq!((read.removed, read.messages), (0, Vec::new()));
}
