//! The connections to one instance, and one exchange of a request and an answer over one of them.
//!
//! Over HTTP/1.1 a connection belongs to one call at a time, and is kept for a while when it has nothing to do. Over
//! HTTP/2 calls share connections. Which of both it is shows when the first connection is open.
//!
//! ```text
//! call ──▶ a shared one with room ──────────────────────────────────────▶ send
//!   └──▶ its place among all ──▶ one that was kept, or a new one ──▶ send ──▶ answer read ──▶ kept
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use http::response::Parts;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{self, Instant};

use super::open::{self, Http2, Opened, Spoken};
use super::{Body, answer, broken};
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    CONNECT_TIMEOUT, CONNECTIONS_STALE_MAX, HTTP_CONNECTIONS_PER_INSTANCE_MAX,
    HTTP_IDLE_PER_INSTANCE_MAX, LINK_STREAMS_MAX, LINKS_PER_INSTANCE_MAX,
};
use crate::instance::Sent;
use crate::instance::endpoint::{Dial, Endpoint};
use crate::instance::room::{Place, Queue, Streams, Turn};
use crate::instance::tls::Connector;
use crate::tasks::Tasks;

/// All connections to one instance.
pub(super) struct Connections {
    id: InstanceId,
    endpoint: Endpoint,
    dial: Dial,
    secure: Option<Connector>,
    tasks: Tasks,
    /// One place for each HTTP/1.1 connection of a call, from before it is made.
    places: Arc<Semaphore>,
    /// Where HTTP/2 may be spoken, one connection is made at a time: it may be enough for all.
    turn: Arc<Semaphore>,
    pool: Mutex<Pool>,
    /// Calls for which no shared connection has room, and no further one may be made.
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Pool {
    /// The one that was used last is used first.
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// What was spoken on the connection that was made last.
    spoken: Option<Spoken>,
    /// When a connection could not be made, and why.
    failed: Option<(Instant, Failure)>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    until: Instant,
}

#[derive(Clone)]
struct Shared {
    connection: Http2,
    streams: Streams,
    gone: Arc<AtomicBool>,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) enum User<'a> {
    /// A call, which hears when it has left.
    Call(&'a Sent),
    /// A probe. It waits for no call.
    Probe,
}

impl User<'_> {
    async fn while_full<T>(self, room: impl Future<Output = T>) -> T {
        match self {
            Self::Call(sent) => sent.while_full(room).await,
            Self::Probe => room.await,
        }
    }
}

/// A connection that takes a request now.
enum Way {
    Alone(http1::SendRequest<Body>, Option<OwnedSemaphorePermit>),
    Shared(Http2, Place),
}

/// What there is of shared connections.
enum Room {
    Found(Way),
    /// None with room; another one may be made.
    None,
    /// None with room, and none may be made.
    Busy,
}

impl Room {
    fn something(self) -> Option<Self> {
        Some(self).filter(|room| !matches!(room, Self::Busy))
    }
}

/// An answer that has begun. Dropping it ends the call: its connection is closed, or its stream reset.
pub(super) struct Answer {
    pub(super) head: Parts,
    pub(super) body: Incoming,
    pub(super) used: Used,
}

/// What an answer comes by.
pub(super) enum Used {
    Alone(
        http1::SendRequest<Body>,
        Option<OwnedSemaphorePermit>,
        Arc<Connections>,
    ),
    Shared {
        _place: Place,
    },
}

/// While a probe waits for its answer. When nobody waits any longer before that has come, new calls get new
/// connections.
pub(super) struct Doubt(Option<Arc<Connections>>);

impl Doubt {
    /// The answer has come.
    pub(super) fn dispel(mut self) {
        self.0 = None;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        if let Some(connections) = &self.0 {
            connections.forget();
        }
    }
}

impl Connections {
    pub(super) fn new(
        id: InstanceId,
        endpoint: Endpoint,
        dial: Dial,
        secure: Option<Connector>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            endpoint,
            dial,
            secure,
            tasks,
            places: Arc::new(Semaphore::new(HTTP_CONNECTIONS_PER_INSTANCE_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            pool: Mutex::default(),
            queue: Arc::default(),
        })
    }

