//! An answer on its way out: in pieces, each weighed, so that it is seen when its reader has stopped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::caller;
use super::exchange::{Exchange, memory_full};
use super::failure_table;
use super::meter::Meter;
use super::revoked::Revocation;
use crate::domain::failure::Failure;
use crate::domain::limit::{ANSWER_PIECE_BYTES, ANSWER_SMALL_BYTES};
use crate::memory::{self, Memory, Purpose};

/// The body of an answer. HTTP/2 asks for its next piece only once the reader has made room for the one before.
pub(super) struct Outgoing {
    /// `None` once it is over.
    inner: Option<Body>,
    /// What is weighed already and has to leave next.
    rest: Bytes,
    exchange: Arc<Exchange>,
    memory: Memory,
    meter: Meter,
    last_words: LastWords,
    /// Fires when the key of the caller is revoked; there once the answer has made its reader wait.
    revoked: Option<Revocation>,
}

/// How an answer says that it ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastWords {
    /// By a status in trailers.
    Status,
    /// By breaking off: its reader knows no trailers.
    Reset,
}

impl Outgoing {
    /// The answer to an exchange.
    pub(super) fn wrap(
        response: Response<Body>,
        exchange: Arc<Exchange>,
        memory: Memory,
        meter: Meter,
    ) -> Response<Self> {
        let is_grpc =
            |value: &[u8]| value == b"application/grpc" || value.starts_with(b"application/grpc+");
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let last_words = if content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
            LastWords::Status
        } else {
            LastWords::Reset
        };
        response.map(|inner| Self {
            inner: Some(inner),
            rest: Bytes::new(),
            exchange,
            memory,
            meter,
            last_words,
            revoked: None,
        })
    }

    fn end(&mut self, failure: &Failure) -> Option<Result<Frame<Bytes>, Status>> {
        // Dropped at once: what still works for this answer need not.
        self.inner = None;
        let status = failure_table::status(failure);
        Some(match self.last_words {
            LastWords::Reset => Err(status),
            LastWords::Status => trailers(&status).map(|trailers| {
                self.meter.end(&trailers);
                Frame::trailers(trailers)
            }),
        })
    }

    /// What is small always leaves. The bytes weigh until the last of them is written.
    fn weighed(&self, data: Bytes) -> Result<Bytes, Failure> {
        let charge = self.memory.charge();
        if data.len() <= ANSWER_SMALL_BYTES {
            charge.grow_anyway(data.len());
        } else {
            charge
                .grow(data.len(), Purpose::Answer)
                .map_err(memory_full)?;
        }
        Ok(memory::kept(data, charge))
    }

    /// The end of a large answer is a piece of its own: it leaves our hands only once there is room for all
    /// that came before, so that little is left to whom nobody watches.
    fn piece(&mut self) -> Bytes {
        let length = self.rest.len();
        let piece = if length <= ANSWER_SMALL_BYTES {
            length
        } else {
            ANSWER_PIECE_BYTES.min(length - ANSWER_SMALL_BYTES)
        };
        self.rest.split_to(piece)
    }

    fn poll_key(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        let Some(key) = self.exchange.key() else {
            return Poll::Pending;
        };
        let revoked = self.revoked.get_or_insert_with(|| key.wait());
        ready!(revoked.as_mut().poll(context));
        Poll::Ready(caller::revoked_key())
    }
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.exchange.ask();
        loop {
            if !this.rest.is_empty() {
                this.exchange.hand_out();
                return Poll::Ready(Some(Ok(Frame::data(this.piece()))));
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(None);
            };
            let Poll::Ready(frame) = Pin::new(inner).poll_frame(context) else {
                let failure = ready!(this.poll_key(context));
                return Poll::Ready(this.end(&failure));
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => match this.weighed(data) {
                    Ok(data) => this.rest = data,
                    Err(failure) => return Poll::Ready(this.end(&failure)),
                },
                Err(trailers) => {
                    if let Some(headers) = trailers.trailers_ref() {
                        this.meter.end(headers);
                    }
                    // An answer to half a request ends as if it were whole where the framework does not tell.
                    let broken = this.exchange.broken().cloned();
                    return Poll::Ready(match broken {
                        Some(failure) if is_ok(trailers.trailers_ref()) => this.end(&failure),
                        Some(_) | None => Some(Ok(trailers)),
                    });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if self.rest.is_empty() => inner.size_hint(),
            Some(_) | None => SizeHint::default(),
        }
    }
}

