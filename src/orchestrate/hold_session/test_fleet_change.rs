//! What sessions make of a fleet that changes: who is woken, and since when an instance counts as lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::test_stage::{Client, House, asked, name, posted, reason, settle};
use super::{Spawn, Wait};
use crate::domain::failure::Reason;
use crate::domain::limit::{SESSION_REATTACH_GRACE, SESSION_WAIT_FOR_INSTANCE};
use crate::domain::session::LossPolicy;
use crate::instance::scripted::SessionAct;

/// A session at one of these instances, with a client that is attached.
async fn attached(house: &House, id: &str, targets: &[&str], policy: LossPolicy) -> Client {
    let targets = targets.iter().map(|target| (*target).to_owned()).collect();
    let spawn = Spawn {
        targets,
        ..asked(id, policy)
    };
    house.sessions.spawn(spawn).await.unwrap();
    let mut client = house.attach(id, Some(0)).await;
    client.send(1, "one").await;
    assert_eq!(client.message().await.0, 1);
    client.ack(1).await;
    settle().await;
    client
}

/// Whom this change concerns.
async fn concerned(house: &mut House, change: impl FnOnce(&mut House)) -> Vec<String> {
    let before = house.view();
    change(house);
    let concerned = house.sessions.0.concerned(&before, &house.view());
    let ids = concerned.keys().map(ToString::to_string).collect();
    sleep(Duration::from_secs(1)).await;
    ids
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_fleet_wakes_those_whom_it_concerns_and_nobody_else() {
    let mut house = House::new(&["A", "B", "C", "D"]).await;
    let mut clients = Vec::new();
    for (id, at) in [("a1", "A"), ("a2", "A"), ("b1", "B"), ("c1", "C")] {
        clients.push(attached(&house, id, &[at], LossPolicy::Reassign).await);
    }
    let nobody = Vec::<String>::new();
    assert_eq!(concerned(&mut house, |house| house.publish()).await, nobody);
    let down = concerned(&mut house, |house| house.set_down("A")).await;
    assert_eq!(down, ["a1", "a2"]);
    // Still down, and for somebody who waits there is nobody to go to.
    let again = concerned(&mut house, |house| house.set_down("A")).await;
    assert_eq!(again, nobody);
    let back = concerned(&mut house, |house| house.set_healthy("A")).await;
    assert_eq!(back, ["a1", "a2"]);
    let draining = concerned(&mut house, |house| house.set_draining("B")).await;
    assert_eq!(draining, ["b1"]);
    let gone = concerned(&mut house, |house| house.take_out("C")).await;
    assert_eq!(gone, ["c1"]);
    // Nobody is at D, and only who waits may want to go there.
    let other = concerned(&mut house, |house| house.set_down("D")).await;
    assert_eq!(other, nobody);
    house.instance("C").sessions.opened()[0].lose();
    settle().await;
    let other = concerned(&mut house, |house| house.set_healthy("D")).await;
    assert_eq!(other, ["c1"]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_between_the_look_of_a_session_and_its_wait_is_not_missed() {
    let mut house = House::new(&["A", "B"]).await;
    drop(attached(&house, "s", &["A", "B"], LossPolicy::Reassign).await);
    house.set_down("B");
    house.set_down("A");
    sleep(SESSION_REATTACH_GRACE * 2).await;
    let nobody = house.view();
    house.set_healthy("B");
    // Whoever has to be told was told before: the session rests and waits for nobody. Its next look still finds the
    // fleet as it was before, and what is in it since then is told to nobody any more.
    settle().await;
    let there = house.view();
    house.see_once(nobody);
    let began = Instant::now();
    house
        .sessions
        .post(posted("s", None, "two", Wait::Replied))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&house.view(), &there));
    assert!(
        began.elapsed() < SESSION_WAIT_FOR_INSTANCE,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_any_instance_goes_to_the_first_that_there_is_at_once() {
    let mut house = House::new(&["A", "B"]).await;
    let mut client = attached(&house, "s", &["A", "B"], LossPolicy::Reassign).await;
    house.set_down("B");
    house.set_down("A");
    client.send(2, "two").await;
    client.acked(2).await;
    // Long after the grace, and between two looks.
    sleep(Duration::from_secs(63)).await;
    house.set_healthy("B");
    let back = Instant::now();
    assert_eq!(client.message().await, (2, "two".to_owned()));
    assert_eq!(back.elapsed(), Duration::ZERO);
    assert_eq!(house.sessions.0.waiting.lock().unwrap().len(), 0);
}

/// A client comes for so long, and leaves for as long, until its session is over.
async fn comes_and_goes(house: &House, stays: Duration) -> Duration {
    let begun = Instant::now();
    for _ in 0..20 {
        let Ok(client) = house.try_attach("s", None).await else {
            return begun.elapsed();
        };
        sleep(stays).await;
        drop(client);
        settle().await;
        sleep(stays).await;
    }
    panic!("its end was put off for ever");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_and_goes_does_not_put_off_the_end_of_what_has_lost_its_instance() {
    let stays = Duration::from_secs(4);
    for is_taken_out in [false, true] {
        let mut house = House::new(&["A"]).await;
        sleep(Duration::from_secs(100)).await;
        drop(attached(&house, "s", &["A"], LossPolicy::Fail).await);
        settle().await;
        if is_taken_out {
            house.take_out("A");
            house.instance("A").sessions.opened()[0].lose();
        } else {
            house.set_down("A");
        }
        let ended = comes_and_goes(&house, stays).await;
        assert!(ended <= stays * 6, "{ended:?}");
        assert_eq!(
            reason(house.try_attach("s", None).await),
            Reason::SessionClosed
        );
    }
    // Its probes see nothing of it.
    let house = House::new(&["A"]).await;
    drop(attached(&house, "s", &["A"], LossPolicy::Fail).await);
    settle().await;
    house.instance("A").sessions.script([SessionAct::Refuse]);
    house.instance("A").sessions.opened()[0].lose();
    let ended = comes_and_goes(&house, stays).await;
    assert!(ended <= stays * 6, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_come_back_meanwhile_has_not_lost_a_session_that_rested() {
    let mut house = House::new(&["A"]).await;
    drop(attached(&house, "s", &["A"], LossPolicy::Fail).await);
    settle().await;
    house.set_down("A");
    drop(house.attach("s", None).await);
    sleep(Duration::from_secs(60)).await;
    house.set_healthy("A");
    sleep(Duration::from_secs(60)).await;
    // It stumbles once more, which is a loss of its own.
    let script = [SessionAct::Refuse, SessionAct::Refuse, SessionAct::Echo];
    house.instance("A").sessions.script(script);
    let mut client = house.attach("s", None).await;
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
    drop(client);
    settle().await;
    let kept = house.sessions.get(&name("s")).await.unwrap().session;
    assert_eq!(kept.to_client.last, 2);
}

#[tokio::test(start_paused = true)]
async fn a_loss_long_after_another_has_a_grace_of_its_own() {
    for is_seen in [true, false] {
        let mut house = House::new(&["A"]).await;
        drop(attached(&house, "s", &["A"], LossPolicy::Fail).await);
        settle().await;
        // The stream breaks, and nobody wants the instance, which is well all the time.
        house.instance("A").sessions.opened()[0].lose();
        settle().await;
        sleep(Duration::from_secs(120)).await;
        if is_seen {
            house.set_down("A");
        } else {
            let script = [SessionAct::Refuse, SessionAct::Refuse, SessionAct::Echo];
            house.instance("A").sessions.script(script);
        }
        let mut client = house.attach("s", None).await;
        client.send(2, "two").await;
        sleep(Duration::from_secs(4)).await;
        house.set_healthy("A");
        assert_eq!(client.message().await, (2, "two".to_owned()), "{is_seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_nobody_asked_since_is_asked_once_more_before_the_policy_decides() {
    let house = House::new(&["A"]).await;
    drop(attached(&house, "s", &["A"], LossPolicy::Fail).await);
    settle().await;
    house.instance("A").sessions.script([SessionAct::Refuse]);
    house.instance("A").sessions.opened()[0].lose();
    let client = house.attach("s", None).await;
    sleep(Duration::from_secs(1)).await;
    drop(client);
    settle().await;
    // Long after its grace.
    sleep(Duration::from_secs(60)).await;
    house.instance("A").sessions.script([SessionAct::Echo]);
    let mut client = house.attach("s", None).await;
    client.send(2, "two").await;
    assert_eq!(client.message().await, (2, "two".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_grace_counts_from_the_loss_and_not_from_when_somebody_asks() {
    for gone_for in [Duration::from_secs(4), Duration::from_secs(60)] {
        let mut house = House::new(&["A", "B"]).await;
        drop(attached(&house, "s", &["A", "B"], LossPolicy::Reassign).await);
        // What was acknowledged is on the disk with whatever comes next.
        house.spawn("other", LossPolicy::Fail).await;
        // From now on it rests, and nobody tells it anything.
        house.crash().await;
        settle().await;
        house.set_down("A");
        sleep(gone_for).await;
        let asked = Instant::now();
        let mut client = house.attach("s", Some(1)).await;
        client.send(2, "two").await;
        assert_eq!(client.message().await, (2, "two".to_owned()));
        let left = SESSION_REATTACH_GRACE.saturating_sub(gone_for);
        let waited = asked.elapsed();
        assert!(
            left <= waited && waited < left + Duration::from_secs(1),
            "{waited:?}"
        );
    }
}
