//! Messages that come to a session by themselves.

use std::time::Duration;

use super::test_stage::{House, name, posted, reason, settle, text};
use super::{Deduplicated, Post, Wait};
use crate::domain::failure::Reason;
use crate::domain::limit::SESSION_POSTS_KNOWN_MAX;
use crate::domain::session::LossPolicy;
use crate::instance::scripted::SessionAct;
use crate::instance::session::{Data, Frame};

#[tokio::test(start_paused = true)]
async fn a_post_brings_its_reply_and_evicts_nobody() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "streamed").await;
    assert_eq!(client.message().await, (1, "streamed".to_owned()));
    let answer = house.post("s", None, "posted").await.unwrap();
    assert_eq!(answer.position, 2, "one line for both");
    let (seq, payload) = answer.reply.unwrap();
    assert_eq!((seq, text(&payload).as_str()), (2, "posted"));
    // The attached client sees it too, and goes on.
    assert_eq!(client.message().await, (2, "posted".to_owned()));
    client.send(2, "more").await;
    assert_eq!(client.message().await, (3, "more".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_was_handed_over_counts_as_acknowledged_and_ready_says_so() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    for at in 1..=3 {
        house.post("s", None, &format!("p{at}")).await.unwrap();
    }
    settle().await;
    let (_, ready) = house.ready("s", Some(0)).await;
    assert_eq!(ready.first_seq, 4, "no silent gap");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_gets_the_same_answer_and_another_body_is_refused() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let first = house.post("s", Some("k"), "body").await.unwrap();
    assert_eq!(first.deduplicated, Deduplicated::No);
    for _ in 0..2 {
        let again = house.post("s", Some("k"), "body").await.unwrap();
        assert_eq!(again.deduplicated, Deduplicated::Yes);
        assert_eq!((again.position, again.reply), (1, first.reply.clone()));
        assert_eq!(
            reason(house.post("s", Some("k"), "other").await),
            Reason::IdempotencyConflict
        );
        // The second time round it has been through a crash.
        house.crash().await;
    }
    let total: usize = house
        .instance("A")
        .sessions
        .opened()
        .iter()
        .map(|held| held.seqs().len())
        .sum();
    assert_eq!(total, 1, "it was delivered once");
}

#[tokio::test(start_paused = true)]
async fn two_posts_with_one_key_at_once_are_one_message() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let (one, other) = tokio::join!(
        house.post("s", Some("k"), "body"),
        house.post("s", Some("k"), "body")
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.position, &one.reply), (other.position, &other.reply));
    assert_eq!(house.instance("A").sessions.opened()[0].seqs(), [1]);
}

#[tokio::test(start_paused = true)]
async fn posts_that_wait_for_one_sync_together_are_all_known_by_their_keys_afterwards() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let many = 3 * SESSION_POSTS_KNOWN_MAX;
    let post = |at: usize| {
        let key = format!("k{at}");
        let post = posted("s", Some(&key), &format!("p{at}"), Wait::Stored);
        house.sessions.post(post)
    };
    let posted_all = futures_util::future::join_all((0..many).map(post)).await;
    let positions: Vec<_> = posted_all
        .into_iter()
        .map(|posted| posted.unwrap().position)
        .collect();
    house.crash().await;
    for (at, position) in positions.into_iter().enumerate() {
        let key = format!("k{at}");
        let again = posted("s", Some(&key), &format!("p{at}"), Wait::Stored);
        let again = house.sessions.post(again).await.unwrap();
        assert_eq!(
            (again.position, again.deduplicated),
            (position, Deduplicated::Yes)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_does_not_wait_is_answered_once_it_is_safe() {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let answer = house.sessions.post(posted("s", None, "x", Wait::Stored));
    let answer = answer.await.unwrap();
    assert_eq!((answer.position, answer.reply), (1, None));
    let waiting = house.post("s", None, "never answered");
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_err(), "its caller leaves: {waited:?}");
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_instance.last, 2, "what was accepted stays accepted");
}

#[tokio::test(start_paused = true)]
async fn a_post_says_what_it_replies_to() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let reply = Post {
        in_reply_to: 7,
        ..posted("s", Some("k"), "yes", Wait::Replied)
    };
    house.sessions.post(reply).await.unwrap();
    let seen = house.instance("A").sessions.opened()[0].seen();
    let said = seen.into_iter().find_map(|frame| match frame {
        Frame::Data(Data { in_reply_to, .. }) => Some(in_reply_to),
        Frame::Ack { .. } | Frame::Close { .. } => None,
    });
    assert_eq!(said, Some(Some(7)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_away_or_only_listens_may_say_what_it_has() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Reassign).await;
    let mut client = house.attach("s", Some(0)).await;
    for at in 1..=4 {
        client.send(at, "x").await;
        client.message().await;
    }
    let session = name("s");
    house.sessions.acknowledge(&session, 2).await.unwrap();
    let beyond = house.sessions.acknowledge(&session, 5).await;
    assert_eq!(reason(beyond), Reason::ArgumentInvalid, "it was never sent");
    drop(client);
    // What was said twice is said once, and the older word is no news.
    for seq in [3, 3, 1] {
        house.sessions.acknowledge(&session, seq).await.unwrap();
    }
    settle().await;
    let (mut client, ready) = house.ready("s", None).await;
    assert_eq!(ready.first_seq, 4);
    assert_eq!(client.message().await.0, 4);
    // Also when nobody has come since the start.
    house.crash().await;
    house.sessions.acknowledge(&session, 4).await.unwrap();
    let (_, ready) = house.ready("s", None).await;
    assert_eq!(ready.first_seq, 5);
}

#[tokio::test(start_paused = true)]
async fn posts_to_a_session_that_is_full_are_refused_and_nothing_is_lost() {
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut kept = 0_u64;
    loop {
        match house
            .sessions
            .post(posted("s", None, "x", Wait::Stored))
            .await
        {
            Ok(_) => kept += 1,
            Err(failure) => {
                assert_eq!(failure.reason, Reason::SessionFull);
                break;
            }
        }
    }
    assert_eq!(kept, crate::domain::limit::UNACKNOWLEDGED_MAX as u64);
    let stored = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(stored.to_instance.last, kept);
}

#[tokio::test(start_paused = true)]
async fn nobody_posts_to_a_session_that_is_not_there() {
    let house = House::new(&["A"]).await;
    assert_eq!(
        reason(house.post("s", None, "x").await),
        Reason::SessionUnknown
    );
}
