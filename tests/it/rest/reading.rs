//! A reader of server-sent events over HTTP/1.1 and over HTTP/2, who sees each event when it comes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::ask::{Answer, Ask, Way};
use crate::raw::soon;

/// One event.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) retry: Option<u64>,
    pub(crate) data: Value,
}

/// An answer that goes on.
pub(crate) struct Reading {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    source: Source,
    /// What came and was not read yet.
    text: String,
    /// The last id that has come, as `Last-Event-ID` says it.
    pub(crate) last_id: Option<u64>,
}

enum Source {
    Http1(TcpStream, Vec<u8>),
    Http2(h2::RecvStream, JoinHandle<()>),
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Http2(_, connection) = self {
            connection.abort();
        }
    }
}

/// A reader who takes as little as the system allows, and reads nothing.
pub(crate) async fn stuck(ask: &Ask, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(&ask.text()).await.unwrap();
    stream
}

impl Reading {
    /// Asks, and comes back with the beginning of the answer.
    pub(crate) async fn open(ask: &Ask, way: Way, address: SocketAddr) -> Self {
        soon(Self::begin(ask, way, address)).await
    }

    async fn begin(ask: &Ask, way: Way, address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if way == Way::Http2 {
            return Self::begin_h2(ask, stream).await;
        }
        stream.write_all(&ask.text()).await.unwrap();
        let mut raw = Vec::new();
        let end = loop {
            let end = raw.windows(4).position(|part| part == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            assert_ne!(stream.read_buf(&mut raw).await.unwrap(), 0, "no answer");
        };
        let rest = raw.split_off(end);
        let head = Answer::head(&raw);
        Self {
            status: head.status,
            headers: head.headers,
            source: Source::Http1(stream, rest),
            text: String::new(),
            last_id: None,
        }
    }

    async fn begin_h2(ask: &Ask, stream: TcpStream) -> Self {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::task::spawn(async move { drop(connection.await) });
        let mut request = http::Request::builder()
            .method(&ask.verb)
            .uri(format!("http://house{}", ask.path));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let mut sender = sender.ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let (head, body) = response.await.unwrap().into_parts();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            source: Source::Http2(body, connection),
            text: String::new(),
            last_id: None,
        }
    }

    /// The next event; nothing when the answer is over or its connection broke.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (parsed(block), rest.to_owned());
                self.text = rest;
                let Some(event) = event else { continue };
                self.last_id = event.id.or(self.last_id);
                return Some(event);
            }
            let part = soon(self.source.part()).await?;
            self.text += std::str::from_utf8(&part).unwrap();
        }
    }

    /// The next event, which must be of this name.
    pub(crate) async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await;
        let event = event.unwrap_or_else(|| panic!("over before {name}"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }
}

impl Source {
    async fn part(&mut self) -> Option<Bytes> {
        match self {
            Self::Http1(stream, raw) => loop {
                if let Some(part) = chunk(raw) {
                    return Some(part).filter(|part| !part.is_empty());
                }
                if stream.read_buf(raw).await.ok()? == 0 {
                    return None;
                }
            },
            Self::Http2(body, _) => {
                let part = body.data().await?.ok()?;
                body.flow_control().release_capacity(part.len()).unwrap();
                Some(part)
            }
        }
    }
}

/// One whole chunk (RFC 9112, 7.1); an empty one is the last. Events here are of ASCII, so that any cut will do.
fn chunk(raw: &mut Vec<u8>) -> Option<Bytes> {
    let end = raw.windows(2).position(|part| part == b"\r\n")?;
    let length = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
    let (start, next) = (end + 2, end + 2 + length + 2);
    if raw.len() < next {
        return None;
    }
    let part = Bytes::copy_from_slice(&raw[start..start + length]);
    raw.drain(..next);
    Some(part)
}

/// A block of lines (HTML, 9.2.6); nothing where it has no data.
fn parsed(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data = None;
    for line in block.lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name {
            "event" => value.clone_into(&mut event.name),
            "id" => event.id = Some(value.parse().unwrap()),
            "retry" => event.retry = Some(value.parse().unwrap()),
            "data" => data = Some(serde_json::from_str(value).unwrap()),
            ":" => {}
            other => panic!("{other}"),
        }
    }
    data.map(|data| Event { data, ..event })
}
