//! Spans: every one with its meaning, and where they go.
//!
//! Driven by hand at the few places where something begins and ends, and written as OTLP the moment it ends: what is
//! not recorded costs a look at an empty pointer, and what is costs one copy of some 300 bytes. The OpenTelemetry SDK
//! builds a tree of owned texts for each span first; `cargo bench --bench speed -- observed` tells the difference.
//!
//! | span | kind | begins and ends with |
//! |---|---|---|
//! | the method, or `POST /route/{template}` | server | a call, to the end of its answer |
//! | `leg` | internal | one target of a fan-out, until its outcome |
//! | `attempt` | client | one try at an instance |
//! | `attach` | internal | the attaching of a client to its session, of which the call itself goes on for hours |

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::id::InstanceId;
use crate::domain::limit::SPAN_PATH_BYTES_MAX;
use crate::domain::session::SessionId;
use crate::domain::trace::{Ratio, Sampled, TraceContext};

mod export;
mod otlp;
mod queue;
#[cfg(test)]
mod tests;

pub use export::{Export, Taken};
use queue::Queue;

/// Records spans, or does not. Clones are the same.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    ratio: Ratio,
    ids: Ids,
    queue: Queue,
}

/// What traces are recorded, and whose.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Of the calls whose caller has no trace.
    pub ratio: Ratio,
    /// `service.name`.
    pub service: String,
}

impl Tracer {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Records calls, and the way to take out what was recorded. `seed` is random: spans are named after it.
    #[must_use]
    pub fn new(settings: &Settings, seed: [u64; 3]) -> (Self, Export) {
        let recorder = Arc::new(Recorder {
            ratio: settings.ratio,
            ids: Ids::new(seed),
            queue: Queue::default(),
        });
        let export = Export::new(Arc::clone(&recorder), &settings.service);
        (Self(Some(recorder)), export)
    }

    /// Whether anything may be recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A call begins, within the trace of its caller or one of its own. It is recorded when its caller's trace is;
    /// where there is none, the ratio decides.
    #[must_use]
    pub fn call(&self, parent: Option<TraceContext>, called: Called) -> Span {
        let Some(recorder) = &self.0 else {
            return Span(None);
        };
        let span = recorder.ids.span();
        let context = match parent {
            Some(parent) if !parent.is_sampled() => return Span(None),
            Some(parent) => parent.with_span(span),
            None => {
                let trace = recorder.ids.trace();
                match recorder.ratio.sampled(trace) {
                    Sampled::No => return Span(None),
                    Sampled::Yes => TraceContext::root(trace, span, Sampled::Yes),
                }
            }
        };
        let place = Arc::new(Place {
            recorder: Arc::clone(recorder),
            context,
            clock: Clock::now(),
            state: OnceLock::new(),
            request_id: OnceLock::new(),
            url: OnceLock::new(),
        });
        let work = Work::Call(called, Arc::clone(&place));
        let parent = parent.map(|parent| parent.span);
        Span::begin(place, context, parent, work)
    }
}

/// Random-looking numbers that do not repeat (SplitMix64 over a counter): cheap, and nobody waits for anybody.
struct Ids {
    seed: [u64; 3],
    drawn: AtomicU64,
}

impl Ids {
    fn new(seed: [u64; 3]) -> Self {
        let drawn = AtomicU64::new(0);
        Self { seed, drawn }
    }

    fn next(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }

    fn span(&self) -> [u8; 8] {
        mixed(self.seed[0], self.next())
    }

    fn trace(&self) -> [u8; 16] {
        let next = self.next();
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&mixed(self.seed[1], next));
        trace[8..].copy_from_slice(&mixed(self.seed[2], next));
        trace
    }
}

/// A bijection, so that no number comes twice; never zero, which means none.
fn mixed(seed: u64, at: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1).to_be_bytes()
}

/// Where spans begin: within one that is recorded, or nowhere. Clones are the same place.
#[derive(Clone, Default)]
pub struct Within(Option<Arc<Place>>);

struct Place {
    recorder: Arc<Recorder>,
    context: TraceContext,
    clock: Clock,
    /// `tracestate`, as the caller's trace has it.
    state: OnceLock<Box<str>>,
    /// Of a call, once it has one.
    request_id: OnceLock<Bytes>,
    /// Of a call over HTTP.
    url: OnceLock<Url>,
}

/// What was asked for over HTTP; never what stands after the `?`.
struct Url {
    scheme: &'static str,
    path: Box<str>,
}

