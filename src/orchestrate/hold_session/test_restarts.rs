//! What instances are told after the orchestrator was started again: of sessions that end and that nobody has opened
//! since, and of what was answered before.

use std::time::Duration;

use tokio::time::sleep;

use super::test_stage::{House, LONG, asked, name, payload, settle};
use crate::domain::limit::{
    SESSION_LAST_WORDS_AT_ONCE, SESSION_LAST_WORDS_WITHIN, SESSION_OPEN_TIMEOUT,
};
use crate::domain::session::LossPolicy;
use crate::instance::scripted::SessionAct;
use crate::instance::session::{CloseReason, Data, Frame};
use crate::store::Store as _;

const IDLE: Duration = Duration::from_secs(60);

async fn spawn(house: &House, id: &str) {
    let mut spawn = asked(id, LossPolicy::Reassign);
    spawn.idle_ttl = IDLE;
    house.sessions.spawn(spawn).await.unwrap();
}

/// So many sessions of which A has everything, after a restart: they rest.
async fn at_rest(sessions: usize) -> House {
    let mut house = House::new(&["A"]).await;
    for at in 0..sessions {
        spawn(&house, &format!("s{at}")).await;
        let mut client = house.attach(&format!("s{at}"), Some(0)).await;
        client.send(1, "one").await;
        client.message().await;
        client.ack(1).await;
        settle().await;
    }
    // With it, what was acknowledged is on the disk.
    house.store.try_room().await.unwrap();
    house.crash().await;
    settle().await;
    assert_eq!(house.instance("A").sessions.opened().len(), sessions);
    house
}

/// The word with which each opening from this one on was closed, in their order.
fn last_words(house: &House, from: usize) -> Vec<(String, Option<CloseReason>)> {
    let opened = house.instance("A").sessions.opened();
    let words = opened[from..].iter().map(|held| {
        let last = held.seen().into_iter().last();
        let word = last.and_then(|frame| match frame {
            Frame::Close { reason, .. } => Some(reason),
            Frame::Data(_) | Frame::Ack { .. } => None,
        });
        (held.open.session.to_string(), word)
    });
    words.collect()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_not_asked_since_a_restart_is_told_of_the_end() {
    let house = at_rest(2).await;
    house.sessions.close(&name("s1")).await.unwrap();
    settle().await;
    let mut expected = vec![("s1".to_owned(), Some(CloseReason::Done))];
    assert_eq!(last_words(&house, 2), expected);
    sleep(IDLE + Duration::from_secs(2)).await;
    expected.push(("s0".to_owned(), Some(CloseReason::Expired)));
    assert_eq!(last_words(&house, 2), expected);
    let opened = house.instance("A").sessions.opened();
    assert!(opened.iter().all(|held| !held.is_held()));
    let epochs = opened.iter().map(|held| held.open.epoch);
    assert_eq!(epochs.collect::<Vec<_>>(), [1, 1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_together_are_told_a_few_at_a_time_and_for_so_long_only() {
    const MANY: usize = 10 * SESSION_LAST_WORDS_AT_ONCE;
    let house = at_rest(MANY).await;
    let never = &house.instance("A").sessions;
    never.script([SessionAct::NeverOpen]);
    let asked = || never.opened().len() - MANY;
    sleep(IDLE + Duration::from_secs(2)).await;
    assert_eq!(asked(), SESSION_LAST_WORDS_AT_ONCE);
    sleep(LONG).await;
    let rounds = SESSION_LAST_WORDS_WITHIN.div_duration_f64(SESSION_OPEN_TIMEOUT);
    let most = SESSION_LAST_WORDS_AT_ONCE * rounds.ceil() as usize;
    assert!(most < MANY && asked() <= most, "{}", asked());
    assert_eq!(house.sessions.known(), 0, "nothing waits for that");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_never_asked_or_is_away_is_left_alone() {
    let mut house = at_rest(1).await;
    spawn(&house, "unused").await;
    house.crash().await;
    settle().await;
    house.sessions.close(&name("unused")).await.unwrap();
    house.set_down("A");
    sleep(LONG).await;
    assert_eq!(house.sessions.known(), 0);
    assert_eq!(last_words(&house, 1), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_and_read_before_a_restart_is_not_answered_again_after_it() {
    let mut house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    spawn(&house, "s").await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.acked(1).await;
    settle().await;
    // The client has the answer and says so, before the instance says that it needs the question no more.
    let held = house.instance("A").sessions.opened().remove(0);
    held.say(Frame::Data(Data {
        seq: 1,
        in_reply_to: Some(1),
        redelivered: false,
        payload: payload("answer"),
    }));
    assert_eq!(client.message().await, (1, "answer".to_owned()));
    client.ack(1).await;
    settle().await;
    house.store.try_room().await.unwrap();
    drop(client);
    house.instance("A").sessions.forget();
    house.instance("A").sessions.script([SessionAct::Echo]);
    house.crash().await;
    settle().await;
    let again = house.instance("A").sessions.opened().pop().unwrap();
    assert_eq!((again.seqs(), again.open.answered_through), (vec![1], 1));
    let session = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(session.to_client.last, 1);
}