fn is_ok(trailers: Option<&HeaderMap>) -> bool {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
    status.is_none_or(|status| status.as_bytes() == b"0")
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use http::Request;

    use super::*;
    use crate::domain::failure::Reason;
    use crate::telemetry::trace::Tracer;

    const LIMIT: usize = 300 * 1024;
    const DEADLINE_EXCEEDED: &str = "4";
    const RESOURCE_EXHAUSTED: &str = "8";

    /// An answer of so many bytes on its way out, and the account it is charged to.
    fn answer(content_type: &str, bytes: usize) -> (Outgoing, Memory) {
        let memory = Memory::new(LIMIT);
        let whole: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let body = Body::new(http_body_util::Full::new(Bytes::from(whole)));
        let response = Response::builder().header(header::CONTENT_TYPE, content_type);
        let response = response.body(body).unwrap();
        let exchange = Exchange::new(&memory);
        let outgoing = Outgoing::wrap(
            response,
            exchange,
            memory.clone(),
            Meter::begin(&Request::new(()), &Tracer::off(), "http"),
        )
        .into_body();
        (outgoing, memory)
    }

    #[tokio::test]
    async fn an_answer_leaves_in_pieces_and_weighs_until_the_last_of_them_is_gone() {
        for (bytes, expected) in [
            (0, &[][..]),
            (1, &[1]),
            (4096, &[4096]),
            (4097, &[1, 4096]),
            (70_000, &[65_536, 368, 4096]),
            (200_000, &[65_536, 65_536, 64_832, 4096]),
        ] {
            let (mut outgoing, memory) = answer("application/grpc", bytes);
            let mut pieces = Vec::new();
            while let Some(frame) = outgoing.frame().await {
                assert_eq!(memory.held(), bytes, "of {bytes}");
                pieces.push(frame.unwrap().into_data().unwrap());
            }
            let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
            assert_eq!(lengths, expected);
            let whole = pieces.concat();
            assert!((0..bytes).all(|at| whole[at] == at as u8));
            drop(outgoing);
            while pieces.pop().is_some() {
                let held = if pieces.is_empty() { 0 } else { bytes };
                assert_eq!(memory.held(), held);
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_ends_with_a_status_or_breaks_off() {
        let (outgoing, memory) = answer("application/grpc", LIMIT + 1);
        let trailers = outgoing.collect().await.unwrap().trailers().cloned();
        assert_eq!(trailers.unwrap()["grpc-status"], RESOURCE_EXHAUSTED);
        assert_eq!(memory.held(), 0);
        for other in ["application/json", "application/grpc-web"] {
            let (mut outgoing, _) = answer(other, LIMIT + 1);
            let broken = outgoing.frame().await.unwrap();
            let code = i32::from(broken.unwrap_err().code());
            assert_eq!(code.to_string(), RESOURCE_EXHAUSTED);
            assert!(outgoing.is_end_stream());
        }
        // What is small leaves all the same.
        let (outgoing, memory) = answer("application/grpc", 4096);
        memory.charge().grow_anyway(LIMIT);
        let full = memory.charge();
        full.grow_anyway(LIMIT);
        assert_eq!(outgoing.collect().await.unwrap().to_bytes().len(), 4096);
    }

    #[tokio::test]
    async fn an_answer_waits_for_its_reader_between_two_of_his_questions() {
        let (mut outgoing, _) = answer("application/grpc", 10_000);
        let exchange = Arc::clone(&outgoing.exchange);
        assert_eq!(exchange.waiting(), None);
        let _piece = outgoing.frame().await;
        let first = exchange.waiting();
        assert!(first.is_some());
        let _piece = outgoing.frame().await;
        assert!(exchange.waiting().is_some() && exchange.waiting() != first);
        assert!(outgoing.frame().await.is_none());
        assert_eq!(exchange.waiting(), None);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_request_is_told_where_the_framework_says_ok() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = vec![Ok::<_, Status>(Frame::trailers(trailers))];
        let body = Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames)));
        let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
        let memory = Memory::new(LIMIT);
        let exchange = Exchange::new(&memory);
        exchange.break_off(Failure::new(Reason::DeadlineExceeded, "late"));
        let outgoing = {
            let response = response.body(body).unwrap();
            Outgoing::wrap(
                response,
                exchange,
                memory,
                Meter::begin(&Request::new(()), &Tracer::off(), "http"),
            )
            .into_body()
        };
        let trailers = outgoing.collect().await.unwrap().trailers().cloned();
        assert_eq!(trailers.unwrap()["grpc-status"], DEADLINE_EXCEEDED);
    }
}