impl Within {
    /// The place that others may be told of.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|place| place.context)
    }

    /// The call has this id.
    pub fn note_request_id(&self, id: &Bytes) {
        if let Some(place) = &self.0 {
            // The first one counts.
            let _ = place.request_id.set(id.clone());
        }
    }

    /// The trace of its caller has this `tracestate`, which goes with each of its spans.
    pub fn note_state(&self, state: &str) {
        if let Some(place) = &self.0 {
            let _ = place.state.set(state.into());
        }
    }

    /// The call has asked for this path, of which the beginning is told.
    pub fn note_url(&self, scheme: &'static str, path: &str) {
        if let Some(place) = &self.0 {
            let path = path.get(..SPAN_PATH_BYTES_MAX).unwrap_or(path).into();
            let _ = place.url.set(Url { scheme, path });
        }
    }

    /// A try at an instance begins.
    #[must_use]
    pub fn attempt(&self, instance: &InstanceId, kind: &'static str, number: u32) -> Span {
        self.begin(|| Work::Attempt {
            instance: instance.clone(),
            kind,
            number,
        })
    }

    /// A target of a fan-out begins.
    #[must_use]
    pub fn leg(&self, instance: &InstanceId) -> Span {
        self.begin(|| Work::Leg(instance.clone()))
    }

    /// A client is being attached to its session.
    #[must_use]
    pub fn attach(&self, session: &SessionId) -> Span {
        self.begin(|| Work::Attach(session.clone()))
    }

    fn begin(&self, work: impl FnOnce() -> Work) -> Span {
        let Some(place) = &self.0 else {
            return Span(None);
        };
        let context = place.context.with_span(place.recorder.ids.span());
        let parent = Some(place.context.span);
        Span::begin(Arc::clone(place), context, parent, work())
    }
}

impl std::fmt::Debug for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Within").field(&self.context()).finish()
    }
}

/// Time as others read it, that does not jump within a call.
#[derive(Debug, Clone, Copy)]
struct Clock {
    began: Instant,
    /// Nanoseconds since 1970.
    wall: u64,
}

impl Clock {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = since.map_or(0, |since| since.as_nanos());
        Self {
            began: Instant::now(),
            wall: u64::try_from(wall).unwrap_or(u64::MAX),
        }
    }

    fn at(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.began).as_nanos();
        self.wall
            .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// A method, as `package.Service/Method`.
    Rpc(&'static str),
    /// A path with its parameters open, where it is a known one.
    Http {
        /// GET, POST and so on.
        method: &'static str,
        /// `/orchestrator/sessions/{id}`.
        route: Option<&'static str>,
    },
}

enum Work {
    Call(Called, Arc<Place>),
    Leg(InstanceId),
    Attempt {
        instance: InstanceId,
        kind: &'static str,
        number: u32,
    },
    Attach(SessionId),
}

/// Something that is recorded, or is not. It is over when this is dropped.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

struct Open {
    place: Arc<Place>,
    context: TraceContext,
    parent: Option<[u8; 8]>,
    began: Instant,
    work: Work,
    result: Cow<'static, str>,
    status: Option<&'static str>,
}

/// What a span has come to that nobody has ended: whoever waited for it has left.
const LEFT: &str = "CANCELLED";
/// What one has come to that went well.
const OK: &str = "OK";

impl Span {
    fn begin(
        place: Arc<Place>,
        context: TraceContext,
        parent: Option<[u8; 8]>,
        work: Work,
    ) -> Self {
        Self(Some(Box::new(Open {
            place,
            context,
            parent,
            began: Instant::now(),
            work,
            result: Cow::Borrowed(LEFT),
            status: None,
        })))
    }

    /// Its place in the trace, for whoever is told of it; `None` when it is not recorded.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|open| open.context)
    }

    /// Where spans begin that belong to it.
    #[must_use]
    pub fn within(&self) -> Within {
        Within(self.0.as_ref().map(|open| match &open.work {
            Work::Call(_, place) => Arc::clone(place),
            Work::Leg(_) | Work::Attempt { .. } | Work::Attach(_) => Arc::new(Place {
                recorder: Arc::clone(&open.place.recorder),
                context: open.context,
                clock: open.place.clock,
                state: open.place.state.clone(),
                request_id: OnceLock::new(),
                url: OnceLock::new(),
            }),
        }))
    }

    /// It is over and has come to this: `OK`, a code or the name of a failure, and of a failed try the status that
    /// its instance gave.
    pub fn end(mut self, result: impl Into<Cow<'static, str>>, status: Option<&'static str>) {
        if let Some(open) = &mut self.0 {
            open.result = result.into();
            open.status = status;
        }
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Span").field(&self.context()).finish()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let ended = Instant::now();
        let queue = &self.place.recorder.queue;
        queue.push(|span| otlp::span(span, self, ended));
    }
}
