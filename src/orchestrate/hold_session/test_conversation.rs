//! A client, its session and an instance that is well.

use std::time::Duration;

use super::frame::{ClientFrame, ServerFrame};
use super::test_stage::{House, name, payload, reason, settle, text};
use crate::domain::failure::Reason;
use crate::domain::limit::UNACKNOWLEDGED_MAX;
use crate::domain::session::to_client::Reply;
use crate::domain::session::{CloseReason, LossPolicy};
use crate::instance::scripted::SessionAct;
use crate::instance::session::{self, Frame};
use crate::store::memory::{MemoryStore, Settings};

#[tokio::test(start_paused = true)]
async fn messages_go_both_ways_in_order_and_each_reply_names_what_it_replies_to() {
    let house = House::new(&["A"]).await;
    let spawned = house.spawn("s", LossPolicy::Fail).await;
    assert!(spawned.token.starts_with("ost_"));
    let (mut client, ready) = house.ready("s", Some(0)).await;
    assert_eq!((ready.last_received_seq, ready.first_seq), (0, 1));
    for seq in 1..=20 {
        client.send(seq, &format!("m{seq}")).await;
    }
    for expected in 1..=20 {
        loop {
            match client.next().await {
                ServerFrame::Ack { .. } => {}
                ServerFrame::Data {
                    seq,
                    reply,
                    redelivered,
                    payload,
                } => {
                    assert_eq!(seq, expected);
                    assert_eq!(reply, Some(Reply::Streamed(expected)));
                    assert_eq!(text(&payload), format!("m{expected}"));
                    assert!(!redelivered);
                    break;
                }
                ServerFrame::Ready(_)
                | ServerFrame::Moved { .. }
                | ServerFrame::Lost { .. }
                | ServerFrame::GoAway { .. }
                | ServerFrame::Closed { .. } => panic!("not what was expected"),
            }
        }
    }
    let opened = house.instance("A").sessions.opened();
    assert_eq!(opened.len(), 1, "one stream for the whole conversation");
    assert_eq!(opened[0].seqs(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_or_acknowledged_before_it_is_durable() {
    let slow = Settings {
        sync_takes: Duration::from_secs(10),
        ..Settings::default()
    };
    let house = House::over(&["A"], MemoryStore::new(slow)).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    let begun = tokio::time::Instant::now();
    client.send(1, "slow").await;
    settle().await;
    let seen = |house: &House| {
        let opened = house.instance("A").sessions.opened();
        opened.iter().map(|held| held.seqs().len()).sum::<usize>()
    };
    assert_eq!(seen(&house), 0, "the instance has heard nothing yet");
    client.acked(1).await;
    assert!(Duration::from_secs(10) <= begun.elapsed());
    client.message().await;
    assert!(
        Duration::from_secs(20) <= begun.elapsed(),
        "the reply is durable before it is passed on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_gets_exactly_the_rest() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=5 {
        client.send(seq, &format!("m{seq}")).await;
    }
    for _ in 1..=3 {
        client.message().await;
    }
    drop(client);
    settle().await;
    let (mut client, ready) = house.ready("s", Some(3)).await;
    assert_eq!((ready.last_received_seq, ready.first_seq), (5, 4));
    assert_eq!(client.message().await, (4, "m4".to_owned()));
    assert_eq!(client.message().await, (5, "m5".to_owned()));
    client.send(6, "m6").await;
    assert_eq!(client.message().await, (6, "m6".to_owned()));
    // What it said that it has is gone, and nobody may pretend otherwise.
    drop(client);
    settle().await;
    assert_eq!(
        reason(house.try_attach("s", Some(2)).await),
        Reason::SessionTruncated
    );
    assert_eq!(
        reason(house.try_attach("s", Some(7)).await),
        Reason::ArgumentInvalid
    );
    let (_, ready) = house.ready("s", None).await;
    assert_eq!(
        ready.first_seq, 4,
        "without a word on it: after the last acknowledged one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_ends_the_older_one_and_goes_on() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut older = house.attach("s", Some(0)).await;
    older.send(1, "one").await;
    older.message().await;
    let mut newer = house.attach("s", Some(1)).await;
    assert_eq!(
        older.end().await.map(|failure| failure.reason),
        Some(Reason::SessionSuperseded)
    );
    newer.send(2, "two").await;
    assert_eq!(newer.message().await, (2, "two".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_number_that_comes_twice_is_acknowledged_and_not_delivered_and_never_changes() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.send(1, "one").await;
    client.send(2, "two").await;
    assert_eq!(client.message().await.1, "one");
    assert_eq!(client.message().await.1, "two");
    client.send(2, "another").await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::ArgumentInvalid)
    );
    let mut client = house.attach("s", Some(2)).await;
    client.send(4, "gap").await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::ArgumentInvalid)
    );
    let mut client = house.attach("s", Some(2)).await;
    client.ack(3).await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::ArgumentInvalid),
        "what was never sent cannot be acknowledged"
    );
    assert_eq!(house.instance("A").sessions.opened()[0].seqs(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_instance_slows_its_client_and_nobody_else() {
    let house = House::new(&["A"]).await;
    let script = [SessionAct::FullAfter(0), SessionAct::Echo];
    house.instance("A").sessions.script(script);
    house.spawn("slow", LossPolicy::Fail).await;
    house.spawn("fast", LossPolicy::Fail).await;
    let mut slow = house.attach("slow", Some(0)).await;
    // What fills the line, what a client may have unacknowledged beyond it and is read, one by which it is seen that
    // there is more, and more.
    let count = 2 * UNACKNOWLEDGED_MAX as u64 + 1 + 200;
    for seq in 1..=count {
        slow.send(seq, "m").await;
    }
    slow.acked(UNACKNOWLEDGED_MAX as u64).await;
    settle().await;
    assert_eq!(
        slow.tx.max_capacity() - slow.tx.capacity(),
        200,
        "the rest is not even read"
    );
    let mut fast = house.attach("fast", Some(0)).await;
    fast.send(1, "quick").await;
    fast.message().await;
    house.instance("A").sessions.opened()[0].let_in();
    for seq in 1..=count {
        assert_eq!(slow.message().await.0, seq);
        if seq % 100 == 0 {
            slow.ack(seq).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_parks_its_session_and_loses_nothing() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    let count = UNACKNOWLEDGED_MAX as u64 + 300;
    for _ in 1..=count {
        held.send(None, payload("x"));
    }
    settle().await;
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_client.last, UNACKNOWLEDGED_MAX as u64);
    for seq in 1..=count {
        assert_eq!(client.message().await.0, seq);
        if seq % 100 == 0 {
            client.ack(seq).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_before_anybody_cuts_the_stream() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    let quiet_since = tokio::time::Instant::now();
    for round in 1..=3 {
        assert_eq!(client.next().await, ServerFrame::Ack { seq: 1 });
        let said = quiet_since.elapsed().as_secs();
        assert!((60 * round..=60 * round + 1).contains(&said), "{said}");
    }
    let seen = house.instance("A").sessions.opened()[0].seen();
    let acks = seen
        .iter()
        .filter(|frame| matches!(frame, Frame::Ack { through: 1 }));
    assert!(3 <= acks.count(), "the instance hears it too: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_its_client_ends_is_over_for_both_sides() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    client.ack(1).await;
    client.say(ClientFrame::Close).await;
    let rest = client.rest().await;
    assert_eq!(
        rest.last(),
        Some(&ServerFrame::Closed {
            reason: CloseReason::ByClient
        })
    );
    settle().await;
    let seen = house.instance("A").sessions.opened()[0].seen();
    let done = |frame: &Frame| matches!(frame, Frame::Close { reason, .. } if *reason == session::CloseReason::Done);
    assert!(done(seen.last().unwrap()), "{seen:?}");
    assert_eq!(
        reason(house.try_attach("s", None).await),
        Reason::SessionClosed
    );
    assert_eq!(
        reason(house.post("s", None, "late").await),
        Reason::SessionClosed
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_said_last_is_still_there_after_it_has_ended_the_session() {
    let house = House::new(&["A"]).await;
    let done = SessionAct::CloseAfter(2, session::CloseReason::Done);
    house.instance("A").sessions.script([done]);
    house.spawn("s", LossPolicy::Fail).await;
    let client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.send(2, "two").await;
    settle().await;
    drop(client);
    settle().await;
    let shown = house.sessions.get(&name("s")).await.unwrap();
    assert!(matches!(
        shown.session.state,
        crate::store::record::State::Closed { .. }
    ));
    let mut client = house.attach("s", Some(0)).await;
    assert_eq!(client.message().await, (1, "one".to_owned()));
    assert_eq!(client.message().await, (2, "two".to_owned()));
    client.ack(2).await;
    assert_eq!(
        client.rest().await.last(),
        Some(&ServerFrame::Closed {
            reason: CloseReason::ByInstance
        })
    );
    settle().await;
    assert_eq!(
        reason(house.try_attach("s", None).await),
        Reason::SessionClosed
    );
}
