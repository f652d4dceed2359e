//! The client of one session: sends, acknowledges, is cut off, comes again, and writes down what it learns.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use orchestrator::proto::orchestrator::session_send_request::Frame as Out;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::session_server_data::Reply;
use orchestrator::proto::orchestrator::{
    Durability, SessionAck, SessionClientData, SessionEnd, SessionHello, SessionReady,
    SessionSendRequest, SessionSendResponse, SessionServerData,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use turmoil::net::TcpStream;

use super::line::{Line, Shears};
use super::plan::{Attachment, Cut, End, Session};
use super::told::{Promise, Told};
use crate::caller::{self, Client as Stub};
use crate::sessions::history::{Answers, Event, Ready, seq_of, streamed};
use crate::sessions::instance::{payload, words};
use crate::wire::Wire;

/// How often a client tests its connection.
const KEEPALIVE: Duration = Duration::from_millis(400);
/// How long one call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two tries.
pub(super) const PAUSE: Duration = Duration::from_millis(40);

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    Faults,
    Calm,
    Over,
}

/// The client of one session, and all its tasks.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) plan: Rc<Session>,
    pub(super) to: IpAddr,
    pub(super) told: Told,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) knows: Rc<RefCell<Knows>>,
}

/// What the client knows.
#[derive(Default)]
pub(super) struct Knows {
    /// Everything up to here has come, or will never come over the stream.
    has: u64,
    pub(super) acked: u64,
    sent: u64,
    /// Its own messages that need no answer any more.
    pub(super) settled: BTreeSet<u64>,
    pub(super) posts_open: usize,
    pub(super) is_over: bool,
    /// It is away for good, until the session has expired.
    pub(super) has_left: bool,
    /// It was away until what is safe was delivered.
    pub(super) has_trusted: bool,
    runs: u64,
    /// How often it was attached.
    pub(super) attached: u64,
}

/// A stream that is attached.
struct Attached {
    tx: mpsc::Sender<SessionSendRequest>,
    rx: Streaming<SessionSendResponse>,
    driver: JoinHandle<()>,
    shears: Shears,
    next: u64,
    unacknowledged: u64,
    sent_at: Instant,
}

/// Whether an attachment goes on.
#[derive(PartialEq, Eq)]
pub(super) enum On {
    Yes,
    No,
}

impl Client {
    pub(super) async fn run(self) -> turmoil::Result {
        self.spawn().await;
        self.knows.borrow_mut().posts_open = self.plan.posts.len();
        for (at, post) in self.plan.posts.iter().enumerate() {
            spawn_local(self.clone().post(at, *post));
        }
        if let End::ClosedByCall(at) = self.plan.end {
            spawn_local(self.clone().close(at));
        }
        let mut planned = self.plan.attachments.iter().copied();
        let last = *self.plan.attachments.last().unwrap();
        while !self.is_done() {
            let attachment = match planned.next() {
                Some(planned) if self.phase() == Phase::Faults => planned,
                Some(_) | None => last,
            };
            self.attach(attachment).await;
            self.leave_alone().await;
            self.trust().await;
            let is_calm = Phase::Calm <= self.phase();
            sleep(if is_calm {
                PAUSE
            } else {
                PAUSE + attachment.away
            })
            .await;
        }
        self.told.done(&self.plan.id);
        let mut phase = self.phase.clone();
        phase.wait_for(|phase| Phase::Over <= *phase).await?;
        Ok(())
    }

