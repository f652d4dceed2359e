//! A session as the whole house sees it: how it is reached, and what is known of it at a glance.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Labels;
use super::frame::Incoming;
use super::outbox::Outgoing;
use super::waits::Waits;
use crate::domain::failure::Failure;
use crate::domain::id::InstanceId;
use crate::domain::limit::SESSION_COMMANDS_QUEUED_MAX;
use crate::domain::payload::Payload;
use crate::domain::session::lifetime::Lifetime;
use crate::domain::session::loss::Absence;
use crate::store::record::{PostKey, Terms};

/// What a session is asked to do.
pub(super) enum Command {
    /// A client attaches.
    Attach {
        /// The last message that it has.
        last_received_seq: Option<u64>,
        /// What it says.
        incoming: Incoming,
        /// What it reads, or why it is not attached.
        reply: oneshot::Sender<Result<Outgoing, Failure>>,
    },
    /// A message comes by itself.
    Post {
        /// By which it is known when it comes again.
        key: Option<PostKey>,
        /// The instance's message that it replies to; 0 for none.
        in_reply_to: u64,
        /// What it carries.
        payload: Payload,
        /// Told once it is safe.
        stored: oneshot::Sender<Result<u64, Failure>>,
        /// Told when the instance replies.
        replied: Option<oneshot::Sender<Result<Replied, Failure>>>,
    },
    /// Somebody waits for the reply to what was posted before.
    Await {
        /// Where that stands.
        position: u64,
        /// Told when the instance replies.
        replied: oneshot::Sender<Result<Replied, Failure>>,
    },
    /// The client says outside its stream what it has received.
    Acknowledge {
        /// Everything up to this one.
        seq: u64,
        /// Told once that is written down.
        done: oneshot::Sender<Result<(), Failure>>,
    },
    /// The session is to end.
    Close {
        /// Told once it has.
        closed: oneshot::Sender<Result<(), Failure>>,
    },
}

impl Command {
    /// Whether nobody waits any more for what is only of use to whoever does. A message that nobody has heard to be
    /// accepted is not: its caller was told that its time is over, or has hung up.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Attach { reply, .. } => reply.is_closed(),
            Self::Post { stored, .. } => stored.is_closed(),
            Self::Await { replied, .. } => replied.is_closed(),
            // These are true whoever waits.
            Self::Acknowledge { .. } | Self::Close { .. } => false,
        }
    }
}

/// The reply to what was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replied {
    /// Its number among the messages for the client.
    pub(super) seq: u64,
    /// What it carries.
    pub(super) payload: Payload,
}

/// Whether a task holds the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// None does: nothing is to be done.
    Dormant,
    /// One does.
    Live,
    /// The session was forgotten.
    Gone,
}

/// What all sessions wake up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Signal {
    /// The fleet has changed.
    Look = 1,
    /// The time of the session may be over.
    Expire = 2,
    /// The orchestrator is about to stop.
    Drain = 4,
    /// The instance is to be left for another one.
    Move = 8,
}

struct Inbox {
    phase: Phase,
    commands: VecDeque<Command>,
}

/// A session as the whole house sees it.
pub(super) struct Entry {
    pub(super) terms: Arc<Terms>,
    pub(super) labels: Labels,
    pub(super) lifetime: Lifetime,
    inbox: Mutex<Inbox>,
    signals: AtomicU8,
    waker: AtomicWaker,
    /// Whether a client is attached.
    pub(super) attached: AtomicBool,
    /// Whether the session has ended.
    pub(super) closed: AtomicBool,
    /// Whether no instance has seen the epoch yet.
    pub(super) epoch_is_fresh: AtomicBool,
    /// Whether its instance has, or may have, a part of it from an earlier run, and was not asked to go on since.
    pub(super) known_from_before: AtomicBool,
    /// When it expires if nothing is said, or is forgotten once it has ended.
    expires: Mutex<Option<Instant>>,
    /// The instance at which it counts; none once it has ended.
    pub(super) counted_at: Mutex<Option<InstanceId>>,
    /// What it waits for that should be with an instance. Boxed: most sessions wait for nothing.
    waits: Mutex<Option<Box<Waits>>>,
    /// Since when it is without its instance, where it was when it came to rest. Boxed for the same reason.
    absence: Mutex<Option<Box<Absence>>>,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The task that holds the session will find it.
    Queued,
    /// So will the task that has to be started now.
    Wakes,
    /// Too many wait.
    Full,
    /// The session was forgotten.
    Gone,
}

