//! An answer that says that the task has failed: what status it is, and in what words.
//!
//! docs/failures.md has the table of statuses.
//!
//! A body `{"error": {"code": "…", "message": "…"}}` whose code is the name of a status says it more exactly.

use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{self, Instant};

use super::answer::{idle_for, is_json, malformed};
use super::connections::Answer;
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::domain::limit::{FAILURE_DETAIL_CHARS_MAX, HTTP_WORDS_BYTES_MAX, HTTP_WORDS_TIMEOUT};
use crate::domain::retry::Pushback;
use crate::instance::retry_after;

/// The failure that an answer with another status than 2xx means.
pub(super) async fn read(id: &InstanceId, answer: Answer, ends: Instant) -> Failure {
    let Answer { head, body, used } = answer;
    let http = head.status.as_u16();
    if head.status.is_redirection() {
        let what = format!("the answer is a redirect (HTTP {http}), which is never followed");
        return malformed(id, what);
    }
    if head.status.is_informational() {
        let what = format!("the answer is HTTP {http}, which is none");
        return malformed(id, what);
    }
    // A status is not held up by its words.
    let ends = ends.min(Instant::now() + HTTP_WORDS_TIMEOUT);
    let words = time::timeout_at(ends, words(body)).await;
    let words = match words {
        Ok(Words::Whole(words)) => {
            used.finish(idle_for(&head.headers));
            words
        }
        Ok(Words::Cut(words)) => words,
        Err(_elapsed) => Vec::new(),
    };
    failure(id, &head, &words)
}

/// What was read of a body.
pub(super) enum Words {
    /// All of it.
    Whole(Vec<u8>),
    /// Its beginning: it was too long, or broke off.
    Cut(Vec<u8>),
}

/// Reads a body that is not worth much.
pub(super) async fn words(mut body: Incoming) -> Words {
    let mut words = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Words::Cut(words);
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let room = HTTP_WORDS_BYTES_MAX - words.len();
        words.extend_from_slice(&data[..data.len().min(room)]);
        if room < data.len() {
            return Words::Cut(words);
        }
    }
    Words::Whole(words)
}

fn failure(id: &InstanceId, head: &Parts, words: &[u8]) -> Failure {
    let said = said(&head.headers, words);
    let by_code = said.code.as_deref().and_then(status_of_code);
    let status = by_code.unwrap_or_else(|| status_of_http(head.status));
    let mut detail = format!("{}: HTTP {}", status.name(), head.status.as_u16());
    let foreign = said.code.filter(|_| by_code.is_none());
    for part in [foreign, said.message].into_iter().flatten() {
        if !part.is_empty() {
            detail.push_str(": ");
            detail.push_str(&part);
        }
    }
    Failure {
        pushback: pushback(&head.headers),
        ..Failure::at(
            id,
            Reason::InstanceFailed(status),
            Progress::MayHaveBegun,
            detail,
        )
    }
}

/// What gRPC has a header for is heard here too: only that can say not to come again.
fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let in_grpc = headers.get("grpc-retry-pushback-ms");
    let in_grpc = in_grpc.map(|value| Pushback::from_grpc(value.as_bytes()));
    in_grpc.or_else(|| retry_after::of(headers))
}

#[derive(Default)]
struct Said {
    code: Option<String>,
    message: Option<String>,
}

fn said(headers: &HeaderMap, words: &[u8]) -> Said {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.map_or("".into(), |kind| String::from_utf8_lossy(kind.as_bytes()));
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let is_plain = is_json(&essence) || essence.starts_with("text/");
    if !is_plain || headers.contains_key(header::CONTENT_ENCODING) {
        return Said::default();
    }
    let document = serde_json::from_slice(words).unwrap_or(serde_json::Value::Null);
    let text = |name: &str| document.get("error")?.get(name)?.as_str().map(cleaned);
    let (code, message) = (text("code"), text("message"));
    if code.is_some() || message.is_some() {
        return Said { code, message };
    }
    Said {
        code: None,
        message: Some(cleaned(&String::from_utf8_lossy(words))),
    }
}

/// On one line, without what a terminal would obey, and no longer than is passed on.
fn cleaned(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words
        .join(" ")
        .chars()
        .take(FAILURE_DETAIL_CHARS_MAX + 1)
        .collect()
}

fn status_of_code(code: &str) -> Option<Status> {
    Status::from_name(&code.to_ascii_uppercase())
}

