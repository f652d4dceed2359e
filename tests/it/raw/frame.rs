//! HTTP/2 frames as bytes (RFC 9113, 4 and 6), and header blocks that any decoder reads (RFC 7541, 6.2.2).

use h2::Reason;
use prost::Message;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// On DATA and HEADERS; the same bit means ACK on SETTINGS and PING.
pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

pub(crate) const HEAD_BYTES: usize = 9;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// A frame whose payload is still to be read.
    pub(super) fn from_head(head: [u8; HEAD_BYTES]) -> Self {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        Self {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload: vec![0; length as usize],
        }
    }

    /// What a peer with manners answers.
    pub(super) fn answer(&self) -> Option<Self> {
        let asks = !self.is_ack() && (self.kind == SETTINGS || self.kind == PING);
        let payload = if self.kind == PING {
            self.payload.clone()
        } else {
            Vec::new()
        };
        asks.then(|| Self {
            flags: ACK,
            payload,
            ..self.clone()
        })
    }

    pub(crate) fn is_ack(&self) -> bool {
        (self.kind == SETTINGS || self.kind == PING) && self.flags & ACK != 0
    }

    pub(super) fn ends_stream(&self) -> bool {
        let last = (self.kind == DATA || self.kind == HEADERS) && self.flags & END_STREAM != 0;
        last || self.kind == RST_STREAM
    }

    /// Why: of RST_STREAM and GOAWAY.
    pub(crate) fn reason(&self) -> Reason {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.number(at).into()
    }

    /// The increment of WINDOW_UPDATE.
    pub(crate) fn increment(&self) -> u32 {
        self.number(0)
    }

    /// One value of SETTINGS.
    pub(crate) fn setting(&self, id: u16) -> Option<u32> {
        let found = self
            .payload
            .chunks(6)
            .position(|one| one[..2] == id.to_be_bytes());
        found.map(|at| self.number(at * 6 + 2))
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
    Frame {
        kind,
        flags,
        stream,
        payload: payload.into(),
    }
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Frame {
    let encode = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(
        SETTINGS,
        0,
        0,
        values.iter().flat_map(encode).collect::<Vec<_>>(),
    )
}

/// The whole header block in one frame; `flags` says whether the request goes on.
pub(crate) fn headers(stream: u32, fields: &[(&str, &str)], flags: u8) -> Frame {
    frame(HEADERS, END_HEADERS | flags, stream, block(fields))
}

/// The beginning of a header block.
pub(crate) fn headers_part(stream: u32, part: &[u8]) -> Frame {
    frame(HEADERS, 0, stream, part)
}

pub(crate) fn continuation(stream: u32, part: &[u8], flags: u8) -> Frame {
    frame(CONTINUATION, flags, stream, part)
}

pub(crate) fn data(stream: u32, bytes: &[u8], flags: u8) -> Frame {
    frame(DATA, flags, stream, bytes)
}

pub(crate) fn reset(stream: u32, reason: Reason) -> Frame {
    frame(RST_STREAM, 0, stream, u32::from(reason).to_be_bytes())
}

pub(crate) fn ping(opaque: [u8; 8]) -> Frame {
    frame(PING, 0, 0, opaque)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Frame {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

/// A header block without Huffman codes and without the dynamic table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| [&[0x00][..], &text(name), &text(value)].concat())
        .collect()
}

/// A literal that goes into the dynamic table, where index 62 is the newest entry.
pub(crate) fn remembered(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &text(name), &text(value)].concat()
}

/// A string literal: its length with a prefix of seven bits (RFC 7541, 5.1), then its bytes.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x7f => bytes.push(length),
        _ => {
            bytes.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while 0x80 <= rest {
                bytes.push((rest % 0x80) as u8 | 0x80);
                rest /= 0x80;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}

/// A message as gRPC sends it: not compressed, with its length.
pub(crate) fn message(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let mut bytes = prefix(encoded.len());
    bytes.extend(encoded);
    bytes
}

/// What announces a message of this length.
pub(crate) fn prefix(length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[0][..], &length].concat()
}
