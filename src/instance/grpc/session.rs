//! One session over one HTTP/2 stream: two halves that are polled where the session is held.
//!
//! No task and no queue of our own stands behind a stream. What is sent waits in h2 for the instance's window, one
//! frame at most when `ready` is asked; what comes waits there for whoever takes it, as much as the stream's
//! window allows.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message as _;

use super::answer::{self, MESSAGE_BYTES_MAX, PREFIX_BYTES, malformed};
use super::frame;
use super::link::{Begun, End, Sender};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::instance::reset::within_answer;
use crate::instance::room::Place;
use crate::instance::session::{
    CloseReason, Data, Frame, Gone, Open, Opened, ReceiveFrames, Receiver, SendFrames,
    Sender as SessionSender,
};
use crate::proto::instance::session_response::Frame as Received;
use crate::proto::instance::{
    SessionClose, SessionCloseReason, SessionData, SessionOpen, SessionRequest, SessionResponse,
    session_request,
};

/// Opens a stream and waits until the instance takes part.
pub(super) async fn open(
    id: InstanceId,
    sender: Sender,
    request: Request<()>,
    open: Open,
) -> Result<Opened, Failure> {
    let first = encoded(session_request::Frame::Open(opening(open)));
    let Begun {
        response,
        stream,
        place,
    } = sender.begin(request, first, End::Later)?;
    let body = answer::begin(&id, response).await?;
    let place = Arc::new(place);
    let mut incoming = Incoming {
        id,
        messages: Some(Messages::new(body)),
        _place: Arc::clone(&place),
    };
    let first = poll_fn(|context| incoming.poll_message(context)).await;
    let received_through = match first {
        Some(Ok(Received::Opened(opened))) => opened.received_through,
        Some(Err(failure)) => return Err(failure),
        Some(Ok(Received::Data(_) | Received::Ack(_) | Received::Close(_))) => {
            return Err(malformed(&incoming.id, "the session begins without opened"));
        }
        None => return Err(malformed(&incoming.id, "the session ended before it began")),
    };
    Ok(Opened {
        received_through,
        sender: SessionSender::new(Outgoing {
            stream,
            _place: place,
        }),
        receiver: Receiver::new(incoming),
    })
}

fn opening(open: Open) -> SessionOpen {
    let labels = open.labels.iter();
    SessionOpen {
        session: open.session.to_string(),
        spawn_time: Some(prost_types::Timestamp {
            seconds: (open.spawned_ms / 1000) as i64,
            nanos: (open.spawned_ms % 1000) as i32 * 1_000_000,
        }),
        epoch: open.epoch,
        next_seq: open.next_seq,
        answered_through: open.answered_through,
        received_through: open.received.through,
        received_epoch: open.received.epoch,
        labels: labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

fn encoded(frame: session_request::Frame) -> frame::Frame {
    let message = SessionRequest { frame: Some(frame) };
    frame::Frame::encoded(message.encode_to_vec().into())
}

/// What goes to the instance.
struct Outgoing {
    stream: SendStream<frame::Frame>,
    _place: Arc<Place>,
}

impl SendFrames for Outgoing {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        // h2 grants this byte only after all that was sent before has its window.
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_granted)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        let is_last = matches!(frame, Frame::Close { .. });
        let frame = match frame {
            Frame::Data(data) => frame::Frame::data(data),
            Frame::Ack { through } => frame::Frame::ack(through),
            Frame::Close { reason, detail } => {
                encoded(session_request::Frame::Close(SessionClose {
                    reason: close_reason(reason).into(),
                    detail: detail.to_string(),
                }))
            }
        };
        self.stream.send_data(frame, is_last).map_err(|_| Gone)
    }
}

fn close_reason(reason: CloseReason) -> SessionCloseReason {
    match reason {
        CloseReason::Done => SessionCloseReason::Done,
        CloseReason::Expired => SessionCloseReason::Expired,
        CloseReason::Moved => SessionCloseReason::Moved,
        CloseReason::Suspended => SessionCloseReason::Suspended,
    }
}

/// What comes from the instance.
struct Incoming {
    id: InstanceId,
    /// Gone once the stream has ended or failed.
    messages: Option<Messages>,
    _place: Arc<Place>,
}

impl ReceiveFrames for Incoming {
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let Some(received) = ready!(self.poll_message(context)) else {
            return Poll::Ready(None);
        };
        let frame = received.and_then(|received| to_frame(&self.id, received));
        if frame.is_err() {
            self.messages = None;
        }
        Poll::Ready(Some(frame))
    }
}

impl Incoming {
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received, Failure>>> {
        let Some(messages) = &mut self.messages else {
            return Poll::Ready(None);
        };
        let found = match ready!(messages.poll_next(&self.id, context)) {
            Ok(Some(message)) => decode(&self.id, message).map(Some),
            Ok(None) => Ok(None),
            Err(failure) => Err(failure),
        };
        if !matches!(found, Ok(Some(_))) {
            self.messages = None;
        }
        Poll::Ready(found.transpose())
    }
}

