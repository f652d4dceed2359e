//! Server-sent events (HTML, 9.2): an answer that goes on for as long as there is something to tell.
//!
//! Every stream of events ends with an event that says why, unless its connection breaks.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;

use super::super::failure_body::Problem;
use super::{Shared, answer};
use crate::domain::failure::Failure;
use crate::domain::limit::EVENTS_SILENCE_MAX;
use crate::domain::task::Names;

/// A line that is no event: it keeps the connection in use.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    name: &'static str,
    id: Option<u64>,
    retry: Option<Duration>,
    /// One line of JSON.
    data: String,
}

impl Event {
    /// A document as an event.
    pub(super) fn new(name: &'static str, data: String) -> Self {
        Self {
            name,
            id: None,
            retry: None,
            data,
        }
    }

    /// A message of the contract as an event. It must hold no payload.
    pub(super) fn message(
        shared: &Shared,
        name: &'static str,
        message_name: &str,
        message: &impl prost::Message,
    ) -> Self {
        match answer::message_json(shared, message_name, message) {
            Ok(made) => Self::new(name, Box::<str>::from(made).into_string()),
            Err(error) => Self::of_problem(&Problem::of(answer::bug(&error)), None),
        }
    }

    /// The last event of a stream that has failed: the status was sent long ago.
    pub(super) fn failed(failure: Failure, names: &Names) -> Self {
        Self::of_problem(&Problem::of(failure), Some(names))
    }

    fn of_problem(problem: &Problem, names: Option<&Names>) -> Self {
        // It was made of texts.
        let data = String::from_utf8(problem.body(names)).unwrap_or_default();
        Self::new("failed", data)
    }

    /// The number by which its reader says that it has come.
    pub(super) fn with_id(self, id: u64) -> Self {
        Self {
            id: Some(id),
            ..self
        }
    }

    /// How long a reader that comes back by itself waits before it does.
    pub(super) fn with_retry(self, retry: Duration) -> Self {
        Self {
            retry: Some(retry),
            ..self
        }
    }

    fn encode(&self) -> Bytes {
        let mut text = format!("event: {}\n", self.name);
        // A text takes whatever is written to it.
        let _ = self.id.map(|id| writeln!(text, "id: {id}"));
        let retry = self.retry.map(|retry| retry.as_millis());
        let _ = retry.map(|retry| writeln!(text, "retry: {retry}"));
        let _ = write!(text, "data: {}\n\n", self.data);
        text.into()
    }
}

/// The answer that these events are.
pub(super) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response<Body> {
    let frames = pieces(events).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let frames: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(frames);
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    let form = HeaderValue::from_static(answer::EVENTS);
    headers.insert(header::CONTENT_TYPE, form);
    // Proxies that gather an answer before they pass it on would spoil the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The events as they are written, and comments while there are none.
fn pieces(events: impl Stream<Item = Event> + Send + 'static) -> impl Stream<Item = Bytes> + Send {
    futures_util::stream::unfold(Box::pin(events), |mut events| async {
        match timeout(EVENTS_SILENCE_MAX, events.next()).await {
            Ok(Some(event)) => Some((event.encode(), events)),
            Ok(None) => None,
            Err(_silence) => Some((COMMENT, events)),
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn an_event_has_one_line_for_each_part_that_it_has() {
        let plain = Event::new("ready", "{}".to_owned());
        assert_eq!(plain.encode(), "event: ready\ndata: {}\n\n");
        let whole = Event::new("data", "1".to_owned());
        let whole = whole.with_id(7).with_retry(Duration::from_secs(1));
        let text = "event: data\nid: 7\nretry: 1000\ndata: 1\n\n";
        assert_eq!(whole.encode(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_in_use_and_loses_nothing() {
        let begun = Instant::now();
        let late = async {
            sleep(Duration::from_secs(40)).await;
            Event::new("late", "1".to_owned())
        };
        let events = futures_util::stream::once(late);
        let pieces: Vec<_> = pieces(events).collect().await;
        let text = Bytes::from_static(b"event: late\ndata: 1\n\n");
        assert_eq!(pieces, [COMMENT, COMMENT, text]);
        assert_eq!(begun.elapsed(), Duration::from_secs(40));
    }
}
