//! A stream on which nothing is said, through a network that loses everything without a word. It takes half a minute, so
//! it begins with the first of the other tests, and is asked for last. Needs root, iproute2 and nftables.

use std::time::Duration;

use orchestrator::proto::orchestrator::session_send_request::Frame as Out;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::{
    LossPolicy, SessionClientData, SessionHello, SessionSendRequest, SessionSpawnRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use crate::load::{Client, authorize};
use crate::network::Host;
use crate::processes::{Orchestrator, PATIENCE};
use crate::sessions::instance::payload;
use crate::talk_kill::healthy;

/// Longer than the pauses between probes: what has been silent for so long is the session.
const SILENCE: Duration = Duration::from_secs(2);

fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    authorize(&mut request);
    request
}

pub(crate) async fn an_idle_session_behind_a_black_hole_is_opened_again_before_anybody_asks() {
    let host = Host::start(24);
    let instance = host.instance("A");
    let orchestrator = Orchestrator::start(&[("A", instance.address)]);
    healthy(&orchestrator).await;
    let mut client = Client::connect(format!("http://{}", orchestrator.address))
        .await
        .unwrap();
    let session_id = "idle".to_owned();
    let spawn = SessionSpawnRequest {
        session_id: session_id.clone(),
        loss_policy: LossPolicy::Reassign.into(),
        ..Default::default()
    };
    client.session_spawn(authorized(spawn)).await.unwrap();
    let (tx, rx) = mpsc::channel(4);
    let say = |frame| {
        let frame = Some(frame);
        tx.try_send(SessionSendRequest { frame }).unwrap();
    };
    say(Out::Hello(SessionHello {
        session_id,
        last_received_seq: None,
    }));
    say(Out::Data(SessionClientData {
        seq: 1,
        payload: Some(payload("m1")),
        in_reply_to: 0,
    }));
    let answer = client.session_send(authorized(ReceiverStream::new(rx)));
    let mut frames = answer.await.unwrap().into_inner();
    let mut next = async || {
        let next = timeout(PATIENCE, frames.message()).await;
        let next = next.expect("something happens").unwrap();
        next.expect("the session goes on").frame.unwrap()
    };
    while !matches!(next().await, In::Data(_)) {}
    // Nothing happens meanwhile.
    let _ = timeout(SILENCE * 2, std::future::pending::<()>()).await;
    host.cut_what_is_silent_for(SILENCE);
    // Nobody sends anything: only the system can find out.
    while !matches!(next().await, In::Moved(moved) if moved.epoch == 2) {}
}
