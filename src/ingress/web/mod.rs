//! gRPC-Web: gRPC for callers who can neither read trailers nor send a request while they read its answer, which is
//! what browsers are (grpc/grpc, doc/PROTOCOL-WEB.md).
//!
//! A request of it is undressed before anything else looks at it, and is gRPC from there on: the same key, the same
//! deadline, the same limits. Its answer is dressed last of all, once it was weighed, cut to pieces and counted, so
//! that whatever ends it before its time ends it with a status too. What is plain gRPC, or REST, passes both untouched
//! for one look at a header.

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

mod answer;
mod request;

pub(super) use answer::{Dress, Leaving};
pub use request::Arriving;

/// How the bytes of gRPC-Web are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Binary,
    /// In base64, for callers who see nothing but text before the end of an answer.
    Text,
}

const BINARY: &[u8] = b"application/grpc-web";
const TEXT: &[u8] = b"application/grpc-web-text";

impl Form {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let value = headers.get(name)?.as_bytes();
        if !value.starts_with(BINARY) {
            return None;
        }
        Some(if value.starts_with(TEXT) {
            Self::Text
        } else {
            Self::Binary
        })
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        })
    }
}

/// Makes gRPC of a request of gRPC-Web; says in which form its answer is wanted. Every other request stays as it is.
pub(super) fn undress<B>(mut request: Request<B>) -> (Request<Arriving<B>>, Option<Form>) {
    let Some(sent) = Form::of(request.headers(), &header::CONTENT_TYPE) else {
        return (request.map(Arriving::AsItIs), None);
    };
    let wanted = Form::of(request.headers(), &header::ACCEPT).unwrap_or(sent);
    // For the one who must know that its caller cannot go on sending.
    request.extensions_mut().insert(wanted);
    let headers = request.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    // The length of what stands there as text is another one.
    headers.remove(header::CONTENT_LENGTH);
    let request = match sent {
        Form::Binary => request.map(Arriving::AsItIs),
        Form::Text => request.map(Arriving::text),
    };
    (request, Some(wanted))
}

/// Whether a request has come as gRPC-Web.
pub(super) fn is_web<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Form>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_content_type_and_its_answer_by_what_is_accepted() {
        let check = |sent: &str, accepted: Option<&str>, expected: Option<Form>| {
            let mut request = Request::post("/a.S/M").header("content-type", sent);
            if let Some(accepted) = accepted {
                request = request.header("accept", accepted);
            }
            let (request, form) = undress(request.body(()).unwrap());
            assert_eq!(form, expected, "{sent} {accepted:?}");
            assert_eq!(is_web(&request), expected.is_some());
            let inside = if expected.is_some() {
                "application/grpc"
            } else {
                sent
            };
            assert_eq!(request.headers()["content-type"], inside);
        };
        let (binary, text) = ("application/grpc-web", "application/grpc-web-text");
        let (binary_proto, text_proto) = (format!("{binary}+proto"), format!("{text}+proto"));
        for sent in [binary, &binary_proto] {
            check(sent, None, Some(Form::Binary));
            check(sent, Some("*/*"), Some(Form::Binary));
            check(sent, Some(text), Some(Form::Text));
        }
        for sent in [text, &text_proto] {
            check(sent, None, Some(Form::Text));
            check(sent, Some(&text_proto), Some(Form::Text));
            check(sent, Some(&binary_proto), Some(Form::Binary));
        }
        for other in [
            "application/grpc",
            "application/grpc+proto",
            "application/json",
        ] {
            check(other, None, None);
            check(other, Some(text), None);
        }
    }
}
