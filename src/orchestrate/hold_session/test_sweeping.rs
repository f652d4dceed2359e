//! Sessions whose time is over, many at once, and those beside them.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::frame::ServerFrame;
use super::test_stage::{House, asked, name, reason};
use crate::domain::failure::Reason;
use crate::domain::session::{LossPolicy, token};
use crate::store::memory::{MemoryStore, Settings};

const MANY: usize = 1000;
const SYNC: Duration = Duration::from_millis(100);

/// Many sessions that ended at once and are just beginning to be forgotten, at a disk that is slow; and one more.
async fn house_that_forgets() -> House {
    let store = MemoryStore::new(Settings {
        sync_takes: SYNC,
        ..Settings::default()
    });
    let house = House::over(&["A", "B"], store).await;
    house.spawn("stays", LossPolicy::Reassign).await;
    let spawn = |at| {
        let mut spawn = asked(&format!("s{at}"), LossPolicy::Fail);
        spawn.idle_ttl = Duration::from_secs(60);
        house.sessions.spawn(spawn)
    };
    join_all((0..MANY).map(spawn)).await;
    assert_eq!(house.sessions.known(), MANY + 1);
    while house.sessions.known() == MANY + 1 {
        sleep(SYNC / 2).await;
    }
    house
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_together_share_the_syncs_by_which_they_are_forgotten() {
    let house = house_that_forgets().await;
    let began = Instant::now();
    while 1 < house.sessions.known() {
        sleep(SYNC).await;
    }
    let syncs = began.elapsed().as_millis() / SYNC.as_millis();
    assert!(syncs < MANY as u128 / 10, "{syncs} syncs");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_instance_is_lost_does_not_wait_for_others_to_be_forgotten() {
    let mut house = house_that_forgets().await;
    let mut client = house.attach("stays", Some(0)).await;
    client.send(1, "at A").await;
    client.message().await;
    let began = Instant::now();
    house.set_down("A");
    while !matches!(client.next().await, ServerFrame::Moved { .. }) {}
    assert!(began.elapsed() < SYNC * 200, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_could_last_long_expires_when_its_client_has_left_it() {
    let house = House::new(&["A"]).await;
    let mut spawn = asked("s", LossPolicy::Fail);
    spawn.lifetime = Some(Duration::from_secs(100_000));
    house.sessions.spawn(spawn).await.unwrap();
    let client = house.attach("s", Some(0)).await;
    sleep(Duration::from_secs(1000)).await;
    drop(client);
    sleep(Duration::from_secs(298)).await;
    drop(house.attach("s", Some(0)).await);
    sleep(Duration::from_secs(298)).await;
    house.sessions.get(&name("s")).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        reason(house.try_attach("s", None).await),
        Reason::SessionClosed
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_with_its_own_token_and_with_no_other() {
    let house = House::new(&["A"]).await;
    let [one, other] = [
        house.spawn("one", LossPolicy::Fail).await,
        house.spawn("other", LossPolicy::Fail).await,
    ];
    let finds = |token: &str| {
        let holder = house.sessions.find_by_token(&token::hash(token.as_bytes()));
        holder.map(|holder| holder.session)
    };
    let house_of_one = &house.sessions.0;
    let entry = house_of_one.find(&name("one")).unwrap();
    let void = house
        .sessions
        .find_by_token(&token::hash(one.token.as_bytes()))
        .unwrap()
        .void;
    house_of_one.forget(&entry);
    assert!(void.is_cancelled());
    assert_eq!(
        (finds(&one.token), finds(&other.token)),
        (None, Some(name("other")))
    );

    // Another one that has its name is not it: its name was free once it had ended.
    let stored = house.sessions.get(&name("other")).await.unwrap().session;
    let earlier = house_of_one.find(&name("other")).unwrap();
    earlier
        .closed
        .store(true, std::sync::atomic::Ordering::Relaxed);
    house_of_one.enter(&stored);
    house_of_one.forget(&earlier);
    assert_eq!(finds(&other.token), Some(name("other")));
    assert_eq!(house.sessions.known(), 1);
}
