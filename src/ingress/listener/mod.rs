//! The accept loop and the limits of every connection. It is our own, because a connection without limits
//! holds thousands of streams, waits for ever for its first bytes, and outlives a shutdown.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::visitor::Guest;
use super::{Arriving, Door};
use crate::chance::Chance;
use crate::domain::limit::{
    ANSWER_SMALL_BYTES, BODY_TIMEOUT, HEADER_LIST_BYTES_MAX, STREAM_IDLE_MAX, TIMEOUT_MAX,
    TLS_BYTES_MAX,
};
use crate::ingress::settings::SettingsNow;
use crate::memory::Memory;
use crate::tasks::Tasks;
use crate::telemetry::trace::Tracer;

mod age;
mod first_bytes;
mod keeper;
mod outlook;
mod places;
pub mod secure;
mod socket;
mod streams;
mod wire;
mod write_limit;

use first_bytes::FirstBytes;
use places::Admission;
pub use socket::{Address, BadAddress, Listen, Peer, UnixSocket, bind, bind_unix};
use streams::{Watched, streams};
use wire::{Handshakes, Wire};
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
    /// How long a TLS handshake may take.
    pub tls_handshake: Duration,
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
    /// How long its calls may go on after that. Those that may last longer are cut.
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
            tls_handshake: Duration::from_secs(10),
            first_bytes: Duration::from_secs(5),
            http1_headers: Duration::from_secs(10),
            body: BODY_TIMEOUT,
            stream_idle: STREAM_IDLE_MAX,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            age: Duration::from_secs(30 * 60),
            age_grace: TIMEOUT_MAX,
        }
    }
}

/// Windows of a connection from a trusted network, at least.
const TRUSTED_STREAM_WINDOW: u32 = 1024 * 1024;
const TRUSTED_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

impl Limits {
    /// The most that one connection makes us hold: its window, what TLS keeps, and of each call what a small answer
    /// may leave behind with nobody to watch it.
    #[must_use]
    pub fn connection_bytes_max(&self) -> u64 {
        let window = if self.trusted.is_empty() {
            self.connection_window
        } else {
            self.connection_window.max(TRUSTED_CONNECTION_WINDOW)
        };
        u64::from(window) + TLS_BYTES_MAX + u64::from(self.streams) * ANSWER_SMALL_BYTES as u64
    }

    fn trusts(&self, peer: Peer) -> bool {
        let trusted = |ip| self.trusted.iter().any(|network| network.contains(&ip));
        peer.ip().is_some_and(trusted)
    }

    fn for_peer(&self, peer: Peer) -> Self {
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

/// On what terms connections come in.
pub struct Terms {
    /// Their limits, and who may say who is calling, at each moment.
    pub settings: SettingsNow,
    /// TLS; plain text when absent.
    pub secure: Option<Arc<secure::Keeper>>,
    /// Records their calls.
    pub tracer: Tracer,
}

/// Accepts connections until `tasks` are told to stop; each connection is then asked to end (GOAWAY) and
/// finishes its calls. `cut` ends those that do not. Messages are charged to `memory`.
pub async fn serve(
    listener: impl Listen,
    door: impl Door<Arriving<Incoming>>,
    terms: Terms,
    memory: Memory,
    tasks: Tasks,
    cut: CancellationToken,
    chance: Chance,
) {
    let gate = Arc::<Admission>::default();
    let Terms {
        settings,
        secure,
        tracer,
    } = terms;
    let handshakes = secure.map(|keeper| Arc::new(Handshakes::new(keeper)));
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
                // What cannot change within a connection is as it was when it came.
                let limits = settings.load().limits.for_peer(peer);
                let Some(place) = gate.admit(peer, &limits) else {
                    tracing::debug!(%peer, "connection refused: too many");
                    continue;
                };
                let connection = Connection {
                    peer,
                    limits,
                    handshakes: handshakes.clone(),
                    settings: settings.clone(),
                    memory: memory.clone(),
                    tracer: tracer.clone(),
                    tasks: tasks.clone(),
                    chance: chance.clone(),
                };
                let served = connection.serve(stream, door.clone());
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        biased;
                        () = cut.cancelled() => {}
                        () = served => {}
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

/// One connection, before it is served.
struct Connection {
    peer: Peer,
    limits: Limits,
    handshakes: Option<Arc<Handshakes>>,
    settings: SettingsNow,
    memory: Memory,
    tracer: Tracer,
    tasks: Tasks,
    chance: Chance,
}

impl Connection {
    async fn serve<S>(self, stream: S, door: impl Door<Arriving<Incoming>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(handshakes) = self.handshakes.clone() else {
            let never = std::future::pending();
            return self.serve_calls(Wire::Plain(stream), door, never).await;
        };
        let stop = self.tasks.stopping();
        let secured = tokio::select! {
            biased;
            secured = handshakes.shake(stream, self.peer, self.limits.tls_handshake) => secured,
            // Nothing was asked yet.
            () = stop.cancelled() => None,
        };
        let Some((stream, standing)) = secured else {
            return;
        };
        let peer = self.peer;
        let denied = handshakes.until_denied(standing.clone());
        let expired = async {
            handshakes.until_expired(standing).await;
            tracing::info!(%peer, "connection ends: the certificate that it has shown has expired, or its revocation list is overdue");
        };
        tokio::select! {
            biased;
            () = denied => {
                tracing::info!(%peer, "connection cut: the certificate that it has shown is good no more");
            }
            () = self.serve_calls(stream, door, expired) => {}
        }
    }

    /// Once it has `expired` it takes no new calls, as when it is too old.
    async fn serve_calls<S>(
        self,
        stream: Wire<S>,
        door: impl Door<Arriving<Incoming>>,
        expired: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            peer,
            limits,
            settings,
            memory,
            tracer,
            tasks,
            chance,
            ..
        } = self;
        let guest = (Guest::new(peer, stream.certificate()), stream.scheme());
        let stop = tasks.stopping();
        let takes_nothing_max = limits.keepalive_interval + limits.keepalive_timeout;
        let stream = WriteLimit::new(
            FirstBytes::new(stream, limits.first_bytes),
            takes_nothing_max,
        );
        let stream = TokioIo::new(stream);
        let (calls, watched) = streams(door, guest, settings.clone(), (memory, tracer), tasks);
        let builder = builder(&limits, watched);
        let mut serving = pin!(builder.serve_connection(stream, calls));
        let share = age::share(&chance);
        let over = async {
            tokio::select! {
                biased;
                () = expired => {}
                () = age::until_old(&settings, share) => {}
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut serving => Some(ended),
            // A shutdown in the meantime changes nothing here: it has its own limit, kept by `cut`.
            () = over => {
                serving.as_mut().graceful_shutdown();
                let grace = settings.load().limits.age_grace;
                time::timeout(grace, serving).await.ok()
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
