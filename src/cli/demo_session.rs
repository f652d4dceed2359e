//! The part of the demo in which a session outlives its instance.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::exit::Error;
use crate::app::App;
use crate::payload_json;
use crate::proto::orchestrator as proto;

/// Who holds the session, and who goes on with it.
pub(super) const HOLDER: &str = "G";
const HEIR: &str = "H";
const ID: &str = "demo";
/// Longer than another instance takes to go on.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One message, its reply, and who held the session then.
struct Said {
    message: &'static str,
    reply: String,
    instance: String,
}

/// Holds a conversation of three messages, and ends its instance, which `other` holds, after the second.
pub(super) async fn tell(connection: &Connection, other: App) -> Result<String, Error> {
    let request = proto::SessionSpawnRequest {
        session_id: ID.to_owned(),
        instances: vec![HOLDER.to_owned(), HEIR.to_owned()],
        selection: proto::Selection::Ordered.into(),
        loss_policy: proto::LossPolicy::Replay.into(),
        ..proto::SessionSpawnRequest::default()
    };
    let mut client = connection.orchestrator();
    client
        .session_spawn(connection.request(request, Some(TIMEOUT)))
        .await?;
    let mut said = Vec::new();
    for message in ["\"one\"", "\"two\""] {
        said.push(say(connection, message).await?);
    }
    // Every connection breaks, and nobody listens any more.
    other.stop().await;
    let killed = Instant::now();
    said.push(say(connection, "\"three\"").await?);
    let took =
        humantime::format_duration(Duration::from_millis(killed.elapsed().as_millis() as u64));
    let lines: String = said.iter().map(line).collect();
    Ok(format!(
        "{lines}{HOLDER} was killed after the second message. It had a moment to come back; then {} got the whole\nconversation again and went on, {took} later.\n",
        said.last().map_or(HEIR, |last| &last.instance),
    ))
}

fn line(said: &Said) -> String {
    let Said {
        message,
        reply,
        instance,
    } = said;
    format!("{message} → {instance} → {reply}\n")
}

async fn say(connection: &Connection, message: &'static str) -> Result<Said, Error> {
    let payload = payload_json::from_json(message).map_err(|bad| Error::Answer(bad.to_string()))?;
    let request = proto::SessionPostRequest {
        session_id: ID.to_owned(),
        payload: Some(payload.into_encoded()),
        ..proto::SessionPostRequest::default()
    };
    let mut client = connection.orchestrator();
    let posted = client
        .session_post(connection.request(request, Some(TIMEOUT)))
        .await?
        .into_inner();
    let request = proto::SessionGetRequest {
        session_id: ID.to_owned(),
    };
    let session = client
        .session_get(connection.request(request, Some(TIMEOUT)))
        .await?
        .into_inner()
        .session;
    let reply = posted.payload.unwrap_or_default();
    let reply = payload_json::to_json(&reply).map_err(|bad| Error::Answer(bad.to_string()))?;
    Ok(Said {
        message,
        reply,
        instance: session.unwrap_or_default().instance,
    })
}
