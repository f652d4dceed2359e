//! A caller of the REST door over HTTP/1.1 and over HTTP/2, who sees each answer as it came.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::raw::{rest, soon};
use crate::stage::KEY;

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Http1,
    Http2,
}

pub(crate) const WAYS: [Way; 2] = [Way::Http1, Way::Http2];

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) verb: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    /// Without a key and without a body.
    pub(crate) fn bare(verb: Method, path: &str) -> Self {
        Self {
            verb,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With the key of the stage.
    pub(crate) fn get(path: &str) -> Self {
        Self::bare(Method::GET, path).with("authorization", &format!("Bearer {KEY}"))
    }

    /// With the key of the stage and a body of JSON.
    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let ask = Self {
            verb: Method::POST,
            body: body.into(),
            ..Self::get(path)
        };
        ask.with("content-type", "application/json")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(there, _)| there != name);
        self
    }

    /// As it stands on an HTTP/1.1 connection.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: house\r\n", self.verb, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", self.body.len());
        [head.as_bytes(), &self.body].concat()
    }

    pub(crate) async fn send(&self, way: Way, address: SocketAddr) -> Answer {
        match way {
            Way::Http1 => {
                let once = self.clone().with("connection", "close");
                let mut stream = TcpStream::connect(address).await.unwrap();
                // Refused before it was sent: the answer says why.
                let _ = stream.write_all(&once.text()).await;
                Answer::from_text(&rest(&mut stream).await)
            }
            Way::Http2 => soon(self.send_h2(address)).await,
        }
    }

    /// Over HTTP/1.1; nothing where nobody answers.
    pub(crate) async fn try_send(&self, address: SocketAddr) -> Option<Answer> {
        let once = self.clone().with("connection", "close");
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(&once.text()).await.ok()?;
        let bytes = rest(&mut stream).await;
        let is_whole = bytes.windows(4).any(|part| part == b"\r\n\r\n");
        is_whole.then(|| Answer::from_text(&bytes))
    }

    async fn send_h2(&self, address: SocketAddr) -> Answer {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let mut request = Request::builder()
            .method(&self.verb)
            .uri(format!("http://house{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(()).unwrap();
        // What had come before the connection ended is an answer all the same.
        let connection = tokio::task::spawn(connection);
        let asking = async {
            let mut sender = sender.ready().await.unwrap();
            let (response, mut sending) =
                sender.send_request(request, self.body.is_empty()).unwrap();
            if !self.body.is_empty() {
                let _ = sending.send_data(Bytes::from(self.body.clone()), true);
            }
            let (head, mut incoming) = response.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(Ok(part)) = incoming.data().await {
                let _ = incoming.flow_control().release_capacity(part.len());
                body.extend_from_slice(&part);
            }
            Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            }
        };
        let answer = asking.await;
        connection.abort();
        answer
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads the one answer of an HTTP/1.1 connection.
    pub(crate) fn from_text(bytes: &[u8]) -> Self {
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {}", shown()));
        let head = Self::head(&bytes[..end + 4]);
        let rest = &bytes[end + 4..];
        let is_chunked = head.headers.contains_key("transfer-encoding");
        let body = if is_chunked {
            unchunked(rest)
        } else {
            rest.to_vec()
        };
        Self { body, ..head }
    }

    /// Reads what stands before the body of an HTTP/1.1 answer.
    pub(crate) fn head(bytes: &[u8]) -> Self {
        let head = std::str::from_utf8(bytes).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value.trim()).unwrap())
        });
        Self {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|bad| panic!("{bad}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The documents of a stream, one a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The status and the code of a failure, after a look at what every failure has.
    pub(crate) fn failure(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let told = self.json();
        let error = &told["error"];
        assert!(error["message"].is_string(), "{told}");
        assert!(error["retryable"].is_boolean(), "{told}");
        assert_eq!(error["requestId"], self.header("x-request-id"), "{told}");
        (self.status, error["code"].as_str().unwrap().to_owned())
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|part| part == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let start = end + 2;
        whole.extend_from_slice(&rest[start..start + length]);
        if length == 0 {
            return whole;
        }
        rest = &rest[start + length + 2..];
    }
}