    pub(super) fn tell(&self, event: Event) {
        let promise = match self.plan.durability {
            Durability::None => Promise::Nothing,
            Durability::Unspecified | Durability::Durable => Promise::Durable,
        };
        self.told.tell(&self.plan.id, promise, event);
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// What is asked of the client by now.
    fn wants_sent(&self) -> u64 {
        match self.phase() {
            Phase::Faults => self.plan.messages,
            Phase::Calm | Phase::Over => self.plan.messages + self.plan.messages_after,
        }
    }

    pub(super) fn has_all(&self) -> bool {
        let (knows, all) = (
            self.knows.borrow(),
            self.plan.messages + self.plan.messages_after,
        );
        let settled = (1..=all).all(|seq| knows.settled.contains(&seq));
        Phase::Calm <= self.phase() && all <= knows.acked && settled && knows.posts_open == 0
    }

    fn is_done(&self) -> bool {
        if self.knows.borrow().is_over {
            return true;
        }
        match self.plan.end {
            End::Stays | End::Trusts(_) => self.has_all(),
            End::ClosedByFrame | End::ClosedByCall(_) | End::LeftAlone(_) | End::Outlived => false,
        }
    }

    /// A connection of its own, which breaks where the shears say.
    pub(super) async fn connect(&self) -> Option<(Stub, JoinHandle<()>, Shears)> {
        let runs = self.told.runs();
        if self.knows.borrow().runs < runs {
            self.knows.borrow_mut().runs = runs;
            self.tell(Event::Restarted);
        }
        let shears = Shears::default();
        let connecting = async {
            let stream = TcpStream::connect((self.to, caller::PORT)).await.ok()?;
            let shears = shears.clone();
            Wire::over(Line { stream, shears }, KEEPALIVE).await.ok()
        };
        let (wire, driver) = timeout(PATIENCE, connecting).await.ok()??;
        let stub = Stub::with_origin(wire, caller::origin(self.to));
        Some((stub, driver, shears))
    }

    async fn attach(&self, attachment: Attachment) {
        let Some(mut attached) = self.begin(attachment).await else {
            return;
        };
        let leaves = match attachment.cut {
            Cut::Never | Cut::AfterBytesRead(_) | Cut::AfterBytesWritten(_) => None,
            Cut::After(time) | Cut::SaysNoMore(time) | Cut::Superseded(time) => {
                Some(Instant::now() + time)
            }
        };
        let ended = self.converse(&mut attached, leaves).await;
        let Attached {
            tx,
            mut rx,
            driver,
            mut next,
            ..
        } = attached;
        match attachment.cut {
            Cut::SaysNoMore(_) if ended == On::Yes => {
                drop(tx);
                let rest = async {
                    while let Ok(Some(frame)) = rx.message().await {
                        self.hear(frame, None);
                    }
                };
                drop(timeout(PATIENCE, rest).await);
                self.told.count("said no more");
            }
            Cut::Superseded(_) if ended == On::Yes => {
                self.told.count("superseded");
                let (this, all) = (self.clone(), self.wants_sent());
                let attached = self.knows.borrow().attached;
                spawn_local(async move {
                    // Late, from a stream that is no longer the one.
                    for _ in 0..3 {
                        if next <= all && tx.try_send(message(next, &this.plan)).is_ok() {
                            let text = streamed(next, this.plan.padding);
                            this.tell(Event::Sent { seq: next, text });
                            next += 1;
                        }
                        sleep(Duration::from_millis(9)).await;
                    }
                    tokio::select! {
                        () = this.hear_to_the_end(rx, attached) => {}
                        // Nobody comes after it, who would end it.
                        () = this.has_left_alone() => {}
                    }
                    driver.abort();
                });
                return;
            }
            Cut::Never
            | Cut::AfterBytesRead(_)
            | Cut::AfterBytesWritten(_)
            | Cut::After(_)
            | Cut::SaysNoMore(_)
            | Cut::Superseded(_) => {}
        }
        driver.abort();
    }

    /// Attaches; nothing when that fails.
    async fn begin(&self, attachment: Attachment) -> Option<Attached> {
        let (mut stub, driver, shears) = self.connect().await?;
        let (tx, rx) = mpsc::channel(64);
        let has = self.knows.borrow().has;
        let hello = SessionHello {
            session_id: self.plan.id.clone(),
            last_received_seq: attachment.tells_what_it_has.then_some(has),
        };
        tx.try_send(frame(Out::Hello(hello))).unwrap();
        let sending = authorized(ReceiverStream::new(rx));
        let answer = timeout(PATIENCE, stub.session_send(sending)).await;
        let mut rx = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                self.refused(&status);
                driver.abort();
                return None;
            }
            Err(_elapsed) => {
                driver.abort();
                return None;
            }
        };
        let first = timeout(PATIENCE, rx.message()).await;
        let Ok(Ok(Some(SessionSendResponse {
            frame: Some(In::Ready(ready)),
        }))) = first
        else {
            driver.abort();
            return None;
        };
        match attachment.cut {
            Cut::AfterBytesRead(bytes) => shears.reads.set(Some(bytes)),
            Cut::AfterBytesWritten(bytes) => shears.writes.set(Some(bytes)),
            Cut::Never | Cut::After(_) | Cut::SaysNoMore(_) | Cut::Superseded(_) => {}
        }
        self.told.count("attached");
        let safe = self.ready(&ready);
        if 0 < attachment.again.min(safe) {
            self.told.count("sent again");
        }
        Some(Attached {
            tx,
            rx,
            driver,
            shears,
            next: (safe + 1).saturating_sub(attachment.again).max(1),
            unacknowledged: 0,
            sent_at: Instant::now() - self.plan.pause,
        })
    }

    fn ready(&self, ready: &SessionReady) -> u64 {
        let safe = ready.last_received_seq;
        self.tell(Event::Ready(Ready {
            epoch: ready.epoch,
            last_received: safe,
            first: ready.first_seq,
        }));
        let mut knows = self.knows.borrow_mut();
        knows.acked = knows.acked.max(safe);
        knows.attached += 1;
        safe
    }

    /// Sends and hears until the stream breaks, or it is time to leave.
    async fn converse(&self, attached: &mut Attached, leaves: Option<Instant>) -> On {
        loop {
            if self.leaves_alone() && !self.knows.borrow().has_left || self.leaves_in_trust() {
                return On::No;
            }
            // Also without anything to send: another task may have done the last thing.
            let looks_at = Instant::now() + PATIENCE / 10;
            let sends_at = self.next_send(attached).unwrap_or(looks_at);
            let leaves_at = leaves.unwrap_or_else(far);
            let mut phase = self.phase.clone();
            phase.mark_unchanged();
            tokio::select! {
                biased;
                heard = attached.rx.message() => match heard {
                    Ok(Some(frame)) => {
                        if self.hear(frame, Some(attached)) == On::No {
                            return On::No;
                        }
                    }
                    Ok(None) => {
                        let id = &self.plan.id;
                        self.told.complain(format!("the stream of {id} ends without a word"));
                        return On::No;
                    }
                    Err(status) => {
                        if self.is_cut(attached) {
                            self.told.count("cut at a byte");
                        } else {
                            self.refused(&status);
                        }
                        return On::No;
                    }
                },
                () = sleep_until(sends_at) => {
                    if self.next_send(attached).is_some_and(|at| at <= Instant::now()) {
                        self.send(attached);
                    }
                }
                () = sleep_until(leaves_at) => return On::Yes,
                _ = phase.changed() => {}
            }
            if self.has_all() && !self.knows.borrow().is_over {
                self.acknowledge(attached);
                match self.plan.end {
                    End::ClosedByFrame => {
                        let _ = attached.tx.try_send(frame(Out::Close(SessionEnd {})));
                    }
                    // What was acknowledged last should arrive.
                    End::Stays | End::Trusts(_) => {
                        sleep(PAUSE).await;
                        return On::No;
                    }
                    End::ClosedByCall(_) | End::LeftAlone(_) | End::Outlived => {}
                }
            }
        }
    }

    fn is_cut(&self, attached: &Attached) -> bool {
        let Shears { reads, writes } = &attached.shears;
        reads.get() == Some(0) || writes.get() == Some(0)
    }

    fn next_send(&self, attached: &Attached) -> Option<Instant> {
        let window = self.knows.borrow().acked + self.plan.window;
        (attached.next <= self.wants_sent().min(window))
            .then_some(attached.sent_at + self.plan.pause)
    }

    fn send(&self, attached: &mut Attached) {
        let seq = attached.next;
        let text = streamed(seq, self.plan.padding);
        if attached.tx.try_send(message(seq, &self.plan)).is_ok() {
            self.tell(Event::Sent { seq, text });
            let mut knows = self.knows.borrow_mut();
            knows.sent = knows.sent.max(seq);
            attached.next += 1;
        }
        attached.sent_at = Instant::now();
    }

    fn acknowledge(&self, attached: &mut Attached) {
        let seq = self.knows.borrow().has;
        let _ = attached.tx.try_send(frame(Out::Ack(SessionAck { seq })));
        attached.unacknowledged = 0;
    }

    fn hear(&self, heard: SessionSendResponse, attached: Option<&mut Attached>) -> On {
        match heard.frame.expect("a frame that is known") {
            In::Ready(_) => self.told.complain("ready came twice".to_owned()),
            In::Ack(ack) => {
                self.tell(Event::Acked(ack.seq));
                let mut knows = self.knows.borrow_mut();
                knows.acked = knows.acked.max(ack.seq);
            }
            In::Data(data) => {
                self.received(data);
                if let Some(attached) = attached {
                    attached.unacknowledged += 1;
                    if self.plan.acks_every <= attached.unacknowledged {
                        self.acknowledge(attached);
                    }
                }
            }
            In::Moved(moved) => {
                self.told.count("moved");
                self.tell(Event::Moved { epoch: moved.epoch });
            }
            In::Lost(lost) => self.lost(&lost),
            In::GoAway(_) => self.told.count("sent away"),
            In::Closed(closed) => {
                let name = closed.reason().as_str_name();
                let reason = name.trim_start_matches("CLOSE_REASON_").to_lowercase();
                self.told.count("closed");
                self.over(&reason);
                self.tell(Event::Closed(reason));
                return On::No;
            }
        }
        On::Yes
    }

    fn received(&self, data: SessionServerData) {
        let reply = data.reply.map(|reply| match reply {
            Reply::InReplyTo(seq) => Answers::Streamed(seq),
            Reply::InReplyToPost(position) => Answers::Posted(position),
        });
        let text = words(data.payload.as_deref());
        {
            let mut knows = self.knows.borrow_mut();
            knows.has = knows.has.max(data.seq);
            let to = text.split('@').next().unwrap_or_default();
            knows.settled.extend(seq_of(to));
        }
        let seq = data.seq;
        self.tell(Event::Received { seq, reply, text });
    }
}

/// A request with the key of the simulation.
pub(super) fn authorized<T>(message: T) -> Request<T> {
    caller::authorized(caller::KEYS[0], message)
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

fn frame(frame: Out) -> SessionSendRequest {
    SessionSendRequest { frame: Some(frame) }
}

fn message(seq: u64, plan: &Session) -> SessionSendRequest {
    frame(Out::Data(SessionClientData {
        seq,
        payload: Some(payload(&streamed(seq, plan.padding))),
        in_reply_to: 0,
    }))
}
