//! A start over a disk that is full.

use std::time::Duration;

use super::test_stage::{House, asked, name, reason, settle};
use crate::domain::failure::Reason;
use crate::domain::session::LossPolicy;
use crate::store::memory::Fault;

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_starts_over_a_full_disk_shows_its_sessions_and_goes_on_when_there_is_room()
 {
    let mut house = House::new(&["A"]).await;
    house.spawn("s", LossPolicy::Fail).await;
    let mut client = house.attach("s", Some(0)).await;
    client.send(1, "one").await;
    client.message().await;
    drop(client);
    settle().await;
    house.store.set_fault(Fault::NoSpace);
    house.crash().await;
    for _ in 0..3 {
        let session = house.sessions.get(&name("s")).await.unwrap().session;
        assert_eq!(session.epoch.number(), 1, "it was not taken over");
        let attached = house.try_attach("s", Some(0)).await;
        assert_eq!(reason(attached), Reason::JournalFull);
        let posted = house.post("s", None, "x").await;
        assert_eq!(reason(posted), Reason::JournalFull);
        let spawned = house.sessions.spawn(asked("t", LossPolicy::Fail)).await;
        assert_eq!(reason(spawned), Reason::JournalFull);
        // Longer than the session may be silent: its time does not go on either.
        tokio::time::sleep(Duration::from_secs(301)).await;
    }
    house.store.set_fault(Fault::None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut client = house.attach("s", Some(1)).await;
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    let session = house.sessions.get(&name("s")).await.unwrap().session;
    assert!(1 < session.epoch.number(), "it changed hands");
    house.spawn("t", LossPolicy::Fail).await;
}
