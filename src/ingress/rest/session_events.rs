//! Attaching to a session: what its instance says, as events that a reader resumes by the id of the last one.
//!
//! A reader acknowledges by coming back with `Last-Event-ID`, or by a call of its own (`sessions/{id}/ack`), and by
//! nothing else, since a byte that was handed to a socket may never have been read. So that a reader who does neither
//! does not fill the journal, the stream ends by itself after so many messages, and asks to be opened again at once.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response};
use serde_json::json;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;

use super::super::caller;
use super::super::failure_body::Problem;
use super::super::methods::Frames;
use super::super::revoked::Revocation;
use super::events::{self, Event};
use super::{Call, Shared, answer};
use crate::domain::failure::{Failure, Reason};
use crate::domain::session::Bounds;
use crate::domain::task::Names;
use crate::proto::orchestrator::session_send_response::Frame;
use crate::proto::orchestrator::{SessionGetRequest, SessionGoAway, SessionServerData};

const LAST_EVENT_ID: &str = "last-event-id";
/// How long a reader that comes back by itself waits first, where nothing says otherwise.
const RETRY: Duration = Duration::from_secs(1);
/// The same, for one whose place somebody else has taken: two that come back at once would take turns for ever.
const RETRY_SUPERSEDED: Duration = Duration::from_secs(3600);

pub(super) async fn listen(shared: Arc<Shared>, call: Call) -> Result<Response<Body>, Problem> {
    let has = last_event_id(&call.headers).map_err(Problem::of)?;
    if call.verb == Method::HEAD {
        // Attaching would end the stream of whoever is attached.
        let session_id = call.id;
        let request = SessionGetRequest { session_id };
        let there = shared.orchestrator.session_get(call.arrival, request).await;
        let nothing = |_| events::response(tokio_stream::empty());
        return there.map(nothing).map_err(Problem::of);
    }
    let arrival = call.arrival;
    let frames = shared.orchestrator.session_listen(&arrival, &call.id, has);
    let frames = frames.await.map_err(Problem::of)?;
    let key = arrival.exchange.key();
    let most = shared.orchestrator.session_bounds().half();
    Ok(events::response(told(Listening {
        shared,
        frames,
        names: arrival.names.clone(),
        revoked: key.map(|key| key.wait()),
        handed_out: HandedOut::default(),
        most,
    })))
}

/// What the reader says that it has.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let id = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) if value.is_empty() => return Ok(None),
        (Some(value), None) => value.to_str().ok().and_then(|text| text.parse().ok()),
        (Some(_), Some(_)) => None,
    };
    id.map(Some).ok_or_else(|| {
        let detail = "last-event-id: expected the id of an event, which is a whole number";
        Failure::new(Reason::ArgumentInvalid, detail)
    })
}

/// A reader that is attached.
struct Listening {
    shared: Arc<Shared>,
    frames: Frames,
    names: Names,
    /// Fires when the key of the reader is no longer accepted.
    revoked: Option<Revocation>,
    handed_out: HandedOut,
    /// So much is handed out, and then the stream ends.
    most: Bounds,
}

/// Messages of this stream, none of which is acknowledged yet.
#[derive(Default)]
struct HandedOut {
    count: usize,
    bytes: usize,
}

impl HandedOut {
    fn add(&mut self, data: &SessionServerData) {
        self.count += 1;
        self.bytes += data.payload.as_ref().map_or(0, bytes::Bytes::len);
    }

    fn is_enough(&self, most: Bounds) -> bool {
        most.messages <= self.count || most.bytes <= self.bytes
    }
}

/// Whether a stream goes on behind an event.
enum Told {
    More(Event),
    Last(Event),
}

fn told(listening: Listening) -> impl Stream<Item = Event> + Send {
    futures_util::stream::unfold(Some(listening), |listening| async {
        let mut listening = listening?;
        match listening.next().await {
            Told::More(event) => Some((event, Some(listening))),
            // Dropping the rest detaches the reader.
            Told::Last(event) => Some((event, None)),
        }
    })
}

impl Listening {
    async fn next(&mut self) -> Told {
        if self.handed_out.is_enough(self.most) {
            return Told::Last(self.go_away(Duration::ZERO));
        }
        loop {
            let frame = tokio::select! {
                biased;
                () = fires(&mut self.revoked) => Some(Err(caller::revoked_key())),
                frame = self.frames.next() => frame,
            };
            match frame {
                None => return Told::Last(self.go_away(RETRY)),
                Some(Err(failure)) => return Told::Last(self.failed(failure)),
                Some(Ok(frame)) => {
                    if let Some(told) = frame.frame.and_then(|frame| self.frame(frame)) {
                        return told;
                    }
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Option<Told> {
        let shared = &self.shared;
        let event = match frame {
            Frame::Ready(ready) => {
                Event::message(shared, "ready", "SessionReady", &ready).with_retry(RETRY)
            }
            Frame::Data(data) => {
                self.handed_out.add(&data);
                data_event(shared, data)
            }
            // Of messages that are sent on a stream: who listens sends none.
            Frame::Ack(_) => return None,
            Frame::Moved(moved) => Event::message(shared, "moved", "SessionMoved", &moved),
            Frame::Lost(lost) => Event::message(shared, "lost", "SessionLost", &lost),
            Frame::GoAway(away) => {
                let delay = away.delay.and_then(|delay| delay.try_into().ok());
                return Some(Told::Last(self.go_away(delay.unwrap_or(RETRY))));
            }
            Frame::Closed(closed) => {
                let event = Event::message(shared, "closed", "SessionClosed", &closed);
                return Some(Told::Last(event));
            }
        };
        Some(Told::More(event))
    }

    /// The stream ends, and the session goes on: its reader comes again after the delay.
    fn go_away(&self, delay: Duration) -> Event {
        let away = SessionGoAway {
            delay: prost_types::Duration::try_from(delay).ok(),
        };
        Event::message(&self.shared, "goaway", "SessionGoAway", &away).with_retry(delay)
    }

    fn failed(&self, failure: Failure) -> Event {
        let retry = if failure.reason == Reason::SessionSuperseded {
            RETRY_SUPERSEDED
        } else {
            RETRY
        };
        Event::failed(failure, &self.names).with_retry(retry)
    }
}

async fn fires(revoked: &mut Option<Revocation>) {
    match revoked {
        Some(revoked) => revoked.as_mut().await,
        None => std::future::pending().await,
    }
}

fn data_event(shared: &Shared, data: SessionServerData) -> Event {
    let seq = data.seq;
    let made = answer::message_json(shared, "SessionServerData", &data);
    let told = made.map(|made| Box::<str>::from(made).into_string());
    let told = told.unwrap_or_else(|error| unsayable(seq, &error));
    Event::new("data", told).with_id(seq)
}

/// A message that JSON cannot say is told with its number all the same: a gap would be silence.
fn unsayable(seq: u64, error: &serde_json::Error) -> String {
    let error = json!({
        "code": Reason::AnswerMalformed.name().to_lowercase(),
        "message": error.to_string(),
        "retryable": false,
    });
    json!({"seq": seq.to_string(), "error": error}).to_string()
}
