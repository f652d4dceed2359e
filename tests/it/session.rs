//! Sessions over real sockets, kept in a real journal.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::app::App;
use orchestrator::config::Journal;
use orchestrator::ingress::caller::Key;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::session_send_request::Frame as Out;
use orchestrator::proto::orchestrator::session_send_response::Frame as In;
use orchestrator::proto::orchestrator::session_server_data::Reply;
use orchestrator::proto::orchestrator::{
    DrainRequest, LossPolicy, RouteRequest, Selection, SessionAck, SessionClientData,
    SessionCloseRequest, SessionGetRequest, SessionHello, SessionListRequest, SessionPostRequest,
    SessionReady, SessionSendRequest, SessionSendResponse, SessionServerData, SessionSpawnRequest,
    SessionSpawnResponse, SessionState,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::stage::{
    Bearer, Client, Config, KEY, channel, client, cluster, embedded, reason, start, text,
};

const LONG: Duration = Duration::from_secs(60);

/// An attached client.
pub(crate) struct Attached {
    tx: mpsc::Sender<SessionSendRequest>,
    rx: Streaming<SessionSendResponse>,
    pub(crate) ready: SessionReady,
}

impl Attached {
    pub(crate) async fn try_new(
        client: &mut Client,
        id: &str,
        has: Option<u64>,
    ) -> Result<Self, Status> {
        let (tx, rx) = mpsc::channel(64);
        let hello = SessionHello {
            session_id: id.to_owned(),
            last_received_seq: has,
        };
        tx.try_send(frame(Out::Hello(hello))).unwrap();
        let answers = client.session_send(ReceiverStream::new(rx)).await?;
        let mut attached = Self {
            tx,
            rx: answers.into_inner(),
            ready: SessionReady::default(),
        };
        let In::Ready(ready) = attached.next().await? else {
            panic!("ready comes first");
        };
        attached.ready = ready;
        Ok(attached)
    }

    pub(crate) async fn new(client: &mut Client, id: &str, has: Option<u64>) -> Self {
        Self::try_new(client, id, has).await.unwrap()
    }

    /// Sends; nothing when the stream is over.
    pub(crate) async fn send(&self, seq: u64, text_of: &str) {
        let data = SessionClientData {
            seq,
            payload: text(text_of),
            in_reply_to: 0,
        };
        let _ = self.tx.send(frame(Out::Data(data))).await;
    }

    pub(crate) async fn ack(&self, seq: u64) {
        let _ = self.tx.send(frame(Out::Ack(SessionAck { seq }))).await;
    }

    pub(crate) async fn next(&mut self) -> Result<In, Status> {
        let next = tokio::time::timeout(LONG, self.rx.message()).await;
        let frame = next.expect("something is said")?;
        frame
            .and_then(|frame| frame.frame)
            .ok_or_else(|| Status::unavailable("the stream has ended"))
    }

    pub(crate) async fn message(&mut self) -> SessionServerData {
        loop {
            match self.next().await.unwrap() {
                In::Data(data) => return data,
                In::Ack(_) | In::Moved(_) => {}
                In::Ready(_) | In::Lost(_) | In::GoAway(_) | In::Closed(_) => {
                    panic!("not what was expected")
                }
            }
        }
    }
}

fn frame(frame: Out) -> SessionSendRequest {
    SessionSendRequest { frame: Some(frame) }
}

pub(crate) async fn spawn(client: &mut Client, id: &str) -> SessionSpawnResponse {
    let request = SessionSpawnRequest {
        session_id: id.to_owned(),
        instances: vec!["A-C".to_owned()],
        ..Default::default()
    };
    client.session_spawn(request).await.unwrap().into_inner()
}

async fn with_token(app: &App, token: &str) -> Client {
    let bearer = Bearer(Arc::from(token));
    OrchestratorServiceClient::with_interceptor(channel(app.address()).await, bearer)
}

#[tokio::test]
async fn a_conversation_goes_on_over_cuts_and_newer_streams() {
    let app = start(embedded()).await;
    let mut client = client(&app).await;
    spawn(&mut client, "s").await;
    let mut first = Attached::new(&mut client, "s", Some(0)).await;
    for seq in 1..=3 {
        first.send(seq, &format!("m{seq}")).await;
    }
    for seq in 1..=2 {
        let data = first.message().await;
        assert_eq!((data.seq, data.payload), (seq, text(&format!("m{seq}"))));
        assert_eq!(data.reply, Some(Reply::InReplyTo(seq)));
    }
    let mut second = Attached::new(&mut client, "s", Some(2)).await;
    assert_eq!(second.ready.first_seq, 3);
    let superseded = loop {
        match first.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(superseded.code(), Code::Aborted);
    assert_eq!(reason(&superseded), "SESSION_SUPERSEDED");
    assert_eq!(second.message().await.seq, 3);
    drop(second);
    let gone = Attached::try_new(&mut client, "s", Some(1)).await;
    let gone = gone.err().unwrap();
    assert_eq!(gone.code(), Code::OutOfRange);
    let unknown = Attached::try_new(&mut client, "nobody", None).await;
    assert_eq!(unknown.err().unwrap().code(), Code::NotFound);
}

#[tokio::test]
async fn a_post_has_its_reply_and_its_key_its_answer() {
    let app = start(embedded()).await;
    let mut client = client(&app).await;
    spawn(&mut client, "s").await;
    let request = SessionPostRequest {
        session_id: "s".to_owned(),
        payload: text("posted"),
        idempotency_key: "k".to_owned(),
        ..Default::default()
    };
    let answer = client.session_post(request.clone()).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.position, answer.payload), (1, text("posted")));
    let again = client.session_post(request.clone()).await.unwrap();
    let again = again.into_inner();
    assert!(again.deduplicated);
    assert_eq!((again.position, again.payload), (1, text("posted")));
    let other = SessionPostRequest {
        payload: text("other"),
        ..request
    };
    let refused = client.session_post(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let closing = SessionCloseRequest {
        session_id: "s".to_owned(),
    };
    let closed = client.session_close(closing).await.unwrap().into_inner();
    assert_eq!(closed.session.unwrap().state(), SessionState::Closed);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_session_and_for_nothing_else() {
    let app = start(embedded()).await;
    let mut owner = client(&app).await;
    let token = spawn(&mut owner, "mine").await.token;
    spawn(&mut owner, "other").await;
    let mut client = with_token(&app, &token).await;
    let id = |id: &str| id.to_owned();
    let get = |session_id| SessionGetRequest { session_id };
    let post = |session_id| SessionPostRequest {
        session_id,
        ..Default::default()
    };
    let close = |session_id| SessionCloseRequest { session_id };
    let denied = |status: Status| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_eq!(reason(&status), "SESSION_TOKEN_FOREIGN");
    };
    client.session_get(get(id("mine"))).await.unwrap();
    client.session_post(post(id("mine"))).await.unwrap();
    Attached::new(&mut client, "mine", None).await;
    denied(client.session_get(get(id("other"))).await.unwrap_err());
    denied(client.session_post(post(id("other"))).await.unwrap_err());
    denied(client.session_close(close(id("other"))).await.unwrap_err());
    let foreign = Attached::try_new(&mut client, "other", None).await;
    denied(foreign.err().unwrap());
    denied(
        client
            .session_list(SessionListRequest::default())
            .await
            .unwrap_err(),
    );
    denied(
        client
            .session_spawn(SessionSpawnRequest::default())
            .await
            .unwrap_err(),
    );
    denied(client.route(RouteRequest::default()).await.unwrap_err());
    let mut wrong = with_token(&app, "ost_0000").await;
    let refused = wrong.session_get(get(id("mine"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // One that names the session before it says anything is refused before it says anything.
    let mut request = Request::new(tokio_stream::pending::<SessionSendRequest>());
    let named = "other".parse().unwrap();
    request
        .metadata_mut()
        .insert("x-orchestrator-session", named);
    denied(client.session_send(request).await.err().unwrap());
    client.session_close(close(id("mine"))).await.unwrap();
}

#[tokio::test]
async fn the_metadata_names_the_session_and_hello_the_same_one_or_none() {
    let app = start(embedded()).await;
    let mut client = client(&app).await;
    for session in ["mine", "other"] {
        spawn(&mut client, session).await;
    }
    let mut attach = async |named: &'static str, hello: Option<&str>| {
        let (tx, rx) = mpsc::channel(4);
        if let Some(id) = hello {
            let hello = SessionHello {
                session_id: id.to_owned(),
                last_received_seq: None,
            };
            tx.try_send(frame(Out::Hello(hello))).unwrap();
        }
        let mut request = Request::new(ReceiverStream::new(rx));
        let named = named.parse().unwrap();
        request
            .metadata_mut()
            .insert("x-orchestrator-session", named);
        let answers = tokio::time::timeout(LONG, client.session_send(request)).await;
        let first = answers.unwrap()?.into_inner().message().await?;
        drop(tx);
        match first.and_then(|first| first.frame) {
            Some(In::Ready(ready)) => Ok(ready.session_id),
            other => panic!("{other:?}"),
        }
    };
    let refused = |attached: Result<String, Status>| {
        let status = attached.unwrap_err();
        (status.code(), reason(&status))
    };
    let invalid = (Code::InvalidArgument, "ARGUMENT_INVALID".to_owned());
    assert_eq!(refused(attach("mine", Some("other")).await), invalid);
    assert_eq!(refused(attach("no id/", Some("other")).await), invalid);
    assert_eq!(attach("mine", Some("")).await.unwrap(), "mine");
    assert_eq!(attach("mine", Some("mine")).await.unwrap(), "mine");
    // The client has said nothing yet.
    let unknown = (Code::NotFound, "SESSION_UNKNOWN".to_owned());
    assert_eq!(refused(attach("nobody", None).await), unknown);
}

#[tokio::test]
async fn a_restart_keeps_everything_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let durable = || Config {
        journal: Journal::Folder(folder.path().to_owned()),
        ..embedded()
    };
    let app = start(durable()).await;
    let mut owner = client(&app).await;
    let token = spawn(&mut owner, "s").await.token;
    let mut attached = Attached::new(&mut owner, "s", Some(0)).await;
    for seq in 1..=5 {
        attached.send(seq, &format!("m{seq}")).await;
        attached.message().await;
    }
    let told = tokio::spawn(async move {
        let mut go_away = false;
        loop {
            match attached.next().await {
                Ok(In::GoAway(_)) => go_away = true,
                Ok(_) => {}
                Err(status) => return (go_away, reason(&status)),
            }
        }
    });
    app.stop().await;
    assert_eq!(told.await.unwrap(), (true, "DRAINING".to_owned()));

    let app = start(durable()).await;
    let mut client = with_token(&app, &token).await;
    let mut attached = Attached::new(&mut client, "s", Some(2)).await;
    assert_eq!(attached.ready.last_received_seq, 5);
    assert!(1 < attached.ready.epoch);
    for seq in 3..=5 {
        let data = attached.message().await;
        assert_eq!((data.seq, data.payload), (seq, text(&format!("m{seq}"))));
    }
    attached.ack(5).await;
    attached.send(6, "m6").await;
    assert_eq!(attached.message().await.seq, 6);
    let mut admin = crate::stage::client(&app).await;
    let listed = admin.session_list(SessionListRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().sessions.len(), 1);
    let again = App::start(durable()).await;
    let told = again.err().expect("a second one is refused").to_string();
    assert!(told.contains("in use"), "{told}");
    assert_ne!(KEY, token);
}

#[tokio::test]
async fn the_stream_of_a_session_ends_with_the_key_or_the_token_that_opened_it() {
    let mut config = embedded();
    let passing = Key::with_all_rights("passing", "passing-key");
    let revoked = passing.revoked.clone();
    config.keys.keys.push(passing);
    let app = start(config).await;
    let mut owner = client(&app).await;
    let request = SessionSpawnRequest {
        session_id: "s".to_owned(),
        idempotency_key: "k".to_owned(),
        ..Default::default()
    };
    let spawned = owner.session_spawn(request.clone()).await.unwrap();
    let token = spawned.into_inner().token;
    let ended = async |attached: &mut Attached| loop {
        if let Err(status) = attached.next().await {
            return (status.code(), reason(&status));
        }
    };
    let over = (Code::Unauthenticated, "KEY_INVALID".to_owned());

    let mut by_key = with_token(&app, "passing-key").await;
    let mut attached = Attached::new(&mut by_key, "s", Some(0)).await;
    attached.send(1, "one").await;
    assert_eq!(attached.message().await.seq, 1);
    revoked.revoke();
    assert_eq!(ended(&mut attached).await, over);

    // A fresh token makes the one before void, and ends what it has open.
    let mut by_token = with_token(&app, &token).await;
    let mut attached = Attached::new(&mut by_token, "s", Some(0)).await;
    assert_eq!(attached.ready.last_received_seq, 1);
    assert_eq!(attached.message().await.seq, 1);
    attached.send(2, "two").await;
    assert_eq!(attached.message().await.seq, 2);
    let fresh = owner.session_spawn(request).await.unwrap().into_inner();
    assert!(fresh.deduplicated && fresh.token != token);
    assert_eq!(ended(&mut attached).await, over);
    let mut by_fresh = with_token(&app, &fresh.token).await;
    let mut attached = Attached::new(&mut by_fresh, "s", Some(1)).await;
    assert_eq!(attached.ready.last_received_seq, 2);
    assert_eq!(attached.message().await.seq, 2);
}

#[tokio::test]
async fn a_drain_moves_sessions_that_may_move_and_waits_for_the_others() {
    let app = start(embedded()).await;
    let mut client = client(&app).await;
    let request = |id: &str, loss_policy: LossPolicy| SessionSpawnRequest {
        session_id: id.to_owned(),
        instances: vec!["A".to_owned(), "B".to_owned()],
        selection: Selection::Ordered.into(),
        loss_policy: loss_policy.into(),
        ..Default::default()
    };
    for (id, policy) in [("moves", LossPolicy::Reassign), ("stays", LossPolicy::Fail)] {
        let spawned = client.session_spawn(request(id, policy)).await.unwrap();
        assert_eq!(spawned.into_inner().session.unwrap().instance, "A");
    }
    let mut attached = Attached::new(&mut client, "moves", Some(0)).await;
    attached.send(1, "one").await;
    assert_eq!(attached.message().await.seq, 1);

    let mut cluster = cluster(&app).await;
    let mut drain = async |move_sessions| {
        let instances = vec!["A".to_owned()];
        let request = DrainRequest {
            instances,
            move_sessions,
        };
        let drained = cluster.drain(request).await.unwrap().into_inner();
        (
            drained.instances[0].sessions_open,
            drained.instances[0].drained,
        )
    };
    assert_eq!(drain(false).await, (2, false));
    drain(true).await;
    let moved = loop {
        match attached.next().await.unwrap() {
            In::Moved(moved) => break moved,
            In::Ack(_) => {}
            other @ (In::Ready(_) | In::Data(_) | In::Lost(_) | In::GoAway(_) | In::Closed(_)) => {
                panic!("{other:?}")
            }
        }
    };
    assert_eq!(
        (moved.previous_instance.as_str(), moved.instance.as_str()),
        ("A", "B")
    );
    attached.send(2, "two").await;
    assert_eq!(attached.message().await.payload, text("two"));
    assert_eq!(drain(true).await, (1, false));
    let closing = SessionCloseRequest {
        session_id: "stays".to_owned(),
    };
    client.session_close(closing).await.unwrap();
    assert_eq!(drain(false).await, (0, true));
}
