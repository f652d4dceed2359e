//! An instance that takes part in sessions, and writes down what it applies. It answers each message with the
//! message, its own name and the epoch.
//!
//! What it remembers stands apart from it, so that a test can let it forget, or not, when it dies.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use orchestrator::domain::conversation::{Conversation, Opening, Receipt, Said};
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_server::Health;
use orchestrator::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use orchestrator::proto::instance::instance_service_server::InstanceService;
use orchestrator::proto::instance::session_request::Frame;
use orchestrator::proto::instance::session_response::Frame as Word;
use orchestrator::proto::instance::{
    ExecuteRequest, ExecuteResponse, SessionAck, SessionClose, SessionCloseReason, SessionData,
    SessionOpen, SessionOpened, SessionRequest, SessionResponse,
};
use prost::Message as _;
use prost_types::Value;
use prost_types::value::Kind;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::history::{Answer, Event, Opened};

/// Told what happens to a session, before anybody else learns of it.
pub(crate) type Tell = Arc<dyn Fn(&str, Event) + Send + Sync>;

/// What an instance remembers of all its sessions.
#[derive(Clone)]
pub(crate) struct Mind {
    pub(crate) name: String,
    sessions: Arc<Mutex<BTreeMap<String, Known>>>,
}

#[derive(Default)]
struct Known {
    conversation: Conversation<String>,
    /// Tells the call that takes part now that a newer one does.
    replaced: Option<Arc<Notify>>,
}

/// How an instance behaves in sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manner {
    /// How long it works on each message.
    pub(crate) works_for: Duration,
    /// Leaves the session with each message whose number can be divided by this; 0 for never.
    pub(crate) leaves_every: u64,
    /// Fails the stream with each message whose number can be divided by this; 0 for never.
    pub(crate) breaks_every: u64,
    pub(crate) tells: Tells,
}

/// What an instance says that it has when a session is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tells {
    #[default]
    WhatItHas,
    /// It has it all the same, and gets it once more.
    Nothing,
}

/// One life of an instance.
#[derive(Clone)]
pub(crate) struct Instance {
    pub(crate) mind: Mind,
    pub(crate) manner: Arc<dyn Fn() -> Manner + Send + Sync>,
    pub(crate) tell: Tell,
}

impl Mind {
    pub(crate) fn new(name: String) -> Self {
        let sessions = Arc::default();
        Self { name, sessions }
    }

    fn with<T>(&self, session: &str, what: impl FnOnce(&mut Known) -> T) -> T {
        let mut sessions = self.sessions.lock().unwrap();
        what(sessions.entry(session.to_owned()).or_default())
    }
}

/// One call that takes part in a session.
struct Taking {
    instance: Instance,
    incoming: Streaming<SessionRequest>,
    session: String,
    replaced: Arc<Notify>,
    epoch: u64,
    outgoing: VecDeque<Word>,
    end: Option<Result<(), Status>>,
    last_words: Option<String>,
}

impl Drop for Taking {
    fn drop(&mut self) {
        let (mind, last_words) = (self.instance.mind.name.clone(), self.last_words.take());
        (self.instance.tell)(&self.session, Event::Parted { mind, last_words });
    }
}

impl Taking {
    async fn open(
        instance: Instance,
        mut incoming: Streaming<SessionRequest>,
    ) -> Result<Self, Status> {
        let first = incoming.message().await?.and_then(|request| request.frame);
        let Some(Frame::Open(open)) = first else {
            return Err(Status::invalid_argument("a session begins with open"));
        };
        let replaced = Arc::<Notify>::default();
        let (session, mind) = (open.session.clone(), instance.mind.name.clone());
        let outgoing = instance.mind.with(&session, |known| {
            let resumed = known.conversation.open(&opening(&open));
            let resumed = resumed.map_err(|bad| Status::failed_precondition(bad.to_string()))?;
            let opened = Opened {
                mind,
                epoch: open.epoch,
                next_seq: open.next_seq,
            };
            (instance.tell)(&session, Event::Opened(opened));
            if let Some(older) = known.replaced.replace(Arc::clone(&replaced)) {
                older.notify_one();
            }
            let opened = Word::Opened(SessionOpened {
                received_through: match (instance.manner)().tells {
                    Tells::WhatItHas => resumed.received_through,
                    Tells::Nothing => 0,
                },
            });
            let again = known.conversation.unacknowledged().map(data);
            let mut outgoing: VecDeque<_> = [opened].into_iter().chain(again).collect();
            outgoing.extend(known.conversation.due().map(ack));
            Ok::<_, Status>(outgoing)
        })?;
        Ok(Self {
            instance,
            incoming,
            session,
            replaced,
            epoch: open.epoch,
            outgoing,
            end: None,
            last_words: None,
        })
    }

    fn words(self) -> impl Stream<Item = Result<SessionResponse, Status>> + Send {
        stream::unfold(self, |mut taking| async move {
            let next = taking.next().await?;
            let response = next.map(|frame| SessionResponse { frame: Some(frame) });
            Some((response, taking))
        })
    }

