//! The beginning of a session.

use futures_util::poll;

use super::spawn::Deduplicated;
use super::test_stage::{House, asked, name, settle};
use crate::domain::session::{LossPolicy, SessionId};
use crate::store::Store as _;
use crate::store::record::{Query, State};

#[tokio::test(start_paused = true)]
async fn a_session_whose_caller_leaves_while_it_begins_is_there_as_a_whole_or_not_at_all() {
    const STEPS: usize = 8;
    let house = House::new(&["A"]).await;
    for steps in 0..STEPS {
        let mut spawning = Box::pin(
            house
                .sessions
                .spawn(asked(&format!("s{steps}"), LossPolicy::Fail)),
        );
        for _ in 0..steps {
            if poll!(&mut spawning).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(spawning);
    }
    settle().await;
    let stored = house
        .store
        .list(Query {
            limit: 100,
            ..Query::default()
        })
        .await
        .unwrap();
    let stored: Vec<SessionId> = stored.iter().map(|session| session.id().clone()).collect();
    assert!(
        STEPS - 1 <= stored.len(),
        "all but the one that nobody began: {stored:?}"
    );
    for id in stored {
        let closed = house
            .sessions
            .close(&id, super::test_stage::LONG)
            .await
            .unwrap();
        let is_closed = matches!(closed.session.state, State::Closed { .. });
        assert!(is_closed, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_left_finds_the_session_by_its_key() {
    let house = House::new(&["A"]).await;
    let again = || {
        let mut spawn = asked("s", LossPolicy::Fail);
        spawn.idempotency = Some(("once".to_owned(), [7; 32]));
        house.sessions.spawn(spawn)
    };
    let mut first = Box::pin(again());
    assert!(poll!(&mut first).is_pending());
    drop(first);
    let second = again().await.unwrap();
    assert_eq!(second.deduplicated, Deduplicated::Yes);
    assert!(house.sessions.get(&name("s")).await.is_ok());
}
