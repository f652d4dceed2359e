//! How sessions begin, last, are listed and end.

use std::time::Duration;

use super::Deduplicated;
use super::frame::ServerFrame;
use super::test_stage::{House, asked, name, payload, reason, settle};
use crate::domain::failure::Reason;
use crate::domain::id::InstanceId;
use crate::domain::selection::Policy;
use crate::domain::session::{CloseReason, Durability, LossPolicy, token};
use crate::instance::scripted::SessionAct;
use crate::instance::session::{self, Frame};
use crate::store::memory::Fault;
use crate::store::record::{Query, StateFilter};

#[tokio::test(start_paused = true)]
async fn sessions_spread_over_the_instances_by_how_many_each_has() {
    let house = House::new(&["A", "B", "C", "D"]).await;
    for at in 0..400 {
        spread(&house, at).await;
    }
    // Drawn without a look at what each has they would be up to thirty apart.
    for id in ["A", "B", "C", "D"] {
        let has = sessions_at(&house, id).await;
        assert!((95..=105).contains(&has), "{id} has {has}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_each_instance_has_is_counted_again_after_a_crash() {
    let mut house = House::new(&["A", "B"]).await;
    for at in 0..40 {
        let mut spawn = asked(&format!("a{at}"), LossPolicy::Fail);
        spawn.targets = vec!["A".to_owned()];
        house.sessions.spawn(spawn).await.unwrap();
    }
    for at in 0..10 {
        let id = name(&format!("a{at}"));
        house.sessions.close(&id).await.unwrap();
    }
    house.crash().await;
    for at in 0..30 {
        spread(&house, at).await;
    }
    assert_eq!(sessions_at(&house, "B").await, 30, "A has thirty");
    spread(&house, 30).await;
    spread(&house, 31).await;
    let has = [
        sessions_at(&house, "A").await,
        sessions_at(&house, "B").await,
    ];
    assert_eq!(has, [31, 31]);
}

/// Begins a session wherever there are the fewest.
async fn spread(house: &House, at: usize) {
    let mut spawn = asked(&format!("s{at}"), LossPolicy::Fail);
    spawn.selection = Policy::Balanced;
    house.sessions.spawn(spawn).await.unwrap();
}

/// How many open sessions this instance has.
async fn sessions_at(house: &House, id: &str) -> usize {
    let query = Query {
        limit: 1000,
        state: Some(StateFilter::Open),
        instance: Some(InstanceId::parse(id).unwrap()),
        ..Query::default()
    };
    house.sessions.list(query).await.unwrap().sessions.len()
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_after_a_page_of_which_something_was_left_out() {
    let house = House::new(&["A"]).await;
    for id in ["s1", "s2", "s3", "s4", "s5"] {
        house.spawn(id, LossPolicy::Fail).await;
    }
    // It is being forgotten: the store has it still.
    let entry = house.sessions.0.find(&name("s2")).unwrap();
    house.sessions.0.forget(&entry);
    let mut seen = Vec::new();
    let mut query = Query {
        limit: 2,
        ..Query::default()
    };
    loop {
        let page = house.sessions.list(query.clone()).await.unwrap();
        seen.extend(page.sessions.iter().map(|shown| shown.session.id().clone()));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["s1", "s3", "s4", "s5"].map(name));
}

#[tokio::test(start_paused = true)]
async fn a_spawn_that_is_repeated_mints_a_fresh_token_and_the_old_one_is_void() {
    let house = House::new(&["A"]).await;
    let mut spawn = asked("s", LossPolicy::Fail);
    spawn.idempotency = Some(("k".to_owned(), [1; 32]));
    let first = house.sessions.spawn(spawn.clone()).await.unwrap();
    let again = house.sessions.spawn(spawn.clone()).await.unwrap();
    assert_eq!(again.deduplicated, Deduplicated::Yes);
    assert_eq!(again.session.session.id(), first.session.session.id());
    let finds = |token: &str| house.sessions.find_by_token(&token::hash(token.as_bytes()));
    assert!(finds(&first.token).is_none());
    assert!(finds(&again.token).is_some());
    spawn.idempotency = Some(("k".to_owned(), [2; 32]));
    assert_eq!(
        reason(house.sessions.spawn(spawn).await),
        Reason::IdempotencyConflict
    );
    let other = asked("s", LossPolicy::Fail);
    assert_eq!(
        reason(house.sessions.spawn(other).await),
        Reason::SessionExists
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closed_under_its_client_is_forgotten_too() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let _client = house.attach("s", Some(0)).await;
    house.sessions.close(&name("s")).await.unwrap();
    settle().await;
    assert!(!house.sessions.get(&name("s")).await.unwrap().attached);
    tokio::time::sleep(Duration::from_secs(310)).await;
    settle().await;
    assert_eq!(
        reason(house.sessions.get(&name("s")).await),
        Reason::SessionUnknown
    );
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_and_then_it_is_forgotten() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    client.ack(1).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(
        house.sessions.get(&name("s")).await.unwrap().attached,
        "an attached client keeps it"
    );
    drop(client);
    tokio::time::sleep(Duration::from_secs(298)).await;
    house.sessions.get(&name("s")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    settle().await;
    assert_eq!(
        reason(house.try_attach("s", None).await),
        Reason::SessionClosed
    );
    let held = house.instance("A").sessions.opened().remove(0);
    let expired = |frame: &Frame| matches!(frame, Frame::Close { reason, .. } if *reason == session::CloseReason::Expired);
    assert!(
        expired(held.seen().last().unwrap()),
        "the instance was told"
    );
    tokio::time::sleep(Duration::from_secs(310)).await;
    assert_eq!(
        reason(house.sessions.get(&name("s")).await),
        Reason::SessionUnknown
    );
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_a_session_whoever_is_attached() {
    let house = House::new(&["A"]).await;
    let mut spawn = asked("s", LossPolicy::Fail);
    spawn.lifetime = Some(Duration::from_secs(20));
    house.sessions.spawn(spawn).await.unwrap();
    let mut client = house.attach("s", Some(0)).await;
    let begun = tokio::time::Instant::now();
    let rest = client.rest().await;
    assert_eq!(
        rest.last(),
        Some(&ServerFrame::Closed {
            reason: CloseReason::Expired
        })
    );
    assert!((19..=22).contains(&begun.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_clients_away_and_keeps_what_was_acknowledged() {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    house.sessions.drain(Duration::from_secs(5)).await;
    let mut saw_go_away = false;
    let failure = loop {
        match client.try_next().await {
            Ok(frame) => saw_go_away |= matches!(frame, ServerFrame::GoAway { .. }),
            Err(failure) => break failure,
        }
    };
    assert!(saw_go_away);
    assert_eq!(failure.reason, Reason::Draining);
    assert_eq!(reason(house.try_attach("s", None).await), Reason::Draining);
    settle().await;
    let seen = house.instance("A").sessions.opened()[0].seen();
    let suspended = |frame: &Frame| matches!(frame, Frame::Close { reason, .. } if *reason == session::CloseReason::Suspended);
    assert!(suspended(seen.last().unwrap()), "the instance keeps it");
    house.crash().await;
    let (_, ready) = house.ready("s", Some(0)).await;
    assert_eq!((ready.last_received_seq, ready.first_seq), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_is_new_and_it_goes_on_by_itself_when_there_is_room() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    house.store.set_fault(Fault::NoSpace);
    client.send(2, "two").await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::JournalFull)
    );
    assert_eq!(
        reason(house.post("s", None, "x").await),
        Reason::JournalFull
    );
    house.store.set_fault(Fault::None);
    let (mut client, ready) = house.ready("s", Some(1)).await;
    assert_eq!(
        ready.last_received_seq, 1,
        "what was refused was never taken"
    );
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_says_while_there_is_no_room_waits_and_nothing_of_it_is_lost() {
    const SAID: u64 = 3000;
    let house = House::new(&["A"]).await;
    house.instance("A").sessions.script([SessionAct::Silent]);
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    settle().await;
    house.store.set_fault(Fault::NoSpace);
    let held = house.instance("A").sessions.opened().remove(0);
    for number in 1..=SAID {
        held.send(None, payload(&number.to_string()));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(held.is_held(), "it is slowed, and not left");
    let bounds = house.sessions.bounds();
    assert!(house.memory.held() <= 2 * bounds.bytes, "it is slowed");
    house.store.set_fault(Fault::None);
    for number in 1..=SAID {
        assert_eq!(client.message().await, (number, number.to_string()));
        client.ack(number).await;
    }
    settle().await;
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.epoch.number(), 1, "nobody had to begin anew");
    assert_eq!(house.instance("A").sessions.opened().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_for_which_there_was_no_room_are_written_down_when_there_is() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    settle().await;
    house.store.set_fault(Fault::NoSpace);
    client.ack(1).await;
    settle().await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let kept = || async {
        let kept = house.sessions.get(&name("s")).await.unwrap().session;
        kept.to_client.acked
    };
    assert_eq!(kept().await, 0, "there was no room");
    house.store.set_fault(Fault::None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(kept().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_acknowledges_nothing_and_the_session_goes_on_from_what_it_kept() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    house.store.set_fault(Fault::SyncFails);
    client.send(2, "two").await;
    assert_eq!(
        client.end().await.map(|failure| failure.reason),
        Some(Reason::JournalFailed)
    );
    house.store.set_fault(Fault::None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut client, ready) = house.ready("s", Some(1)).await;
    let next = ready.last_received_seq + 1;
    client.send(next, "next").await;
    client.acked(next).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_without_durability_ends_with_the_orchestrator_and_says_so() {
    let mut house = House::new(&["A"]).await;
    let mut spawn = asked("s", LossPolicy::Reassign);
    spawn.durability = Durability::None;
    house.sessions.spawn(spawn).await.unwrap();
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    house.crash().await;
    assert_eq!(
        reason(house.try_attach("s", Some(1)).await),
        Reason::SessionClosed
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_with_one_key_are_together_and_those_with_many_are_not() {
    let house = House::new(&["A", "B", "C", "D"]).await;
    let mut at = std::collections::BTreeMap::new();
    for number in 0..40 {
        let key = format!("key{}", number % 8);
        let mut spawn = asked(&format!("s{number}"), LossPolicy::Fail);
        spawn.selection = Policy::Hash(key.clone());
        let spawned = house.sessions.spawn(spawn).await.unwrap();
        let instance = spawned.session.session.instance;
        assert_eq!(*at.entry(key).or_insert(instance.clone()), instance);
    }
    let places: std::collections::BTreeSet<_> = at.values().collect();
    assert!(1 < places.len(), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attached_session_that_says_nothing_is_small() {
    let house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let entry = house.sessions.0.find(&name("s")).unwrap();
    let task = super::wake::hold(std::sync::Arc::clone(&house.sessions.0), entry);
    let owner = size_of::<super::owner::Owner>();
    let held = size_of::<super::held::Held>();
    let sum = size_of_val(&task) + owner + held;
    assert!(sum < 2560, "{} {owner} {held}", size_of_val(&task));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_rests_is_opened_again_after_a_crash_once_it_is_used_and_not_before() {
    let mut house = House::new(&["A"]).await;
    for at in 0..50 {
        let id = format!("s{at}");
        house.spawn(&id, LossPolicy::Reassign).await;
        let mut client = house.attach(&id, Some(0)).await;
        client.send(1, "one").await;
        client.message().await;
        client.ack(1).await;
        settle().await;
    }
    // An acknowledgement is noted without a sync of its own: it is on the disk with what is written next.
    house.spawn("unused", LossPolicy::Reassign).await;
    let opened = |house: &House| house.instance("A").sessions.opened().len();
    assert_eq!(opened(&house), 50);
    house.crash().await;
    // As long as whoever is restless takes to come to rest, and no session expires.
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle().await;
    assert_eq!(opened(&house), 50);
    assert!(house.sessions.0.held.is_empty());
    let mut client = house.attach("s7", Some(1)).await;
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    assert_eq!(opened(&house), 51);
    let open = &house.instance("A").sessions.opened()[50].open;
    assert_eq!((&*open.session, open.epoch), ("s7", 2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_has_no_task() {
    let house = House::new(&["A"]).await;
    for at in 0..100 {
        house.spawn(&format!("s{at}"), LossPolicy::Fail).await;
    }
    settle().await;
    assert!(house.sessions.0.held.is_empty());
}
