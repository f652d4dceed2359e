//! The sessions of a scripted instance: no tasks and no clock, every frame is answered as it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::instance::session::{
    CloseReason, Data, Frame, Gone, Open, Opened, ReceiveFrames, Receiver, SendFrames, Sender,
};

/// What an instance does with one session.
#[derive(Debug, Clone)]
pub(crate) enum SessionAct {
    /// Answers each message with itself, and takes it once its answer was taken.
    Echo,
    /// Takes each message and answers none.
    Take,
    /// Takes part, and then says nothing.
    Silent,
    /// Never answers the open.
    NeverOpen,
    /// Cannot be reached.
    Refuse,
    /// Refuses the open with a status.
    Fail(Status),
    /// Echoes so many messages, then closes.
    CloseAfter(usize, CloseReason),
    /// Echoes so many messages, then the stream is lost.
    LoseAfter(usize),
    /// Echoes so many messages, and has no room for more until `let_in`.
    FullAfter(usize),
}

/// All sessions of one instance, and what it remembers of them.
#[derive(Default)]
pub(crate) struct Sessions {
    script: Mutex<VecDeque<SessionAct>>,
    memory: Memory,
    opened: Mutex<Vec<Arc<Held>>>,
}

/// What an instance knows of each session.
type Memory = Arc<Mutex<BTreeMap<Arc<str>, Known>>>;

#[derive(Default, Clone, Copy)]
struct Known {
    spawned_ms: u64,
    epoch: u64,
    applied_through: u64,
}

/// One session that was opened with a scripted instance, as the test sees it.
pub(crate) struct Held {
    /// What it was told.
    pub(crate) open: Open,
    id: InstanceId,
    act: SessionAct,
    memory: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the instance was sent, in order.
    seen: Vec<Frame>,
    to_orchestrator: VecDeque<Result<Frame, Failure>>,
    ended: bool,
    /// Seq of the instance's last message, and which message each one answers.
    sent: u64,
    answers: VecDeque<(u64, u64)>,
    echoed: usize,
    full: bool,
    halves: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Sessions {
    /// What it does with the sessions to come; the last act repeats. Echo without a script.
    pub(crate) fn script(&self, acts: impl IntoIterator<Item = SessionAct>) {
        *self.script.lock().unwrap() = acts.into_iter().collect();
    }

    /// Every session that was opened so far, refused ones included.
    pub(crate) fn opened(&self) -> Vec<Arc<Held>> {
        self.opened.lock().unwrap().clone()
    }

    /// Loses its memory, as a restart does.
    pub(crate) fn forget(&self) {
        self.memory.lock().unwrap().clear();
    }

    fn next(&self) -> SessionAct {
        let mut script = self.script.lock().unwrap();
        match script.len() {
            0 => SessionAct::Echo,
            1 => script[0].clone(),
            _ => script.pop_front().unwrap(),
        }
    }

    /// `None` when the open is never answered.
    pub(super) fn open(&self, id: &InstanceId, open: Open) -> Option<Result<Opened, Failure>> {
        let act = self.next();
        let known = self.memory.lock().unwrap().get(&open.session).copied();
        let known = known.unwrap_or_default();
        let is_stale = (open.spawned_ms, open.epoch) <= (known.spawned_ms, known.epoch);
        let received_through = if known.spawned_ms < open.spawned_ms {
            0
        } else {
            known.applied_through
        };
        let held = Arc::new(Held {
            state: Mutex::new(State {
                sent: open.received.through,
                halves: 2,
                full: matches!(act, SessionAct::FullAfter(0)),
                ..State::default()
            }),
            open,
            id: id.clone(),
            act: act.clone(),
            memory: Arc::clone(&self.memory),
        });
        self.opened.lock().unwrap().push(Arc::clone(&held));
        let failed =
            |reason, progress, detail| Some(Err(Failure::at(id, reason, progress, detail)));
        match act {
            SessionAct::Refuse => failed(
                Reason::InstanceDown,
                Progress::NeverSent,
                "connection refused",
            ),
            SessionAct::Fail(status) => failed(
                Reason::InstanceFailed(status),
                Progress::MayHaveBegun,
                status.name(),
            ),
            SessionAct::NeverOpen
            | SessionAct::Echo
            | SessionAct::Take
            | SessionAct::Silent
            | SessionAct::CloseAfter(..)
            | SessionAct::LoseAfter(_)
            | SessionAct::FullAfter(_)
                if is_stale =>
            {
                let status = Status::FailedPrecondition;
                failed(
                    Reason::InstanceFailed(status),
                    Progress::MayHaveBegun,
                    "the epoch is stale",
                )
            }
            SessionAct::NeverOpen => {
                self.begin(&held, received_through);
                None
            }
            SessionAct::Echo
            | SessionAct::Take
            | SessionAct::Silent
            | SessionAct::CloseAfter(..)
            | SessionAct::LoseAfter(_)
            | SessionAct::FullAfter(_) => {
                self.begin(&held, received_through);
                Some(Ok(Opened {
                    received_through,
                    sender: Sender::new(Half(Arc::clone(&held))),
                    receiver: Receiver::new(Half(held)),
                }))
            }
        }
    }

    /// A new epoch: what takes part in the session under an older one is over.
    fn begin(&self, held: &Arc<Held>, applied_through: u64) {
        let known = Known {
            spawned_ms: held.open.spawned_ms,
            epoch: held.open.epoch,
            applied_through,
        };
        let session = Arc::clone(&held.open.session);
        self.memory.lock().unwrap().insert(session, known);
        for older in self.opened.lock().unwrap().iter() {
            if older.open.session == held.open.session && !Arc::ptr_eq(older, held) {
                older.end_with(Reason::InstanceFailed(Status::Aborted));
            }
        }
    }
}

impl Held {
    /// What the instance was sent so far, in order.
    pub(crate) fn seen(&self) -> Vec<Frame> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The seqs of the messages that it was sent.
    pub(crate) fn seqs(&self) -> Vec<u64> {
        let seen = self.seen();
        let seqs = seen.iter().filter_map(|frame| match frame {
            Frame::Data(data) => Some(data.seq),
            Frame::Ack { .. } | Frame::Close { .. } => None,
        });
        seqs.collect()
    }