fn status_of_http(http: StatusCode) -> Status {
    match http.as_u16() {
        400 | 413 | 414 | 422 | 431 => Status::InvalidArgument,
        401 | 407 => Status::Unauthenticated,
        403 => Status::PermissionDenied,
        404 | 410 => Status::NotFound,
        405 | 406 | 415 | 501 | 505 => Status::Unimplemented,
        408 | 502 | 503 => Status::Unavailable,
        409 => Status::Aborted,
        416 => Status::OutOfRange,
        429 => Status::ResourceExhausted,
        499 => Status::Cancelled,
        500 => Status::Internal,
        504 => Status::DeadlineExceeded,
        417..=498 | 402 | 411 | 412 => Status::FailedPrecondition,
        _ => Status::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn check(http: u16, headers: &[(&str, &str)], body: &str, status: Status, detail: &str) {
        let id = InstanceId::parse("A").unwrap();
        let mut answer = Response::builder().status(http);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let (head, ()) = answer.body(()).unwrap().into_parts();
        let found = failure(&id, &head, body.as_bytes());
        assert_eq!(
            found.reason,
            Reason::InstanceFailed(status),
            "{http} {body}"
        );
        assert_eq!(found.progress, Progress::MayHaveBegun);
        assert_eq!(found.detail, detail);
    }

    /// The status of each number that the docs name, and those of all others.
    fn documented(http: u16) -> Status {
        let text = include_str!("../../../docs/failures.md");
        let (_, text) = text
            .split_once("## What an instance over HTTP answered")
            .unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| "));
        let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        let rows: Vec<_> = cells.map(|cells| (cells[1], cells[2])).collect();
        let other = if http < 500 {
            "any other 4xx"
        } else {
            "any other 5xx"
        };
        let named = |row: &&(&str, &str)| row.0.split(", ").any(|cell| cell == http.to_string());
        let row = rows.iter().find(named);
        let row = row
            .or_else(|| rows.iter().find(|row| row.0 == other))
            .unwrap();
        Status::from_name(row.1).unwrap()
    }

    #[test]
    fn every_status_of_http_has_the_one_that_the_docs_name() {
        for http in (400..=599).filter_map(|http| StatusCode::from_u16(http).ok()) {
            assert_eq!(status_of_http(http), documented(http.as_u16()), "{http}");
        }
        assert_eq!(documented(503), Status::Unavailable);
    }

    #[test]
    fn words_of_our_own_form_say_more_and_others_are_repeated() {
        use Status as S;
        check(503, &[], "", S::Unavailable, "UNAVAILABLE: HTTP 503");
        check(
            503,
            &[],
            r#"{"error":{"code":"resource_exhausted","message":"no GPU is free"}}"#,
            S::ResourceExhausted,
            "RESOURCE_EXHAUSTED: HTTP 503: no GPU is free",
        );
        check(
            503,
            &[],
            r#"{"error":{"code":"instance_down","message":"all down"}}"#,
            S::Unavailable,
            "UNAVAILABLE: HTTP 503: instance_down: all down",
        );
        // A failure is never OK, and a number is no code of ours.
        check(
            500,
            &[],
            r#"{"error":{"code":"ok"}}"#,
            S::Internal,
            "INTERNAL: HTTP 500: ok",
        );
        check(
            404,
            &[],
            r#"{"error":{"code":404}}"#,
            S::NotFound,
            r#"NOT_FOUND: HTTP 404: {"error":{"code":404}}"#,
        );
        let text = [("content-type", "text/plain; charset=utf-8")];
        check(
            429,
            &text,
            " slow\r\n\x1b[2Jdown\n",
            S::ResourceExhausted,
            "RESOURCE_EXHAUSTED: HTTP 429: slow [2Jdown",
        );
        let other = [("content-type", "image/png")];
        check(500, &other, "PNG", S::Internal, "INTERNAL: HTTP 500");
        let packed = [("content-encoding", "gzip")];
        check(500, &packed, "x", S::Internal, "INTERNAL: HTTP 500");
    }

    #[test]
    fn long_words_are_cut() {
        let id = InstanceId::parse("A").unwrap();
        let (head, ()) = Response::builder()
            .status(500)
            .body(())
            .unwrap()
            .into_parts();
        let found = failure(&id, &head, "ä".repeat(5000).as_bytes());
        assert_eq!(found.detail.chars().count(), FAILURE_DETAIL_CHARS_MAX + 1);
    }
}
