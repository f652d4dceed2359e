//! Sessions themselves: made, found, taken over, closed and forgotten.

use super::*;
use crate::store::{Bound, Error, REASON_RESTARTED, Readiness};

on_every_engine! {
    a_session_is_there_as_it_was_made_also_after_a_crash
    an_id_in_use_is_refused_and_a_spawn_repeated_under_its_key_is_not
    a_change_of_hands_is_decided_by_the_epoch
    whoever_is_stale_changes_nothing
    recovery_gives_every_open_session_the_next_epoch
    a_closed_session_says_why_and_lets_its_client_read_on
    a_closed_session_can_be_forgotten_and_an_open_one_not
    what_is_old_is_forgotten
    a_session_that_survives_nothing_ends_with_its_process
    sessions_are_listed_in_pages_and_by_what_they_are
    nothing_is_done_after_a_stop
}

async fn a_session_is_there_as_it_was_made_also_after_a_crash(engine: impl Engine) {
    let new = new_session("s");
    let Created::New(made) = engine.store().create(new.clone()).await.unwrap() else {
        panic!("it is new");
    };
    assert_eq!(*made.terms, new.terms);
    assert_eq!((made.epoch, made.spoken), (Epoch::FIRST, None));
    engine.store().set_token(&id("s"), hash(9)).await.unwrap();
    let before = engine.store().get(&id("s")).await.unwrap();
    assert_eq!(before.token, hash(9));
    let engine = engine.crash();
    assert_eq!(engine.store().get(&id("s")).await.unwrap(), before);
    let missing = engine.store().get(&id("t")).await;
    assert_eq!(missing, Err(Error::NotFound));
}

async fn an_id_in_use_is_refused_and_a_spawn_repeated_under_its_key_is_not(engine: impl Engine) {
    let with = |name: &str, key: &str, request, token| {
        let mut new = new_session(name);
        new.terms.spawn = Some(SpawnKey {
            key: key.to_owned(),
            request: hash(request),
        });
        new.token = hash(token);
        new
    };
    let first = engine.store().create(with("s", "k", 1, 1)).await.unwrap();
    assert!(matches!(first, Created::New(_)));
    let engine = engine.crash();
    let store = engine.store();
    // The id was made up anew for the repetition.
    let again = store.create(with("made-up", "k", 1, 2)).await.unwrap();
    let Created::Repeated(session) = again else {
        panic!("it was there");
    };
    assert_eq!((session.id(), session.token), (&id("s"), hash(2)));
    assert_eq!(store.get(&id("s")).await.unwrap().token, hash(2));
    assert_eq!(store.get(&id("made-up")).await, Err(Error::NotFound));
    let refuse = async |new, error| assert_eq!(store.create(new).await, Err(error));
    refuse(with("s", "k", 7, 3), Error::Conflict).await;
    refuse(with("s", "other", 1, 3), Error::AlreadyExists).await;
    refuse(new_session("s"), Error::AlreadyExists).await;
    let mut stranger = with("u", "k", 1, 4);
    stranger.terms.caller = "another".to_owned();
    assert!(matches!(store.create(stranger).await, Ok(Created::New(_))));
}

