//! The connections to one instance: made when needed, shared by all streams of a kind, replaced when they break.
//!
//! Sessions have connections of their own: streams that last for hours would leave calls no room, and one that is
//! not read would take the window of the others.
//!
//! ```text
//! none ──call──▶ connecting ──▶ open ──GOAWAY, error, keep-alive missed──▶ gone
//!                    └── fails: every call that waits for it gets the failure
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{self, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answer;
use super::doubt::Doubt;
use super::frame::Frame;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    CONNECT_TIMEOUT, CONNECTIONS_STALE_MAX, HEADER_LIST_BYTES_MAX, LINK_CONNECTION_WINDOW,
    LINK_KEEPALIVE_INTERVAL, LINK_KEEPALIVE_TIMEOUT, LINK_STREAM_WINDOW, LINK_STREAMS_MAX,
    LINKS_PER_INSTANCE_MAX, SESSION_LINK_CONNECTION_WINDOW, SESSION_LINK_STREAM_WINDOW,
    SESSION_LINK_STREAMS_MAX, SESSION_LINKS_PER_INSTANCE_MAX,
};
use crate::instance::Sent;
use crate::instance::endpoint::{Dial, Endpoint};
use crate::instance::room::{Place, Queue, Streams, Turn};
use crate::instance::tls::Connector;
use crate::late_flush::LateFlush;
use crate::memory::Memory;
use crate::tasks::Tasks;

/// How streams of one kind share connections.
#[derive(Clone, Copy)]
pub(super) struct Sharing {
    links_max: usize,
    streams_max: usize,
    stream_window: u32,
    connection_window: u32,
    when_full: WhenFull,
}

/// What becomes of a stream for which no connection has room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// It waits: the others will soon be over.
    Wait,
    /// It is refused: the others may last for hours.
    Refuse,
}

impl Sharing {
    pub(super) const CALLS: Self = Self {
        links_max: LINKS_PER_INSTANCE_MAX,
        streams_max: LINK_STREAMS_MAX,
        stream_window: LINK_STREAM_WINDOW,
        connection_window: LINK_CONNECTION_WINDOW,
        when_full: WhenFull::Wait,
    };
    pub(super) const SESSIONS: Self = Self {
        links_max: SESSION_LINKS_PER_INSTANCE_MAX,
        streams_max: SESSION_LINK_STREAMS_MAX,
        stream_window: SESSION_LINK_STREAM_WINDOW,
        connection_window: SESSION_LINK_CONNECTION_WINDOW,
        when_full: WhenFull::Refuse,
    };
}

