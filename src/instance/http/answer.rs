//! Reads the answer to a task: a payload as JSON, whole and within its bound.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connections::Answer;
use super::{broken, failed};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::{ANSWER_PASSED_ON_BYTES_MAX, HTTP_IDLE_FOR_MAX};
use crate::domain::payload::Payload;
use crate::memory::{self, Full, Memory, Purpose};
use crate::payload_json::{BadJson, from_json};

/// What can be passed on, and a little: more is not worth buffering.
const TEXT_BYTES_MAX: usize = ANSWER_PASSED_ON_BYTES_MAX + 1024;

/// Characters of a content type that a failure repeats.
const CONTENT_TYPE_CHARS_SHOWN_MAX: usize = 60;

/// Waits for the whole of an answer.
pub(super) async fn read(
    id: &InstanceId,
    answer: Answer,
    ends: Instant,
    memory: &Memory,
) -> Result<Payload, Failure> {
    let Answer { head, body, used } = answer;
    if !head.status.is_success() {
        return Err(failed::read(id, Answer { head, body, used }, ends).await);
    }
    unreadable(id, &head)?;
    let charge = memory.charge();
    let text = gather(id, body, &charge).await?;
    used.finish(idle_for(&head.headers));
    let payload = payload(id, &head, &text)?;
    // The text is done with; what it meant is held on.
    let encoded = payload.into_encoded();
    let kept = memory.charge();
    kept.grow(encoded.len(), Purpose::Answer)
        .map_err(|full| memory_full(id, full))?;
    drop(charge);
    Ok(Payload::looked_over_before(memory::kept(encoded, kept)))
}

/// Refuses by its head what is no JSON text.
fn unreadable(id: &InstanceId, head: &Parts) -> Result<(), Failure> {
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let what = "the answer is compressed, which was not asked for";
        return Err(malformed(id, what));
    }
    let Some(kind) = head.headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    if !is_json(essence) && head.status != StatusCode::NO_CONTENT {
        let essence: String = essence.chars().take(CONTENT_TYPE_CHARS_SHOWN_MAX).collect();
        let what = format!("the answer is not JSON: its content-type is {essence}");
        return Err(malformed(id, what));
    }
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    if charset.is_some_and(|charset| !matches!(charset.trim_matches('"'), "utf-8" | "us-ascii")) {
        return Err(malformed(id, "the answer is JSON, but not in UTF-8"));
    }
    Ok(())
}

/// RFC 6839, 3.1 knows the suffix.
pub(super) fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json" | "") || essence.ends_with("+json")
}

/// All of it, which weighs on the memory from its first byte on.
async fn gather(
    id: &InstanceId,
    mut body: Incoming,
    charge: &memory::Charge,
) -> Result<Bytes, Failure> {
    // Judged as soon as it is announced, so that nobody buffers what cannot be passed on.
    let announced = body.size_hint().lower();
    if (TEXT_BYTES_MAX as u64) < announced {
        return Err(too_large(id));
    }
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken::within_answer(id, &error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        charge
            .grow(data.len(), Purpose::Answer)
            .map_err(|full| memory_full(id, full))?;
        if TEXT_BYTES_MAX < first.len() + gathered.len() + data.len() {
            return Err(too_large(id));
        }
        // Most answers come in one piece, which is then the text without a copy.
        if first.is_empty() && gathered.is_empty() {
            first = data;
        } else {
            if gathered.is_empty() {
                gathered.reserve(usize::try_from(announced).unwrap_or(0).max(first.len()));
            }
            gathered.extend_from_slice(&std::mem::take(&mut first));
            gathered.extend_from_slice(&data);
        }
    }
    Ok(if gathered.is_empty() {
        first
    } else {
        gathered.freeze()
    })
}

fn payload(id: &InstanceId, head: &Parts, text: &[u8]) -> Result<Payload, Failure> {
    let text = std::str::from_utf8(text).map_err(|_| malformed(id, "the answer is not UTF-8"))?;
    // A parser may ignore it (RFC 8259, 8.1).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let last = text.as_bytes().last();
    // Of a text that ends with its connection nobody knows whether it is whole, unless its form tells.
    if ends_with_connection(head) && last.is_none_or(u8::is_ascii_digit) {
        let what =
            "nobody knows whether the answer is whole: it has no Content-Length and is not chunked";
        return Err(malformed(id, what));
    }
    if text.is_empty() {
        return Ok(Payload::null());
    }
    from_json(text).map_err(|bad| malformed(id, why(&bad)))
}

/// RFC 9112, 6.3, the last of its cases.
fn ends_with_connection(head: &Parts) -> bool {
    let says_end = |name| head.headers.contains_key(name);
    head.version <= Version::HTTP_11
        && !matches!(head.status, StatusCode::NO_CONTENT)
        && !says_end(header::CONTENT_LENGTH)
        && !says_end(header::TRANSFER_ENCODING)
}

/// A path would repeat the keys of the payload, and a failure may be logged.
fn why(bad: &BadJson) -> String {
    match bad {
        BadJson::Syntax { line, column, .. } => {
            format!("the answer is not JSON at line {line}, column {column}")
        }
        BadJson::IntegerInexact { .. } => {
            "the answer has an integer beyond 2^53, which cannot travel exactly: send it as a string"
                .to_owned()
        }
        BadJson::KeyTwice { .. } => "the answer has the same key twice in one object".to_owned(),
        BadJson::TooDeep { .. } => "the answer is nested too deep".to_owned(),
        BadJson::Payload(bad) => bad.to_string(),
    }
}

/// How long a connection may be kept that has answered so: less than its server keeps it.
pub(super) fn idle_for(headers: &HeaderMap) -> Duration {
    let told = headers.get("keep-alive").and_then(|value| {
        let mut parts = value.to_str().ok()?.split(',').map(str::trim);
        let seconds = parts.find_map(|part| part.strip_prefix("timeout="))?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    });
    let told = told.map(|told| told.saturating_sub(Duration::from_secs(1)));
    told.map_or(HTTP_IDLE_FOR_MAX, |told| told.min(HTTP_IDLE_FOR_MAX))
}

fn too_large(id: &InstanceId) -> Failure {
    let detail = format!("the answer has more than {TEXT_BYTES_MAX} bytes");
    Failure::at(id, Reason::AnswerTooLarge, Progress::Answered, detail)
}

fn memory_full(id: &InstanceId, full: Full) -> Failure {
    let detail = format!("the answer was dropped: {full}");
    Failure::at(id, Reason::MemoryFull, Progress::Answered, detail)
}

pub(super) fn malformed(
    id: &InstanceId,
    what: impl Into<std::borrow::Cow<'static, str>>,
) -> Failure {
    Failure::at(id, Reason::AnswerMalformed, Progress::Answered, what)
}