    async fn next(&mut self) -> Option<Result<Word, Status>> {
        loop {
            if let Some(word) = self.outgoing.pop_front() {
                return Some(Ok(word));
            }
            match &mut self.end {
                Some(Ok(())) => return None,
                Some(end) => return std::mem::replace(end, Ok(())).err().map(Err),
                None => {}
            }
            let received = tokio::select! {
                biased;
                () = self.replaced.notified() => {
                    self.last_words = Some("replaced".to_owned());
                    Err(replaced())
                }
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
            Some(Frame::Data(received)) => self.apply(received).await?,
            Some(Frame::Ack(ack)) => self.with(|known| {
                let taken = known.conversation.taken(ack.through);
                taken.map_err(|over| Status::invalid_argument(over.to_string()))
            })?,
            // What was kept for the session could go: it is kept, so that a second life of it would show.
            Some(Frame::Close(close)) => {
                let reason = close.reason().as_str_name();
                let reason = reason.trim_start_matches("SESSION_CLOSE_REASON_");
                self.last_words = Some(reason.to_lowercase());
                self.end = Some(Ok(()));
            }
            Some(Frame::Open(_)) | None => {
                return Err(Status::invalid_argument("not what comes now"));
            }
        }
        if self.end.is_none() {
            let due = self.with(|known| known.conversation.due());
            self.outgoing.extend(due.map(ack));
        }
        Ok(())
    }

    async fn apply(&mut self, received: SessionData) -> Result<(), Status> {
        let manner = (self.instance.manner)();
        if !manner.works_for.is_zero() {
            let _ = tokio::time::timeout(manner.works_for, std::future::pending::<()>()).await;
        }
        let (seq, epoch) = (received.seq, self.epoch);
        let divides = |every: u64| 0 < every && seq.is_multiple_of(every);
        if divides(manner.breaks_every) {
            return Err(Status::unavailable("as the test wants it"));
        }
        let text = words(received.payload.as_deref());
        let (mind, tell) = (self.instance.mind.clone(), Arc::clone(&self.instance.tell));
        let said = mind.with(&self.session, |known| {
            let conversation = &mut known.conversation;
            let is_answered = match conversation.receive(epoch, seq) {
                Receipt::Apply => false,
                Receipt::ApplyQuietly => true,
                Receipt::Duplicate => return Ok(None),
                Receipt::StaleEpoch => return Err(replaced()),
                Receipt::Gap { expected } => {
                    return Err(Status::data_loss(format!("message {expected} is missing")));
                }
            };
            let applied = Event::Applied {
                mind: mind.name.clone(),
                epoch,
                position: seq,
                text: text.clone(),
            };
            tell(&self.session, applied);
            let said = (!is_answered).then(|| {
                let answer = Answer {
                    to: text,
                    mind: mind.name.clone(),
                    epoch,
                };
                data(conversation.say(Some(seq), answer.to_string()))
            });
            conversation.handled(seq);
            Ok(said)
        })?;
        self.outgoing.extend(said);
        if divides(manner.leaves_every) {
            let reason = SessionCloseReason::Suspended.into();
            let detail = "as the test wants it".to_owned();
            self.outgoing
                .push_back(Word::Close(SessionClose { reason, detail }));
            self.end = Some(Ok(()));
        }
        Ok(())
    }

    fn with<T>(&self, what: impl FnOnce(&mut Known) -> T) -> T {
        self.instance.mind.with(&self.session, what)
    }
}

fn opening(open: &SessionOpen) -> Opening {
    let spawned = open.spawn_time.unwrap_or_default();
    let millis = spawned.seconds * 1000 + i64::from(spawned.nanos) / 1_000_000;
    Opening {
        spawned_ms: millis.try_into().unwrap(),
        epoch: open.epoch,
        next_seq: open.next_seq,
        answered_through: open.answered_through,
        received_through: open.received_through,
        received_epoch: open.received_epoch,
    }
}

fn data(said: &Said<String>) -> Word {
    Word::Data(SessionData {
        seq: said.seq,
        in_reply_to: said.in_reply_to.unwrap_or(0),
        redelivered: false,
        payload: Some(payload(&said.message)),
    })
}

fn ack(through: u64) -> Word {
    Word::Ack(SessionAck { through })
}

fn replaced() -> Status {
    Status::aborted("a call of a newer epoch takes part in the session")
}

/// Words as they travel.
pub(crate) fn payload(text: &str) -> bytes::Bytes {
    Value::from(text).encode_to_vec().into()
}

/// The words of a payload.
pub(crate) fn words(payload: Option<&[u8]>) -> String {
    let value = payload.and_then(|payload| Value::decode(payload).ok());
    match value.and_then(|value| value.kind) {
        Some(Kind::StringValue(text)) => text,
        other => format!("no words: {other:?}"),
    }
}

#[tonic::async_trait]
impl InstanceService for Instance {
    async fn execute(
        &self,
        _: Request<ExecuteRequest>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        Err(Status::unimplemented(
            "this instance only takes part in sessions",
        ))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let taking = Taking::open(self.clone(), request.into_inner()).await?;
        Ok(Response::new(Box::pin(taking.words())))
    }
}

type Watched = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

#[tonic::async_trait]
impl Health for Instance {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = Watched;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Watched>, Status> {
        Err(Status::unimplemented(""))
    }
}
