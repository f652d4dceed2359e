//! A gRPC message that is ready to be sent: a few bytes of our own, then the payload as it came in.
//!
//! All legs of a fan-out share the payload's bytes; only the small prefix is copied for each.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::domain::payload::Payload;
use crate::instance::session;

/// Compression flag and message length, then all that stands before the payload of a session's message: two keys
/// with a length, two keys with a number, a key with a flag.
const PREFIX_MAX: usize = 48;

/// Compression flag and message length.
const START: usize = 5;

const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// The key of a field: its number and its form.
const fn key(number: u8, form: u8) -> u8 {
    number << 3 | form
}

/// `ExecuteRequest.payload`.
const EXECUTE_PAYLOAD: u8 = key(1, LENGTH_DELIMITED);
/// `SessionRequest.data` and the fields of `SessionData`.
const DATA: u8 = key(2, LENGTH_DELIMITED);
const DATA_SEQ: u8 = key(1, VARINT);
const DATA_IN_REPLY_TO: u8 = key(2, VARINT);
const DATA_REDELIVERED: u8 = key(3, VARINT);
const DATA_PAYLOAD: u8 = key(4, LENGTH_DELIMITED);
/// `SessionRequest.ack` and `SessionAck.through`.
const ACK: u8 = key(3, LENGTH_DELIMITED);
const ACK_THROUGH: u8 = key(1, VARINT);

/// A length-prefixed gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message").
#[derive(Debug, Clone)]
pub(super) struct Frame {
    prefix: [u8; PREFIX_MAX],
    at: u8,
    end: u8,
    payload: Bytes,
}

impl Frame {
    /// A message without fields.
    pub(super) fn empty() -> Self {
        Self::encoded(Bytes::new())
    }

    /// A message that is encoded already.
    pub(super) fn encoded(message: Bytes) -> Self {
        Self::begin(message).finish()
    }

    /// An `ExecuteRequest`.
    pub(super) fn execute(payload: &Payload) -> Self {
        let mut frame = Self::begin(payload.encoded().clone());
        frame.put(EXECUTE_PAYLOAD);
        frame.varint(payload.encoded().len() as u64);
        frame.finish()
    }

    /// A `SessionRequest` with a message.
    pub(super) fn data(data: session::Data) -> Self {
        let mut inner = Self::begin(data.payload.into_encoded());
        let payload = inner.payload.len() as u64;
        inner.field(DATA_SEQ, data.seq);
        inner.field(DATA_IN_REPLY_TO, data.in_reply_to.unwrap_or(0));
        inner.field(DATA_REDELIVERED, u64::from(data.redelivered));
        inner.put(DATA_PAYLOAD);
        inner.varint(payload);
        inner.wrapped(DATA)
    }

    /// A `SessionRequest` that takes messages.
    pub(super) fn ack(through: u64) -> Self {
        let mut inner = Self::begin(Bytes::new());
        inner.field(ACK_THROUGH, through);
        inner.wrapped(ACK)
    }

    fn begin(payload: Bytes) -> Self {
        Self {
            prefix: [0; PREFIX_MAX],
            at: 0,
            end: START as u8,
            payload,
        }
    }

