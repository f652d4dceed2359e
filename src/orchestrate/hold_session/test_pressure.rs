//! What becomes of a session when one side, or both, send more than the other takes; and of its last messages.

use std::time::Duration;

use super::frame::{ClientFrame, Direction, ServerFrame};
use super::test_stage::{Client, House, LONG, name, payload, reason, settle, text};
use crate::domain::failure::Reason;
use crate::domain::limit::UNACKNOWLEDGED_MAX;
use crate::domain::session::{CloseReason, LossPolicy};
use crate::instance::scripted::SessionAct;
use crate::instance::session::{self, Frame};
use crate::store::memory::{MemoryStore, Settings};

const MAX: u64 = UNACKNOWLEDGED_MAX as u64;

fn slow_store() -> MemoryStore {
    MemoryStore::new(Settings {
        sync_takes: Duration::from_secs(1),
        ..Settings::default()
    })
}

/// The frames until a message comes, or the stream has ended, or nothing happens any more.
async fn message_within(client: &mut Client, limit: Duration) -> Option<u64> {
    let next = async {
        loop {
            match client.try_next().await {
                Ok(ServerFrame::Data { seq, .. }) => return Some(seq),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(limit, next).await.unwrap_or(None)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_to_its_bound_is_heard_when_both_directions_are_full() {
    for store in [MemoryStore::new(Settings::default()), slow_store()] {
        keeps_to_its_bound(House::over(&["A"], store).await).await;
    }
}

async fn keeps_to_its_bound(house: House) {
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    // Every message is echoed; none of the echoes is acknowledged, so that both lines are full in the end.
    let (mut acked, mut received) = (0, 0);
    for first in (1..2 * MAX).step_by(500) {
        for seq in first..first + 500 {
            client.send(seq, "m").await;
        }
        while acked < first + 499 {
            match client.next().await {
                ServerFrame::Ack { seq } => acked = seq,
                ServerFrame::Data { seq, .. } => received = seq,
                other @ (ServerFrame::Ready(_)
                | ServerFrame::Moved { .. }
                | ServerFrame::Lost { .. }
                | ServerFrame::GoAway { .. }
                | ServerFrame::Closed { .. }) => panic!("{other:?}"),
            }
        }
    }
    while received < MAX {
        received = message_within(&mut client, LONG).await.unwrap();
    }
    // Nothing of its own is unacknowledged, and it goes on up to its bound before it acknowledges anything.
    for seq in 2 * MAX + 1..=3 * MAX {
        client.send(seq, "m").await;
    }
    settle().await;
    client.ack(received).await;
    while received < 3 * MAX {
        let Some(seq) = message_within(&mut client, LONG).await else {
            panic!("they stand still at {received}");
        };
        received = seq;
        client.ack(seq).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_heard_whatever_of_its_own_waits() {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=10 {
        client.send(seq, "m").await;
    }
    client.acked(10).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    for _ in 0..MAX + 100 {
        held.send(None, payload("x"));
    }
    held.say(Frame::Ack { through: 10 });
    settle().await;
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_client.last, MAX, "there is no room for more");
    assert_eq!(kept.to_instance.acked, 10, "and it was heard all the same");
    for seq in 1..=MAX + 100 {
        assert_eq!(message_within(&mut client, LONG).await, Some(seq));
        client.ack(seq).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_without_end_and_never_acknowledges_is_told_so() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=4 * MAX {
        client.send(seq, "m").await;
        if seq % 500 == 0 {
            settle().await;
        }
    }
    let begun = tokio::time::Instant::now();
    let end = tokio::time::timeout(LONG, client.end()).await;
    let end = end.expect("it does not stand still for ever");
    assert_eq!(
        end.map(|failure| failure.reason),
        Some(Reason::SlowConsumer)
    );
    assert!(Duration::from_secs(30) <= begun.elapsed());
    // It comes back with what it has, and goes on.
    let (mut client, ready) = house.ready("s", Some(MAX)).await;
    assert!(MAX < ready.last_received_seq);
    assert_eq!(message_within(&mut client, LONG).await, Some(MAX + 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_close_is_safe_and_handed_over_before_the_session_ends() {
    let house = House::over(&["A"], slow_store()).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    settle().await;
    client.send(2, "two").await;
    client.send(3, "three").await;
    client.say(ClientFrame::Close).await;
    let rest = client.rest().await;
    let acked = rest.iter().filter_map(|frame| match frame {
        ServerFrame::Ack { seq } => Some(*seq),
        ServerFrame::Ready(_)
        | ServerFrame::Data { .. }
        | ServerFrame::Moved { .. }
        | ServerFrame::Lost { .. }
        | ServerFrame::GoAway { .. }
        | ServerFrame::Closed { .. } => None,
    });
    assert_eq!(acked.max(), Some(3), "{rest:?}");
    assert_eq!(house.instance("A").sessions.opened()[0].seqs(), [1, 2, 3]);
    let lost = |frame: &ServerFrame| matches!(frame, ServerFrame::Lost { .. });
    assert!(!rest.iter().any(lost), "{rest:?}");
    assert_eq!(
        rest.last(),
        Some(&ServerFrame::Closed {
            reason: CloseReason::ByClient
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_counts_although_its_client_has_left() {
    let house = House::over(&["A"], slow_store()).await;
    house.spawn("s", LossPolicy::Fail).await;
    let client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    settle().await;
    client.send(2, "two").await;
    client.say(ClientFrame::Close).await;
    settle().await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let shown = house.sessions.get(&name("s")).await.unwrap().session;
    assert!(matches!(
        shown.state,
        crate::store::record::State::Closed { .. }
    ));
    assert_eq!(house.instance("A").sessions.opened()[0].seqs(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_its_client_ends_at_a_stuck_instance_ends_and_tells_what_was_not_handed_over()
 {
    let house = House::new(&["A"]).await;
    house
        .instance("A")
        .sessions
        .script([SessionAct::FullAfter(1)]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=4 {
        client.send(seq, "m").await;
        settle().await;
    }
    client.say(ClientFrame::Close).await;
    let begun = tokio::time::Instant::now();
    let rest = client.rest().await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    let lost = ServerFrame::Lost {
        direction: Direction::ToInstance,
        first: 2,
        last: 4,
    };
    let closed = ServerFrame::Closed {
        reason: CloseReason::ByClient,
    };
    assert_eq!(rest[rest.len() - 2..], [lost, closed]);
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_says_before_it_ends_the_session_is_kept() {
    let house = House::over(&["A"], slow_store()).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    held.send(None, payload("one"));
    settle().await;
    held.send(None, payload("two"));
    held.send(None, payload("three"));
    held.say(Frame::Close {
        reason: session::CloseReason::Done,
        detail: "".into(),
    });
    let mut said = Vec::new();
    for frame in client.rest().await {
        if let ServerFrame::Data { payload, .. } = frame {
            said.push(text(&payload));
        }
    }
    assert_eq!(said, ["one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_comes_while_the_session_changes_hands_is_an_end() {
    let house = House::over(&["A"], slow_store()).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.instance("A").sessions.opened()[0].lose();
    settle().await;
    // The next epoch is being written.
    let shown = house.sessions.close(&name("s")).await.unwrap();
    assert!(matches!(
        shown.session.state,
        crate::store::record::State::Closed { .. }
    ));
    let rest = client.rest().await;
    assert_eq!(
        rest.last(),
        Some(&ServerFrame::Closed {
            reason: CloseReason::ByClient
        })
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_with_an_instance_is_told_to_a_client_that_was_away() {
    for says in [0, 1] {
        let mut house = House::new(&["A", "B"]).await;
        house.instance("A").sessions.script([SessionAct::Silent]);
        house.spawn("s", LossPolicy::Fail).await;
        let mut client = house.attach("s", Some(0)).await;
        client.send(1, "one").await;
        client.send(2, "two").await;
        client.acked(2).await;
        settle().await;
        let held = house.instance("A").sessions.opened().remove(0);
        for _ in 0..says {
            held.send(None, payload("x"));
        }
        settle().await;
        drop(client);
        settle().await;
        house.set_down("A");
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Also by an orchestrator that has read it from the journal only.
        house.crash().await;
        if says == 0 {
            let failure = house.try_attach("s", Some(0)).await.err().unwrap();
            assert_eq!(failure.reason, Reason::SessionClosed);
            assert!(failure.detail.contains("1 to 2"), "{}", failure.detail);
            continue;
        }
        let mut client = house.attach("s", Some(0)).await;
        assert_eq!(client.message().await.0, 1);
        client.ack(1).await;
        let rest = client.rest().await;
        let lost = ServerFrame::Lost {
            direction: Direction::ToInstance,
            first: 1,
            last: 2,
        };
        assert!(rest.contains(&lost), "{rest:?}");
        settle().await;
        let failure = house.try_attach("s", Some(1)).await.err().unwrap();
        assert_eq!(failure.reason, Reason::SessionClosed, "it is still known");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_another_orchestrator_took_counts_at_no_instance_here() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    settle().await;
    let _other = house.another().await;
    client.send(2, "stale").await;
    client.end().await;
    settle().await;
    let a = crate::domain::id::InstanceId::parse("A").unwrap();
    assert_eq!(house.sessions.0.places.of(&a), 0);
    assert_eq!(
        reason(house.sessions.get(&name("s")).await),
        Reason::SessionUnknown
    );
}