impl Entry {
    pub(super) fn new(
        terms: Arc<Terms>,
        lifetime: Lifetime,
        expires: Option<Instant>,
    ) -> Arc<Self> {
        let inbox = Inbox {
            phase: Phase::Dormant,
            commands: VecDeque::new(),
        };
        Arc::new(Self {
            labels: Arc::new(terms.labels.clone()),
            terms,
            lifetime,
            inbox: Mutex::new(inbox),
            signals: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            attached: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            epoch_is_fresh: AtomicBool::new(true),
            known_from_before: AtomicBool::new(false),
            expires: Mutex::new(expires),
            counted_at: Mutex::new(None),
            waits: Mutex::new(None),
            absence: Mutex::new(None),
        })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a command for whoever holds the session.
    pub(super) fn send(&self, command: Command) -> Sent {
        let mut inbox = self.inbox();
        let sent = match inbox.phase {
            Phase::Gone => return Sent::Gone,
            Phase::Live => Sent::Queued,
            Phase::Dormant => Sent::Wakes,
        };
        if SESSION_COMMANDS_QUEUED_MAX <= inbox.commands.len() {
            return Sent::Full;
        }
        inbox.phase = Phase::Live;
        inbox.commands.push_back(command);
        drop(inbox);
        self.waker.wake();
        sent
    }

    /// Makes the session live without a command; tells whether a task has to be started.
    pub(super) fn wake_up(&self) -> bool {
        let mut inbox = self.inbox();
        let starts = inbox.phase == Phase::Dormant;
        if starts {
            inbox.phase = Phase::Live;
        }
        starts
    }

    #[cfg(test)]
    pub(super) fn is_live(&self) -> bool {
        self.inbox().phase == Phase::Live
    }

    /// The next command, for the task that holds the session.
    pub(super) fn take(&self) -> Option<Command> {
        self.inbox().commands.pop_front()
    }

    /// Whether there is a command or a signal for the task that holds the session.
    pub(super) fn is_called(&self) -> bool {
        !self.inbox().commands.is_empty() || self.signals.load(Ordering::Acquire) != 0
    }

    /// The task ends, unless there is a command or a signal after all.
    pub(super) fn rest(&self) -> bool {
        let mut inbox = self.inbox();
        if inbox.phase == Phase::Gone {
            return true;
        }
        let rests = inbox.commands.is_empty() && self.signals.load(Ordering::Acquire) == 0;
        if rests {
            inbox.phase = Phase::Dormant;
        }
        rests
    }

    /// Nothing is taken any more; what waits is dropped, and whoever waits for it learns.
    pub(super) fn end(&self) {
        let commands = {
            let mut inbox = self.inbox();
            inbox.phase = Phase::Gone;
            std::mem::take(&mut inbox.commands)
        };
        drop(commands);
    }

    /// Calls the task that holds the session, if one does.
    pub(super) fn signal(&self, signal: Signal) {
        let inbox = self.inbox();
        if inbox.phase == Phase::Live {
            self.leave(inbox, signal);
        }
    }

    /// Calls the task that holds the session, whether one does or not; tells whether it has to be started.
    #[must_use]
    pub(super) fn call(&self, signal: Signal) -> bool {
        let mut inbox = self.inbox();
        let starts = match inbox.phase {
            Phase::Gone => return false,
            Phase::Live => false,
            Phase::Dormant => true,
        };
        inbox.phase = Phase::Live;
        self.leave(inbox, signal);
        starts
    }

    /// Under the lock: a task that goes to rest has seen it, or does not rest.
    fn leave(&self, inbox: MutexGuard<'_, Inbox>, signal: Signal) {
        self.signals.fetch_or(signal as u8, Ordering::AcqRel);
        drop(inbox);
        self.waker.wake();
    }

    /// Takes a signal that was given since.
    pub(super) fn take_signal(&self) -> Option<Signal> {
        let given = self.signals.load(Ordering::Acquire);
        let all = [Signal::Drain, Signal::Expire, Signal::Move, Signal::Look];
        let signal = all.into_iter().find(|signal| given & *signal as u8 != 0)?;
        self.signals.fetch_and(!(signal as u8), Ordering::AcqRel);
        Some(signal)
    }

    /// Who is woken by commands and signals.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// What it waits for, in words; empty when it waits for nothing.
    pub(super) fn detail(&self) -> String {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = waits.as_ref();
        waits.map_or_else(String::new, |waits| waits.words(Instant::now()))
    }

    /// Notes what it waits for; gives back what it waited for before.
    pub(super) fn set_waits(&self, waits: Option<Waits>) -> Option<Box<Waits>> {
        let mut there = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut there, waits.map(Box::new))
    }

