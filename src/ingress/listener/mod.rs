//! The accept loop and the limits of every connection. It is our own, because a connection without limits
//! holds thousands of streams, waits for ever for its first bytes, and outlives a shutdown.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::Door;
use crate::chance::Chance;
use crate::domain::limit::{
    ANSWER_SMALL_BYTES, BODY_TIMEOUT, HEADER_LIST_BYTES_MAX, STREAM_IDLE_MAX,
};
use crate::ingress::settings::SettingsNow;
use crate::memory::Memory;
use crate::tasks::Tasks;

mod first_bytes;
mod streams;
mod write_limit;

use first_bytes::FirstBytes;
use streams::{Watched, streams};
use write_limit::WriteLimit;

/// The limits of the front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Networks of proxies: `connections_per_address` does not apply to them, and they get larger windows, since
    /// one connection of theirs carries many callers. Loopback is never counted.
    pub trusted: Vec<IpNet>,
    /// Concurrent calls of one connection.
    pub streams: u32,
    /// Flow-control window of one call.
    pub stream_window: u32,
    /// Flow-control window of one connection.
    pub connection_window: u32,
    /// How long a connection may take to say what it speaks.
    pub first_bytes: Duration,
    /// How long an HTTP/1.1 request may take to send its headers, and the next one to begin.
    pub http1_headers: Duration,
    /// How long a request that names no deadline may take to arrive whole.
    pub body: Duration,
    /// How long an answer may wait for its reader to take the next piece of it.
    pub stream_idle: Duration,
    /// How often a connection is tested.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that test. Who reads nothing for as long as both together is cut too.
    pub keepalive_timeout: Duration,
    /// When a connection is asked to come again, give or take a tenth.
    pub age: Duration,
    /// How long its calls may go on after that.
    pub age_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 100,
            trusted: Vec::new(),
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            first_bytes: Duration::from_secs(5),
            http1_headers: Duration::from_secs(10),
            body: BODY_TIMEOUT,
            stream_idle: STREAM_IDLE_MAX,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            age: Duration::from_secs(30 * 60),
            age_grace: Duration::from_secs(60),
        }
    }
}

/// Windows of a connection from a trusted network, at least.
const TRUSTED_STREAM_WINDOW: u32 = 1024 * 1024;
const TRUSTED_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

impl Limits {
    /// The most that one connection makes us hold: its window, and of each call what a small answer may leave
    /// behind with nobody to watch it.
    #[must_use]
    pub fn connection_bytes_max(&self) -> u64 {
        let window = if self.trusted.is_empty() {
            self.connection_window
        } else {
            self.connection_window.max(TRUSTED_CONNECTION_WINDOW)
        };
        u64::from(window) + u64::from(self.streams) * ANSWER_SMALL_BYTES as u64
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|network| network.contains(&peer))
    }

    fn for_peer(&self, peer: IpAddr) -> Self {
        let mut limits = self.clone();
        if self.trusts(peer) {
            limits.stream_window = limits.stream_window.max(TRUSTED_STREAM_WINDOW);
            limits.connection_window = limits.connection_window.max(TRUSTED_CONNECTION_WINDOW);
        }
        limits
    }
}

/// Streams that a peer reset before they were accepted, and errors that we answered with a reset: more of
/// them end the connection (rapid reset, CVE-2023-44487 and CVE-2025-8671). A refused stream counts as such an
/// error, twice when it has a body.
const PENDING_ACCEPT_RESETS_MAX: usize = 20;
const LOCAL_ERROR_RESETS_MAX: usize = 100;
/// Streams that callers begin at once before they know the limit; common clients assume this many.
const STREAMS_ASSUMED: u32 = 100;
/// Bytes of answers that wait in one call's send buffer.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Pause after a failed accept: out of descriptors, most likely, and trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Where connections come from.
pub trait Listen: Send + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection; it comes with the address of its peer. Nothing is lost when the future
    /// is dropped.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Only latency suffers without it.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

