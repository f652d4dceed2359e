//! An HTTP/2 peer that is held to nothing: it writes any frames in any order, and reads what comes back.
//!
//! It encodes header blocks in the plainest way and decodes none. Where a test reads headers, it asks with
//! `caller`, which is a proper client.

use std::net::SocketAddr;
use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) mod caller;
pub(crate) mod frame;

use frame::Frame;

/// What opens every HTTP/2 connection (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A safety net only: nothing that is tested here takes this long.
const SOON: Duration = Duration::from_secs(30);

/// Waits for what must come soon.
pub(crate) async fn soon<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, waited_for)
        .await
        .expect("what is waited for comes")
}

/// Reads until the other side closes; a reset is an end like any other.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before a reset stays in `bytes`.
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// Whether a peer answers the PINGs that it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    Polite,
    Mute,
}

/// One HTTP/2 connection.
pub(crate) struct Peer {
    stream: TcpStream,
    manners: Manners,
}

impl Peer {
    /// A peer that opens a connection as it should be opened, and answers PINGs.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[]).await
    }

    /// A peer with these SETTINGS.
    pub(crate) async fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::over(
            TcpStream::connect(address).await.unwrap(),
            &frame::settings(settings),
        )
        .await
    }

    /// A peer that never answers a PING.
    pub(crate) async fn mute(address: SocketAddr) -> Self {
        Self {
            manners: Manners::Mute,
            ..Self::connect(address).await
        }
    }

    /// A peer that lets any answer come, and whose socket takes in as little as the system allows.
    pub(crate) async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let wide = frame::settings(&[(frame::INITIAL_WINDOW_SIZE, WINDOW_MAX)]);
        let mut peer = Self::over(stream, &wide).await;
        peer.send(&[frame::window_update(0, WINDOW_MAX - 65_535)])
            .await;
        peer
    }

    async fn over(stream: TcpStream, settings: &Frame) -> Self {
        stream.set_nodelay(true).unwrap();
        let mut peer = Self {
            stream,
            manners: Manners::Polite,
        };
        peer.send_bytes(PREFACE).await;
        peer.send(std::slice::from_ref(settings)).await;
        peer
    }

    /// Sends frames, all at once. A peer that was cut in the meantime finds out when it reads.
    pub(crate) async fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        self.send_bytes(&bytes).await;
    }

    /// Sends bytes, with the same provision.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = soon(self.stream.write_all(bytes)).await;
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next frame; `None` once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let frame = soon(self.read()).await?;
        if self.manners == Manners::Polite
            && let Some(answer) = frame.answer()
        {
            self.send(&[answer]).await;
        }
        Some(frame)
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; frame::HEAD_BYTES];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut frame = Frame::from_head(head);
        self.stream.read_exact(&mut frame.payload).await.ok()?;
        Some(frame)
    }

    /// Reads on to the frame that is looked for.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut passed = Vec::new();
        loop {
            let Some(frame) = self.next().await else {
                panic!("the connection ended before the frame came, after {passed:?}");
            };
            if wanted(&frame) {
                return frame;
            }
            passed.push((frame.kind, frame.stream));
        }
    }

    /// Reads on to the end of one call; whether it was answered or reset.
    pub(crate) async fn end_of(&mut self, stream: u32) -> End {
        let last = self
            .until(|frame| frame.stream == stream && frame.ends_stream())
            .await;
        if last.kind == frame::RST_STREAM {
            End::Reset(last.reason())
        } else {
            End::Answered
        }
    }

    /// Asks for a sign of life; what came before it is passed over.
    pub(crate) async fn pong(&mut self) {
        self.send(&[frame::ping(*b"a-sign-o")]).await;
        self.until(|frame| frame.kind == frame::PING && frame.is_ack())
            .await;
    }

    /// Reads until the connection has ended; why, when the other side has said so.
    pub(crate) async fn last_words(&mut self) -> Option<Reason> {
        let mut why = None;
        while let Some(frame) = self.next().await {
            if frame.kind == frame::GOAWAY {
                why = Some(frame.reason());
            }
        }
        why
    }
}

/// The largest flow-control window (RFC 9113, 6.9.1).
pub(crate) const WINDOW_MAX: u32 = (1 << 31) - 1;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Reset(Reason),
}