async fn a_change_of_hands_is_decided_by_the_epoch(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let words = vec![said(1, 0, "one"), said(2, 0, "two")];
    let said_before = engine.store().append_to_client(&s, &fence(), words).await;
    assert_eq!(said_before.unwrap().len(), 2);
    let other = Owner::new("run-2");
    let take = |expected| {
        engine
            .store()
            .take_over(&s, Epoch::new(expected), &other, &instance("B"))
    };
    let session = take(1).await.unwrap();
    assert_eq!(session.epoch, Epoch::new(2));
    assert_eq!(
        (&session.owner, &session.instance),
        (&other, &instance("B"))
    );
    assert_eq!(session.to_client.sender_seq, 0, "it begins with 1 again");
    let current = Epoch::new(2);
    assert_eq!(take(1).await, Err(Error::StaleEpoch { current }));
    let held = Fence {
        epoch: current,
        owner: other.clone(),
    };
    let anew = engine
        .store()
        .append_to_client(&s, &held, vec![said(1, 0, "three")])
        .await;
    assert_eq!(anew, Ok(vec![Appended::New(3)]));
    let before = engine.store().get(&s).await.unwrap();
    assert_eq!(before.spoken, Some(current));
    let engine = engine.crash();
    assert_eq!(engine.store().get(&s).await.unwrap(), before);
    let again = engine
        .store()
        .append_to_client(&s, &held, vec![said(1, 0, "three"), said(2, 0, "four")])
        .await;
    assert_eq!(again, Ok(vec![Appended::Repeated(3), Appended::New(4)]));
    let slice = engine.store().read_to_client(&s, 0, usize::MAX).await;
    let epochs: Vec<_> = slice
        .unwrap()
        .messages
        .iter()
        .map(|m| m.epoch.number())
        .collect();
    assert_eq!(epochs, [1, 1, 2, 2]);
}

async fn whoever_is_stale_changes_nothing(engine: impl Engine) {
    let store = engine.store();
    let s = make(store, "s").await;
    let two = || vec![streamed(1, "a"), streamed(2, "b")];
    store.append_to_instance(&s, &fence(), two()).await.unwrap();
    let answers = vec![said(1, 0, "c")];
    store.append_to_client(&s, &fence(), answers).await.unwrap();
    store
        .take_over(&s, Epoch::FIRST, &owner(), &instance("B"))
        .await
        .unwrap();
    let before = store.get(&s).await.unwrap();
    let foreign = Fence {
        epoch: Epoch::new(2),
        owner: Owner::new("another"),
    };
    for stale in [fence(), foreign] {
        let current = Epoch::new(2);
        let error = Error::StaleEpoch { current };
        let more = store.append_to_instance(&s, &stale, vec![streamed(3, "x")]);
        assert_eq!(more.await, Err(error.clone()));
        let more = store.append_to_client(&s, &stale, vec![said(1, 0, "x")]);
        assert_eq!(more.await, Err(error.clone()));
        for direction in [Direction::ToInstance, Direction::ToClient] {
            let ack = store.acknowledge(&s, &stale, direction, 1).await;
            assert_eq!(ack, Err(error.clone()));
        }
        assert_eq!(store.take(&s, &stale, 1).await, Err(error.clone()));
        assert_eq!(store.close(&s, &stale, "x", 1).await, Err(error));
    }
    assert_eq!(store.get(&s).await.unwrap(), before);
    assert_eq!(to_instance(store, &s, 0).await, ["1 a", "2 b"]);
    assert_eq!(to_client(store, &s, 0).await, ["1 c"]);
}

