//! What other limits in a config mean for connections that are there already.

use std::time::Duration;

use h2::Reason;
use orchestrator::ingress::listener::Limits;

use super::{House, call};
use crate::raw::{End, Peer, frame, soon};

const SHORT: Duration = Duration::from_millis(100);

impl House {
    /// A config with these limits, from now on.
    async fn take(&self, limits: Limits) {
        let mut config = self.config.clone();
        config.limits = limits;
        let taken = self.app.reload().take(config).await.unwrap().unwrap();
        assert_eq!(taken.changes.settings, ["limits"]);
    }
}

#[tokio::test]
async fn an_open_connection_is_asked_to_leave_by_the_age_that_the_config_says_now() {
    let house = House::new().await;
    let mut peer = Peer::connect(house.address()).await;
    peer.send(&call(1, "held")).await;
    house.held.until(|counts| counts.begun == 1).await;
    let usual = Limits::default();
    let twice = usual.age * 2;
    house
        .take(Limits {
            age: twice,
            ..usual.clone()
        })
        .await;
    peer.pong().await;
    // Its grace too: the call would have had ten minutes when it came.
    house
        .take(Limits {
            age: SHORT,
            age_grace: SHORT,
            ..usual
        })
        .await;
    let goaway = peer.until(|frame| frame.kind == frame::GOAWAY).await;
    assert_eq!(goaway.reason(), Reason::NO_ERROR);
    soon(async { while peer.next().await.is_some() {} }).await;
    house.held.until(|counts| counts.reset == 1).await;
    house.serves_others().await;
}

#[tokio::test]
async fn a_reader_who_stands_still_is_cut_by_what_the_config_says_when_its_call_begins() {
    let house = House::new().await;
    let settings = [(frame::INITIAL_WINDOW_SIZE, 0)];
    let mut peer = Peer::with_settings(house.address(), &settings).await;
    peer.pong().await;
    house
        .take(Limits {
            stream_idle: SHORT,
            ..Limits::default()
        })
        .await;
    peer.send(&call(1, "echo")).await;
    assert_eq!(soon(peer.end_of(1)).await, End::Reset(Reason::CANCEL));
}
