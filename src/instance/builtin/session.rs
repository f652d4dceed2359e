//! Sessions of the built-in instances: each message comes back as the answer to itself, once.
//!
//! It remembers for as long as it lives, and acknowledges a message only when its answer was taken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{Echo, as_asked};
use crate::domain::conversation::{Conversation, Opening, Receipt, Said};
use crate::domain::limit::BUILTIN_SESSIONS_MAX;
use crate::proto::instance::session_request::Frame;
use crate::proto::instance::session_response::Frame as Answer;
use crate::proto::instance::{
    SessionAck, SessionClose, SessionCloseReason, SessionData, SessionOpen, SessionOpened,
    SessionRequest, SessionResponse,
};

/// Every session that an instance remembers.
#[derive(Default)]
pub(super) struct Sessions(Mutex<BTreeMap<String, Arc<Remembered>>>);

/// One session, over all its calls.
#[derive(Default)]
struct Remembered(Mutex<State>);

#[derive(Default)]
struct State {
    conversation: Conversation<Option<Bytes>>,
    /// Tells the call that takes part now that a newer one does.
    replaced: Option<Arc<Notify>>,
}

impl Sessions {
    fn of(&self, session: &str) -> Result<Arc<Remembered>, Status> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get(session) {
            return Ok(Arc::clone(known));
        }
        if BUILTIN_SESSIONS_MAX <= sessions.len() {
            // Only what nobody takes part in can be forgotten.
            let idle = sessions
                .iter()
                .find(|(_, held)| Arc::strong_count(held) == 1);
            let Some(idle) = idle.map(|(name, _)| name.clone()) else {
                let what = "built-in instance takes part in as many sessions as it may";
                return Err(Status::resource_exhausted(what));
            };
            sessions.remove(&idle);
        }
        let new = Arc::<Remembered>::default();
        sessions.insert(session.to_owned(), Arc::clone(&new));
        Ok(new)
    }

    /// Forgets a session, unless another one took its place.
    fn forget(&self, session: &str, known: &Arc<Remembered>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions
            .get(session)
            .is_some_and(|held| Arc::ptr_eq(held, known))
        {
            sessions.remove(session);
        }
    }
}

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that takes part in a session.
pub(super) struct Taking {
    echo: Echo,
    incoming: Streaming<SessionRequest>,
    session: String,
    remembered: Arc<Remembered>,
    replaced: Arc<Notify>,
    epoch: u64,
    /// What is to be sent before anything else is taken.
    outgoing: VecDeque<Answer>,
    /// How the call ends once that is sent.
    end: Option<Result<(), Status>>,
}

impl Taking {
    /// Waits for the opening and agrees to it.
    pub(super) async fn open(
        echo: Echo,
        mut incoming: Streaming<SessionRequest>,
    ) -> Result<Self, Status> {
        let first = incoming.message().await?.and_then(|request| request.frame);
        let Some(Frame::Open(open)) = first else {
            return Err(Status::invalid_argument("a session begins with open"));
        };
        let remembered = echo.sessions.of(&open.session)?;
        let replaced = Arc::<Notify>::default();
        let mut outgoing = VecDeque::new();
        {
            let mut state = remembered.lock();
            let resumed = state.conversation.open(&opening(&open));
            let resumed =
                resumed.map_err(|stale| Status::failed_precondition(stale.to_string()))?;
            if let Some(older) = state.replaced.replace(Arc::clone(&replaced)) {
                older.notify_one();
            }
            outgoing.push_back(Answer::Opened(SessionOpened {
                received_through: resumed.received_through,
            }));
            outgoing.extend(state.conversation.unacknowledged().map(data));
            outgoing.extend(state.conversation.due().map(ack));
        }
        Ok(Self {
            echo,
            incoming,
            session: open.session,
            remembered,
            replaced,
            epoch: open.epoch,
            outgoing,
            end: None,
        })
    }

