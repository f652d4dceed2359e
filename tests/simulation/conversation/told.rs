//! What is written down in a run, and held against the disk at once: nothing is told to anybody that a crash could
//! take back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orchestrator::domain::session::SessionId;
use orchestrator::store::memory::MemoryStore;
use orchestrator::store::record::{Session, State};

use super::beginnings::Beginnings;
use super::plan;
use crate::sessions::history::Event;

/// How long what one process has said last may be on its way.
const LAST_WORDS_TAKE: Duration = Duration::from_millis(200);
/// How much longer than its time a session may last: sessions are looked at once a second, and their ends are written
/// down, for which the orchestrator and its disk have to be there.
const ENDED_WITHIN: Duration = Duration::from_millis(2_500);

/// Everything that the parts of a run share.
#[derive(Clone)]
pub(super) struct Told(Arc<Shared>);

struct Shared {
    store: Mutex<MemoryStore>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    records: Vec<Record>,
    complaints: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
    /// How often the orchestrator has begun.
    runs: u64,
    /// How many processes it has had.
    lives: u64,
    /// Whether two of it are at work.
    has_rival: bool,
    /// When it changed last whether there are two.
    rival_seen: Duration,
    /// Sessions that have come to their end.
    done: Vec<String>,
    stopped: bool,
    /// What each session that is replayed was begun without.
    beginnings: BTreeMap<String, Beginnings>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) at: Duration,
    pub(super) session: String,
    pub(super) event: Event,
}

impl Told {
    pub(super) fn new(store: MemoryStore) -> Self {
        Self(Arc::new(Shared {
            store: Mutex::new(store),
            written: Mutex::default(),
        }))
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.written.lock().unwrap()
    }

    pub(super) fn store(&self) -> MemoryStore {
        self.0.store.lock().unwrap().clone()
    }

    /// What was not synced is gone.
    pub(super) fn crash_store(&self) {
        let mut store = self.0.store.lock().unwrap();
        let left = store.crash();
        *store = left;
    }

    /// Notes what happens now to a session that was promised to be on disk, or was not.
    pub(super) fn tell(&self, session: &str, promise: Promise, event: Event) {
        let at = turmoil::sim_elapsed().expect("a host of the simulation");
        if promise == Promise::Durable {
            self.probe(session, &event, at);
        }
        let session = session.to_owned();
        self.written().records.push(Record { at, session, event });
    }

    /// 3: nothing is told before it is durable.
    fn probe(&self, session: &str, event: &Event, at: Duration) {
        let id = SessionId::parse(session).unwrap();
        // One that was forgotten says nothing of what it held.
        let Some(left) = self.store().after_a_crash(&id) else {
            return;
        };
        let mut written = self.written();
        let beginnings = written.beginnings.get_mut(session);
        let goes_without = beginnings.and_then(|beginnings| beginnings.hear(event));
        drop(written);
        if goes_without.is_some_and(|seq| left.gone.last < seq) {
            let what = format!("an instance of {session} goes on without {goes_without:?}");
            self.complain(format!("{what} at {at:?}, and that was not written down"));
        }
        if let Some((what, needed, durable)) = needs(event, &left)
            && durable < needed
        {
            let told = format!("{session} was told of {what} {needed} at {at:?}");
            self.complain(format!("{told}, and only {durable} was durable"));
        }
    }

    /// 6: a session with an absolute lifetime has ended when that was over, by the wall clock, and not before.
    pub(super) fn check_lifetimes(&self, sessions: &[plan::Session]) {
        for planned in sessions {
            let id = SessionId::parse(&planned.id).unwrap();
            let Some(found) = self.store().after_a_crash(&id) else {
                continue;
            };
            let (State::Closed { reason, at_ms }, Some(lifetime)) =
                (&found.state, found.terms.lifetime)
            else {
                continue;
            };
            let lasted = Duration::from_millis(at_ms - found.terms.created_ms);
            let is_in_time = lifetime <= lasted && lasted <= lifetime + ENDED_WITHIN;
            if reason.starts_with("expired") && !is_in_time {
                let id = &planned.id;
                self.complain(format!(
                    "{id} was to last {lifetime:?} and has lasted {lasted:?}"
                ));
            }
        }
    }

    /// Whether the session goes on, as a crash would leave it now.
    pub(super) fn is_open(&self, session: &str) -> bool {
        let id = SessionId::parse(session).unwrap();
        let left = self.store().after_a_crash(&id);
        left.is_some_and(|session| session.state == State::Open)
    }

    pub(super) fn complain(&self, what: String) {
        self.written().complaints.push(what);
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.written().counts.entry(what).or_default() += 1;
    }

    pub(super) fn begin_run(&self) {
        self.written().runs += 1;
    }

    pub(super) fn begin_life(&self) -> u64 {
        let mut written = self.written();
        written.lives += 1;
        written.lives
    }

    pub(super) fn runs(&self) -> u64 {
        self.written().runs
    }

    /// It is to be replayed, and its client is told what cannot be.
    pub(super) fn is_replayed(&self, session: &str) {
        let beginnings = &mut self.written().beginnings;
        beginnings.insert(session.to_owned(), Beginnings::default());
    }

    pub(super) fn set_rival(&self, has_rival: bool) {
        let mut written = self.written();
        written.has_rival = has_rival;
        written.rival_seen = turmoil::sim_elapsed().unwrap_or_default();
    }

    pub(super) fn has_rival(&self) -> bool {
        // What the one before has said may still be on its way.
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let written = self.written();
        written.has_rival || now < written.rival_seen + LAST_WORDS_TAKE
    }

    pub(super) fn done(&self, session: &str) {
        self.written().done.push(session.to_owned());
    }

    pub(super) fn is_done(&self, session: &str) -> bool {
        self.written().done.iter().any(|done| done == session)
    }

    /// Whether an instance has applied this message.
    pub(super) fn is_applied(&self, session: &str, message: &str) -> bool {
        let written = self.written();
        let applied = |record: &Record| match &record.event {
            Event::Applied { text, .. } => record.session == session && text == message,
            _ => false,
        };
        written.records.iter().rev().any(applied)
    }

    pub(super) fn stopped(&self) {
        self.written().stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.written().stopped
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.written().records.clone()
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.written().complaints.clone()
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.written().counts.clone()
    }
}

/// What a session was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    Durable,
    Nothing,
}

/// What has to be on disk when this is told: what it is, how far, and how far it is.
fn needs(event: &Event, left: &Session) -> Option<(&'static str, u64, u64)> {
    let (inward, outward) = (left.to_instance, left.to_client);
    match event {
        Event::Ready(ready) if left.epoch.number() < ready.epoch => {
            Some(("epoch", ready.epoch, left.epoch.number()))
        }
        Event::Ready(ready) => Some(("seq", ready.last_received, inward.sender_seq)),
        Event::Acked(seq) => Some(("seq", *seq, inward.sender_seq)),
        Event::Received { seq, .. } => Some(("answer", *seq, outward.last)),
        Event::Posted { position, .. } => Some(("position", *position, inward.last)),
        Event::Applied { position, .. } => Some(("position", *position, inward.last)),
        Event::Opened(opened) => Some(("epoch", opened.epoch, left.epoch.number())),
        Event::Moved { epoch } => Some(("epoch", *epoch, left.epoch.number())),
        Event::Sent { .. }
        | Event::Posting(_)
        | Event::Lost { .. }
        | Event::LostPosts { .. }
        | Event::Closed(_)
        | Event::Over(_)
        | Event::Parted { .. }
        | Event::Restarted => None,
    }
}