    fn put(&mut self, byte: u8) {
        self.prefix[usize::from(self.end)] = byte;
        self.end += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while 0x80 <= value {
            self.put((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put(value as u8);
    }

    /// A field with a number; one that is 0 is left out, as encoders do.
    fn field(&mut self, key: u8, value: u64) {
        if value != 0 {
            self.put(key);
            self.varint(value);
        }
    }

    /// The message so far as the one field of another.
    fn wrapped(self, key: u8) -> Self {
        let fields = self.prefix;
        let fields = &fields[START..usize::from(self.end)];
        let length = fields.len() + self.payload.len();
        let mut outer = Self::begin(self.payload);
        outer.put(key);
        outer.varint(length as u64);
        for byte in fields {
            outer.put(*byte);
        }
        outer.finish()
    }

    /// Writes the length, once the rest is there.
    fn finish(mut self) -> Self {
        let length = usize::from(self.end) - START + self.payload.len();
        self.prefix[1..START].copy_from_slice(&(length as u32).to_be_bytes());
        self
    }

    fn head(&self) -> &[u8] {
        &self.prefix[usize::from(self.at)..usize::from(self.end)]
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.head().len() + self.payload.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.at < self.end {
            self.head()
        } else {
            &self.payload
        }
    }

    fn advance(&mut self, count: usize) {
        let from_head = count.min(self.head().len());
        self.at += from_head as u8;
        self.payload.advance(count - from_head);
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let parts = [self.head(), &self.payload];
        let filled = parts.into_iter().filter(|part| !part.is_empty());
        let mut count = 0;
        for (slot, part) in into.iter_mut().zip(filled) {
            *slot = IoSlice::new(part);
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::instance::session_request::Frame as Kind;
    use crate::proto::instance::{ExecuteRequest, SessionAck, SessionData, SessionRequest};

    fn text(length: usize) -> Payload {
        let value = prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue("x".repeat(length))),
        };
        Payload::check(value.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn a_frame_is_the_message_that_a_generated_encoder_writes() {
        for length in [0, 1, 100, 127, 128, 16_383, 16_384, 3_000_000] {
            let payload = text(length);
            let message = ExecuteRequest {
                payload: Some(payload.encoded().clone()),
            }
            .encode_to_vec();
            let mut frame = Frame::execute(&payload);
            assert_eq!(frame.payload.as_ptr(), payload.encoded().as_ptr());
            let sent = frame.copy_to_bytes(frame.remaining());
            assert_eq!(sent[0], 0);
            assert_eq!(
                u32::from_be_bytes(sent[1..5].try_into().unwrap()) as usize,
                message.len()
            );
            assert_eq!(&sent[5..], &message[..]);
        }
    }

    fn sent(mut frame: Frame) -> Vec<u8> {
        frame.copy_to_bytes(frame.remaining()).to_vec()
    }

    fn encoded(frame: Kind) -> Vec<u8> {
        let message = SessionRequest { frame: Some(frame) }.encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    }

    proptest! {
        #[test]
        fn a_frame_of_a_session_is_what_a_generated_encoder_writes(
            seq in prop_oneof![Just(0), 1_u64..300, Just(u64::MAX)],
            in_reply_to in prop_oneof![Just(None), (1_u64..70_000).prop_map(Some), Just(Some(u64::MAX))],
            redelivered: bool,
            length in prop_oneof![0_usize..400, Just(4 * 1024 * 1024)],
        ) {
            let payload = text(length);
            let data = session::Data { seq, in_reply_to, redelivered, payload: payload.clone() };
            let expected = encoded(Kind::Data(SessionData {
                seq,
                in_reply_to: in_reply_to.unwrap_or(0),
                redelivered,
                payload: Some(payload.into_encoded()),
            }));
            prop_assert_eq!(sent(Frame::data(data)), expected);
            prop_assert_eq!(sent(Frame::ack(seq)), encoded(Kind::Ack(SessionAck { through: seq })));
        }

        #[test]
        fn a_frame_reads_the_same_in_whatever_pieces(length in 0_usize..400, steps in proptest::collection::vec(1_usize..50, 0..30)) {
            let mut frame = Frame::execute(&text(length));
            let whole = frame.clone().copy_to_bytes(frame.remaining());
            let mut read = Vec::new();
            for step in steps {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = frame.chunks_vectored(&mut slices);
                let vectored: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                prop_assert_eq!(vectored, frame.remaining());
                let step = step.min(frame.remaining());
                read.extend_from_slice(&frame.copy_to_bytes(step));
            }
            read.extend_from_slice(&frame.copy_to_bytes(frame.remaining()));
            prop_assert_eq!(&read[..], &whole[..]);
        }
    }
}
