//! What the log has no more when an instance begins anew is told, however often anybody restarts.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::frame::{Direction, ServerFrame};
use super::test_stage::{Client, House, LONG, name, payload, posted, reason, settle};
use super::{Post, Wait};
use crate::domain::failure::Reason;
use crate::domain::limit::SESSION_REPLAY_READ_BYTES;
use crate::domain::payload::Payload;
use crate::domain::session::LossPolicy;
use crate::instance::scripted::SessionAct;
use crate::store::memory::{MemoryStore, Settings};

fn forgetful() -> MemoryStore {
    MemoryStore::new(Settings {
        replay_kept: 1,
        ..Settings::default()
    })
}

/// A session whose instance has taken six messages, of which the log has the last two only, and a seventh that goes to
/// another instance.
async fn gone() -> (House, Client) {
    let mut house = House::over(&["A", "B"], forgetful()).await;
    house.instance("A").sessions.script([SessionAct::Take]);
    house.spawn("s", LossPolicy::Replay).await;
    let mut client = house.attach("s", Some(0)).await;
    for seq in 1..=6 {
        client.send(seq, "taken").await;
        client.acked(seq).await;
        settle().await;
    }
    house.set_down("A");
    client.send(7, "the next").await;
    (house, client)
}

/// The frames up to the first message of the instance.
async fn up_to_message(client: &mut Client) -> Vec<ServerFrame> {
    let mut frames = Vec::new();
    loop {
        let frame = client.next().await;
        let is_message = matches!(frame, ServerFrame::Data { .. });
        frames.push(frame);
        if is_message {
            return frames;
        }
    }
}

fn lost(frames: &[ServerFrame]) -> Vec<&ServerFrame> {
    let lost = |frame: &&ServerFrame| matches!(frame, ServerFrame::Lost { .. });
    frames.iter().filter(lost).collect()
}

const LOST: ServerFrame = ServerFrame::Lost {
    direction: Direction::ToInstance,
    first: 1,
    last: 4,
};

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_told_until_the_client_has_acknowledged_what_came_later() {
    let (mut house, mut client) = gone().await;
    assert_eq!(lost(&up_to_message(&mut client).await), [&LOST]);
    // It is not known whether the client has read that.
    for _ in 0..2 {
        drop(client);
        settle().await;
        house.crash().await;
        client = house.attach("s", Some(0)).await;
        assert_eq!(client.next().await, LOST, "before anything else");
        up_to_message(&mut client).await;
    }
    client.ack(1).await;
    settle().await;
    drop(client);
    settle().await;
    house.crash().await;
    let mut client = house.attach("s", Some(1)).await;
    client.send(8, "and so on").await;
    assert!(lost(&up_to_message(&mut client).await).is_empty());
}

#[tokio::test(start_paused = true)]
async fn posts_that_can_not_be_replayed_any_more_are_told_by_their_positions() {
    let mut house = House::over(&["A", "B"], forgetful()).await;
    house.instance("A").sessions.script([SessionAct::Take]);
    house.spawn("s", LossPolicy::Replay).await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        let post = posted("s", Some(key), "taken", Wait::Stored);
        house.sessions.post(post).await.unwrap();
        settle().await;
    }
    house.set_down("A");
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "the next").await;
    let told = ServerFrame::Lost {
        direction: Direction::PostedToInstance,
        first: 1,
        last: 4,
    };
    assert_eq!(lost(&up_to_message(&mut client).await), [&told]);
    drop(client);
    settle().await;
    house.crash().await;
    let mut client = house.attach("s", Some(0)).await;
    assert_eq!(
        client.next().await,
        told,
        "it is not known whether it has read that"
    );
    up_to_message(&mut client).await;
    client.ack(1).await;
    settle().await;
    drop(client);
    settle().await;
    house.crash().await;
    let mut client = house.attach("s", Some(1)).await;
    client.send(2, "and so on").await;
    assert!(lost(&up_to_message(&mut client).await).is_empty());
}

