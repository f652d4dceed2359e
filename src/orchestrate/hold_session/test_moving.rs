//! Sessions of an instance that is drained, and what a replay cannot bring back.

use bytes::{BufMut as _, Bytes};

use super::frame::{ClientFrame, Direction, ServerFrame};
use super::test_stage::{House, LONG, name, payload, settle, text};
use crate::domain::failure::Reason;
use crate::domain::id::InstanceId;
use crate::domain::limit::HELD_BYTES_MAX;
use crate::domain::payload::Payload;
use crate::domain::session::LossPolicy;
use crate::instance::scripted::SessionAct;
use crate::instance::session::{CloseReason, Frame};

fn ids(names: &[&str]) -> Vec<InstanceId> {
    let parse = |name: &&str| InstanceId::parse(name).unwrap();
    names.iter().map(parse).collect()
}

fn is_closed_as_moved(seen: &[Frame]) -> bool {
    let moved = |frame: &Frame| matches!(frame, Frame::Close { reason, .. } if *reason == CloseReason::Moved);
    seen.last().is_some_and(moved)
}

#[tokio::test(start_paused = true)]
async fn sessions_stay_at_a_drained_instance_until_they_are_moved_and_nothing_is_done_twice() {
    let mut house = House::new(&["A", "B"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=3 {
        client.send(seq, "before").await;
        client.message().await;
    }
    house.set_draining("A");
    client.send(4, "stays").await;
    assert_eq!(client.message().await.0, 4);
    assert_eq!(house.instance("A").sessions.opened().len(), 1);

    house.sessions.move_away(&ids(&["A"]));
    // Said while it leaves.
    client.send(5, "goes on").await;
    let mut moved = None;
    let answer = loop {
        match client.next().await {
            ServerFrame::Moved {
                previous,
                instance,
                epoch,
            } => moved = Some((previous.to_string(), instance.to_string(), epoch.number())),
            ServerFrame::Data { seq, payload, .. } => break (seq, text(&payload)),
            ServerFrame::Ack { .. } => {}
            other @ (ServerFrame::Ready(_)
            | ServerFrame::Lost { .. }
            | ServerFrame::GoAway { .. }
            | ServerFrame::Closed { .. }) => panic!("{other:?}"),
        }
    };
    settle().await;
    assert_eq!(answer, (5, "goes on".to_owned()));
    let (at_a, at_b) = (
        house.instance("A").sessions.opened().remove(0),
        house.instance("B").sessions.opened().remove(0),
    );
    let once: Vec<_> = at_a.seqs().into_iter().chain(at_b.seqs()).collect();
    assert_eq!(once, [1, 2, 3, 4, 5]);
    assert!(is_closed_as_moved(&at_a.seen()), "{:?}", at_a.seen());
    assert_eq!(moved, Some(("A".into(), "B".into(), 2)));
    let open_at = |id| house.sessions.open_at(&ids(&[id])[0]);
    assert_eq!((open_at("A"), open_at("B")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_says_on_leaving_is_kept() {
    let mut house = House::new(&["A", "B"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "unanswered").await;
    client.acked(1).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    house.set_draining("A");
    house.sessions.move_away(&ids(&["A"]));
    settle().await;
    assert!(
        !is_closed_as_moved(&held.seen()),
        "it has time for what it has"
    );
    held.send(None, payload("last words"));
    // What it does not acknowledge in time goes to the other one too.
    assert_eq!(client.message().await, (1, "last words".to_owned()));
    assert_eq!(client.message().await, (2, "unanswered".to_owned()));
    assert!(is_closed_as_moved(&held.seen()));
    let opened = house.instance("B").sessions.opened().remove(0);
    assert_eq!((opened.open.epoch, opened.seqs()), (2, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_rest_are_moved_too_and_those_that_may_not_move_stay() {
    let mut house = House::new(&["A", "B"]).await;
    house.spawn("rests", LossPolicy::Replay).await;
    house.spawn("stays", LossPolicy::Fail).await;
    let mut client = house.attach("stays", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    house.set_draining("A");
    house.sessions.move_away(&ids(&["A"]));
    tokio::time::sleep(LONG / 10).await;
    let at = async |id| {
        let shown = house.sessions.get(&name(id)).await.unwrap().session;
        (shown.instance.to_string(), shown.epoch.number())
    };
    assert_eq!(at("rests").await, ("B".to_owned(), 2));
    assert_eq!(at("stays").await, ("A".to_owned(), 1));
    house.sessions.close(&name("rests")).await.unwrap();
    settle().await;
    assert!(house.instance("B").sessions.opened().is_empty());
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    let open_at = |id| house.sessions.open_at(&ids(&[id])[0]);
    assert_eq!((open_at("A"), open_at("B")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_moves_where_there_is_no_other_instance_and_the_conversation_goes_on() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    house.set_draining("A");
    house.sessions.move_away(&ids(&["A"]));
    client.send(1, "one").await;
    assert_eq!(client.message().await, (1, "one".to_owned()));
    assert_eq!(house.instance("A").sessions.opened().len(), 1);
}

/// A text of so many bytes.
fn long(bytes: usize) -> Payload {
    let mut encoded = vec![0x1a];
    prost::encoding::encode_varint(bytes as u64, &mut encoded);
    encoded.put_bytes(b'x', bytes);
    Payload::check(Bytes::from(encoded)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_replayed_any_more_is_told_as_lost() {
    let mut house = House::new(&["A", "B"]).await;
    house.instance("A").sessions.script([SessionAct::Take]);
    house.spawn("s", LossPolicy::Replay).await;
    let mut client = house.attach("s", Some(0)).await;
    let bytes = 1 << 20;
    let count = (HELD_BYTES_MAX / bytes) as u64 + 4;
    for seq in 1..=count {
        let payload = long(bytes);
        let in_reply_to = 0;
        client
            .say(ClientFrame::Data {
                seq,
                in_reply_to,
                payload,
            })
            .await;
        client.acked(seq).await;
    }
    settle().await;
    house.set_down("A");
    client.send(count + 1, "the next").await;
    let lost = loop {
        match client.next().await {
            ServerFrame::Lost {
                direction,
                first,
                last,
            } => break (direction, first, last),
            ServerFrame::Ack { .. } | ServerFrame::Moved { .. } => {}
            other @ (ServerFrame::Ready(_)
            | ServerFrame::Data { .. }
            | ServerFrame::GoAway { .. }
            | ServerFrame::Closed { .. }) => panic!("{other:?}"),
        }
    };
    settle().await;
    let opened = house.instance("B").sessions.opened().remove(0);
    let first = opened.seqs()[0];
    assert!(1 < first);
    assert_eq!(opened.open.next_seq, first);
    assert_eq!(lost, (Direction::ToInstance, 1, first - 1));
}

#[tokio::test(start_paused = true)]
async fn messages_of_sessions_weigh_in_the_memory_of_the_house_and_are_refused_when_it_is_full() {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=10 {
        client.send(seq, "0123456789").await;
    }
    client.acked(10).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    held.send(None, payload("abcd"));
    assert_eq!(client.message().await.0, 1);
    settle().await;
    let weight = 10 * 12 + 6;
    assert_eq!(
        house.memory.held(),
        weight,
        "ten of ten letters, one of four"
    );

    let others = house.memory.charge();
    others.settle(house.memory.limit());
    // What makes room is heard.
    client.ack(1).await;
    settle().await;
    assert_eq!(house.memory.held() - house.memory.limit(), 120);
    client.send(11, "is refused").await;
    let end = client.end().await.unwrap();
    assert_eq!(end.reason, Reason::MemoryFull);
    assert!(end.pushback.is_some());
    let refused = house.post("s", None, "is refused").await.unwrap_err();
    assert_eq!(refused.reason, Reason::MemoryFull);
    held.send(None, payload("waits"));
    settle().await;
    let (mut client, ready) = house.ready("s", Some(1)).await;
    assert_eq!(ready.last_received_seq, 10);
    settle().await;
    let shown = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!((shown.to_instance.last, shown.to_client.last), (10, 1));

    drop(others);
    assert_eq!(client.message().await, (2, "waits".to_owned()));
    client.ack(2).await;
    held.say(Frame::Ack { through: 10 });
    client.send(11, "is taken").await;
    client.acked(11).await;
    settle().await;
    held.say(Frame::Ack { through: 11 });
    settle().await;
    assert_eq!(house.memory.held(), 0);
}
