//! A caller that may send any header and any part of a body, and sees each part of the answer as it came.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::soon;
use crate::stage::{KEY, reason};

/// Whether the body that was sent is all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Whole,
    Unfinished,
}

/// An answer, part by part.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// The gRPC code and the reason from its details, wherever the status stands.
    pub(crate) fn code(&self) -> (Code, String) {
        let found = [self.trailers.as_ref(), Some(&self.headers)]
            .into_iter()
            .flatten()
            .find_map(Status::from_header_map);
        let status = found.unwrap_or_else(|| panic!("no grpc-status: {self:?}"));
        if status.code() == Code::Ok {
            return (Code::Ok, String::new());
        }
        (status.code(), reason(&status))
    }

    /// Whether the answer is nothing but headers (gRPC over HTTP/2, "Trailers-Only").
    pub(crate) fn is_trailers_only(&self) -> bool {
        self.body.is_empty() && self.trailers.is_none()
    }
}

/// A request for a path with these headers.
pub(crate) fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://house{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// A gRPC call with the key of the stage and these headers besides.
pub(crate) fn grpc(path: &str, more: &[(&str, &str)]) -> Request<()> {
    let bearer = format!("Bearer {KEY}");
    let usual = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &bearer),
    ];
    request(path, &[&usual[..], more].concat())
}

/// Asks over a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    request: Request<()>,
    bytes: Vec<u8>,
    body: Body,
) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let asking = async move {
        let (response, mut sending) = sender
            .ready()
            .await
            .unwrap()
            .send_request(request, false)
            .unwrap();
        // Refused before it was sent: the answer says why.
        let _ = sending.send_data(Bytes::from(bytes), body == Body::Whole);
        let answer = read(response).await;
        // Kept until now: dropping it would end an unfinished body.
        drop(sending);
        answer
    };
    soon(async {
        tokio::select! {
            answer = asking => answer,
            ended = connection => panic!("the connection ended first: {ended:?}"),
        }
    })
    .await
}

async fn read(response: h2::client::ResponseFuture) -> Answer {
    let (head, mut incoming) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(part) = incoming.data().await {
        // A server that has answered may reset what it will not read.
        let Ok(part) = part else { break };
        let _ = incoming.flow_control().release_capacity(part.len());
        body.extend_from_slice(&part);
    }
    Answer {
        http: head.status,
        headers: head.headers,
        body,
        trailers: incoming.trailers().await.unwrap_or_default(),
    }
}
