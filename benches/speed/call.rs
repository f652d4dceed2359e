//! The messages that the bench sends, ready as bytes on the wire.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use orchestrator::proto::instance::ExecuteRequest;
use orchestrator::proto::orchestrator::{FanoutRequest, RouteRequest};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// The key that the orchestrator of the bench asks for. All others are sent it too, as their callers would.
pub(crate) const KEY: &str = "bench-key-5a17c0de";

/// One call, ready to be sent again and again.
#[derive(Clone)]
pub(crate) struct Call {
    path: &'static str,
    headers: HeaderMap,
    pub(crate) message: Bytes,
}

impl Call {
    pub(crate) fn new(path: &'static str, message: &impl Message) -> Self {
        let mut call = Self::without_timeout(path, message);
        call.headers
            .insert("grpc-timeout", HeaderValue::from_static("15S"));
        call
    }

    /// For streams that have no end.
    pub(crate) fn without_timeout(path: &'static str, message: &impl Message) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::try_from(format!("Bearer {KEY}")).unwrap(),
        );
        Self {
            path,
            headers,
            message: framed(message),
        }
    }

    pub(crate) fn execute() -> Self {
        let payload = Some(payload());
        Self::new(
            "/openclaw.instance.v1.InstanceService/Execute",
            &ExecuteRequest { payload },
        )
    }

    pub(crate) fn route() -> Self {
        let message = RouteRequest {
            instances: vec!["A".to_owned()],
            payload: Some(payload()),
            ..RouteRequest::default()
        };
        Self::new(
            "/openclaw.orchestrator.v1.OrchestratorService/Route",
            &message,
        )
    }

    pub(crate) fn fan_out(targets: String) -> Self {
        let message = FanoutRequest {
            targets: vec![targets],
            payload: Some(payload()),
            ..FanoutRequest::default()
        };
        Self::new(
            "/openclaw.orchestrator.v1.OrchestratorService/Fanout",
            &message,
        )
    }

    pub(crate) fn request(&self, authority: &str) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("http://{authority}{}", self.path).parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// An encoded Value of 1024 bytes, shaped like a task of an agent: an object with some fields, a list of
/// objects in it, and a text that takes up about half.
pub(crate) fn payload() -> Bytes {
    const BYTES: usize = 1024;
    let mut length = BYTES / 2;
    loop {
        let encoded = task(length).encode_to_vec();
        match encoded.len().cmp(&BYTES) {
            std::cmp::Ordering::Equal => return encoded.into(),
            std::cmp::Ordering::Less => length += BYTES - encoded.len(),
            std::cmp::Ordering::Greater => length -= encoded.len() - BYTES,
        }
    }
}

fn task(text: usize) -> Value {
    let tool = |at: usize| {
        object([
            ("name", text_value(&format!("tool-{at}"))),
            ("enabled", kind(Kind::BoolValue(at.is_multiple_of(2)))),
            ("cost", kind(Kind::NumberValue(0.25 * at as f64))),
        ])
    };
    let tools = ListValue {
        values: (0..5).map(tool).collect(),
    };
    object([
        ("data", text_value("task")),
        ("prompt", text_value(&"lorem ipsum ".repeat(100)[..text])),
        ("model", text_value("large")),
        ("temperature", kind(Kind::NumberValue(0.7))),
        ("tokens_max", kind(Kind::NumberValue(4096.0))),
        ("parent", kind(Kind::NullValue(0))),
        ("tools", kind(Kind::ListValue(tools))),
    ])
}

fn object<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Value {
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    kind(Kind::StructValue(Struct { fields }))
}

fn text_value(text: &str) -> Value {
    kind(Kind::StringValue(text.to_owned()))
}

fn kind(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
