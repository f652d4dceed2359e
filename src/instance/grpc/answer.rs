//! Reads the answer to one call, and tells what a broken one means; how an answer begins and ends is the same for
//! the stream of a session.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode;

use super::pushback;
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::domain::limit::ANSWER_PASSED_ON_BYTES_MAX;
use crate::instance::reset::{before_answer, within_answer};
use crate::memory::{self, Full, Memory, Purpose};

/// Compression flag and length.
pub(super) const PREFIX_BYTES: usize = 5;

/// What can be passed on, and its envelope: more is not worth buffering.
pub(super) const MESSAGE_BYTES_MAX: usize = ANSWER_PASSED_ON_BYTES_MAX + 1024;

/// Waits for the one message of a unary answer, which weighs on the memory from its first byte on.
pub(super) async fn read(
    id: &InstanceId,
    response: ResponseFuture,
    memory: &Memory,
) -> Result<Bytes, Failure> {
    let mut body = begin(id, response).await?;
    let message = read_body(id, &mut body, memory).await?;
    let trailers = body
        .trailers()
        .await
        .map_err(|error| within_answer(id, &error))?
        .unwrap_or_default();
    if let Err(failure) = end(id, &trailers) {
        // Once a message has come the answer had begun, whatever the end of it says.
        let progress = if message.is_some() {
            Progress::Answered
        } else {
            failure.progress
        };
        return Err(Failure {
            progress,
            ..failure
        });
    }
    message.ok_or_else(|| malformed(id, "the answer has no message"))
}

/// Waits for the headers of an answer; what follows them are messages.
pub(super) async fn begin(
    id: &InstanceId,
    response: ResponseFuture,
) -> Result<RecvStream, Failure> {
    let response = response.await.map_err(|error| before_answer(id, &error))?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure {
            pushback: pushback::of(&head.headers),
            ..not_grpc(id, head.status)
        });
    }
    // Trailers-Only: the status stands in the headers.
    if let Some(number) = head.headers.get("grpc-status") {
        return Err(failed(id, number, &head.headers));
    }
    if !is_grpc(&head.headers) {
        return Err(malformed(
            id,
            "the answer is not gRPC: content-type is not application/grpc",
        ));
    }
    Ok(body)
}

/// What the trailers of an answer say: OK, or how it failed.
pub(super) fn end(id: &InstanceId, trailers: &HeaderMap) -> Result<(), Failure> {
    match trailers.get("grpc-status") {
        None => Err(malformed(id, "the answer ended without a grpc-status")),
        Some(number) if number.as_bytes() == b"0" => Ok(()),
        Some(number) => Err(failed(id, number, trailers)),
    }
}

async fn read_body(
    id: &InstanceId,
    body: &mut RecvStream,
    memory: &Memory,
) -> Result<Option<Bytes>, Failure> {
    let charge = memory.charge();
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| within_answer(id, &error))?;
        charge
            .grow(data.len(), Purpose::Answer)
            .map_err(|full| memory_full(id, full))?;
        // The window belongs to the peer again once its bytes are taken; it cannot be given back twice.
        let _ = body.flow_control().release_capacity(data.len());
        // Most answers come in one frame, which is then the message without a copy.
        if first.is_empty() && gathered.is_empty() {
            first = data;
        } else {
            if gathered.is_empty() {
                // What is said of the length is believed up to the limit only.
                let announced = announced(&first).unwrap_or(0).min(MESSAGE_BYTES_MAX);
                gathered.reserve(PREFIX_BYTES + announced);
            }
            gathered.extend_from_slice(&std::mem::take(&mut first));
            gathered.extend_from_slice(&data);
        }
        let so_far = if gathered.is_empty() {
            &first[..]
        } else {
            &gathered[..]
        };
        // Judged as soon as it is announced, so that nobody buffers what cannot be passed on.
        let whole = announced(so_far)
            .map_or(0, |length| PREFIX_BYTES + length)
            .max(so_far.len());
        if PREFIX_BYTES + MESSAGE_BYTES_MAX < whole {
            let detail = format!("the answer has more than {MESSAGE_BYTES_MAX} bytes");
            return Err(Failure::at(
                id,
                Reason::AnswerTooLarge,
                Progress::Answered,
                detail,
            ));
        }
    }
    let whole = if gathered.is_empty() {
        first
    } else {
        gathered.freeze()
    };
    let message = one_message(id, whole)?;
    Ok(message.map(|message| memory::kept(message, charge)))
}

fn memory_full(id: &InstanceId, full: Full) -> Failure {
    let detail = format!("the answer was dropped: {full}");
    Failure::at(id, Reason::MemoryFull, Progress::Answered, detail)
}

/// The length that a message says it has, once that much of it has come.
pub(super) fn announced(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(1..PREFIX_BYTES)?.try_into().ok()?;
    Some(u32::from_be_bytes(length) as usize)
}

fn one_message(id: &InstanceId, mut whole: Bytes) -> Result<Option<Bytes>, Failure> {
    if whole.is_empty() {
        return Ok(None);
    }
    let Some(prefix) = whole.get(..PREFIX_BYTES) else {
        return Err(malformed(id, "the answer is cut off"));
    };
    if prefix[0] != 0 {
        return Err(malformed(
            id,
            "the answer is compressed, which was not asked for",
        ));
    }
    let length = announced(prefix).unwrap_or_default();
    let message = whole.split_off(PREFIX_BYTES);
    if message.len() != length {
        return Err(malformed(
            id,
            "the answer is cut off, or is more than one message",
        ));
    }
    Ok(Some(message))
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

pub(super) fn failed(id: &InstanceId, number: &http::HeaderValue, headers: &HeaderMap) -> Failure {
    let number = number
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(u64::MAX);
    let Some(status) = Status::from_number(number) else {
        return malformed(id, "the answer says OK and has no message");
    };
    let message = headers
        .get("grpc-message")
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let message = percent_decode(message).decode_utf8_lossy();
    let detail = format!("{}: {message}", status.name());
    Failure {
        pushback: pushback::of(headers),
        ..Failure::at(
            id,
            Reason::InstanceFailed(status),
            Progress::MayHaveBegun,
            detail,
        )
    }
}

/// gRPC, "HTTP to gRPC Status Code Mapping": what a proxy in between has to say.
pub(super) fn not_grpc(id: &InstanceId, http: StatusCode) -> Failure {
    let status = match http.as_u16() {
        400 => Status::Internal,
        401 => Status::Unauthenticated,
        403 => Status::PermissionDenied,
        404 => Status::Unimplemented,
        429 | 502 | 503 | 504 => Status::Unavailable,
        _ => Status::Unknown,
    };
    let detail = format!("the answer is HTTP {}, not gRPC", http.as_u16());
    Failure::at(
        id,
        Reason::InstanceFailed(status),
        Progress::MayHaveBegun,
        detail,
    )
}

pub(super) fn malformed(id: &InstanceId, what: &'static str) -> Failure {
    Failure::at(id, Reason::AnswerMalformed, Progress::Answered, what)
}
