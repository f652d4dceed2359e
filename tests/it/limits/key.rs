//! Who has no key is told so, in the words of the protocol that was spoken.

use http::HeaderMap;
use orchestrator::ingress::access::METHODS;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use super::{House, bearer, route_fields};
use crate::raw::caller::{self, Answer, Body};
use crate::raw::frame;
use crate::raw::{End, Peer, rest};
use crate::stage::{self, KEY, start};

/// Everything but health, what is not there included.
fn paths() -> Vec<&'static str> {
    let more = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/openclaw.orchestrator.v1.OrchestratorService/Tomorrow",
        "/no.such.Service/Method",
        "/grpc.health.v1.Healthy/Check",
        "/",
    ];
    METHODS.iter().map(|(path, _)| *path).chain(more).collect()
}

/// What a request may show instead of one good key, and what it is told.
fn wrong_keys() -> Vec<(Vec<String>, &'static str)> {
    let good = format!("Bearer {KEY}");
    vec![
        (vec![], "KEY_MISSING"),
        (vec![good.clone(), good.clone()], "KEY_MISSING"),
        (vec!["Bearer wrong".into(), good], "KEY_MISSING"),
        (vec![format!("Basic {KEY}")], "KEY_MISSING"),
        (vec![KEY.into()], "KEY_MISSING"),
        (vec!["Bearer ".into()], "KEY_MISSING"),
        (vec!["Bearer wrong".into()], "KEY_INVALID"),
        (vec![format!("Bearer {KEY}x")], "KEY_INVALID"),
    ]
}

async fn ask(house: &House, path: &str, content_type: &str, keys: &[String]) -> Answer {
    let mut headers = vec![("content-type", content_type)];
    headers.extend(keys.iter().map(|key| ("authorization", key.as_str())));
    // The body never comes: whoever may not call is told so by the headers alone.
    let request = caller::request(path, &headers);
    caller::ask(house.address(), request, Vec::new(), Body::Unfinished).await
}

#[tokio::test]
async fn a_call_without_a_good_key_is_unauthenticated_whatever_it_calls() {
    let house = House::new().await;
    for path in paths() {
        for (keys, expected) in wrong_keys() {
            let answer = ask(&house, path, "application/grpc", &keys).await;
            assert_eq!(
                answer.code(),
                (Code::Unauthenticated, expected.into()),
                "{path} {keys:?}"
            );
            assert_eq!(answer.http, 200);
            assert!(answer.is_trailers_only(), "{path}: {answer:?}");
        }
    }
}

fn is_refusal(http: u16, headers: &HeaderMap, body: &[u8], code: &str) {
    assert_eq!(http, 401);
    assert_eq!(headers["www-authenticate"], "Bearer");
    assert_eq!(headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["error"]["code"], code);
    assert!(!body.to_string().contains(KEY));
}

#[tokio::test]
async fn a_request_that_is_not_grpc_is_told_in_json_over_http2() {
    let house = House::new().await;
    for path in paths() {
        for (keys, expected) in wrong_keys() {
            for content_type in ["application/json", ""] {
                let answer = ask(&house, path, content_type, &keys).await;
                is_refusal(
                    answer.http.as_u16(),
                    &answer.headers,
                    &answer.body,
                    &expected.to_lowercase(),
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_is_not_grpc_is_told_in_json_over_http1() {
    let house = House::new().await;
    for path in paths() {
        for (keys, expected) in wrong_keys() {
            let keys: String = keys
                .iter()
                .map(|key| format!("authorization: {key}\r\n"))
                .collect();
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: house\r\nconnection: close\r\n{keys}\r\n");
            let mut stream = TcpStream::connect(house.address()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = String::from_utf8(rest(&mut stream).await).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let mut lines = head.lines();
            assert_eq!(lines.next(), Some("HTTP/1.1 401 Unauthorized"));
            let headers = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| {
                    (
                        name.to_lowercase().parse::<http::HeaderName>().unwrap(),
                        value.parse().unwrap(),
                    )
                })
                .collect();
            is_refusal(401, &headers, body.as_bytes(), &expected.to_lowercase());
        }
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_ends_the_stream_of_one_who_does_not_read() {
    let config = stage::embedded();
    let revoked = config.keys.keys[0].revoked.clone();
    let app = start(config).await;
    let no_window = [(frame::INITIAL_WINDOW_SIZE, 0)];
    let mut peer = Peer::with_settings(app.address(), &no_window).await;
    let own_key = bearer();
    let mut fields = route_fields(&own_key);
    fields[2].1 = "/openclaw.orchestrator.v1.OrchestratorService/HealthWatch";
    peer.send(&[
        frame::headers(1, &fields, 0),
        frame::data(1, &frame::prefix(0), frame::END_STREAM),
    ])
    .await;
    peer.until(|frame| frame.kind == frame::HEADERS && frame.stream == 1)
        .await;
    // The first message is in our hands now, and there it stays.
    peer.pong().await;
    revoked.revoke();
    assert!(matches!(peer.end_of(1).await, End::Reset(_)));
}