    /// Everything that the instance has to say in this call.
    pub(super) fn answers(self) -> impl Stream<Item = Result<SessionResponse, Status>> + Send {
        stream::unfold(self, |mut taking| async move {
            let next = taking.next().await?;
            let response = next.map(|frame| SessionResponse { frame: Some(frame) });
            Some((response, taking))
        })
    }

    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        loop {
            if let Some(frame) = self.outgoing.pop_front() {
                return Some(Ok(frame));
            }
            match &mut self.end {
                Some(Ok(())) => return None,
                Some(end) => return std::mem::replace(end, Ok(())).err().map(Err),
                None => {}
            }
            let received = tokio::select! {
                biased;
                () = self.replaced.notified() => Err(replaced()),
                received = self.incoming.message() => received,
            };
            let done = match received {
                Ok(Some(request)) => self.take(request.frame).await,
                Ok(None) => {
                    self.end = Some(Ok(()));
                    Ok(())
                }
                Err(status) => Err(status),
            };
            if let Err(status) = done {
                self.end = Some(Err(status));
            }
        }
    }

    async fn take(&mut self, frame: Option<Frame>) -> Result<(), Status> {
        match frame {
            Some(Frame::Data(data)) => self.echo(data).await?,
            Some(Frame::Ack(ack)) => {
                let taken = self.remembered.lock().conversation.taken(ack.through);
                taken.map_err(|over| Status::invalid_argument(over.to_string()))?;
            }
            Some(Frame::Close(close)) => {
                let goes_on = close.reason() == SessionCloseReason::Suspended;
                if !goes_on {
                    self.echo.sessions.forget(&self.session, &self.remembered);
                }
                self.end = Some(Ok(()));
            }
            Some(Frame::Open(_)) => {
                return Err(Status::invalid_argument("a session is opened once"));
            }
            // A kind of frame that this version does not know.
            None => {}
        }
        if self.end.is_none() {
            let due = self.remembered.lock().conversation.due();
            self.outgoing.extend(due.map(ack));
        }
        Ok(())
    }

    async fn echo(&mut self, received: SessionData) -> Result<(), Status> {
        let asked = self.echo.asked(received.payload.as_ref())?;
        if !asked.behaviour.delay.is_zero() {
            time::sleep(asked.behaviour.delay).await;
        }
        self.echo.refuse_flapped_off(asked.behaviour.flap)?;
        let mut state = self.remembered.lock();
        let conversation = &mut state.conversation;
        let is_answered = match conversation.receive(self.epoch, received.seq) {
            Receipt::Apply => false,
            Receipt::ApplyQuietly => true,
            Receipt::Duplicate => return Ok(()),
            Receipt::StaleEpoch => return Err(replaced()),
            Receipt::Gap { expected } => {
                return Err(Status::data_loss(format!("message {expected} is missing")));
            }
        };
        if !is_answered && !asked.behaviour.silent && asked.behaviour.fail.is_none() {
            let said = conversation.say(Some(received.seq), received.payload);
            self.outgoing.push_back(data(said));
        }
        conversation.handled(received.seq);
        if let Some(reason) = asked.close {
            self.outgoing.push_back(Answer::Close(SessionClose {
                reason: reason.into(),
                detail: "built-in instance was asked to close".into(),
            }));
            self.end = Some(Ok(()));
            drop(state);
            if reason == SessionCloseReason::Done {
                self.echo.sessions.forget(&self.session, &self.remembered);
            }
        }
        match asked.behaviour.fail {
            Some(status) => Err(as_asked(status)),
            None => Ok(()),
        }
    }
}

fn opening(open: &SessionOpen) -> Opening {
    let spawned = open.spawn_time.unwrap_or_default();
    let seconds = u64::try_from(spawned.seconds).unwrap_or(0);
    let millis = u64::try_from(spawned.nanos).unwrap_or(0) / 1_000_000;
    Opening {
        spawned_ms: seconds.saturating_mul(1000).saturating_add(millis),
        epoch: open.epoch,
        next_seq: open.next_seq,
        answered_through: open.answered_through,
        received_through: open.received_through,
        received_epoch: open.received_epoch,
    }
}

fn data(said: &Said<Option<Bytes>>) -> Answer {
    Answer::Data(SessionData {
        seq: said.seq,
        in_reply_to: said.in_reply_to.unwrap_or(0),
        redelivered: false,
        payload: said.message.clone(),
    })
}

fn ack(through: u64) -> Answer {
    Answer::Ack(SessionAck { through })
}

fn replaced() -> Status {
    Status::aborted("a call of a newer epoch takes part in the session")
}
