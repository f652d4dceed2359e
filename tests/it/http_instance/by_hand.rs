//! An instance that speaks HTTP/1.1 by hand: each task is in the hands of the test, which writes any bytes it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::raw::soon;

/// A listening instance.
pub(crate) struct ByHand {
    pub(crate) address: SocketAddr,
    tasks: mpsc::Receiver<Asked>,
    connections: Arc<AtomicUsize>,
    /// What probes are answered with.
    pub(crate) health: watch::Sender<&'static str>,
    accepting: JoinHandle<()>,
}

/// A task that has come, whole, and the connection it came by.
pub(crate) struct Asked {
    /// The request line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
    /// The number of its connection, from 1.
    pub(crate) connection: usize,
    stream: TcpStream,
    next: Next,
}

/// What becomes of a connection that goes on.
#[derive(Clone)]
struct Next {
    tasks: mpsc::Sender<Asked>,
    health: watch::Receiver<&'static str>,
}

/// An answer like those of most servers.
pub(crate) fn json(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

impl ByHand {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tx, tasks) = mpsc::channel(4096);
        let health = watch::Sender::new("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let next = Next {
            tasks: tx,
            health: health.subscribe(),
        };
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let connection = count.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(serve(stream, connection, next.clone()));
            }
        });
        Self {
            address,
            tasks,
            connections,
            health,
            accepting,
        }
    }

    /// The next task.
    pub(crate) async fn asked(&mut self) -> Asked {
        soon(self.tasks.recv())
            .await
            .expect("the instance is there")
    }

    /// Whether a task is there that nobody has looked at.
    pub(crate) fn has_more(&mut self) -> bool {
        !self.tasks.is_empty()
    }

    /// Connections so far, those of probes included.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Asked {
    /// The values of a header, in order.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value)
            .collect()
    }

    /// Writes these bytes.
    pub(crate) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Writes as much as is taken, until the other side has closed.
    pub(crate) async fn say_without_end(mut self, piece: &[u8]) {
        let saying = async { while self.stream.write_all(piece).await.is_ok() {} };
        soon(saying).await;
    }

    /// Writes a whole answer; the connection waits for the next request.
    pub(crate) async fn answer(mut self, text: &str) {
        self.say(text).await;
        tokio::spawn(serve(self.stream, self.connection, self.next));
    }

    /// Waits until the other side has closed.
    pub(crate) async fn closed(&mut self) {
        let mut more = [0; 64];
        let read = soon(self.stream.read(&mut more)).await;
        assert_eq!(read.unwrap_or(0), 0, "nothing more is sent");
    }
}

async fn serve(mut stream: TcpStream, connection: usize, next: Next) {
    while let Some((head, body)) = request(&mut stream).await {
        if head.starts_with("GET /api/health/check ") {
            let answer = *next.health.borrow();
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let asked = Asked {
            head,
            body,
            connection,
            stream,
            next: next.clone(),
        };
        let _ = next.tasks.send(asked).await;
        return;
    }
}

/// One request, which comes with the length of its body.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut read = Vec::new();
    loop {
        let whole = read.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(at) = whole {
            let head = String::from_utf8(read[..at].to_vec()).unwrap();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let end = at + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            if end <= read.len() {
                assert_eq!(end, read.len(), "one request at a time");
                let body = String::from_utf8(read[at + 4..].to_vec()).unwrap();
                return Some((head, body));
            }
        }
        let count = stream.read_buf(&mut read).await.ok()?;
        if count == 0 {
            return None;
        }
    }
}
