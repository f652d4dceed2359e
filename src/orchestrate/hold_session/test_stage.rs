//! Sessions over scripted instances and the store in memory; time is the tests' own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::frame::{ClientFrame, Ready, ServerFrame};
use super::outbox::Outgoing;
use super::{Post, Posted, Sessions, Spawn, Spawned, Wait};
use crate::chance::Chance;
use crate::domain::failure::{Failure, Reason};
use crate::domain::health::Admin;
use crate::domain::payload::Payload;
use crate::domain::selection::Policy;
use crate::domain::session::{Durability, LossPolicy, SessionId};
use crate::fleet::view::{FleetNow, View};
use crate::instance::scripted::{Act, Scripted};
use crate::memory::Memory;
use crate::orchestrate::stage::Stage;
use crate::store::Store;
use crate::store::memory::{MemoryStore, Settings};
use crate::tasks::Tasks;

/// Longer than anything takes that is going to happen; the clock is paused.
pub(super) const LONG: Duration = Duration::from_secs(600);

pub(super) struct House {
    fleet: Stage,
    view: Arc<Mutex<Seen>>,
    changes: watch::Sender<u64>,
    pub(super) store: MemoryStore,
    pub(super) tasks: Tasks,
    pub(super) memory: Memory,
    pub(super) sessions: Sessions,
}

/// What of the fleet is seen.
pub(super) struct Seen {
    now: Arc<View>,
    /// What the next look sees instead.
    once: Option<Arc<View>>,
}

impl Seen {
    fn now(now: Arc<View>) -> Self {
        Self { now, once: None }
    }

    fn look(&mut self) -> Arc<View> {
        self.once.take().unwrap_or_else(|| Arc::clone(&self.now))
    }
}

impl House {
    pub(super) async fn new(ids: &[&str]) -> Self {
        Self::over(ids, MemoryStore::new(Settings::default())).await
    }

    pub(super) async fn over(ids: &[&str], store: MemoryStore) -> Self {
        let fleet = Stage::new(ids.iter().map(|id| (*id, Act::Silent)));
        let view = Arc::new(Mutex::new(Seen::now(fleet.view())));
        let tasks = Tasks::new();
        let changes = watch::Sender::new(0);
        let memory = Memory::new(256 << 20);
        let sessions = start(&view, &changes, &store, &tasks, &memory).await;
        Self {
            memory,
            fleet,
            view,
            changes,
            store,
            tasks,
            sessions,
        }
    }

    pub(super) fn instance(&self, id: &str) -> &Scripted {
        self.fleet.instance(id)
    }

    pub(super) fn set_down(&mut self, id: &str) {
        self.fleet.set_down(id, "as the test wants it");
        self.publish();
    }

    pub(super) fn set_draining(&mut self, id: &str) {
        self.fleet.set_admin(id, Admin::Draining);
        self.publish();
    }

    pub(super) fn set_healthy(&mut self, id: &str) {
        self.fleet.set_healthy(id);
        self.publish();
    }

    pub(super) fn publish(&self) {
        self.view.lock().unwrap().now = self.fleet.view();
        self.changes.send_modify(|version| *version += 1);
    }

    /// The instance has left the fleet.
    pub(super) fn take_out(&mut self, id: &str) {
        self.fleet.take_out(id);
        self.publish();
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap().now)
    }

    /// Whoever looks next sees the fleet like this.
    pub(super) fn see_once(&self, before: Arc<View>) {
        self.view.lock().unwrap().once = Some(before);
    }

    /// The orchestrator is killed and the power is cut; another one takes over what is on the disk.
    pub(super) async fn crash(&mut self) {
        self.store = self.store.crash();
        // What the process had in memory is gone with it.
        self.tasks = Tasks::new();
        self.memory = Memory::new(self.memory.limit());
        let Self {
            view,
            changes,
            store,
            tasks,
            memory,
            ..
        } = self;
        self.sessions = start(view, changes, store, tasks, memory).await;
    }

    /// Another orchestrator takes over what is in the same store.
    pub(super) async fn another(&self) -> Sessions {
        start(
            &self.view,
            &self.changes,
            &self.store,
            &self.tasks,
            &self.memory,
        )
        .await
    }

    pub(super) async fn spawn(&self, id: &str, policy: LossPolicy) -> Spawned {
        self.sessions.spawn(asked(id, policy)).await.unwrap()
    }

    pub(super) async fn attach(&self, id: &str, has: Option<u64>) -> Client {
        self.try_attach(id, has).await.unwrap()
    }

    pub(super) async fn try_attach(&self, id: &str, has: Option<u64>) -> Result<Client, Failure> {
        let (tx, rx) = mpsc::channel(4096);
        let incoming = Box::pin(ReceiverStream::new(rx).map(Ok));
        let outgoing = self.sessions.attach(&name(id), has, incoming).await?;
        let mut client = Client { tx, outgoing };
        let first = client.next().await;
        assert!(matches!(first, ServerFrame::Ready(_)), "{first:?}");
        Ok(client)
    }

    /// Attaches and tells what was said first.
    pub(super) async fn ready(&self, id: &str, has: Option<u64>) -> (Client, Ready) {
        let (tx, rx) = mpsc::channel(4096);
        let incoming = Box::pin(ReceiverStream::new(rx).map(Ok));
        let outgoing = self
            .sessions
            .attach(&name(id), has, incoming)
            .await
            .unwrap();
        let mut client = Client { tx, outgoing };
        let ServerFrame::Ready(ready) = client.next().await else {
            panic!("ready comes first");
        };
        (client, ready)
    }

    pub(super) async fn post(
        &self,
        id: &str,
        key: Option<&str>,
        text: &str,
    ) -> Result<Posted, Failure> {
        self.sessions
            .post(posted(id, key, text, Wait::Replied))
            .await
    }
}

