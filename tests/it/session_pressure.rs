//! A client that does not read, beside others on the same connection.

use std::sync::Arc;

use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{Session, SessionGetRequest};
use tonic::transport::Endpoint;

use crate::raw::soon;
use crate::session::{Attached, spawn};
use crate::stage::{Bearer, Client, KEY, embedded, start, text};

/// What the client lets come that it has not read: the smallest there is without asking for less.
const WINDOW: u32 = 65_535;
/// More messages than a session holds for its client, and so large that the window takes no two of them.
const MESSAGES: u64 = 24;
const MESSAGE_BYTES: usize = 60_000;
/// How many of them a session holds: 1 MiB.
const HELD: u64 = 17;

async fn shown(client: &mut Client, id: &str) -> Session {
    let session_id = id.to_owned();
    let got = client.session_get(SessionGetRequest { session_id }).await;
    got.unwrap().into_inner().session.unwrap()
}

fn words(seq: u64) -> String {
    format!("{seq}{}", ".".repeat(MESSAGE_BYTES))
}

#[tokio::test]
async fn a_client_that_does_not_read_parks_its_session_and_its_neighbour_does_not_notice() {
    let app = start(embedded()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", app.address())).unwrap();
    let endpoint = endpoint.initial_stream_window_size(WINDOW);
    let channel = endpoint.connect().await.unwrap();
    let mut client = OrchestratorServiceClient::with_interceptor(channel, Bearer(Arc::from(KEY)));
    for id in ["slow", "quick"] {
        spawn(&mut client, id).await;
    }
    let mut slow = Attached::new(&mut client, "slow", Some(0)).await;
    let mut quick = Attached::new(&mut client, "quick", Some(0)).await;
    for seq in 1..=MESSAGES {
        slow.send(seq, &words(seq)).await;
    }
    soon(async { while shown(&mut client, "slow").await.unacknowledged_by_client < HELD {} }).await;
    for seq in 1..=100 {
        quick.send(seq, "quick").await;
        let answer = soon(quick.message()).await;
        assert_eq!((answer.seq, answer.payload), (seq, text("quick")));
        quick.ack(seq).await;
    }
    let parked = shown(&mut client, "slow").await;
    assert!(parked.attached);
    assert_eq!(parked.unacknowledged_by_client, HELD, "and no more");
    assert_ne!(parked.unacknowledged_by_instance, 0, "it is slowed");

    // It reads on, and nothing is missing.
    for seq in 1..=MESSAGES {
        let answer = soon(slow.message()).await;
        assert_eq!((answer.seq, answer.payload), (seq, text(&words(seq))));
        slow.ack(seq).await;
    }
    let rested = async {
        loop {
            let shown = shown(&mut client, "slow").await;
            if (
                shown.unacknowledged_by_client,
                shown.unacknowledged_by_instance,
            ) == (0, 0)
            {
                return shown;
            }
        }
    };
    assert_eq!(soon(rested).await.epoch, 1, "nobody had to begin anew");
}
