//! How a conversation is left: not before the server knows what has been received.
//!
//! A stream that is dropped is reset, and a reset may overtake the acknowledgement before it. Then the output of now
//! would come again in the next conversation.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::session_attach::{Attached, frame};
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_request::Frame as Out;
use crate::proto::orchestrator::session_send_response::Frame as In;

/// How long it is waited for. What is not acknowledged by then is brought again, which the contract allows.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How often the server is asked.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// Acknowledges everything that was received, and makes sure that it was heard.
pub(super) async fn leave(id: &str, attached: Attached, received: Option<u64>) {
    let Some(seq) = received else { return };
    // A session that is over, or a server that has gone, needs to be told nothing.
    let _ = timeout(LEAVE_MAX, acknowledge(id, attached, seq)).await;
}

async fn acknowledge(id: &str, mut attached: Attached, seq: u64) {
    let ack = frame(Out::Ack(proto::SessionAck { seq }));
    if attached.frames.send(ack).await.is_err() {
        return;
    }
    let mut client = attached.connection.orchestrator();
    // Messages that come only now are not shown, and stay unacknowledged: they come again.
    let mut late = 0;
    loop {
        let session_id = id.to_owned();
        let request = proto::SessionGetRequest { session_id };
        let request = attached.connection.request(request, Some(LEAVE_MAX));
        let Ok(got) = client.session_get(request).await else {
            return;
        };
        let session = got.into_inner().session.unwrap_or_default();
        if session.unacknowledged_by_client <= late {
            return;
        }
        tokio::select! {
            answer = attached.answers.message() => match answer {
                Ok(Some(answer)) => late += u64::from(matches!(answer.frame, Some(In::Data(_)))),
                Ok(None) | Err(_) => return,
            },
            () = sleep(ASKED_EVERY) => {}
        }
    }
}
