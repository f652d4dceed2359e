//! The beginning of a session.

use futures_util::poll;

use super::spawn::Deduplicated;
use super::test_stage::{House, asked, name, posted, reason, settle};
use super::{Spawn, Wait};
use crate::domain::failure::Reason;
use crate::domain::session::{LossPolicy, SessionId};
use crate::store::Store as _;
use crate::store::memory::Fault;
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
        let closed = house.sessions.close(&id).await.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_could_find_is_ended_again_when_its_caller_leaves_while_it_begins() {
    let house = House::new(&["A"]).await;
    house.store.set_fault(Fault::Stalls);
    let spawn = Spawn {
        id: None,
        ..asked("unused", LossPolicy::Fail)
    };
    let mut nameless = Box::pin(house.sessions.spawn(spawn));
    let mut named = Box::pin(house.sessions.spawn(asked("named", LossPolicy::Fail)));
    assert!(poll!(&mut nameless).is_pending() && poll!(&mut named).is_pending());
    settle().await;
    drop((nameless, named));
    house.store.set_fault(Fault::None);
    settle().await;
    let query = Query {
        limit: 100,
        ..Query::default()
    };
    let stored = house.store.list(query).await.unwrap();
    let open = stored.iter().filter(|session| session.state == State::Open);
    let open: Vec<_> = open.map(|session| session.id().as_str()).collect();
    assert_eq!((stored.len(), open), (2, vec!["named"]));
    let a = house.view().members()[0].id().clone();
    assert_eq!(house.sessions.open_at(&a), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_ended_again_when_its_caller_leaves_as_it_has_begun() {
    let house = House::new(&["A"]).await;
    let spawn = Spawn {
        id: None,
        ..asked("unused", LossPolicy::Fail)
    };
    let mut nameless = Box::pin(house.sessions.spawn(spawn));
    assert!(poll!(&mut nameless).is_pending());
    // It is told that the session has begun, and does not look.
    settle().await;
    drop(nameless);
    settle().await;
    let query = Query {
        limit: 100,
        ..Query::default()
    };
    let stored = house.store.list(query).await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_ne!(stored[0].state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_of_a_session_that_could_not_be_read_yet_is_not_done_once_its_caller_has_left()
 {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    house.store.set_fault(Fault::Stalls);
    let post = |text| house.sessions.post(posted("s", None, text, Wait::Stored));
    let (mut leaves, mut stays) = (Box::pin(post("late")), Box::pin(post("in time")));
    assert!(poll!(&mut leaves).is_pending() && poll!(&mut stays).is_pending());
    settle().await;
    drop(leaves);
    house.store.set_fault(Fault::None);
    assert_eq!(stays.await.unwrap().position, 1);
    settle().await;
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_instance.last, 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_gets_a_token_however_the_instance_is_by_then() {
    let mut house = House::new(&["A"]).await;
    let under_key = || Spawn {
        targets: vec!["A".to_owned()],
        idempotency: Some(("once".to_owned(), [7; 32])),
        ..asked("s", LossPolicy::Reassign)
    };
    let mut tokens = vec![house.sessions.spawn(under_key()).await.unwrap().token];
    let changes: [fn(&mut House); 3] = [
        |house| house.set_draining("A"),
        |house| house.set_down("A"),
        |house| house.take_out("A"),
    ];
    for change in changes {
        change(&mut house);
        let again = house.sessions.spawn(under_key()).await.unwrap();
        assert_eq!(again.deduplicated, Deduplicated::Yes);
        tokens.push(again.token);
        let good = tokens.iter().filter(|token| {
            let hash = crate::domain::session::token::hash(token.as_bytes());
            house.sessions.find_by_token(&hash).is_some()
        });
        assert_eq!(good.collect::<Vec<_>>(), [tokens.last().unwrap()]);
        // The same with another request is none, and somebody else's key is another one.
        let other = Spawn {
            idempotency: Some(("once".to_owned(), [8; 32])),
            ..under_key()
        };
        let refused = reason(house.sessions.spawn(other).await);
        assert_eq!(refused, Reason::IdempotencyConflict);
        let stranger = Spawn {
            caller: "somebody else".to_owned(),
            ..under_key()
        };
        let refused = reason(house.sessions.spawn(stranger).await);
        assert_ne!(refused, Reason::IdempotencyConflict);
    }
}