/// Accepts connections until `tasks` are told to stop; each connection is then asked to end (GOAWAY) and
/// finishes its calls. `cut` ends those that do not. Messages are charged to `memory`.
pub async fn serve(
    listener: impl Listen,
    door: impl Door<Incoming>,
    settings: SettingsNow,
    memory: Memory,
    tasks: Tasks,
    cut: CancellationToken,
    chance: Chance,
) {
    let gate = Arc::<Admission>::default();
    let stop = tasks.stopping();
    loop {
        let accepted = tokio::select! {
            // However many are waiting to come in, an end is an end.
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A connection keeps the limits that it came with.
                let limits = settings.load().limits.for_peer(peer.ip());
                let Some(place) = gate.admit(peer.ip(), &limits) else {
                    tracing::debug!(%peer, "connection refused: too many");
                    continue;
                };
                let connection = connection(
                    stream,
                    door.clone(),
                    limits,
                    memory.clone(),
                    tasks.clone(),
                    chance.clone(),
                );
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        biased;
                        () = cut.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: impl Door<Incoming>,
    limits: Limits,
    memory: Memory,
    tasks: Tasks,
    chance: Chance,
) {
    let stop = tasks.stopping();
    let takes_nothing_max = limits.keepalive_interval + limits.keepalive_timeout;
    let stream = WriteLimit::new(
        FirstBytes::new(stream, limits.first_bytes),
        takes_nothing_max,
    );
    let stream = TokioIo::new(stream);
    let (calls, watched) = streams(door, memory, tasks, limits.stream_idle);
    let builder = builder(&limits, watched);
    let mut serving = pin!(builder.serve_connection(stream, calls));
    let age = limits.age.mul_f64(0.9 + 0.2 * chance.draw::<f64>());
    let ended = tokio::select! {
        biased;
        ended = &mut serving => Some(ended),
        // A shutdown in the meantime changes nothing here: it has its own limit, kept by `cut`.
        () = time::sleep(age) => {
            serving.as_mut().graceful_shutdown();
            time::timeout(limits.age_grace, serving).await.ok()
        }
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            Some(serving.await)
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(error, "connection ended");
    }
}

fn builder(limits: &Limits, watched: Watched) -> auto::Builder<Watched> {
    // A caller who does not know a low limit yet is refused, not cut off.
    let first_burst = 2 * STREAMS_ASSUMED.saturating_sub(limits.streams) as usize;
    let mut builder = auto::Builder::new(watched);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http1_headers)
        .max_buf_size(HEADER_LIST_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_ERROR_RESETS_MAX + first_burst)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        // The date is of no use to a gRPC caller and costs a header on each answer.
        .auto_date_header(false);
    builder
}

/// Counts connections, in all and for each address.
#[derive(Default)]
struct Admission(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: usize,
    per_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when it is dropped.
struct Place {
    admission: Arc<Admission>,
    /// Where it is counted by its address too.
    peer: Option<IpAddr>,
}

impl Admission {
    fn admit(self: &Arc<Self>, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let peer = peer.to_canonical();
        let is_exempt = peer.is_loopback() || limits.trusts(peer);
        let mut counts = self.counts();
        if limits.connections <= counts.all {
            return None;
        }
        if !is_exempt {
            let count = counts.per_address.entry(peer).or_default();
            if limits.connections_per_address <= *count {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Place {
            admission: Arc::clone(self),
            peer: (!is_exempt).then_some(peer),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.all -= 1;
        let Some(peer) = self.peer else {
            return;
        };
        if let Some(count) = counts.per_address.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                counts.per_address.remove(&peer);
            }
        }
    }
}

/// Opens the listener, with a message that says what to do when that fails.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AddrInUse {
            ": another program listens there; choose another address with --listen"
        } else {
            ""
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}{hint}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, per_address: usize) -> Limits {
        Limits {
            connections,
            connections_per_address: per_address,
            trusted: vec!["10.9.0.0/16".parse().unwrap()],
            ..Limits::default()
        }
    }

    #[test]
    fn one_address_gets_so_many_places_and_gives_them_back() {
        let (admission, limits) = (Arc::<Admission>::default(), limits(100, 2));
        let peer: IpAddr = "10.1.1.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.1.1.1".parse().unwrap();
        let first = admission.admit(peer, &limits).unwrap();
        let _second = admission.admit(mapped, &limits).unwrap();
        assert!(admission.admit(peer, &limits).is_none());
        let other = "10.1.1.2".parse().unwrap();
        assert!(admission.admit(other, &limits).is_some());
        drop(first);
        assert!(admission.admit(peer, &limits).is_some());
    }

    #[test]
    fn loopback_and_trusted_networks_count_only_in_all() {
        for peer in ["127.0.0.1", "10.9.3.3"] {
            let (admission, limits) = (Arc::<Admission>::default(), limits(5, 1));
            let peer: IpAddr = peer.parse().unwrap();
            let places: Vec<_> = (0..5)
                .map(|_| admission.admit(peer, &limits).unwrap())
                .collect();
            assert!(admission.admit(peer, &limits).is_none());
            drop(places);
            assert!(admission.admit(peer, &limits).is_some());
        }
    }

    #[test]
    fn other_limits_hold_for_the_next_connection() {
        let (admission, peer) = (Arc::<Admission>::default(), "10.1.1.1".parse().unwrap());
        let places: Vec<_> = (0..4)
            .map(|_| admission.admit(peer, &limits(4, 4)).unwrap())
            .collect();
        assert!(admission.admit(peer, &limits(4, 4)).is_none());
        let more = admission.admit(peer, &limits(5, 5));
        assert!(more.is_some());
        assert!(admission.admit(peer, &limits(2, 2)).is_none());
        drop((places, more));
        assert!(admission.admit(peer, &limits(2, 2)).is_some());
        assert_eq!(admission.counts().all, 0, "and none was lost");
    }
}