async fn recovery_gives_every_open_session_the_next_epoch(engine: impl Engine) {
    for name in ["a", "b", "c"] {
        make(engine.store(), name).await;
    }
    let store = engine.store();
    store
        .close(&id("b"), &fence(), "by_client", 7)
        .await
        .unwrap();
    let words = vec![streamed(1, "kept")];
    store
        .append_to_instance(&id("a"), &fence(), words)
        .await
        .unwrap();
    let engine = engine.crash();
    let next = Owner::new("run-2");
    let found = engine.store().recover(&next).await.unwrap();
    let names: Vec<_> = found.iter().map(|s| s.id().as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    for session in &found {
        assert_eq!((session.epoch, &session.owner), (Epoch::new(2), &next));
        assert_eq!(engine.store().get(session.id()).await.as_ref(), Ok(session));
    }
    assert_eq!(found[0].to_instance.last, 1);
    let engine = engine.crash();
    let a = engine.store().get(&id("a")).await.unwrap();
    assert_eq!(a, found[0], "recovery is durable");
    assert_eq!(to_instance(engine.store(), &id("a"), 0).await, ["1 kept"]);
    let current = Epoch::new(2);
    let stale = engine
        .store()
        .append_to_instance(&id("a"), &fence(), vec![streamed(2, "x")])
        .await;
    assert_eq!(stale, Err(Error::StaleEpoch { current }));
}

async fn a_closed_session_says_why_and_lets_its_client_read_on(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let asked = vec![streamed(1, "q"), streamed(2, "r")];
    store.append_to_instance(&s, &fence(), asked).await.unwrap();
    let answered = vec![said(1, 1, "x"), said(2, 2, "y")];
    store
        .append_to_client(&s, &fence(), answered)
        .await
        .unwrap();
    store.close(&s, &fence(), "by_instance", 77).await.unwrap();
    let engine = engine.crash();
    let store = engine.store();
    let session = store.get(&s).await.unwrap();
    let reason: Arc<str> = "by_instance".into();
    let state = State::Closed {
        reason: reason.clone(),
        at_ms: 77,
    };
    assert_eq!(session.state, state);
    assert_eq!(
        (session.to_instance.last, session.to_instance.acked),
        (2, 0)
    );
    let closed = Error::Closed { reason };
    let more = store.append_to_instance(&s, &fence(), vec![streamed(3, "z")]);
    assert_eq!(more.await, Err(closed.clone()));
    let more = store.append_to_client(&s, &fence(), vec![said(3, 0, "z")]);
    assert_eq!(more.await, Err(closed.clone()));
    let again = store.close(&s, &fence(), "by_client", 78).await;
    assert_eq!(again, Err(closed.clone()));
    let take = store.take_over(&s, Epoch::FIRST, &owner(), &instance("B"));
    assert_eq!(take.await, Err(closed.clone()));
    assert_eq!(store.set_token(&s, hash(3)).await, Err(closed));
    assert_eq!(to_instance(store, &s, 0).await, Vec::<String>::new());
    assert_eq!(to_client(store, &s, 0).await, ["1 x", "2 y"]);
    let ack = store.acknowledge(&s, &fence(), Direction::ToClient, 2);
    ack.await.unwrap();
    assert_eq!(store.get(&s).await.unwrap().to_client.acked, 2);
}

async fn a_closed_session_can_be_forgotten_and_an_open_one_not(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let words = vec![posted(Some("k"), "hello")];
    store.append_to_instance(&s, &fence(), words).await.unwrap();
    let words = vec![said(1, 1, "x")];
    store.append_to_client(&s, &fence(), words).await.unwrap();
    assert_eq!(store.forget(&s).await, Err(Error::Open));
    store.close(&s, &fence(), "expired", 1).await.unwrap();
    store.forget(&s).await.unwrap();
    assert_eq!(store.forget(&s).await, Err(Error::NotFound));
    let engine = engine.crash();
    let store = engine.store();
    assert_eq!(store.get(&s).await, Err(Error::NotFound));
    // A new one of the same name has nothing of the old one.
    make(store, "s").await;
    assert_eq!(store.find_post(&s, "k").await, Ok(None));
    assert_eq!(to_client(store, &s, 0).await, Vec::<String>::new());
}

async fn what_is_old_is_forgotten(engine: impl Engine) {
    let store = engine.store();
    for (name, closed_ms) in [("a", Some(10)), ("b", Some(20)), ("c", None)] {
        let s = make(store, name).await;
        let words = vec![posted(Some("k"), "hello")];
        store.append_to_instance(&s, &fence(), words).await.unwrap();
        if let Some(at_ms) = closed_ms {
            store.close(&s, &fence(), "by_client", at_ms).await.unwrap();
        }
    }
    let old = |closed_before_ms, posted_before_ms| Old {
        closed_before_ms,
        posted_before_ms,
    };
    assert_eq!(store.forget_old(old(20, 5_000)).await, Ok(1));
    assert_eq!(store.get(&id("a")).await, Err(Error::NotFound));
    for name in ["b", "c"] {
        let post = store.find_post(&id(name), "k").await.unwrap();
        assert_eq!(post.map(|post| post.position), Some(1), "{name}");
    }
    assert_eq!(store.forget_old(old(20, 5_001)).await, Ok(0));
    // A durable call, since forgetting what is old may itself be forgotten.
    make(store, "d").await;
    let engine = engine.crash();
    assert_eq!(engine.store().find_post(&id("c"), "k").await, Ok(None));
    assert_eq!(to_instance(engine.store(), &id("c"), 0).await, ["1 hello"]);
}

async fn a_session_that_survives_nothing_ends_with_its_process(engine: impl Engine) {
    let mut new = new_session("s");
    new.terms.durability = Durability::None;
    engine.store().create(new).await.unwrap();
    let s = id("s");
    let store = engine.store();
    let words = vec![streamed(1, "a"), posted(Some("k"), "b")];
    let there = store.append_to_instance(&s, &fence(), words).await;
    assert_eq!(there, Ok(vec![Appended::New(1), Appended::New(2)]));
    let words = vec![said(1, 2, "reply")];
    store.append_to_client(&s, &fence(), words).await.unwrap();
    store.take(&s, &fence(), 1).await.unwrap();
    let ack = store.acknowledge(&s, &fence(), Direction::ToInstance, 1);
    ack.await.unwrap();
    assert_eq!(to_instance(store, &s, 1).await, ["2 b"]);
    assert_eq!(to_client(store, &s, 0).await, ["1 reply"]);
    let post = store.find_post(&s, "k").await.unwrap().unwrap();
    assert_eq!(post.reply.unwrap().payload, bytes("reply"));
    assert_eq!(store.get(&s).await.unwrap().to_instance.acked, 1);
    let engine = engine.crash();
    let session = engine.store().get(&s).await.unwrap();
    let State::Closed { reason, .. } = session.state else {
        panic!("it is over");
    };
    assert_eq!(&*reason, REASON_RESTARTED);
    assert_eq!(engine.store().recover(&owner()).await, Ok(Vec::new()));
    assert_eq!(to_client(engine.store(), &s, 0).await, Vec::<String>::new());
}

async fn sessions_are_listed_in_pages_and_by_what_they_are(engine: impl Engine) {
    let store = engine.store();
    for (name, pinned, team) in [
        ("a", "A", "blue"),
        ("b", "B", "red"),
        ("c", "A", "red"),
        ("d", "B", "blue"),
    ] {
        let mut new = new_session(name);
        new.instance = instance(pinned);
        new.terms.labels = [("team".to_owned(), team.to_owned())].into();
        store.create(new).await.unwrap();
    }
    store
        .close(&id("d"), &fence(), "by_client", 1)
        .await
        .unwrap();
    let check = async |query: Query, expected: &[&str]| {
        let found = store.list(query).await.unwrap();
        let names: Vec<_> = found.iter().map(|s| s.id().as_str()).collect();
        assert_eq!(names, expected);
    };
    let all = || Query {
        limit: 10,
        ..Query::default()
    };
    check(all(), &["a", "b", "c", "d"]).await;
    let page = |after, limit| Query {
        after,
        limit,
        ..Query::default()
    };
    check(page(None, 2), &["a", "b"]).await;
    check(page(Some(id("b")), 2), &["c", "d"]).await;
    check(page(Some(id("bb")), 1), &["c"]).await;
    let state = |state| Query {
        state: Some(state),
        ..all()
    };
    check(state(StateFilter::Open), &["a", "b", "c"]).await;
    check(state(StateFilter::Closed), &["d"]).await;
    let mut red = all();
    red.labels = [("team".to_owned(), "red".to_owned())].into();
    check(red.clone(), &["b", "c"]).await;
    red.instance = Some(instance("A"));
    check(red, &["c"]).await;
    let caller = |name: &str| Query {
        caller: Some(name.to_owned()),
        ..all()
    };
    check(caller("desk"), &["a", "b", "c", "d"]).await;
    check(caller("another"), &[]).await;
}

async fn nothing_is_done_after_a_stop(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let mut readiness = store.readiness();
    assert_eq!(*readiness.borrow_and_update(), Readiness::Ready);
    store.stop().await;
    assert_eq!(*readiness.borrow_and_update(), Readiness::Stopped);
    assert_eq!(store.get(&s).await, Err(Error::Stopped));
    let append = store.append_to_instance(&s, &fence(), vec![streamed(1, "a")]);
    assert_eq!(append.await, Err(Error::Stopped));
    let read = store.read_to_instance(&s, 0, 1).await;
    assert_eq!(read, Err(Error::Stopped));
    store.stop().await;
}

async fn the_bytes_of_all_sessions_are_bounded<E: Engine>() {
    // A part of it is for what instances say.
    let engine = E::empty(1_333);
    let (a, b) = (
        make(engine.store(), "a").await,
        make(engine.store(), "b").await,
    );
    let words = |seq, len| vec![streamed(seq, &"x".repeat(len))];
    let store = engine.store();
    store
        .append_to_instance(&a, &fence(), words(1, 600))
        .await
        .unwrap();
    let full = store.append_to_instance(&b, &fence(), words(1, 401)).await;
    assert_eq!(full, Err(Error::Full(Bound::StoreBytes)));
    store
        .append_to_instance(&b, &fence(), words(1, 400))
        .await
        .unwrap();
    store.close(&a, &fence(), "by_client", 1).await.unwrap();
    let again = store.append_to_instance(&b, &fence(), words(2, 600)).await;
    assert_eq!(again, Ok(vec![Appended::New(2)]), "there is room again");
    let engine = engine.crash();
    let full = engine.store().append_to_instance(&b, &fence(), words(3, 1));
    assert_eq!(full.await, Err(Error::Full(Bound::StoreBytes)));
}

async fn a_full_store_takes_what_instances_say_and_becomes_empty<E: Engine>() {
    let engine = E::empty(1_000);
    let store = engine.store();
    let a = make(store, "a").await;
    let sent = (1..=3).map(|seq| streamed(seq, &"x".repeat(250))).collect();
    store.append_to_instance(&a, &fence(), sent).await.unwrap();
    let full = store.append_to_instance(&a, &fence(), vec![streamed(4, "x")]);
    assert_eq!(full.await, Err(Error::Full(Bound::StoreBytes)));
    let said = vec![said(1, 1, &"y".repeat(250))];
    store.append_to_client(&a, &fence(), said).await.unwrap();
    // What both sides have acknowledged is still kept, and stands in nobody's way.
    for (direction, through) in [(Direction::ToInstance, 3), (Direction::ToClient, 1)] {
        let noted = store.acknowledge(&a, &fence(), direction, through);
        noted.await.unwrap();
    }
    let again = vec![streamed(1, &"x".repeat(250)), streamed(4, &"z".repeat(750))];
    let again = store.append_to_instance(&a, &fence(), again).await;
    assert_eq!(again, Ok(vec![Appended::Repeated(1), Appended::New(4)]));
}

#[tokio::test]
async fn a_full_store_takes_what_instances_say_and_becomes_empty_on_every_engine() {
    a_full_store_takes_what_instances_say_and_becomes_empty::<Memory>().await;
    a_full_store_takes_what_instances_say_and_becomes_empty::<Sqlite>().await;
}

#[tokio::test]
async fn the_bytes_of_all_sessions_are_bounded_on_every_engine() {
    the_bytes_of_all_sessions_are_bounded::<Memory>().await;
    the_bytes_of_all_sessions_are_bounded::<Sqlite>().await;
}
