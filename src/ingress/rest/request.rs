//! Reading a request of the REST door: its body as a message of the contract, and what its caller takes.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use tonic::body::Body;

use super::super::exchange::Exchange;
use super::Shared;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::{BODY_DRAINED_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::message_json::{BadMessage, Beside, read};

/// A message that was read, and what stood beside it.
pub(super) struct Asked<T> {
    pub(super) message: T,
    pub(super) beside: Vec<(String, String)>,
}

/// Reads the body as a message of the contract, with names that the endpoint takes beside its fields.
pub(super) async fn message<T: prost::Message + Default>(
    shared: &Shared,
    name: &str,
    exchange: &Exchange,
    headers: &HeaderMap,
    body: Body,
    beside: Beside<'_>,
) -> Result<Asked<T>, Failure> {
    check_form(headers)?;
    let bytes = whole(exchange, headers, body).await?;
    let text = std::str::from_utf8(&bytes).map_err(|bad| not_utf8(&bytes, bad.valid_up_to()))?;
    let internal = || Failure::new(Reason::Internal, "a message of the contract is missing");
    let described = shared.schema.message(name).ok_or_else(internal)?;
    let found = read(&shared.schema, described, text, beside).map_err(|bad| refused(&bad))?;
    if MESSAGE_BYTES_MAX < found.encoded.len() {
        // Numbers take more room than their digits.
        return Err(too_large("is too large once it is encoded"));
    }
    // It is held besides the text that it came as.
    exchange.weigh(found.encoded.len())?;
    let message = T::decode(Bytes::from(found.encoded)).map_err(|_| internal())?;
    Ok(Asked {
        message,
        beside: found.beside,
    })
}

fn refused(bad: &BadMessage) -> Failure {
    let reason = match bad {
        BadMessage::Syntax { .. } => Reason::RequestMalformed,
        BadMessage::Field { .. } => Reason::ArgumentInvalid,
        BadMessage::Payload { .. } => Reason::PayloadInvalid,
    };
    Failure::new(reason, bad.to_string())
}

fn not_utf8(bytes: &[u8], offset: usize) -> Failure {
    let before = bytes.get(..offset).unwrap_or_default();
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    let line_start = before.iter().rposition(|byte| *byte == b'\n');
    let column = offset - line_start.map_or(0, |at| at + 1) + 1;
    let detail = format!("not UTF-8 at line {}, column {column}", lines + 1);
    Failure::new(Reason::RequestMalformed, detail)
}

/// JSON, in UTF-8, not compressed. A body that says nothing of itself is taken for that.
fn check_form(headers: &HeaderMap) -> Result<(), Failure> {
    let unsupported = |detail: &'static str| Failure::new(Reason::MediaTypeUnsupported, detail);
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported(
            "a compressed body is not taken: send it as it is",
        ));
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let given = given.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = given.split(';').map(str::trim);
    if parts.next() != Some("application/json") {
        return Err(unsupported(
            "the body is JSON: send `content-type: application/json`",
        ));
    }
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    if charset.is_some_and(|charset| !matches!(charset.trim_matches('"'), "utf-8" | "us-ascii")) {
        return Err(unsupported(
            "JSON is UTF-8: leave out the charset, or name utf-8",
        ));
    }
    Ok(())
}

fn too_large(what: &str) -> Failure {
    let detail = format!("the body {what}: at most {MESSAGE_BYTES_MAX} bytes are taken");
    Failure::new(Reason::MessageTooLarge, detail)
}

/// The body in one piece.
async fn whole(exchange: &Exchange, headers: &HeaderMap, mut body: Body) -> Result<Bytes, Failure> {
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| BODY_DRAINED_BYTES_MAX < length) {
        return Err(too_large("is too large"));
    }
    let most = MESSAGE_BYTES_MAX as u64;
    let (mut pieces, mut length) = (Vec::new(), 0_u64);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| broken(exchange))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length += piece.len() as u64;
        if BODY_DRAINED_BYTES_MAX < length {
            break;
        }
        // Who is cut off while sending does not read the answer: what is too large is read and thrown away.
        if most < length {
            pieces.clear();
        } else {
            pieces.push(piece);
        }
    }
    if most < length {
        return Err(too_large("is too large"));
    }
    Ok(joined(pieces, length as usize))
}

/// Why the body did not arrive whole.
fn broken(exchange: &Exchange) -> Failure {
    let cut_off = || Failure::new(Reason::CallerGone, "the request was cut off");
    exchange.broken().cloned().unwrap_or_else(cut_off)
}

fn joined(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(length);
    for piece in pieces {
        whole.extend_from_slice(piece.chunk());
    }
    whole.freeze()
}

/// Refuses a caller who takes none of these forms (RFC 9110, 12.5.1).
pub(super) fn check_accepted(headers: &HeaderMap, forms: &[&str]) -> Result<(), Failure> {
    let mut given = headers.get_all(header::ACCEPT).iter().peekable();
    if given.peek().is_none() {
        return Ok(());
    }
    let takes = |value: &HeaderValue| {
        // What cannot be read is no reason to refuse.
        let Ok(text) = value.to_str() else {
            return true;
        };
        text.split(',').any(|range| accepts(range, forms))
    };
    if given.any(takes) {
        return Ok(());
    }
    let detail = format!("the answer is {}: accept that", forms.join(" or "));
    Err(Failure::new(Reason::NotAcceptable, detail))
}

fn accepts(range: &str, forms: &[&str]) -> bool {
    let range = range.to_ascii_lowercase();
    let mut parts = range.split(';').map(str::trim);
    let form = parts.next().unwrap_or_default();
    let is_refused = parts.any(|part| {
        let weight = part
            .strip_prefix("q=")
            .and_then(|it| it.parse::<f32>().ok());
        weight == Some(0.0)
    });
    let fits = |offered: &str| {
        let whole_kind = form.strip_suffix("/*");
        let is_kind = whole_kind.is_some_and(|kind| offered.split('/').next() == Some(kind));
        form.is_empty() || form == "*/*" || form == offered || is_kind
    };
    !is_refused && forms.iter().any(|offered| fits(offered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_caller_who_takes_none_of_the_forms_is_refused() {
        let check = |accept: &str, expected: bool| {
            let found = check_accepted(&headers(header::ACCEPT, accept), &["application/json"]);
            assert_eq!(found.is_ok(), expected, "{accept}");
        };
        for good in [
            "*/*",
            "application/*",
            "text/html, application/JSON;q=0.1",
            "",
            "text/html,",
        ] {
            check(good, true);
        }
        for bad in [
            "text/html",
            "application/json;q=0",
            "image/*, text/*;q=1",
            "application/xml",
        ] {
            check(bad, false);
        }
        assert!(check_accepted(&HeaderMap::new(), &["application/json"]).is_ok());
        let events =
            |accept| check_accepted(&headers(header::ACCEPT, accept), &["text/event-stream"]);
        assert!(events("text/event-stream").is_ok() && events("text/*").is_ok());
        assert!(events("application/*").is_err() && events("application/json").is_err());
    }

    #[test]
    fn only_plain_json_is_read() {
        let check = |form: &str, expected: bool| {
            let found = check_form(&headers(header::CONTENT_TYPE, form));
            assert_eq!(found.is_ok(), expected, "{form}");
        };
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            check(good, true);
        }
        for bad in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "",
        ] {
            check(bad, false);
        }
        assert!(check_form(&HeaderMap::new()).is_ok());
        assert!(check_form(&headers(header::CONTENT_ENCODING, "identity")).is_ok());
        assert!(check_form(&headers(header::CONTENT_ENCODING, "gzip")).is_err());
    }
}