    /// Whether the orchestrator still holds the stream.
    pub(crate) fn is_held(&self) -> bool {
        0 < self.state.lock().unwrap().halves
    }

    /// The instance says something of its own accord.
    pub(crate) fn say(&self, frame: Frame) {
        self.state.lock().unwrap().push(Ok(frame));
    }

    /// The instance sends a message of its own accord, with the next number.
    pub(crate) fn send(&self, in_reply_to: Option<u64>, payload: crate::domain::payload::Payload) {
        let mut state = self.state.lock().unwrap();
        state.message(in_reply_to, payload);
    }

    /// The stream breaks.
    pub(crate) fn lose(&self) {
        self.end_with(Reason::InstanceLost);
    }

    fn end_with(&self, reason: Reason) {
        let failure = Failure::at(&self.id, reason, Progress::MayHaveBegun, "broken");
        let mut state = self.state.lock().unwrap();
        state.push(Err(failure));
        state.end();
    }

    /// There is room for everything from now on.
    pub(crate) fn let_in(&self) {
        let mut state = self.state.lock().unwrap();
        state.full = false;
        state.wake_writer();
    }

    fn take(&self, frame: Frame) -> Result<(), Gone> {
        let mut state = self.state.lock().unwrap();
        if state.ended {
            return Err(Gone);
        }
        state.seen.push(frame.clone());
        match frame {
            Frame::Data(data) => self.apply(state, data),
            Frame::Ack { through } => {
                while let Some((seq, answered)) = state.answers.front().copied()
                    && seq <= through
                {
                    state.answers.pop_front();
                    state.push(Ok(Frame::Ack { through: answered }));
                }
            }
            Frame::Close { .. } => state.end(),
        }
        Ok(())
    }

    fn apply(&self, mut state: MutexGuard<'_, State>, data: Data) {
        let mut memory = self.memory.lock().unwrap();
        if let Some(known) = memory.get_mut(&self.open.session) {
            known.applied_through = data.seq.max(known.applied_through);
        }
        drop(memory);
        let limit = match self.act {
            SessionAct::Take => return state.push(Ok(Frame::Ack { through: data.seq })),
            SessionAct::Silent
            | SessionAct::NeverOpen
            | SessionAct::Refuse
            | SessionAct::Fail(_) => return,
            SessionAct::Echo => usize::MAX,
            SessionAct::CloseAfter(count, _)
            | SessionAct::LoseAfter(count)
            | SessionAct::FullAfter(count) => count,
        };
        if data.seq <= self.open.answered_through {
            return state.push(Ok(Frame::Ack { through: data.seq }));
        }
        state.message(Some(data.seq), data.payload);
        state.echoed += 1;
        if state.echoed != limit {
            return;
        }
        match self.act {
            SessionAct::CloseAfter(_, reason) => {
                state.push(Ok(Frame::Close {
                    reason,
                    detail: "as the script says".into(),
                }));
                state.end();
            }
            SessionAct::FullAfter(_) => state.full = true,
            SessionAct::LoseAfter(_) => {
                drop(state);
                self.lose();
            }
            SessionAct::Echo
            | SessionAct::Take
            | SessionAct::Silent
            | SessionAct::NeverOpen
            | SessionAct::Refuse
            | SessionAct::Fail(_) => {}
        }
    }
}

impl State {
    fn push(&mut self, frame: Result<Frame, Failure>) {
        if self.ended {
            return;
        }
        self.to_orchestrator.push_back(frame);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn message(&mut self, in_reply_to: Option<u64>, payload: crate::domain::payload::Payload) {
        self.sent += 1;
        let seq = self.sent;
        if let Some(answered) = in_reply_to {
            self.answers.push_back((seq, answered));
        }
        self.push(Ok(Frame::Data(Data {
            seq,
            in_reply_to,
            redelivered: false,
            payload,
        })));
    }

    fn end(&mut self) {
        self.ended = true;
        self.wake_writer();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// One half of the stream, at the orchestrator.
struct Half(Arc<Held>);

impl SendFrames for Half {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.0.state.lock().unwrap();
        if state.ended {
            return Poll::Ready(Err(Gone));
        }
        if state.full {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        self.0.take(frame)
    }
}

impl ReceiveFrames for Half {
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let mut state = self.0.state.lock().unwrap();
        if let Some(frame) = state.to_orchestrator.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().halves -= 1;
    }
}