/// All connections to one instance for streams of one kind.
pub(super) struct Link {
    id: InstanceId,
    sharing: Sharing,
    endpoint: Endpoint,
    dial: Dial,
    secure: Option<Connector>,
    tasks: Tasks,
    pool: Mutex<Pool>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Pool {
    open: Vec<Connection>,
    connecting: Option<Connecting>,
}

/// A connection that is being made. Whoever has waited longest is told first.
#[derive(Clone, Default)]
struct Connecting {
    /// Not set when whoever was connecting is gone.
    outcome: Arc<OnceLock<Result<(), Failure>>>,
    over: CancellationToken,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Frame>,
    streams: Streams,
    gone: Arc<AtomicBool>,
}

/// Leave to open one stream.
pub(super) struct Sender {
    id: InstanceId,
    connection: Connection,
    place: Place,
}

/// A stream that has begun: its answer, and the way to send more.
pub(super) struct Begun {
    pub(super) response: ResponseFuture,
    pub(super) stream: SendStream<Frame>,
    pub(super) place: Place,
}

impl Link {
    pub(super) fn new(
        id: InstanceId,
        sharing: Sharing,
        endpoint: Endpoint,
        dial: Dial,
        secure: Option<Connector>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            sharing,
            endpoint,
            dial,
            secure,
            tasks,
            pool: Mutex::default(),
            queue: Arc::default(),
        })
    }

    /// Waits for a connection that takes a stream, and makes one when there is none. `sent` tells what is waited for,
    /// `before_send` is told when the wait is over.
    pub(super) async fn ready(
        self: &Arc<Self>,
        sent: &Sent,
        before_send: &mut (dyn FnMut(Instant) + Send),
    ) -> Result<Sender, Failure> {
        let mut stale = 0;
        while stale < CONNECTIONS_STALE_MAX {
            let found = match self.find(Turn::Comes) {
                Found::Busy => {
                    let look = || Some(self.find(Turn::Has)).filter(Found::is_something);
                    sent.while_full(self.queue.wait(look)).await
                }
                found @ (Found::Open(..) | Found::Connecting(_) | Found::Full) => found,
            };
            let connecting = match found {
                Found::Open(connection, place) => {
                    if let Some(sender) = self.sender(connection, place).await {
                        before_send(Instant::now());
                        return Ok(sender);
                    }
                    stale += 1;
                    continue;
                }
                Found::Connecting(connecting) => connecting,
                // Looked for again, in its turn.
                Found::Busy => continue,
                Found::Full => {
                    let what = "the connections to the instance hold as many sessions as they may";
                    return Err(Failure::at(
                        &self.id,
                        Reason::TooMany,
                        Progress::NeverSent,
                        what,
                    ));
                }
            };
            connecting.over.cancelled().await;
            match connecting.outcome.get() {
                Some(Ok(())) if self.has_open() => {}
                Some(Ok(())) => stale += 1,
                Some(Err(failure)) => return Err(failure.clone()),
                // Whoever was connecting is gone; the next round begins anew.
                None => {
                    stale += 1;
                    let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
                    let is_same =
                        |other: &mut Connecting| Arc::ptr_eq(&other.outcome, &connecting.outcome);
                    let _ = pool.connecting.take_if(is_same);
                }
            }
        }
        Err(self.down("the instance closes its connections at once"))
    }

    async fn sender(&self, connection: Connection, place: Place) -> Option<Sender> {
        match connection.sender.clone().ready().await {
            Ok(sender) => Some(Sender {
                id: self.id.clone(),
                connection: Connection {
                    sender,
                    ..connection
                },
                place,
            }),
            Err(_gone) => {
                connection.gone.store(true, Ordering::Release);
                None
            }
        }
    }

    fn has_open(&self) -> bool {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.open.iter().any(|connection| !connection.is_gone())
    }

    fn find(self: &Arc<Self>, turn: Turn) -> Found {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.open.retain(|connection| !connection.is_gone());
        let streams = |connection: &&Connection| connection.streams.open();
        if let Some(least) = pool.open.iter().min_by_key(streams) {
            if least.has_room(self.sharing.streams_max) && self.queue.lets_in(turn) {
                // Counted before anybody else looks: a connection takes no more than it has room for.
                return Found::Open(least.clone(), least.streams.take());
            }
            if self.sharing.links_max <= pool.open.len() {
                return match self.sharing.when_full {
                    WhenFull::Wait => Found::Busy,
                    WhenFull::Refuse => Found::Full,
                };
            }
        }
        if let Some(connecting) = &pool.connecting {
            return Found::Connecting(connecting.clone());
        }
        let connecting = Connecting::default();
        pool.connecting = Some(connecting.clone());
        let connected = connect(
            Arc::downgrade(self),
            self.tasks.clone(),
            Arc::clone(&connecting.outcome),
            connecting.over.clone().drop_guard(),
        );
        self.tasks.spawn(self.tasks.until_stop(connected));
        Found::Connecting(connecting)
    }

    async fn open(&self) -> Result<Opened, Failure> {
        let opened = async {
            let stream = self.endpoint.connect(&self.dial).await?;
            match &self.secure {
                None => handshake(stream, self.sharing).await,
                Some(secure) => {
                    let secure = secure.current().await;
                    let stream = secure.connector.connect(secure.name, stream).await?;
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        return Err(io::Error::other(
                            "the instance does not speak HTTP/2 over TLS",
                        ));
                    }
                    handshake(stream, self.sharing).await
                }
            }
        };
        match time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err(self.down(format!("connect to {}: {error}", self.endpoint))),
            Err(_elapsed) => Err(self.down(format!(
                "connect to {}: no answer within {} s",
                self.endpoint,
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    fn down(&self, detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
        Failure::at(&self.id, Reason::InstanceDown, Progress::NeverSent, detail)
    }
}

enum Found {
    Open(Connection, Place),
    Connecting(Connecting),
    /// All connections that there may be are full, and the stream waits.
    Busy,
    /// The same, and it does not.
    Full,
}

impl Found {
    fn is_something(&self) -> bool {
        !matches!(self, Self::Busy)
    }
}

impl Connection {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    fn has_room(&self, streams_max: usize) -> bool {
        self.streams.open() < streams_max.min(self.sender.current_max_send_streams())
    }
}

impl Sender {
    /// Doubts the connection until the answer has come, and once it has been waited for so long.
    pub(super) fn doubt(&self, patience: Duration) -> Doubt {
        Doubt::of(&self.connection.gone, patience)
    }

    /// Sends one message and waits for the one that answers. Dropping the future resets the stream.
    pub(super) async fn unary(
        self,
        request: Request<()>,
        message: Frame,
        memory: &Memory,
    ) -> Result<Bytes, Failure> {
        let id = self.id.clone();
        let begun = self.begin(request, message, End::AfterThis)?;
        // The other parts are held until the answer is there.
        answer::read(&id, begun.response, memory).await
    }

    /// Opens a stream with its first message.
    pub(super) fn begin(
        mut self,
        request: Request<()>,
        first: Frame,
        end: End,
    ) -> Result<Begun, Failure> {
        let sent = self.connection.sender.send_request(request, false);
        let (response, mut stream) = sent.map_err(|error| {
            self.connection.gone.store(true, Ordering::Release);
            let detail = format!("the connection is gone: {error}");
            Failure::at(&self.id, Reason::InstanceDown, Progress::NeverSent, detail)
        })?;
        if let Err(error) = stream.send_data(first, end == End::AfterThis) {
            // The stream was reset under our hands: what the peer said stands in the response.
            tracing::trace!(%error, "request cut short");
        }
        Ok(Begun {
            response,
            stream,
            place: self.place,
        })
    }
}

/// Whether more follows on a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    AfterThis,
    Later,
}

/// Most likely an instance over HTTP/1.1.
const NO_HTTP2: &str =
    "no HTTP/2 spoken there (an instance that takes JSON over HTTP is written http://host:port)";

type Opened = (SendRequest<Frame>, Drive);
type Drive = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn handshake<T>(stream: T, sharing: Sharing) -> io::Result<Opened>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(sharing.stream_window)
        .initial_connection_window_size(sharing.connection_window)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(200)
        .max_local_error_reset_streams(Some(1024))
        .handshake::<_, Frame>(LateFlush::new(stream))
        .await
        .map_err(|error| {
            error
                .into_io()
                .unwrap_or_else(|| io::Error::other(NO_HTTP2))
        })?;
    // A connection that was accepted is not yet an instance: a proxy may have nobody behind it. Whoever answers
    // has also said how many calls it takes (its SETTINGS come first, RFC 9113, 3.4).
    let mut ping = connection.ping_pong();
    if let Some(ping) = &mut ping {
        tokio::select! {
            biased;
            ended = &mut connection => return Err(closed_at_once(ended)),
            answered = ping.ping(Ping::opaque()) => answered.map_err(|_| io::Error::other(NO_HTTP2))?,
        };
    }
    let drive = async move {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection to instance ended");
                }
            }
            () = keep_alive(ping) => tracing::debug!("connection to instance does not answer"),
        }
    };
    Ok((sender, Box::pin(drive)))
}

