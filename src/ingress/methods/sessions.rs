//! The methods of sessions. A stream of frames is a stream here too, whichever door it comes by.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::{Orchestrator, from_proto, session_from_proto, session_to_proto};
use crate::domain::deadline::Deadline;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{
    PAGE_BYTES_MAX, SESSION_CALL_TIMEOUT, SESSION_CLOSE_WAIT, SESSION_HELLO_TIMEOUT,
};
use crate::domain::session::{Bounds, SessionId};
use crate::ingress::arrival::Arrival;
use crate::orchestrate::hold_session::frame::Incoming;
use crate::orchestrate::hold_session::{Deduplicated, Post, Wait};
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_request::Frame;
use crate::proto::orchestrator::{
    SessionAck, SessionCloseRequest, SessionCloseResponse, SessionGetRequest, SessionGetResponse,
    SessionHello, SessionListRequest, SessionListResponse, SessionPostRequest, SessionPostResponse,
    SessionSendRequest, SessionSendResponse, SessionSpawnRequest, SessionSpawnResponse,
};
use crate::telemetry::trace::Span;

/// Names the session of a stream before its first message, for proxies that route by it.
pub(in crate::ingress) const SESSION: &str = "x-orchestrator-session";

/// A store that takes too long to tell.
const UNREAD: &str = "the journal was not read in time";

/// What a client that is attached is told.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<SessionSendResponse, Failure>> + Send>>;

impl Orchestrator {
    fn session_ends(&self, arrival: &Arrival, default: Duration) -> Deadline {
        arrival.deadline(None, default, self.house.timeouts().max)
    }

    /// Begins a session.
    pub(crate) async fn session_spawn(
        &self,
        arrival: Arrival,
        request: SessionSpawnRequest,
    ) -> Result<SessionSpawnResponse, Failure> {
        let caller = arrival.caller.0.as_deref().unwrap_or_default();
        let asked = session_from_proto::spawn(caller, request, self.house.session_idle_ttl)?;
        let deadline = self.session_ends(&arrival, SESSION_CALL_TIMEOUT);
        let late = "the session was not begun in time: it may be all the same, and is found under its idempotency_key";
        let spawned = in_time(deadline, late, self.house.sessions.spawn(asked)).await?;
        Ok(SessionSpawnResponse {
            session: Some(session_to_proto::session(spawned.session)),
            token: spawned.token,
            deduplicated: spawned.deduplicated == Deduplicated::Yes,
        })
    }

    /// Attaches a client, whose first frame must be hello. `named` is the session that its metadata names.
    pub(crate) async fn session_send(
        &self,
        arrival: Arrival,
        named: Option<&str>,
        mut incoming: impl Stream<Item = Result<SessionSendRequest, Failure>> + Send + Unpin + 'static,
    ) -> Result<Frames, Failure> {
        let named = named.map(|text| session_from_proto::id(SESSION, text));
        let named = named.transpose()?;
        if let Some(id) = &named {
            // Whoever may not, or names what is not there, learns it before anything is read.
            allowed(&arrival, id)?;
            self.house.sessions.check(id)?;
        }
        let deadline = self.session_ends(&arrival, SESSION_HELLO_TIMEOUT);
        let within = arrival.exchange.within().clone();
        let attaching = async {
            let hello = hello(incoming.next().await.transpose()?)?;
            let id = id(named, &hello)?;
            allowed(&arrival, &id)?;
            let exchange = Arc::clone(&arrival.exchange);
            exchange.weigh_nothing();
            let frames: Incoming = Box::pin(incoming.map(move |frame| {
                // It is whole, and what is kept of it is weighed where it is kept.
                exchange.weigh_nothing();
                frame.and_then(session_from_proto::frame)
            }));
            let span = within.attach(&id);
            let attached = self
                .house
                .sessions
                .attach(&id, hello.last_received_seq, frames);
            attached_as(span, attached.await)
        };
        let late = "the client did not say hello, or was not attached, in time";
        let outgoing = in_time(deadline, late, attaching).await?;
        Ok(Box::pin(
            outgoing.map(|frame| frame.map(session_to_proto::frame)),
        ))
    }

    /// How much of what a session says to its client may be unacknowledged.
    pub(crate) fn session_bounds(&self) -> Bounds {
        self.house.sessions.bounds()
    }

    /// Attaches a client that listens and says nothing: what it has received it says when it attaches again, or by
    /// `session_acknowledge`.
    pub(crate) async fn session_listen(
        &self,
        arrival: &Arrival,
        session_id: &str,
        last_received_seq: Option<u64>,
    ) -> Result<Frames, Failure> {
        let id = session_from_proto::id("session_id", session_id)?;
        allowed(arrival, &id)?;
        let deadline = self.session_ends(arrival, SESSION_HELLO_TIMEOUT);
        let silent: Incoming = Box::pin(futures_util::stream::pending());
        let span = arrival.exchange.within().attach(&id);
        let attaching = async {
            let attached = self.house.sessions.attach(&id, last_received_seq, silent);
            attached_as(span, attached.await)
        };
        let late = "the client was not attached in time";
        let outgoing = in_time(deadline, late, attaching).await?;
        Ok(Box::pin(
            outgoing.map(|frame| frame.map(session_to_proto::frame)),
        ))
    }

