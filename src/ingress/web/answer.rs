//! The body of an answer as it leaves: as it is, or with its trailers as the last message, and in base64 where that
//! is wanted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body::{Body, Frame, SizeHint};

use super::Form;
use crate::ingress::exchange::Exchange;
use crate::memory::{self, Memory};

/// The body of an answer. One piece of it is one piece of what is inside.
pub(in crate::ingress) struct Leaving<B> {
    inner: B,
    dress: Option<Dress>,
}

/// How an answer is dressed.
pub(in crate::ingress) struct Dress {
    /// How it is written.
    pub(in crate::ingress) form: Form,
    /// What its text is charged to.
    pub(in crate::ingress) memory: Memory,
    /// Who is told that its last message waits for its reader.
    pub(in crate::ingress) exchange: Arc<Exchange>,
}

/// The bit of a message's first byte which says that it holds the trailers.
const TRAILERS: u8 = 0x80;

impl<B: Body<Data = Bytes>> Leaving<B> {
    /// An answer that is dressed like that; as it is where there is nothing to put on.
    pub(in crate::ingress) fn wrap(
        mut response: Response<B>,
        dress: Option<Dress>,
    ) -> Response<Self> {
        let dress = dress.filter(|_| is_grpc(response.headers()));
        if let Some(dress) = &dress {
            let content_type = dress.form.content_type();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        response.map(|inner| Self { inner, dress })
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl Dress {
    fn put_on(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    // Trailers need no room at the reader; the message that they have become does.
                    self.exchange.hand_out();
                    message_of(&trailers)
                }
                // There is no third kind.
                Err(other) => return other,
            },
        };
        Frame::data(match self.form {
            Form::Binary => bytes,
            Form::Text => self.text(&bytes),
        })
    }

    /// Each piece has an end of its own: a message that was held back for the rest of its last group of characters
    /// would wait for the next one. It weighs what it has grown to; nothing new is taken in for it.
    fn text(&self, bytes: &Bytes) -> Bytes {
        let text = Bytes::from(STANDARD.encode(bytes));
        let charge = self.memory.charge();
        charge.grow_anyway(text.len());
        memory::kept(text, charge)
    }
}

/// Trailers as a message: names in lower case, as in HTTP/1.1.
fn message_of(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_slice(b":");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut message = BytesMut::with_capacity(5 + lines.len());
    message.put_u8(TRAILERS);
    // A list of headers is never that long.
    message.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    message.put(lines);
    message.freeze()
}

impl<B: Body<Data = Bytes> + Unpin> Body for Leaving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let inner = Pin::new(&mut this.inner);
        let Some(dress) = &this.dress else {
            return inner.poll_frame(context);
        };
        let frame = ready!(inner.poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| dress.put_on(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.dress {
            None => self.inner.size_hint(),
            Some(_) if self.inner.is_end_stream() => SizeHint::with_exact(0),
            // Trailers come on top, and text is longer.
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// What leaves for an answer of two pieces and a status, and what it weighs while it does.
    async fn leave(form: Option<Form>) -> (Response<()>, Vec<Frame<Bytes>>, usize) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-more", "a b".parse().unwrap());
        let frames = [
            Frame::data(Bytes::from_static(b"ab")),
            Frame::data(Bytes::from_static(b"cdef")),
            Frame::trailers(trailers),
        ];
        let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(StreamBody::new(frames)).unwrap();
        let memory = Memory::new(usize::MAX);
        let dress = form.map(|form| Dress {
            form,
            memory: memory.clone(),
            exchange: Exchange::new(&memory),
        });
        let (parts, mut body) = Leaving::wrap(response, dress).into_parts();
        let mut left = Vec::new();
        while let Some(frame) = body.frame().await {
            left.push(frame.unwrap());
        }
        let held = memory.held();
        (Response::from_parts(parts, ()), left, held)
    }

    fn data(frames: Vec<Frame<Bytes>>) -> Vec<Bytes> {
        let data = frames.into_iter().map(Frame::into_data);
        data.map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn trailers_leave_as_the_last_message_in_either_form() {
        let (head, frames, held) = leave(Some(Form::Binary)).await;
        assert_eq!(head.headers()["content-type"], "application/grpc-web+proto");
        let last = b"\x80\0\0\0\x1bgrpc-status:0\r\nx-more:a b\r\n";
        assert_eq!(data(frames), [&b"ab"[..], b"cdef", last]);
        // What is passed on as it is has its weight already.
        assert_eq!(held, 0);

        let (head, frames, held) = leave(Some(Form::Text)).await;
        let text = "application/grpc-web-text+proto";
        assert_eq!(head.headers()["content-type"], text);
        let frames = data(frames);
        let length: usize = frames.iter().map(Bytes::len).sum();
        assert_eq!(
            (&frames[..2], held),
            (&["YWI=".into(), "Y2RlZg==".into()][..], length)
        );
        assert_eq!(STANDARD.decode(&frames[2]).unwrap(), last);
    }

    #[tokio::test]
    async fn what_was_not_asked_for_as_grpc_web_leaves_as_it_is() {
        let (head, frames, _) = leave(None).await;
        assert_eq!(head.headers()["content-type"], "application/grpc");
        assert_eq!(frames.len(), 3);
        assert!(frames[2].is_trailers());
    }
}