    /// Notes since when it is without its instance.
    pub(super) fn keep_absence(&self, absence: Option<Absence>) {
        *self.absence.lock().unwrap_or_else(PoisonError::into_inner) = absence.map(Box::new);
    }

    /// Since when it is without its instance, and forgets it.
    pub(super) fn take_absence(&self) -> Option<Absence> {
        let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        absence.take().map(|absence| *absence)
    }

    /// When the session expires.
    pub(super) fn expires(&self) -> Option<Instant> {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when the session expires.
    pub(super) fn set_expires(&self, at: Option<Instant>) {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::domain::selection::Policy;
    use crate::domain::session::{Durability, LossPolicy, SessionId};

    fn entry() -> Arc<Entry> {
        let terms = Terms {
            id: SessionId::parse("s").unwrap(),
            caller: String::new(),
            spawn: None,
            targets: Vec::new(),
            selection: Policy::Ordered,
            loss_policy: LossPolicy::Reassign,
            durability: Durability::None,
            labels: Default::default(),
            idle_ttl: Duration::from_secs(1),
            lifetime: None,
            created_ms: 0,
        };
        let lifetime = Lifetime {
            idle_ttl: terms.idle_ttl,
            ends: None,
        };
        Entry::new(Arc::new(terms), lifetime, None)
    }

    /// The end of a task's life: it looks a last time, and rests. Tells whether it has seen a signal.
    fn go_to_rest(entry: &Entry) -> bool {
        let mut has_seen = entry.take_signal().is_some();
        while !entry.rest() {
            has_seen |= entry.take_signal().is_some();
        }
        has_seen
    }

    /// Waits until both sides are at this round, without leaving the processor for as long as the other side runs.
    fn meet(mine: &AtomicUsize, other: &AtomicUsize, round: usize) {
        mine.store(round, Ordering::SeqCst);
        let mut looks = 0_u32;
        while other.load(Ordering::SeqCst) < round {
            looks += 1;
            if looks.is_multiple_of(1000) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_session_that_just_goes_to_rest_hears_that_it_is_to_move() {
        let entries: Vec<_> = std::iter::repeat_with(entry).take(100_000).collect();
        let (task_at, caller_at) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            let task = threads.spawn(|| {
                let mut heard = Vec::new();
                for (round, entry) in entries.iter().enumerate() {
                    assert!(entry.wake_up());
                    meet(&task_at, &caller_at, round + 1);
                    heard.push(go_to_rest(entry));
                }
                heard
            });
            let mut started = Vec::new();
            for (round, entry) in entries.iter().enumerate() {
                meet(&caller_at, &task_at, round + 1);
                // Each round meets the task a little later on its way.
                for _ in 0..round % 50 {
                    std::hint::spin_loop();
                }
                started.push(entry.call(Signal::Move));
            }
            for ((entry, heard), starts) in entries.iter().zip(task.join().unwrap()).zip(started) {
                assert!(heard != starts, "either of them: {heard} {starts}");
                assert_eq!(entry.is_live(), starts);
                // Nothing is left for whoever holds the session much later.
                assert_eq!(entry.take_signal(), starts.then_some(Signal::Move));
            }
        });
    }

    #[test]
    fn who_rests_is_not_signalled_and_what_is_gone_stays_gone() {
        let entry = entry();
        entry.signal(Signal::Look);
        assert_eq!(entry.take_signal(), None);
        assert!(entry.wake_up());
        entry.end();
        assert!(entry.rest());
        assert!(!entry.call(Signal::Move));
        let (closed, _) = oneshot::channel();
        assert_eq!(entry.send(Command::Close { closed }), Sent::Gone);
    }
}
