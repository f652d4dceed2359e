//! The methods of sessions.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Streaming};

use super::{House, arrival, from_proto, session_from_proto, session_to_proto};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{PAGE_BYTES_MAX, SESSION_CLOSE_WAIT, SESSION_HELLO_TIMEOUT};
use crate::domain::session::SessionId;
use crate::ingress::arrival::Arrival;
use crate::ingress::failure_table;
use crate::orchestrate::hold_session::frame::Incoming;
use crate::orchestrate::hold_session::{Deduplicated, Post, Sessions, Wait};
use crate::proto::orchestrator::session_send_request::Frame;
use crate::proto::orchestrator::{
    SessionCloseRequest, SessionCloseResponse, SessionGetRequest, SessionGetResponse, SessionHello,
    SessionListRequest, SessionListResponse, SessionPostRequest, SessionPostResponse,
    SessionSendRequest, SessionSendResponse, SessionSpawnRequest, SessionSpawnResponse,
};

/// Names the session of a stream before its first message, for proxies that route by it.
const SESSION: &str = "x-orchestrator-session";

pub(super) type Frames = super::orchestrator::Events<SessionSendResponse>;

/// A caller that has shown a session's token may ask for that session only.
fn allowed(arrival: &Arrival, id: &SessionId) -> Result<(), Failure> {
    match &arrival.session {
        Some(own) if own != id => {
            let detail = "this token is good for its own session only";
            Err(Failure::new(Reason::SessionTokenForeign, detail))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) async fn spawn(
    sessions: &Sessions,
    mut request: Request<SessionSpawnRequest>,
) -> Result<SessionSpawnResponse, Failure> {
    let arrival = arrival(&mut request)?;
    let caller = arrival.caller.0.as_deref().unwrap_or_default();
    let asked = session_from_proto::spawn(caller, request.into_inner())?;
    let spawned = sessions.spawn(asked).await?;
    Ok(SessionSpawnResponse {
        session: Some(session_to_proto::session(spawned.session)),
        token: spawned.token,
        deduplicated: spawned.deduplicated == Deduplicated::Yes,
    })
}

pub(super) async fn send(
    house: &House,
    mut request: Request<Streaming<SessionSendRequest>>,
) -> Result<Response<Frames>, Failure> {
    let arrival = arrival(&mut request)?;
    let named = named(&request)?;
    if let Some(id) = &named {
        // Whoever may not, or names what is not there, learns it before anything is read.
        allowed(&arrival, id)?;
        house.sessions.check(id)?;
    }
    let deadline = arrival.deadline(None, SESSION_HELLO_TIMEOUT, house.timeouts.max);
    let ends = Instant::from_std(deadline.work_ends());
    let mut incoming = request.into_inner();
    let attaching = async {
        let hello = hello(&mut incoming).await?;
        let id = id(named, &hello)?;
        allowed(&arrival, &id)?;
        let frames: Incoming = Box::pin(incoming.map(|frame| match frame {
            Ok(frame) => session_from_proto::frame(frame),
            Err(status) => Err(failure_table::cut_off(&status)),
        }));
        let attached = house.sessions.attach(&id, hello.last_received_seq, frames);
        attached.await
    };
    let outgoing = timeout_at(ends, attaching).await.unwrap_or_else(|_late| {
        let detail = "the client did not say hello, or was not attached, in time";
        Err(Failure::new(Reason::DeadlineExceeded, detail))
    })?;
    let frames = outgoing.map(|frame| match frame {
        Ok(frame) => Ok(session_to_proto::frame(frame)),
        Err(failure) => Err(failure_table::status(&failure)),
    });
    Ok(Response::new(Box::pin(frames)))
}

fn named<T>(request: &Request<T>) -> Result<Option<SessionId>, Failure> {
    let Some(value) = request.metadata().get(SESSION) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    session_from_proto::id(SESSION, text).map(Some)
}

/// The first frame.
async fn hello(incoming: &mut Streaming<SessionSendRequest>) -> Result<SessionHello, Failure> {
    let first = incoming
        .message()
        .await
        .map_err(|status| failure_table::cut_off(&status))?;
    match first.and_then(|first| first.frame) {
        Some(Frame::Hello(hello)) => Ok(hello),
        Some(Frame::Data(_) | Frame::Ack(_) | Frame::Close(_)) | None => {
            let detail = "hello: must be the first frame";
            Err(Failure::new(Reason::ArgumentInvalid, detail))
        }
    }
}

fn id(named: Option<SessionId>, hello: &SessionHello) -> Result<SessionId, Failure> {
    let field = "hello.session_id";
    match named {
        None => session_from_proto::id(field, &hello.session_id),
        Some(named) if hello.session_id.is_empty() || hello.session_id == named.as_str() => {
            Ok(named)
        }
        Some(_) => Err(from_proto::invalid(
            field,
            format!("differs from the metadata {SESSION}"),
        )),
    }
}

pub(super) async fn post(
    house: &House,
    mut request: Request<SessionPostRequest>,
) -> Result<SessionPostResponse, Failure> {
    let arrival = arrival(&mut request)?;
    let request = request.into_inner();
    let session = session_from_proto::id("session_id", &request.session_id)?;
    allowed(&arrival, &session)?;
    let timeout = from_proto::timeout("timeout", request.timeout)?;
    let deadline = arrival.deadline(timeout, house.timeouts.route, house.timeouts.max);
    let payload = from_proto::payload(request.payload)?;
    let idempotency = session_from_proto::post_key(request.idempotency_key, &payload)?;
    let posted = house.sessions.post(Post {
        session,
        payload,
        idempotency,
        wait: if request.no_wait {
            Wait::Stored
        } else {
            Wait::Replied
        },
        ends: Instant::from_std(deadline.work_ends()),
    });
    let posted = posted.await?;
    let (reply_seq, payload) = match posted.reply {
        Some((seq, payload)) => (seq, Some(payload.into_encoded())),
        None => (0, None),
    };
    Ok(SessionPostResponse {
        position: posted.position,
        reply_seq,
        payload,
        deduplicated: posted.deduplicated == Deduplicated::Yes,
    })
}

pub(super) async fn get(
    sessions: &Sessions,
    mut request: Request<SessionGetRequest>,
) -> Result<SessionGetResponse, Failure> {
    let arrival = arrival(&mut request)?;
    let id = session_from_proto::id("session_id", &request.into_inner().session_id)?;
    allowed(&arrival, &id)?;
    let shown = sessions.get(&id).await?;
    Ok(SessionGetResponse {
        session: Some(session_to_proto::session(shown)),
    })
}

pub(super) async fn close(
    sessions: &Sessions,
    mut request: Request<SessionCloseRequest>,
) -> Result<SessionCloseResponse, Failure> {
    let arrival = arrival(&mut request)?;
    let id = session_from_proto::id("session_id", &request.into_inner().session_id)?;
    allowed(&arrival, &id)?;
    let limit: Duration = arrival.timeout.unwrap_or(SESSION_CLOSE_WAIT);
    let shown = sessions.close(&id, limit).await?;
    Ok(SessionCloseResponse {
        session: Some(session_to_proto::session(shown)),
    })
}

pub(super) async fn list(
    sessions: &Sessions,
    request: Request<SessionListRequest>,
) -> Result<SessionListResponse, Failure> {
    use prost::Message as _;
    let request = request.into_inner();
    let size = from_proto::page_size(request.page_size)?;
    let mut query = session_from_proto::query(request)?;
    // One more tells whether there is a next page.
    query.limit = size + 1;
    let found = sessions.list(query).await?;
    let mut page = Vec::new();
    let mut bytes = 0;
    let count = found.len();
    for shown in found.into_iter().take(size) {
        let session = session_to_proto::session(shown);
        bytes += session.encoded_len();
        // Labels may be long: a page ends early rather than outgrow what clients take. One always fits.
        if PAGE_BYTES_MAX < bytes && !page.is_empty() {
            break;
        }
        page.push(session);
    }
    let next = page.last().filter(|_| page.len() < count);
    Ok(SessionListResponse {
        next_page_token: next.map(|last| last.id.clone()).unwrap_or_default(),
        sessions: page,
    })
}