/// The Value that is a string of so many letters, 65,536 at least.
fn long_payload(letters: usize) -> Payload {
    let mut encoded = vec![0x1a];
    encoded.extend([0, 7, 14].map(|shift| (letters >> shift) as u8 & 0x7f));
    encoded[1] |= 0x80;
    encoded[2] |= 0x80;
    encoded.resize(4 + letters, b'm');
    Payload::check(Bytes::from(encoded)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_replayed_after_many_posts_is_not_told_to_be_lost() {
    let kept = MemoryStore::new(Settings {
        replay_kept: 8,
        ..Settings::default()
    });
    let mut house = House::over(&["A", "B"], kept).await;
    house.instance("A").sessions.script([SessionAct::Take]);
    house.spawn("s", LossPolicy::Replay).await;
    let post = async |house: &House, payload: Payload| {
        let post = posted("s", None, "taken", Wait::Stored);
        house.sessions.post(Post { payload, ..post }).await.unwrap();
        settle().await;
    };
    let mut client = house.attach("s", Some(0)).await;
    let take = async |client: &mut Client, seq| {
        client.send(seq, "taken").await;
        client.acked(seq).await;
        settle().await;
    };
    // Positions 1 to 9 are gone then, and of the rest more than is read at once was posted.
    for seq in 1..=4 {
        take(&mut client, seq).await;
    }
    for _ in 5..=9 {
        post(&house, payload("small")).await;
    }
    for _ in 10..=15 {
        post(&house, long_payload(SESSION_REPLAY_READ_BYTES / 4)).await;
    }
    for seq in 5..=6 {
        take(&mut client, seq).await;
    }
    house.set_down("A");
    client.send(7, "the next").await;
    let posted_to = ServerFrame::Lost {
        direction: Direction::PostedToInstance,
        first: 1,
        last: 9,
    };
    let told = up_to_message(&mut client).await;
    assert_eq!(lost(&told), [&LOST, &posted_to]);
}

#[tokio::test(start_paused = true)]
async fn no_post_is_told_to_be_lost_where_none_is() {
    let mut house = House::over(&["A", "B", "C"], forgetful()).await;
    for id in ["A", "B"] {
        house.instance(id).sessions.script([SessionAct::Take]);
    }
    house.spawn("s", LossPolicy::Replay).await;
    for _ in 1..=2 {
        let post = posted("s", None, "taken", Wait::Stored);
        house.sessions.post(post).await.unwrap();
        settle().await;
    }
    let mut client = house.attach("s", Some(0)).await;
    let mut told = Vec::new();
    for (down, seqs) in [("A", 1..=4), ("B", 5..=8)] {
        for seq in seqs {
            client.send(seq, "taken").await;
            client.acked(seq).await;
            settle().await;
        }
        house.set_down(down);
        // The grace of the instance.
        tokio::time::sleep(LONG).await;
        while let Ok(frame) = timeout(Duration::ZERO, client.next()).await {
            told.push(frame);
        }
    }
    let lost = lost(&told).into_iter();
    let posts = lost.filter(|frame| {
        matches!(frame, ServerFrame::Lost { direction, .. } if *direction == Direction::PostedToInstance)
    });
    let once = ServerFrame::Lost {
        direction: Direction::PostedToInstance,
        first: 1,
        last: 2,
    };
    assert_eq!(posts.collect::<Vec<_>>(), [&once]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_another_orchestrator_has_is_not_taken_back_by_reading_it() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let other = house.another().await;
    // It rested, and is read now.
    let refused = house.try_attach("s", Some(0)).await;
    assert_eq!(
        refused.err().map(|failure| failure.reason),
        Some(Reason::SessionUnknown)
    );
    settle().await;
    let session = other.get(&name("s")).await.unwrap().session;
    assert_eq!(session.epoch.number(), 2, "it has changed hands once");
    assert_eq!(
        reason(house.sessions.get(&name("s")).await),
        Reason::SessionUnknown
    );
}