pub(super) async fn start(
    view: &Arc<Mutex<Seen>>,
    changes: &watch::Sender<u64>,
    store: &MemoryStore,
    tasks: &Tasks,
    memory: &Memory,
) -> Sessions {
    let view = Arc::clone(view);
    let fleet_now: FleetNow = Arc::new(move || view.lock().unwrap().look());
    let store: Arc<dyn Store> = Arc::new(store.clone());
    let sessions = Sessions::recover(
        store,
        fleet_now,
        tasks.clone(),
        Chance::default(),
        memory.clone(),
        std::time::SystemTime::now,
        super::Settings::default(),
    );
    let sessions = sessions.await.unwrap();
    tasks.spawn(sessions.clone().keep(changes.subscribe()));
    sessions
}

pub(super) fn asked(id: &str, loss_policy: LossPolicy) -> Spawn {
    Spawn {
        id: Some(name(id)),
        caller: "test".to_owned(),
        targets: Vec::new(),
        selection: Policy::Ordered,
        idle_ttl: Duration::from_secs(300),
        lifetime: None,
        loss_policy,
        durability: Durability::Durable,
        labels: Default::default(),
        idempotency: None,
    }
}

pub(super) fn posted(id: &str, key: Option<&str>, text: &str, wait: Wait) -> Post {
    let payload = payload(text);
    let body = crate::domain::session::token::hash(payload.encoded());
    Post {
        session: name(id),
        in_reply_to: 0,
        payload,
        idempotency: key.map(|key| (key.to_owned(), body)),
        wait,
    }
}

pub(super) fn name(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}

/// The Value that is this string.
pub(super) fn payload(text: &str) -> Payload {
    let mut encoded = vec![0x1a, u8::try_from(text.len()).unwrap()];
    encoded.extend(text.as_bytes());
    Payload::check(Bytes::from(encoded)).unwrap()
}

pub(super) fn text(payload: &Payload) -> String {
    String::from_utf8(payload.encoded()[2..].to_vec()).unwrap()
}

pub(super) struct Client {
    pub(super) tx: mpsc::Sender<ClientFrame>,
    pub(super) outgoing: Outgoing,
}

impl Client {
    pub(super) async fn say(&self, frame: ClientFrame) {
        self.tx.send(frame).await.unwrap();
    }

    pub(super) async fn send(&self, seq: u64, text: &str) {
        let payload = payload(text);
        self.say(ClientFrame::Data {
            seq,
            in_reply_to: 0,
            payload,
        })
        .await;
    }

    pub(super) async fn ack(&self, seq: u64) {
        self.say(ClientFrame::Ack { seq }).await;
    }

    pub(super) async fn next(&mut self) -> ServerFrame {
        self.try_next().await.unwrap()
    }

    pub(super) async fn try_next(&mut self) -> Result<ServerFrame, Failure> {
        let next = timeout(LONG, self.outgoing.next()).await;
        next.expect("something is said")
            .expect("the stream goes on")
    }

    /// The next message, acknowledgements passed over: its seq and its text.
    pub(super) async fn message(&mut self) -> (u64, String) {
        loop {
            match self.next().await {
                ServerFrame::Data { seq, payload, .. } => return (seq, text(&payload)),
                ServerFrame::Ack { .. } | ServerFrame::Moved { .. } => {}
                ServerFrame::Ready(_)
                | ServerFrame::Lost { .. }
                | ServerFrame::GoAway { .. }
                | ServerFrame::Closed { .. } => panic!("not what was expected"),
            }
        }
    }

    /// Reads until everything up to this seq is acknowledged.
    pub(super) async fn acked(&mut self, seq: u64) {
        loop {
            match self.next().await {
                ServerFrame::Ack { seq: acked } if seq <= acked => return,
                ServerFrame::Ack { .. } | ServerFrame::Data { .. } | ServerFrame::Moved { .. } => {}
                ServerFrame::Ready(_)
                | ServerFrame::Lost { .. }
                | ServerFrame::GoAway { .. }
                | ServerFrame::Closed { .. } => panic!("not what was expected"),
            }
        }
    }

    /// How the stream ends.
    pub(super) async fn end(&mut self) -> Option<Failure> {
        loop {
            let next = timeout(LONG, self.outgoing.next()).await;
            match next.expect("the stream ends") {
                None => return None,
                Some(Err(failure)) => return Some(failure),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The frames until the stream ends.
    pub(super) async fn rest(&mut self) -> Vec<ServerFrame> {
        let mut rest = Vec::new();
        while let Some(Ok(frame)) = timeout(LONG, self.outgoing.next()).await.unwrap() {
            rest.push(frame);
        }
        rest
    }
}

pub(super) fn reason<T>(result: Result<T, Failure>) -> Reason {
    match result {
        Ok(_) => panic!("it was to fail"),
        Err(failure) => failure.reason,
    }
}

/// Lets everything happen that can happen without time passing.
pub(super) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