    /// Sends one message without attaching, and waits for the reply unless told not to.
    pub(crate) async fn session_post(
        &self,
        arrival: Arrival,
        request: SessionPostRequest,
    ) -> Result<SessionPostResponse, Failure> {
        let session = session_from_proto::id("session_id", &request.session_id)?;
        allowed(&arrival, &session)?;
        let timeout = from_proto::timeout("timeout", request.timeout)?;
        let deadline = arrival.deadline(
            timeout,
            self.house.timeouts().route,
            self.house.timeouts().max,
        );
        let payload = from_proto::payload(request.payload)?;
        let idempotency =
            session_from_proto::post_key(request.idempotency_key, request.in_reply_to, &payload)?;
        let posting = self.house.sessions.post(Post {
            session,
            in_reply_to: request.in_reply_to,
            payload,
            idempotency,
            wait: if request.no_wait {
                Wait::Stored
            } else {
                Wait::Replied
            },
        });
        let late = "the instance did not reply in time; what was accepted stays accepted";
        let posted = in_time(deadline, late, posting).await?;
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

    /// What a client has received that listens and says nothing: it need not come back to say so.
    pub(crate) async fn session_acknowledge(
        &self,
        arrival: Arrival,
        session_id: &str,
        ack: SessionAck,
    ) -> Result<SessionGetResponse, Failure> {
        let id = session_from_proto::id("session_id", session_id)?;
        allowed(&arrival, &id)?;
        let deadline = self.session_ends(&arrival, SESSION_CALL_TIMEOUT);
        let late = "what the client has received was not written down in time";
        let acknowledging = self.house.sessions.acknowledge(&id, ack.seq);
        let shown = in_time(deadline, late, acknowledging).await?;
        Ok(SessionGetResponse {
            session: Some(session_to_proto::session(shown)),
        })
    }

    /// Tells how a session is.
    pub(crate) async fn session_get(
        &self,
        arrival: Arrival,
        request: SessionGetRequest,
    ) -> Result<SessionGetResponse, Failure> {
        let id = session_from_proto::id("session_id", &request.session_id)?;
        allowed(&arrival, &id)?;
        let deadline = self.session_ends(&arrival, SESSION_CALL_TIMEOUT);
        let shown = in_time(deadline, UNREAD, self.house.sessions.get(&id)).await?;
        Ok(SessionGetResponse {
            session: Some(session_to_proto::session(shown)),
        })
    }

    /// Ends a session for both sides.
    pub(crate) async fn session_close(
        &self,
        arrival: Arrival,
        request: SessionCloseRequest,
    ) -> Result<SessionCloseResponse, Failure> {
        let id = session_from_proto::id("session_id", &request.session_id)?;
        allowed(&arrival, &id)?;
        let deadline = self.session_ends(&arrival, SESSION_CLOSE_WAIT);
        let late = "the end of the session was not written in time";
        let shown = in_time(deadline, late, self.house.sessions.close(&id)).await?;
        Ok(SessionCloseResponse {
            session: Some(session_to_proto::session(shown)),
        })
    }

    /// Lists sessions.
    pub(crate) async fn session_list(
        &self,
        arrival: Arrival,
        request: SessionListRequest,
    ) -> Result<SessionListResponse, Failure> {
        use prost::Message as _;
        let size = from_proto::page_size(request.page_size)?;
        let mut query = session_from_proto::query(request)?;
        query.limit = size;
        let deadline = self.session_ends(&arrival, SESSION_CALL_TIMEOUT);
        let found = in_time(deadline, UNREAD, self.house.sessions.list(query)).await?;
        let mut next = found.next;
        let mut page: Vec<proto::Session> = Vec::new();
        let mut bytes = 0;
        for shown in found.sessions {
            let session = session_to_proto::session(shown);
            bytes += session.encoded_len();
            // Labels may be long: a page ends early rather than outgrow what clients take. One always fits.
            if let Some(last) = page.last()
                && PAGE_BYTES_MAX < bytes
            {
                next = SessionId::parse(&last.id).ok();
                break;
            }
            page.push(session);
        }
        Ok(SessionListResponse {
            next_page_token: next.map(|last| last.to_string()).unwrap_or_default(),
            sessions: page,
        })
    }
}

/// Does something for a caller, shortly before it gives up at the latest; nothing is begun for one that has.
async fn in_time<T>(
    deadline: Deadline,
    late: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let failure = || Failure::new(Reason::DeadlineExceeded, late);
    if deadline.budget(Instant::now().into_std()).is_none() {
        return Err(failure());
    }
    let ends = Instant::from_std(deadline.work_ends());
    let done = timeout_at(ends, work).await;
    done.unwrap_or_else(|_elapsed| Err(failure()))
}

/// The attaching is over.
fn attached_as<T>(span: Span, attached: Result<T, Failure>) -> Result<T, Failure> {
    let failure = attached.as_ref().err();
    span.end(failure.map_or("OK", |failure| failure.reason.name()), None);
    attached
}

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

fn hello(first: Option<SessionSendRequest>) -> Result<SessionHello, Failure> {
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
