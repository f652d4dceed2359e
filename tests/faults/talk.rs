//! A conversation with a real orchestrator that goes on whatever breaks, and its history.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orchestrator::proto::orchestrator::session_send_request::Frame as Out;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::session_server_data::Reply;
use orchestrator::proto::orchestrator::{
    LossPolicy, Selection, SessionAck, SessionClientData, SessionHello, SessionPostRequest,
    SessionSendRequest, SessionSendResponse, SessionSpawnRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::load::{Client, authorize};
use crate::processes::{Instance, PATIENCE};
use crate::sessions::history::{Answers, Event, Opened, Ready, seq_of, streamed};
use crate::sessions::instance::{payload, words};
use crate::sessions::judge::{Answering, Beginning, judge};

/// How many messages may be on their way, so that whatever breaks meets some.
const WINDOW: u64 = 32;
/// How many may wait for their answers: a client that sent on without end would come to the bounds of its session.
const UNANSWERED_MAX: u64 = 4 * WINDOW;
/// How long an attachment may be silent before the client takes it for dead. Longer than a sync takes anywhere.
const SILENCE: Duration = Duration::from_secs(3);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// What an instance says of an event.
pub(crate) fn line(session: &str, event: &Event) -> Option<String> {
    match event {
        Event::Opened(Opened {
            mind,
            epoch,
            next_seq,
        }) => Some(format!("event {session} opened {mind} {epoch} {next_seq}")),
        Event::Applied {
            mind,
            epoch,
            position,
            text,
        } => Some(format!(
            "event {session} applied {mind} {epoch} {position} {text}"
        )),
        Event::Ready(_)
        | Event::Sent { .. }
        | Event::Acked(_)
        | Event::Received { .. }
        | Event::Posting(_)
        | Event::Posted { .. }
        | Event::Moved { .. }
        | Event::Lost { .. }
        | Event::LostPosts { .. }
        | Event::Closed(_)
        | Event::Over(_)
        | Event::Parted { .. }
        | Event::Restarted => None,
    }
}

/// The event of a session in the words of an instance.
fn event(session: &str, line: &str) -> Option<Event> {
    let words: Vec<_> = line.split(' ').collect();
    let number = |at: usize| words[at].parse().unwrap();
    if words[0] != session {
        return None;
    }
    let mind = words[2].to_owned();
    Some(match words[1] {
        "opened" => Event::Opened(Opened {
            mind,
            epoch: number(3),
            next_seq: number(4),
        }),
        _ => Event::Applied {
            mind,
            epoch: number(3),
            position: number(4),
            text: words[5].to_owned(),
        },
    })
}

/// A conversation in one session. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Talk {
    session: &'static str,
    policy: LossPolicy,
    padding: usize,
    /// Which instances may hold the session, the first of them first; any when empty.
    instances: &'static [&'static str],
    silence: Duration,
    known: Arc<Mutex<Known>>,
    /// How often the client was refused for want of room, and because the disk had failed.
    pub(crate) full: Arc<AtomicU64>,
    pub(crate) failed: Arc<AtomicU64>,
}

#[derive(Default)]
struct Known {
    history: Vec<Event>,
    /// Where the orchestrator was when the client was attached last.
    at: Option<SocketAddr>,
    has: u64,
    acked: u64,
    sent: u64,
    answered: u64,
    posted: u64,
    /// Why the session has ended; only of one that is to end with its instance.
    closed: Option<String>,
    /// Nothing new is said any more.
    ends: bool,
}

/// What a post waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Reply,
    Nothing,
}

