//! The back door: how an instance is reached. One trait, one folder or file for each way.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ::http::HeaderValue;
use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::failure::{Failure, Reason, Status};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::task::Task;
use crate::domain::trace::TraceContext;

pub mod builtin;
pub mod endpoint;
pub mod grpc;
pub mod http;
mod reset;
mod retry_after;
mod room;
#[cfg(test)]
pub mod scripted;
pub mod session;
pub mod tls;

use endpoint::Endpoint;

/// A future that owns what it needs. Dropping it ends what it does: an instance sees its stream reset.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One try of a task at one instance.
#[derive(Debug, Clone)]
pub struct Call {
    /// The task; shared by all tries and legs.
    pub task: Arc<Task>,
    /// Number of this try within its call, from 1.
    pub attempt: u32,
    /// When the instance must have answered. The caller of `execute` drops the future then.
    pub ends: Instant,
    /// Tells whether anything has left for the instance, also after the future was dropped.
    pub sent: Sent,
    /// Its place in the trace where it is recorded; otherwise it has that of its task.
    pub trace: Option<TraceContext>,
}

impl Call {
    /// W3C `traceparent`: of this try, or of the whole call.
    fn traceparent(&self) -> Bytes {
        match self.trace {
            Some(context) => Bytes::copy_from_slice(&context.to_header()),
            None => self.task.names.traceparent.clone(),
        }
    }
}

/// Whether a call has left for its instance, and if not, whether only our own calls keep it here.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<AtomicU8>);

const NOT_SENT: u8 = 0;
const WAITS_FOR_ROOM: u8 = 1;
const SENT: u8 = 2;

impl Sent {
    /// It leaves now.
    pub fn set(&self) {
        self.0.store(SENT, Ordering::Release);
    }

    /// It has not left after all: its connection was gone, and not a byte of it was written.
    pub fn take_back(&self) {
        self.0.store(NOT_SENT, Ordering::Release);
    }

    /// Whether it has left.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }

    /// The instance is reached, and every connection that there may be is full: what happens until there is room says
    /// nothing about the instance.
    pub async fn while_full<T>(&self, room: impl Future<Output = T>) -> T {
        self.0.store(WAITS_FOR_ROOM, Ordering::Release);
        let found = room.await;
        self.0.store(NOT_SENT, Ordering::Release);
        found
    }

    /// Whether it waits, or has waited until it was given up, for room on the connections to the instance.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.0.load(Ordering::Acquire) == WAITS_FOR_ROOM
    }
}

/// An instance that can be asked.
pub trait InstanceClient: Send + Sync {
    /// Hands over one task and brings back the answer. The failure says whether the task may have begun.
    fn execute(&self, call: Call) -> Pending<Result<Payload, Failure>>;

    /// Asks whether the instance serves. The caller sets the time limit.
    fn probe(&self) -> Pending<Result<Serving, Failure>>;

    /// Whether it can be given sessions at all.
    fn session_support(&self) -> SessionSupport {
        SessionSupport::Streams
    }

    /// Hands over a session: the instance has agreed to take part once this is there. Dropping what it brings
    /// resets the stream and leaves the session as it is. The caller sets the time limit. An instance without
    /// sessions fails with its status UNIMPLEMENTED, one that knows a newer epoch with FAILED_PRECONDITION.
    fn open_session(&self, open: session::Open) -> Pending<Result<session::Opened, Failure>> {
        drop(open);
        let detail = "this way to an instance has no sessions";
        let failure = Failure::new(Reason::InstanceFailed(Status::Unimplemented), detail);
        Box::pin(std::future::ready(Err(failure)))
    }

    /// Follows what the instance says of itself: `told` hears how it is, then each change. Ends with the failure
    /// that ended the stream, UNIMPLEMENTED where there is no such stream.
    fn watch(&self, told: Told) -> Pending<Failure> {
        drop(told);
        let reason = Reason::InstanceFailed(Status::Unimplemented);
        Box::pin(std::future::ready(Failure::new(
            reason,
            "cannot be watched",
        )))
    }
}

/// Whether a way to an instance has sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSupport {
    /// It has; the instance itself may still refuse them.
    Streams,
    /// It has none.
    None,
}

/// Hears what an instance says of itself.
pub type Told = Box<dyn FnMut(Serving) + Send>;

/// What an instance says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It takes work.
    Yes,
    /// It answers that it does not.
    No,
    /// It answers, and has no health service.
    NotSaid,
}

/// An instance as it was configured or registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub id: InstanceId,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// Its share of BALANCED work, from 1.
    pub weight: u32,
    /// Calls that may be with it at once; what all instances may have when it says nothing.
    pub calls_in_flight_max: Option<u32>,
    /// What it is shown as `authorization`. The caller's own key never is.
    pub credential: Option<Credential>,
    /// How it is trusted; used when the endpoint is `grpcs` or `https`.
    pub tls: tls::Settings,
}

/// What an instance is shown as `authorization`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(HeaderValue);

impl Credential {
    /// A bearer token; `None` when it holds what no header may hold.
    #[must_use]
    pub fn bearer(token: &str) -> Option<Self> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}
