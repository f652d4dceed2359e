//! The loss of an instance, and of the orchestrator.

use std::time::Duration;

use super::Wait;
use super::frame::{Direction, ServerFrame};
use super::test_stage::{House, asked, name, payload, posted, reason, settle, text};
use crate::domain::failure::{Reason, Status};
use crate::domain::limit::SESSION_REATTACH_GRACE;
use crate::domain::session::to_client::Reply;
use crate::domain::session::{CloseReason, LossPolicy};
use crate::instance::scripted::SessionAct;
use crate::store::memory::Fault;

fn moved(frames: &[ServerFrame]) -> Vec<(String, String, u64)> {
    let moved = frames.iter().filter_map(|frame| match frame {
        ServerFrame::Moved {
            previous,
            instance,
            epoch,
        } => Some((previous.to_string(), instance.to_string(), epoch.number())),
        ServerFrame::Ready(_)
        | ServerFrame::Data { .. }
        | ServerFrame::Ack { .. }
        | ServerFrame::Lost { .. }
        | ServerFrame::GoAway { .. }
        | ServerFrame::Closed { .. } => None,
    });
    moved.collect()
}

/// Instances that die of the first message that they get in an epoch, each time, for so long.
async fn poisoned(house: &House, ids: &[&str], lasts: Duration) {
    let ends = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(1)).await;
        for id in ids {
            let sessions = &house.instance(id).sessions;
            if let Some(held) = sessions.opened().last()
                && held.is_held()
                && !held.seqs().is_empty()
            {
                // It dies before it knows of the message.
                sessions.forget();
                held.lose();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_to_whoever_is_left_of_those_that_it_names() {
    let mut house = House::new(&["A", "B", "C"]).await;
    for id in ["A", "B"] {
        house.instance(id).sessions.script([SessionAct::Echo]);
    }
    let mut spawn = asked("s", LossPolicy::Reassign);
    spawn.targets = vec!["A".to_owned(), "C".to_owned(), "B".to_owned()];
    house.sessions.spawn(spawn).await.unwrap();
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await, (1, "one".to_owned()));
    client.ack(1).await;
    house.take_out("C");
    house.take_out("A");
    house.instance("A").sessions.opened().last().unwrap().lose();
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    let session = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(session.instance.as_str(), "B");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_instance_each_time_ends_a_session_that_must_not_move() {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "poison").await;
    poisoned(&house, &["A"], Duration::from_secs(60)).await;
    assert_eq!(house.instance("A").sessions.opened().len(), 8);
    let rest = client.rest().await;
    let reason = CloseReason::InstanceLost;
    assert_eq!(rest.last(), Some(&ServerFrame::Closed { reason }));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_whoever_gets_it_is_tried_ever_less_often_and_what_is_fine_is_not_held_up()
 {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "poison").await;
    poisoned(&house, &["A"], Duration::from_secs(60)).await;
    let openings = house.instance("A").sessions.opened().len();
    assert!(
        (8..=12).contains(&openings),
        "{openings} openings in a minute"
    );
    let detail = async || house.sessions.get(&name("s")).await.unwrap().detail;
    let said = detail().await;
    let why = "times in a row and lost it again before anything came of it (INSTANCE_LOST)";
    assert!(said.contains(why), "{said}");
    // Cured, it goes on, and a loss after that costs no more than any other.
    house.instance("A").sessions.script([SessionAct::Echo]);
    assert_eq!(client.message().await, (1, "poison".to_owned()));
    settle().await;
    assert_eq!(detail().await, "");
    let begun = tokio::time::Instant::now();
    house.instance("A").sessions.opened().last().unwrap().lose();
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_every_instance_goes_to_each_of_them_and_never_often() {
    let house = House::new(&["A", "B"]).await;
    for id in ["A", "B"] {
        house.instance(id).sessions.script([SessionAct::Silent]);
    }
    house.spawn("s", LossPolicy::Reassign).await;
    let client = house.attach("s", Some(0)).await;
    client.send(1, "poison").await;
    poisoned(&house, &["A", "B"], Duration::from_secs(60)).await;
    let openings = ["A", "B"].map(|id| house.instance(id).sessions.opened().len());
    assert!(
        openings.iter().all(|at| (8..=40).contains(at)),
        "{openings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_is_opened_again_at_the_same_instance_in_a_new_epoch() {
    let house = House::new(&["A", "B"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    settle().await;
    house.instance("A").sessions.opened()[0].lose();
    client.send(2, "two").await;
    let mut frames = Vec::new();
    loop {
        let frame = client.next().await;
        let is_last = matches!(frame, ServerFrame::Data { .. });
        frames.push(frame);
        if is_last {
            break;
        }
    }
    assert_eq!(moved(&frames), [("A".into(), "A".into(), 2)]);
    let opened = house.instance("A").sessions.opened();
    let epochs: Vec<_> = opened.iter().map(|held| held.open.epoch).collect();
    assert_eq!(epochs, [1, 2]);
    assert_eq!(opened[1].open.received.through, 1);
    assert_eq!(
        opened[1].seqs(),
        [2],
        "what the instance has is not sent again"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_instance_did_not_acknowledge_goes_to_another_one_and_nothing_else() {
    let mut house = House::new(&["A", "B"]).await;
    let script = [SessionAct::Echo];
    house.instance("A").sessions.script(script);
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=3 {
        client.send(seq, &format!("m{seq}")).await;
        client.message().await;
    }
    settle().await;
    house.set_down("A");
    for seq in 4..=6 {
        client.send(seq, &format!("m{seq}")).await;
    }
    let mut seqs = Vec::new();
    let mut frames = Vec::new();
    while seqs.len() < 3 {
        let frame = client.next().await;
        if let ServerFrame::Data { seq, payload, .. } = &frame {
            seqs.push((*seq, text(payload)));
        }
        frames.push(frame);
    }
    let expected = [(4, "m4"), (5, "m5"), (6, "m6")];
    assert_eq!(seqs, expected.map(|(seq, text)| (seq, text.to_owned())));
    assert_eq!(moved(&frames), [("A".into(), "B".into(), 2)]);
    let opened = house.instance("B").sessions.opened();
    assert_eq!(opened[0].seqs(), [4, 5, 6]);
    assert_eq!(opened[0].open.next_seq, 4);
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_memory_gets_the_whole_conversation_again_where_that_was_wanted() {
    let mut house = House::new(&["A", "B"]).await;
    house.spawn("s", LossPolicy::Replay).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=40 {
        client.send(seq, &format!("m{seq}")).await;
        client.message().await;
        client.ack(seq).await;
    }
    settle().await;
    house.set_down("A");
    client.send(41, "m41").await;
    assert_eq!(client.message().await, (41, "m41".to_owned()));
    let opened = house.instance("B").sessions.opened();
    assert_eq!(opened[0].open.next_seq, 1);
    assert_eq!(opened[0].open.answered_through, 40);
    assert_eq!(opened[0].seqs(), (1..=41).collect::<Vec<_>>());
    let seen = opened[0].seen();
    let redelivered = seen.iter().filter(
        |frame| matches!(frame, crate::instance::session::Frame::Data(data) if data.redelivered),
    );
    assert_eq!(redelivered.count(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_must_not_move_ends_with_its_instance_and_says_what_is_lost() {
    let mut house = House::new(&["A", "B"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.send(2, "two").await;
    client.acked(2).await;
    house.set_down("A");
    let begun = tokio::time::Instant::now();
    let rest = client.rest().await;
    assert!(
        Duration::from_secs(10) <= begun.elapsed(),
        "it had its grace"
    );
    let lost = ServerFrame::Lost {
        direction: Direction::ToInstance,
        first: 1,
        last: 2,
    };
    let closed = ServerFrame::Closed {
        reason: CloseReason::InstanceLost,
    };
    assert_eq!(rest[rest.len() - 2..], [lost, closed]);
    assert!(house.instance("B").sessions.opened().is_empty());
    assert_eq!(
        reason(house.try_attach("s", None).await),
        Reason::SessionClosed
    );
}

#[tokio::test(start_paused = true)]
async fn a_post_that_nobody_waits_for_is_told_when_it_is_lost() {
    let mut house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.acked(1).await;
    let post = |key, wait| posted("s", Some(key), "by itself", wait);
    let accepted = house.sessions.post(post("k", Wait::Stored)).await.unwrap();
    assert_eq!(accepted.position, 2);
    client.send(2, "two").await;
    client.acked(2).await;
    house.set_down("A");
    let rest = client.rest().await;
    let lost = |direction, first, last| ServerFrame::Lost {
        direction,
        first,
        last,
    };
    let closed = ServerFrame::Closed {
        reason: CloseReason::InstanceLost,
    };
    let expected = [
        lost(Direction::ToInstance, 1, 2),
        lost(Direction::PostedToInstance, 2, 2),
        closed,
    ];
    assert_eq!(rest[rest.len() - 3..], expected);
    // Whoever has posted it and asks again learns the same, also from the orchestrator that comes after.
    for _ in 0..2 {
        let again = house.sessions.post(post("k", Wait::Replied)).await;
        let failure = again.err().unwrap();
        assert_eq!(failure.reason, Reason::SessionClosed);
        let what = "what was posted to positions 2 to 2 was not delivered";
        assert!(failure.detail.contains(what), "{}", failure.detail);
        settle().await;
        house.crash().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_back_in_time_goes_on_even_where_the_policy_is_fail() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    house.set_down("A");
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.send(2, "two").await;
    client.acked(2).await;
    house.set_healthy("A");
    assert_eq!(client.message().await, (2, "two".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_sessions_is_left_at_once() {
    let house = House::new(&["A", "B"]).await;
    let unimplemented = SessionAct::Fail(Status::Unimplemented);
    house.instance("A").sessions.script([unimplemented]);
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    let begun = tokio::time::Instant::now();
    assert_eq!(client.message().await, (1, "one".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(5), "no grace for it");
    assert_eq!(house.instance("A").sessions.opened().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_an_older_stream_is_never_taken() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    settle().await;
    let older = house.instance("A").sessions.opened().remove(0);
    older.lose();
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    assert!(!older.is_held(), "nobody listens to it any more");
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.epoch.number(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_nothing_that_was_acknowledged_and_raises_the_epoch() {
    let mut house = House::new(&["A"]).await;
    let spawned = house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await, (1, "one".to_owned()));
    house.instance("A").sessions.script([SessionAct::Silent]);
    client.send(2, "two").await;
    client.acked(2).await;
    settle().await;
    house.crash().await;
    house.instance("A").sessions.script([SessionAct::Echo]);
    drop(client);
    settle().await;
    let hash = crate::domain::session::token::hash(spawned.token.as_bytes());
    let found = house.sessions.find_by_token(&hash).unwrap();
    assert_eq!(found.session, name("s"), "the same token");
    let (mut client, ready) = house.ready("s", Some(0)).await;
    assert_eq!(ready.last_received_seq, 2);
    assert!(1 < ready.epoch.number());
    assert_eq!(client.message().await, (1, "one".to_owned()));
    client.send(3, "three").await;
    assert_eq!(client.message().await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_delivered_before_a_crash_is_delivered_after_it_without_anybody_asking() {
    let mut house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Reassign).await;
    let client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    settle().await;
    house.crash().await;
    house.instance("A").sessions.forget();
    house.instance("A").sessions.script([SessionAct::Echo]);
    settle().await;
    let opened = house.instance("A").sessions.opened();
    let last = opened.last().unwrap();
    assert_eq!(last.seqs(), [1]);
    assert!(1 < last.open.epoch);
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_has_lost_the_session_neither_appends_nor_delivers() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    settle().await;
    let other = house.another().await;
    client.send(2, "stale").await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::SessionStale)
    );
    let kept = other.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_instance.last, 1, "it was not appended");
    let seqs: Vec<_> = house
        .instance("A")
        .sessions
        .opened()
        .iter()
        .flat_map(|held| held.seqs())
        .collect();
    assert_eq!(seqs, [1], "nor delivered");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_counts_wrongly_loses_the_session_and_nothing_of_what_it_said_is_taken() {
    use crate::instance::session::{Data, Frame};
    let data = |seq, in_reply_to| {
        Frame::Data(Data {
            seq,
            in_reply_to,
            redelivered: false,
            payload: payload("x"),
        })
    };
    for wrong in [
        Frame::Ack { through: 2 },
        data(2, None),
        data(0, None),
        data(1, Some(2)),
    ] {
        let house = House::new(&["A", "B"]).await;
        house.instance("A").sessions.script([SessionAct::Silent]);
        house.spawn("s", LossPolicy::Reassign).await;
        let mut client = house.attach("s", Some(0)).await;
        client.send(1, "one").await;
        client.acked(1).await;
        settle().await;
        let held = house.instance("A").sessions.opened().remove(0);
        held.say(wrong.clone());
        assert_eq!(client.message().await, (1, "one".to_owned()), "{wrong:?}");
        assert!(!held.is_held());
        assert_eq!(house.instance("B").sessions.opened()[0].seqs(), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_said_and_nobody_kept_is_gone_when_another_one_goes_on() {
    let mut house = House::new(&["A", "B"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.acked(1).await;
    settle().await;
    let held = house.instance("A").sessions.opened().remove(0);
    house.store.set_fault(Fault::NoSpace);
    held.send(Some(1), payload("of an epoch that is over"));
    settle().await;
    house.set_down("A");
    // There is room again just before the session moves, and before what waits for room is tried again.
    tokio::time::sleep(SESSION_REATTACH_GRACE - Duration::from_millis(100)).await;
    house.store.set_fault(Fault::None);
    let mut frames = Vec::new();
    while !matches!(frames.last(), Some(ServerFrame::Data { .. })) {
        frames.push(client.next().await);
    }
    assert_eq!(moved(&frames), [("A".into(), "B".into(), 2)]);
    let answer = ServerFrame::Data {
        seq: 1,
        reply: Some(Reply::Streamed(1)),
        redelivered: false,
        payload: payload("one"),
    };
    assert_eq!(frames.last(), Some(&answer), "what B says is the first");
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    let opened = house.instance("B").sessions.opened();
    let opened: Vec<_> = opened
        .iter()
        .map(|held| (held.open.received.through, held.seqs()))
        .collect();
    assert_eq!(opened, [(0, vec![1, 2])], "B is held, and asked once");
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!((kept.epoch.number(), kept.to_client.last), (2, 2));
}
