//! A caller of gRPC-Web that sees each answer as it came.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prost::Message;
use tonic::Status;

use crate::raw::frame;
use crate::rest::ask::{Answer, Ask, WAYS, Way};
use crate::stage::KEY;

/// How its bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Binary,
    Text,
}

pub(crate) const FORMS: [Form; 2] = [Form::Binary, Form::Text];

/// Over every version of HTTP, in every form.
pub(crate) fn every_way() -> Vec<(Way, Form)> {
    let ways = WAYS.iter().flat_map(|way| FORMS.map(|form| (*way, form)));
    ways.collect()
}

/// A call.
#[derive(Debug, Clone)]
pub(crate) struct Web(pub(crate) Ask);

impl Web {
    /// With the key of the stage, as a browser sends it.
    pub(crate) fn new(form: Form, path: &str, message: &impl Message) -> Self {
        Self::of_bytes(form, path, &frame::message(message))
    }

    /// With this body before it is written in its form.
    pub(crate) fn of_bytes(form: Form, path: &str, bytes: &[u8]) -> Self {
        let (content_type, body) = match form {
            Form::Binary => ("application/grpc-web+proto", bytes.to_vec()),
            Form::Text => (
                "application/grpc-web-text",
                STANDARD.encode(bytes).into_bytes(),
            ),
        };
        let bare = Ask::bare(Method::POST, path);
        let ask = Ask { body, ..bare };
        let ask = ask.with("content-type", content_type);
        let ask = ask.with("accept", content_type).with("x-grpc-web", "1");
        Self(ask).with_key(&format!("Bearer {KEY}"))
    }

    pub(crate) fn without_key(self) -> Self {
        Self(self.0.without("authorization"))
    }

    pub(crate) fn with_key(self, authorization: &str) -> Self {
        self.with("authorization", authorization)
    }

    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        Self(self.0.with(name, value))
    }

    pub(crate) async fn send(&self, way: Way, address: SocketAddr) -> WebAnswer {
        WebAnswer::read(self.0.send(way, address).await)
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct WebAnswer {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) messages: Vec<Bytes>,
    /// Out of the last message, or out of the headers where there is nothing else.
    pub(crate) status: Status,
}

impl WebAnswer {
    /// Reads a whole answer, which has exactly one status.
    pub(crate) fn read(answer: Answer) -> Self {
        let is_text = match answer.header("content-type") {
            "application/grpc-web+proto" => false,
            "application/grpc-web-text+proto" => true,
            other => panic!("{other} is not gRPC-Web: {answer:?}"),
        };
        let body = if is_text {
            unwritten(&answer.body)
        } else {
            answer.body
        };
        let (messages, trailers) = messages(&body);
        let in_headers = Status::from_header_map(&answer.headers);
        let status = match (trailers, in_headers) {
            (Some(trailers), None) => Status::from_header_map(&trailers).unwrap(),
            (None, Some(status)) if messages.is_empty() => status,
            (trailers, headers) => panic!("not one status: {trailers:?} {headers:?} {messages:?}"),
        };
        Self {
            http: answer.status,
            headers: answer.headers,
            messages,
            status,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// Base64 in parts, each of which has an end of its own.
pub(crate) fn unwritten(text: &[u8]) -> Vec<u8> {
    assert_eq!(text.len() % 4, 0);
    let groups = text.chunks(4);
    groups
        .flat_map(|group| STANDARD.decode(group).unwrap())
        .collect()
}

/// The messages of a body, and its trailers, which stand last.
fn messages(mut body: &[u8]) -> (Vec<Bytes>, Option<HeaderMap>) {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_at(5);
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (message, rest) = rest.split_at(length);
        match head[0] {
            0 => messages.push(Bytes::copy_from_slice(message)),
            0x80 => {
                assert!(rest.is_empty(), "nothing comes after the trailers");
                return (messages, Some(trailers(message)));
            }
            flag => panic!("no such flag: {flag}"),
        }
        body = rest;
    }
    (messages, None)
}

fn trailers(lines: &[u8]) -> HeaderMap {
    let text = std::str::from_utf8(lines).unwrap();
    assert!(text.ends_with("\r\n"), "{text}");
    let lines = text.trim_end().split("\r\n").map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        assert_eq!(name, name.to_ascii_lowercase());
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    lines.collect()
}