impl Talk {
    pub(crate) fn new(session: &'static str, policy: LossPolicy, padding: usize) -> Self {
        Self {
            session,
            policy,
            padding,
            instances: &[],
            silence: SILENCE,
            known: Arc::default(),
            full: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// The session is placed at the first of these instances, and may go to the others.
    pub(crate) fn placed_at(mut self, instances: &'static [&'static str]) -> Self {
        self.instances = instances;
        self
    }

    /// The session is to end with its instance, while its client is attached.
    pub(crate) fn that_ends(mut self) -> Self {
        self.silence = PATIENCE;
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    fn tell(&self, event: Event) {
        self.known().history.push(event);
    }

    /// How many messages were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.known().answered
    }

    /// How often the client was told that the session has moved.
    pub(crate) fn moves(&self) -> usize {
        let known = self.known();
        let moves = known.history.iter();
        let moves = moves.filter(|event| matches!(event, Event::Moved { .. }));
        moves.count()
    }

    /// Why the session has ended, and what the client was told to be lost: messages of its stream, and posts.
    pub(crate) fn ended(&self) -> (Option<String>, u64, u64) {
        let known = self.known();
        let (mut streamed, mut posted) = (0, 0);
        for event in &known.history {
            if let Event::Lost { first, last } = event {
                streamed += last - first + 1;
            }
            if let Event::LostPosts { first, last } = event {
                posted += last - first + 1;
            }
        }
        (known.closed.clone(), streamed, posted)
    }

    /// Waits until so many more messages are answered.
    pub(crate) async fn goes_on_for(&self, more: u64) {
        let wanted = self.answered() + more;
        let going = async {
            let mut looks = interval(PAUSE);
            while self.answered() < wanted {
                looks.tick().await;
            }
        };
        let done = timeout(PATIENCE, going).await;
        assert!(done.is_ok(), "the conversation goes on: {}", self.shown());
    }

    fn shown(&self) -> String {
        let known = self.known();
        let Known {
            has,
            acked,
            sent,
            answered,
            ..
        } = *known;
        let last: Vec<_> = known.history.iter().rev().take(8).collect();
        format!("has {has}, acked {acked}, sent {sent}, answered {answered}; last {last:?}")
    }

    /// Begins the session and talks until it is told to end.
    pub(crate) async fn run(self, at: watch::Receiver<SocketAddr>) {
        let first = *at.borrow();
        self.spawn(first).await;
        let mut tries = interval(PAUSE);
        while !self.is_done() {
            let address = *at.borrow();
            let _ = self.attach(address).await;
            tries.tick().await;
        }
    }

    /// Posts one message after another, until the conversation ends.
    pub(crate) async fn post(self, at: watch::Receiver<SocketAddr>) {
        let mut tries = interval(PAUSE);
        for number in 0.. {
            let text = format!("p{number}");
            loop {
                let address = *at.borrow();
                if self.post_once(address, &text, Wait::Reply).await {
                    break;
                }
                tries.tick().await;
            }
            let mut known = self.known();
            known.posted += 1;
            if known.ends {
                return;
            }
        }
    }

    /// Posts one message that must be accepted at once, and does not wait for its reply.
    pub(crate) async fn post_without_waiting(&self, at: SocketAddr, text: &str) {
        let is_accepted = self.post_once(at, text, Wait::Nothing).await;
        assert!(is_accepted, "{text} is accepted: {}", self.shown());
    }

    async fn post_once(&self, at: SocketAddr, text: &str, wait: Wait) -> bool {
        let Some(mut client) = connect(at).await else {
            return false;
        };
        let mut request = Request::new(SessionPostRequest {
            session_id: self.session.to_owned(),
            payload: Some(payload(text)),
            idempotency_key: text.to_owned(),
            no_wait: wait == Wait::Nothing,
            timeout: None,
            in_reply_to: 0,
        });
        authorize(&mut request);
        self.tell(Event::Posting(text.to_owned()));
        let answer = timeout(SILENCE, client.session_post(request)).await;
        let Ok(Ok(answer)) = answer else {
            return false;
        };
        let answer = answer.into_inner();
        self.tell(Event::Posted {
            text: text.to_owned(),
            position: answer.position,
            reply: (wait == Wait::Reply)
                .then(|| (answer.reply_seq, words(answer.payload.as_deref()))),
        });
        true
    }

    /// Nothing new from now on.
    pub(crate) fn end(&self) {
        self.known().ends = true;
    }

    fn is_done(&self) -> bool {
        let known = self.known();
        let all = known.ends && known.answered == known.sent && known.acked == known.sent;
        all || known.closed.is_some()
    }

    async fn spawn(&self, at: SocketAddr) {
        let mut request = Request::new(SessionSpawnRequest {
            session_id: self.session.to_owned(),
            loss_policy: self.policy.into(),
            instances: self.instances.iter().map(ToString::to_string).collect(),
            selection: match self.instances {
                [] => Selection::Unspecified.into(),
                _ => Selection::Ordered.into(),
            },
            ..Default::default()
        });
        authorize(&mut request);
        let mut client = connect(at).await.expect("it listens");
        client.session_spawn(request).await.unwrap();
    }

    async fn attach(&self, at: SocketAddr) -> Option<()> {
        let before = self.known().at.replace(at);
        if before.is_some_and(|before| before != at) {
            self.tell(Event::Restarted);
        }
        let mut client = connect(at).await?;
        let (tx, rx) = mpsc::channel(64);
        let hello = SessionHello {
            session_id: self.session.to_owned(),
            last_received_seq: Some(self.known().has),
        };
        tx.try_send(frame(Out::Hello(hello))).unwrap();
        let mut request = Request::new(ReceiverStream::new(rx));
        authorize(&mut request);
        let answer = timeout(SILENCE, client.session_send(request)).await.ok()?;
        let mut frames = self.heed(answer)?.into_inner();
        let Some(In::Ready(ready)) = self.next(&mut frames).await else {
            return None;
        };
        self.tell(Event::Ready(Ready {
            epoch: ready.epoch,
            last_received: ready.last_received_seq,
            first: ready.first_seq,
        }));
        self.known().acked = ready.last_received_seq;
        let mut next = ready.last_received_seq + 1;
        while !self.is_done() {
            next = self.send(next, &tx);
            let heard = self.next(&mut frames).await?;
            self.hear(heard, &tx);
        }
        // Its end tells that what was acknowledged last has arrived.
        drop(tx);
        let ended = async { while let Ok(Some(_)) = frames.message().await {} };
        timeout(PATIENCE, ended).await.ok()
    }

    fn send(&self, mut next: u64, tx: &mpsc::Sender<SessionSendRequest>) -> u64 {
        let mut known = self.known();
        let window = known.acked + WINDOW;
        let window = window.min(known.answered + UNANSWERED_MAX);
        while next <= window && (!known.ends || next <= known.sent) {
            let text = streamed(next, self.padding);
            let data = SessionClientData {
                seq: next,
                payload: Some(payload(&text)),
                in_reply_to: 0,
            };
            if tx.try_send(frame(Out::Data(data))).is_err() {
                break;
            }
            known.history.push(Event::Sent { seq: next, text });
            known.sent = known.sent.max(next);
            next += 1;
        }
        next
    }

    fn hear(&self, heard: In, tx: &mpsc::Sender<SessionSendRequest>) {
        let mut known = self.known();
        match heard {
            In::Ready(_) => panic!("ready came twice"),
            In::Ack(ack) => {
                known.history.push(Event::Acked(ack.seq));
                known.acked = known.acked.max(ack.seq);
            }
            In::Data(data) => {
                let reply = data.reply.map(|reply| match reply {
                    Reply::InReplyTo(seq) => Answers::Streamed(seq),
                    Reply::InReplyToPost(position) => Answers::Posted(position),
                });
                let (seq, text) = (data.seq, words(data.payload.as_deref()));
                let to = seq_of(text.split('@').next().unwrap_or_default());
                known.answered = known.answered.max(to.unwrap_or(0));
                known.history.push(Event::Received { seq, reply, text });
                known.has = known.has.max(seq);
                let _ = tx.try_send(frame(Out::Ack(SessionAck { seq })));
            }
            In::Moved(moved) => known.history.push(Event::Moved { epoch: moved.epoch }),
            In::Lost(lost) => {
                known.history.push(if lost.first_position == 0 {
                    let (first, last) = (lost.first_seq, lost.last_seq);
                    Event::Lost { first, last }
                } else {
                    let (first, last) = (lost.first_position, lost.last_position);
                    Event::LostPosts { first, last }
                });
            }
            In::GoAway(_) => {}
            In::Closed(closed) => {
                assert_eq!(self.silence, PATIENCE, "the session has ended: {closed:?}");
                let name = closed.reason().as_str_name();
                let reason = name.trim_start_matches("CLOSE_REASON_").to_lowercase();
                known.history.push(Event::Closed(reason.clone()));
                known.closed = Some(reason);
            }
        }
    }

    async fn next(&self, frames: &mut Streaming<SessionSendResponse>) -> Option<In> {
        let next = timeout(self.silence, frames.message()).await.ok()?;
        self.heed(next)??.frame
    }

    /// What a failure means: the client tries again, unless it is never to be seen.
    fn heed<T>(&self, answer: Result<T, Status>) -> Option<T> {
        let status = match answer {
            Ok(answer) => return Some(answer),
            Err(status) => status,
        };
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone());
        match reason.as_deref() {
            Some("JOURNAL_FULL") => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                self.full.fetch_add(1, Ordering::Relaxed);
            }
            Some("JOURNAL_FAILED") => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            // It has more on its way than it may: it waits, and sends it again.
            Some("SESSION_FULL" | "SLOW_CONSUMER") => {}
            Some("SESSION_STALE" | "SESSION_SUPERSEDED" | "INSTANCE_DOWN" | "DRAINING") | None => {}
            Some(other) => panic!("refused: {other}: {}", status.message()),
        }
        None
    }

    /// What is wrong with everything that the client and these instances have seen.
    pub(crate) fn check(&self, instances: &mut [Instance], answering: Answering) {
        let said: Vec<_> = instances
            .iter_mut()
            .flat_map(Instance::last_words)
            .collect();
        let events = said.iter().filter_map(|line| event(self.session, line));
        let mut history = self.known().history.clone();
        history.extend(events);
        let beginning = match self.policy {
            LossPolicy::Replay => Beginning::Told,
            LossPolicy::Unspecified | LossPolicy::Fail | LossPolicy::Reassign => {
                Beginning::Anywhere
            }
        };
        let wrong = judge(&history, answering, beginning);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let known = self.known();
        let Known { sent, posted, .. } = *known;
        println!("{}: {sent} messages sent, {posted} posted", self.session);
    }
}

async fn connect(at: SocketAddr) -> Option<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
    let endpoint = endpoint.connect_timeout(SILENCE);
    Some(Client::new(endpoint.connect().await.ok()?))
}

fn frame(frame: Out) -> SessionSendRequest {
    SessionSendRequest { frame: Some(frame) }
}
