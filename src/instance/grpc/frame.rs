//! A gRPC message that is ready to be sent: a few bytes of our own, then the payload as it came in.
//!
//! All legs of a fan-out share the payload's bytes; only the small prefix is copied for each.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::domain::payload::Payload;

/// Compression flag, message length, field key and field length at their longest.
const PREFIX_MAX: usize = 16;

/// `ExecuteRequest.payload`: field 1, length-delimited.
const PAYLOAD_KEY: u8 = 1 << 3 | 2;

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
        Self {
            prefix: [0; PREFIX_MAX],
            at: 0,
            end: 5,
            payload: Bytes::new(),
        }
    }

    /// An `ExecuteRequest`.
    pub(super) fn execute(payload: &Payload) -> Self {
        let payload = payload.encoded().clone();
        let mut prefix = [0; PREFIX_MAX];
        prefix[5] = PAYLOAD_KEY;
        let mut end = 6;
        let mut rest = payload.len();
        while 0x80 <= rest {
            prefix[end] = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
            end += 1;
        }
        prefix[end] = rest as u8;
        end += 1;
        let length = end - 5 + payload.len();
        prefix[1..5].copy_from_slice(&(length as u32).to_be_bytes());
        Self {
            prefix,
            at: 0,
            end: end as u8,
            payload,
        }
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
    use crate::proto::instance::ExecuteRequest;

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
            let sent = frame.copy_to_bytes(frame.remaining());
            assert_eq!(sent[0], 0);
            assert_eq!(
                u32::from_be_bytes(sent[1..5].try_into().unwrap()) as usize,
                message.len()
            );
            assert_eq!(&sent[5..], &message[..]);
        }
    }

    proptest! {
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
