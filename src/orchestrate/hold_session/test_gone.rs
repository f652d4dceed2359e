//! What the log has no more when an instance begins anew is told, however often anybody restarts.

use super::Wait;
use super::frame::{Direction, ServerFrame};
use super::test_stage::{Client, House, name, posted, reason, settle};
use crate::domain::failure::Reason;
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