    /// Sends one request and waits for the head of its answer. Dropping the future ends the call at the instance.
    /// `request` is asked for it once there is a connection, and again when that one was gone already.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        user: User<'_>,
        request: &mut (dyn FnMut(Spoken, Instant) -> Request<Body> + Send),
    ) -> Result<Answer, Failure> {
        let mut cause = String::new();
        for _ in 0..CONNECTIONS_STALE_MAX {
            let way = self.way(user).await?;
            let request = request(way.spoken(), Instant::now());
            if let User::Call(sent) = user {
                sent.set();
            }
            let mut error = match self.send(way, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // hyper gives back what it has not begun to write. Everything else may have arrived.
            if error.take_message().is_none() {
                return Err(broken::before_answer(&self.id, &error.into_error()));
            }
            if let User::Call(sent) = user {
                sent.take_back();
            }
            cause = broken::cause(&error.into_error());
            self.forget();
        }
        Err(self.down(format!(
            "the instance closes its connections at once{cause}"
        )))
    }

    async fn send(
        self: &Arc<Self>,
        way: Way,
        request: Request<Body>,
    ) -> Result<Answer, hyper::client::conn::TrySendError<Request<Body>>> {
        let (answer, used) = match way {
            Way::Alone(mut sender, place) => {
                let answer = sender.try_send_request(request).await?;
                (answer, Used::Alone(sender, place, Arc::clone(self)))
            }
            Way::Shared(mut connection, place) => {
                let answer = connection.sender.try_send_request(request).await?;
                (answer, Used::Shared { _place: place })
            }
        };
        let (head, body) = answer.into_parts();
        Ok(Answer { head, body, used })
    }

    /// Waits for a connection that takes a request, and makes one when there is none.
    async fn way(self: &Arc<Self>, user: User<'_>) -> Result<Way, Failure> {
        let came = Instant::now();
        loop {
            let found = match self.shared(Turn::Comes) {
                Room::Busy => {
                    let room = self.queue.wait(|| self.shared(Turn::Has).something());
                    user.while_full(room).await
                }
                room @ (Room::Found(_) | Room::None) => room,
            };
            if let Room::Found(way) = found {
                return Ok(way);
            }
            let mut place = match user {
                User::Call(_) => Some(user.while_full(self.permit(&self.places)).await?),
                User::Probe => None,
            };
            if let Some(way) = self.kept(&mut place) {
                return Ok(way);
            }
            let turn = if self.may_share() {
                let turn = self.permit(&self.turn).await?;
                match self.shared(Turn::Comes) {
                    Room::Found(way) => return Ok(way),
                    Room::Busy => continue,
                    Room::None => {}
                }
                if let Some(way) = self.kept(&mut place) {
                    return Ok(way);
                }
                // Somebody has just tried in vain, while this one waited.
                if let Some((_, failure)) = self.lock().failed.as_ref().filter(|(at, _)| came < *at)
                {
                    return Err(failure.clone());
                }
                Some(turn)
            } else {
                None
            };
            let (told, made) = oneshot::channel();
            let connecting = Arc::clone(self).connect(place, turn, told);
            self.tasks.spawn(self.tasks.until_stop(connecting));
            return made
                .await
                .unwrap_or_else(|_| Err(self.down("the orchestrator is stopping")));
        }
    }

    /// Makes a connection, whether or not somebody still waits for it in the end: short deadlines would otherwise
    /// never get one.
    async fn connect(
        self: Arc<Self>,
        place: Option<OwnedSemaphorePermit>,
        turn: Option<OwnedSemaphorePermit>,
        told: oneshot::Sender<Result<Way, Failure>>,
    ) {
        let secure = self.secure.as_ref();
        let opened = open::open(&self.endpoint, &self.dial, secure, &self.tasks).await;
        let way = match opened {
            Err(error) => {
                let failure = self.down(format!("connect to {}: {error}", self.endpoint));
                self.lock().failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
            Ok(Opened::Http1(sender, drive)) => {
                self.lock().spoken = Some(Spoken::Http1);
                self.tasks.spawn(self.tasks.until_stop(drive));
                Ok(Way::Alone(sender, place))
            }
            Ok(Opened::Http2(connection, drive)) => {
                let shared = Shared {
                    connection: connection.clone(),
                    streams: Streams::new(&self.queue),
                    gone: Arc::default(),
                };
                let place = shared.streams.take();
                let gone = Arc::clone(&shared.gone);
                let queue = Arc::clone(&self.queue);
                let driven = async move {
                    drive.await;
                    gone.store(true, Ordering::Release);
                    queue.look_again();
                };
                self.tasks.spawn(self.tasks.until_stop(driven));
                let mut pool = self.lock();
                pool.spoken = Some(Spoken::Http2);
                pool.shared.push(shared);
                Ok(Way::Shared(connection, place))
            }
        };
        // The next in turn finds what was made here.
        drop(turn);
        if let Err(Ok(Way::Alone(sender, place))) = told.send(way) {
            self.keep(
                sender,
                Instant::now() + answer::idle_for(&http::HeaderMap::new()),
            );
            drop(place);
        }
    }

    /// Looks for a shared connection with room.
    fn shared(&self, turn: Turn) -> Room {
        let mut pool = self.lock();
        pool.shared
            .retain(|shared| !shared.gone.load(Ordering::Acquire));
        let streams = |shared: &&Shared| shared.streams.open();
        let Some(least) = pool.shared.iter().min_by_key(streams) else {
            return Room::None;
        };
        let room = least.connection.room.load(Ordering::Relaxed);
        if streams(&least) < room.min(LINK_STREAMS_MAX) && self.queue.lets_in(turn) {
            return Room::Found(Way::Shared(least.connection.clone(), least.streams.take()));
        }
        if LINKS_PER_INSTANCE_MAX <= pool.shared.len() {
            return Room::Busy;
        }
        Room::None
    }

    /// A connection for one call at a time that was kept; it goes with the place.
    fn kept(&self, place: &mut Option<OwnedSemaphorePermit>) -> Option<Way> {
        let now = Instant::now();
        let mut pool = self.lock();
        pool.idle
            .retain(|idle| now < idle.until && !idle.sender.is_closed());
        let at = pool.idle.iter().rposition(|idle| idle.sender.is_ready())?;
        let idle = pool.idle.remove(at);
        Some(Way::Alone(idle.sender, place.take()))
    }

    fn may_share(&self) -> bool {
        self.secure.is_some() && self.lock().spoken != Some(Spoken::Http1)
    }

    fn keep(&self, sender: http1::SendRequest<Body>, until: Instant) {
        let mut pool = self.lock();
        if pool.idle.len() < HTTP_IDLE_PER_INSTANCE_MAX && Instant::now() < until {
            pool.idle.push(Idle { sender, until });
        }
    }

    /// Begins to doubt all connections until an answer has come.
    pub(super) fn doubt(self: &Arc<Self>) -> Doubt {
        Doubt(Some(Arc::clone(self)))
    }

    /// New calls get new connections. What runs goes on.
    fn forget(&self) {
        let mut pool = self.lock();
        pool.idle.clear();
        pool.shared.clear();
    }

    async fn permit(&self, of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = Arc::clone(of).acquire_owned().await;
        // Never closed.
        permit.map_err(|_| self.down("the orchestrator is stopping"))
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self, detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
        Failure::at(&self.id, Reason::InstanceDown, Progress::NeverSent, detail)
    }
}

impl Way {
    fn spoken(&self) -> Spoken {
        match self {
            Self::Alone(..) => Spoken::Http1,
            Self::Shared(..) => Spoken::Http2,
        }
    }
}

impl Used {
    /// The answer was read to its end: the connection is kept for as long as `idle_for` says.
    pub(super) fn finish(self, idle_for: time::Duration) {
        let Self::Alone(mut sender, place, connections) = self else {
            return;
        };
        let until = Instant::now() + idle_for;
        if sender.is_ready() {
            connections.keep(sender, until);
        } else if !sender.is_closed() && !idle_for.is_zero() {
            // Its task has yet to see the end of the answer, or still writes a request that was answered early.
            let tasks = connections.tasks.clone();
            let settle = async move {
                if let Ok(Ok(())) = time::timeout(CONNECT_TIMEOUT, sender.ready()).await {
                    connections.keep(sender, until);
                }
                drop(place);
            };
            tasks.spawn(tasks.until_stop(settle));
        }
    }
}
