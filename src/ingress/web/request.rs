//! The body of a request as it arrives: as it is, or out of base64.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::domain::failure::{Failure, Reason};

/// The body of a request, read out of whatever it was written in.
pub enum Arriving<B> {
    /// Nothing was done to it.
    AsItIs(B),
    /// It comes in base64.
    Text(FromText<B>),
}

/// A body that comes in base64.
pub struct FromText<B> {
    inner: B,
    /// What is no whole group of four characters yet.
    begun: Vec<u8>,
}

/// Characters that stand for three bytes.
const GROUP: usize = 4;

impl<B> Arriving<B> {
    /// A body in base64. It may be made of parts each of which has an end of its own.
    pub(super) fn text(inner: B) -> Self {
        let begun = Vec::new();
        Self::Text(FromText { inner, begun })
    }
}

impl<B> FromText<B> {
    fn decode(&mut self, text: &[u8]) -> Result<Bytes, Failure> {
        self.begun.extend_from_slice(text);
        let whole = self.begun.len() / GROUP * GROUP;
        let mut decoded = Vec::with_capacity(whole / GROUP * 3);
        let mut rest = &self.begun[..whole];
        while !rest.is_empty() {
            // A part ends with its padding.
            let end = rest.iter().position(|character| *character == b'=');
            let end = end.map_or(rest.len(), |at| (at / GROUP + 1) * GROUP);
            let (part, after) = rest.split_at(end);
            let read = STANDARD.decode_vec(part, &mut decoded);
            read.map_err(|_| not_base64())?;
            rest = after;
        }
        self.begun.drain(..whole);
        Ok(decoded.into())
    }
}

fn not_base64() -> Failure {
    Failure::new(
        Reason::RequestMalformed,
        "the body is not base64, which the content type application/grpc-web-text says that it is",
    )
}

fn cut_off(error: &impl std::fmt::Display) -> Failure {
    Failure::new(
        Reason::CallerGone,
        format!("the request was cut off: {error}"),
    )
}

type Piece = Option<Result<Frame<Bytes>, Failure>>;

impl<B> FromText<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Piece> {
        loop {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(cut_off(&error)))),
                None if self.begun.is_empty() => return Poll::Ready(None),
                None => {
                    self.begun.clear();
                    return Poll::Ready(Some(Err(not_base64())));
                }
            };
            // There are no trailers in a request of gRPC-Web.
            let Ok(text) = frame.into_data() else {
                continue;
            };
            match self.decode(&text) {
                Ok(decoded) if decoded.is_empty() => {}
                decoded => return Poll::Ready(Some(decoded.map(Frame::data))),
            }
        }
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Piece> {
        match self.get_mut() {
            Self::AsItIs(inner) => {
                let frame = ready!(Pin::new(inner).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|error| cut_off(&error))))
            }
            Self::Text(text) => text.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::AsItIs(inner) => inner.is_end_stream(),
            Self::Text(text) => text.inner.is_end_stream() && text.begun.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::AsItIs(inner) => inner.size_hint(),
            Self::Text(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;

    /// What is read out of a text that comes in these pieces.
    fn read(pieces: &[&[u8]]) -> Result<Vec<u8>, Reason> {
        let frames = pieces.iter().map(|piece| {
            let piece = Bytes::copy_from_slice(piece);
            Ok::<_, Infallible>(Frame::data(piece))
        });
        let frames: Vec<_> = frames.collect();
        let body = StreamBody::new(tokio_stream::iter(frames));
        let collecting = Arriving::text(body).collect();
        let collected = futures_util::FutureExt::now_or_never(collecting).unwrap();
        let collected = collected.map_err(|failure| failure.reason)?;
        Ok(collected.to_bytes().into())
    }

    #[test]
    fn parts_with_an_end_of_their_own_are_one_body_and_what_is_no_base64_is_refused() {
        let check = |text: &str, expected: Option<&[u8]>| {
            let expected = expected.ok_or(Reason::RequestMalformed);
            let expected = expected.map(<[u8]>::to_vec);
            assert_eq!(read(&[text.as_bytes()]), expected, "{text}");
        };
        check("", Some(b""));
        check("AAAA", Some(&[0, 0, 0]));
        check("AA==", Some(&[0]));
        check("AA==AAA=AAAA", Some(&[0; 6]));
        for bad in [
            "A", "AAA", "AAAAA", "A===", "====", "AA=A", "AA-_", "AA A", "AB==",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_the_same_is_read(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5),
            cuts in proptest::collection::vec(0..100_usize, 0..8),
        ) {
            let text: String = parts.iter().map(|part| STANDARD.encode(part)).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| (*cut).min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), Ok(parts.concat()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&[&text]);
        }
    }
}