/// What the peer, or TLS, had to say before it closed.
fn closed_at_once(ended: Result<(), h2::Error>) -> io::Error {
    let cause = ended.err().and_then(h2::Error::into_io);
    cause.unwrap_or_else(|| io::Error::other("the connection was closed at once"))
}

/// Ends when the peer no longer answers.
async fn keep_alive(ping: Option<PingPong>) {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    loop {
        time::sleep(LINK_KEEPALIVE_INTERVAL).await;
        match time::timeout(LINK_KEEPALIVE_TIMEOUT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Makes one connection and drives it until it ends.
async fn connect(
    link: Weak<Link>,
    tasks: Tasks,
    outcome: Arc<OnceLock<Result<(), Failure>>>,
    // Fires when this ends, however it ends.
    _over: DropGuard,
) {
    let Some(alive) = link.upgrade() else { return };
    let opened = alive.open().await;
    let mut pool = alive.pool.lock().unwrap_or_else(PoisonError::into_inner);
    pool.connecting = None;
    let drive = match opened {
        Err(failure) => {
            let _ = outcome.set(Err(failure));
            return;
        }
        Ok((sender, drive)) => {
            let gone = Arc::new(AtomicBool::new(false));
            pool.open.push(Connection {
                sender,
                streams: Streams::new(&alive.queue),
                gone: Arc::clone(&gone),
            });
            let _ = outcome.set(Ok(()));
            let queue = Arc::clone(&alive.queue);
            queue.look_again();
            async move {
                drive.await;
                gone.store(true, Ordering::Release);
                queue.look_again();
            }
        }
    };
    drop(pool);
    // From here on the connection holds no link: it ends once the link and its calls are gone.
    drop(alive);
    tasks.spawn(tasks.until_stop(drive));
}

/// Long enough that no probe that is on time can be taken for a dead peer.
const _: () =
    assert!(Duration::as_millis(&LINK_KEEPALIVE_TIMEOUT) < Duration::as_millis(&CONNECT_TIMEOUT));