fn decode(id: &InstanceId, message: Bytes) -> Result<Received, Failure> {
    let message = SessionResponse::decode(message)
        .map_err(|_| malformed(id, "the session has what is not a SessionResponse"))?;
    let unknown = || malformed(id, "the session has a frame of an unknown kind");
    message.frame.ok_or_else(unknown)
}

fn to_frame(id: &InstanceId, received: Received) -> Result<Frame, Failure> {
    match received {
        Received::Opened(_) => Err(malformed(id, "the session says opened twice")),
        Received::Data(data) => to_data(id, data).map(Frame::Data),
        Received::Ack(ack) => Ok(Frame::Ack {
            through: ack.through,
        }),
        Received::Close(close) => {
            let reason = match close.reason() {
                SessionCloseReason::Done => CloseReason::Done,
                SessionCloseReason::Suspended => CloseReason::Suspended,
                SessionCloseReason::Unspecified
                | SessionCloseReason::Expired
                | SessionCloseReason::Moved => {
                    return Err(malformed(
                        id,
                        "the instance closes the session for no reason of its own",
                    ));
                }
            };
            Ok(Frame::Close {
                reason,
                detail: close.detail.into(),
            })
        }
    }
}

fn to_data(id: &InstanceId, data: SessionData) -> Result<Data, Failure> {
    let payload = match data.payload {
        None => Payload::null(),
        Some(encoded) => Payload::check(encoded).map_err(|bad| Failure {
            detail: bad.to_string().into(),
            ..malformed(id, "")
        })?,
    };
    Ok(Data {
        seq: data.seq,
        in_reply_to: Some(data.in_reply_to).filter(|seq| *seq != 0),
        redelivered: data.redelivered,
        payload,
    })
}

/// The messages of a stream, cut out of its bytes. Between two messages it holds no memory.
struct Messages {
    body: RecvStream,
    /// Bytes that came and were not looked at; the instance's window lacks them.
    rest: Bytes,
    /// The beginning of a message that came in pieces.
    begun: BytesMut,
}

impl Messages {
    fn new(body: RecvStream) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            begun: BytesMut::new(),
        }
    }

    /// The next message; `None` when the instance has ended the stream with OK.
    fn poll_next(
        &mut self,
        id: &InstanceId,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        loop {
            if let Some(message) = self.cut(id)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.body.poll_data(context)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Err(within_answer(id, &error))),
                None => break,
            }
        }
        let trailers = ready!(self.body.poll_trailers(context))
            .map_err(|error| within_answer(id, &error))?
            .unwrap_or_default();
        answer::end(id, &trailers)?;
        if !self.begun.is_empty() {
            return Poll::Ready(Err(malformed(id, "the session ended within a message")));
        }
        Poll::Ready(Ok(None))
    }

    /// Takes one whole message out of what has come, or sets aside what there is of it.
    fn cut(&mut self, id: &InstanceId) -> Result<Option<Bytes>, Failure> {
        if self.begun.is_empty() {
            let whole = whole(id, &self.rest)?;
            if whole.is_some_and(|whole| whole <= self.rest.len()) {
                let mut message = self.take(whole.unwrap_or_default());
                return Ok(Some(message.split_off(PREFIX_BYTES)));
            }
        }
        loop {
            let whole = whole(id, &self.begun)?;
            let wanted = whole.unwrap_or(PREFIX_BYTES);
            if whole.is_some() && wanted == self.begun.len() {
                let mut message = std::mem::take(&mut self.begun).freeze();
                return Ok(Some(message.split_off(PREFIX_BYTES)));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let piece = self.take((wanted - self.begun.len()).min(self.rest.len()));
            self.begun.extend_from_slice(&piece);
        }
    }

    /// Takes bytes that are looked at now: their window belongs to the instance again.
    fn take(&mut self, count: usize) -> Bytes {
        let taken = if count == self.rest.len() {
            // An empty remainder would keep the memory of all that came with it.
            std::mem::take(&mut self.rest)
        } else {
            self.rest.split_to(count)
        };
        // It cannot be given back twice, and a stream that has ended needs none.
        let _ = self.body.flow_control().release_capacity(count);
        taken
    }
}

/// The length of the message that begins here, prefix included, once it is known; judged before it is believed.
fn whole(id: &InstanceId, bytes: &[u8]) -> Result<Option<usize>, Failure> {
    if bytes.first().is_some_and(|flag| *flag != 0) {
        let what = "the session is compressed, which was not asked for";
        return Err(malformed(id, what));
    }
    let Some(length) = answer::announced(bytes) else {
        return Ok(None);
    };
    if MESSAGE_BYTES_MAX < length {
        let detail = format!("the session has a message of more than {MESSAGE_BYTES_MAX} bytes");
        return Err(Failure::at(
            id,
            Reason::AnswerTooLarge,
            Progress::Answered,
            detail,
        ));
    }
    Ok(Some(PREFIX_BYTES + length))
}
