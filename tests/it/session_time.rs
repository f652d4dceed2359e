//! Calls to sessions end in time, also while the journal answers nobody, and what they have begun is whole.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use orchestrator::proto::orchestrator::session_send_request::Frame;
use orchestrator::proto::orchestrator::{
    SessionCloseRequest, SessionGetRequest, SessionHello, SessionListRequest, SessionPostRequest,
    SessionSendRequest, SessionSpawnRequest, SessionState,
};
use orchestrator::store::memory::{Fault, MemoryStore, Settings};
use tonic::Code;

use crate::raw::caller::{self, Body};
use crate::raw::frame;
use crate::rest::ask::{Ask, WAYS};
use crate::stage::{App, Client, client, embedded, reason, start_over, text};

const SERVICE: &str = "/openclaw.orchestrator.v1.OrchestratorService";
const SESSIONS: &str = "/api/orchestrator/sessions";

/// An orchestrator with one session, s, whose journal can be made to answer nobody.
async fn house(timeout_max: Option<Duration>) -> (App, Client, MemoryStore) {
    let store = MemoryStore::new(Settings::default());
    let mut config = embedded();
    if let Some(max) = timeout_max {
        config.timeouts.max = max;
    }
    let app = start_over(config, Arc::new(store.clone())).await;
    let mut client = client(&app).await;
    client.session_spawn(spawn("s")).await.unwrap();
    (app, client, store)
}

/// Each has a key of its own.
fn spawn(id: &str) -> SessionSpawnRequest {
    SessionSpawnRequest {
        session_id: id.to_owned(),
        idempotency_key: format!("key-of-{id}"),
        ..Default::default()
    }
}

fn post(key: &str) -> SessionPostRequest {
    SessionPostRequest {
        session_id: "s".to_owned(),
        payload: text("posted"),
        idempotency_key: key.to_owned(),
        ..Default::default()
    }
}

fn s() -> String {
    "s".to_owned()
}

/// Every method of sessions, with something to say.
fn calls() -> [(&'static str, Vec<u8>); 6] {
    let hello = SessionHello {
        session_id: s(),
        last_received_seq: None,
    };
    let hello = SessionSendRequest {
        frame: Some(Frame::Hello(hello)),
    };
    let (get, close) = (
        SessionGetRequest { session_id: s() },
        SessionCloseRequest { session_id: s() },
    );
    [
        ("SessionSpawn", frame::message(&spawn("new"))),
        ("SessionSend", frame::message(&hello)),
        ("SessionPost", frame::message(&post("late"))),
        ("SessionGet", frame::message(&get)),
        (
            "SessionList",
            frame::message(&SessionListRequest::default()),
        ),
        ("SessionClose", frame::message(&close)),
    ]
}

#[tokio::test]
async fn a_call_to_a_session_ends_with_the_time_of_its_caller_while_the_journal_answers_nobody() {
    let (app, mut client, store) = house(None).await;
    store.set_fault(Fault::Stalls);
    for (method, message) in calls() {
        let path = format!("{SERVICE}/{method}");
        for timeout in ["0S", "1n", "6m", "200m"] {
            let request = caller::grpc(&path, &[("grpc-timeout", timeout)]);
            let answer = caller::ask(app.address(), request, message.clone(), Body::Whole).await;
            let expected = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into());
            assert_eq!(answer.code(), expected, "{method} {timeout}");
            assert!(answer.is_trailers_only(), "{method}: it may be asked again");
        }
    }
    let send = r#"{"sessionId": "s", "payload": "by REST"}"#;
    let asks = [
        Ask::post(&format!("{SESSIONS}/spawn"), r#"{"sessionId": "rest"}"#),
        Ask::post(&format!("{SESSIONS}/send"), send),
        Ask::post(&format!("{SESSIONS}/s/ack"), r#"{"seq": "0"}"#),
        Ask::get(&format!("{SESSIONS}/s")),
        Ask::get(SESSIONS),
        Ask::get(&format!("{SESSIONS}/s/events")),
        Ask {
            verb: Method::DELETE,
            ..Ask::get(&format!("{SESSIONS}/s"))
        },
    ];
    for ask in asks {
        for way in WAYS {
            let ask = ask.clone().with("request-timeout", "0.2");
            let answer = ask.send(way, app.address()).await;
            assert_eq!(answer.status, 504, "{way:?} {ask:?}: {answer:?}");
            assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
        }
    }
    // What was begun is there as a whole, once, and is found under its key. The close was asked for, and has come.
    store.set_fault(Fault::None);
    let again = client.session_spawn(spawn("new")).await.unwrap();
    let again = again.into_inner();
    assert!(again.deduplicated && !again.token.is_empty());
    client
        .session_post(SessionPostRequest {
            session_id: "new".to_owned(),
            ..post("first")
        })
        .await
        .unwrap();
    let close = SessionCloseRequest { session_id: s() };
    let closed = client.session_close(close).await.unwrap().into_inner();
    let closed = closed.session.unwrap();
    assert_eq!(closed.state(), SessionState::Closed);
    let listed = client.session_list(SessionListRequest::default()).await;
    let listed = listed.unwrap().into_inner().sessions;
    let ids: Vec<_> = listed.iter().map(|session| session.id.as_str()).collect();
    assert_eq!(ids, ["new", "rest", "s"]);
}

#[tokio::test]
async fn the_server_s_maximum_ends_calls_to_sessions_too() {
    let (_app, mut client, store) = house(Some(Duration::from_millis(200))).await;
    store.set_fault(Fault::Stalls);
    let (get, close) = (
        SessionGetRequest { session_id: s() },
        SessionCloseRequest { session_id: s() },
    );
    let list = SessionListRequest::default();
    let ends = [
        client.session_spawn(spawn("new")).await.err(),
        client.session_post(post("late")).await.err(),
        client.session_get(get).await.err(),
        client.session_list(list).await.err(),
        client.session_close(close).await.err(),
    ];
    for end in ends {
        let end = end.expect("nobody answers");
        let told = (end.code(), reason(&end));
        assert_eq!(told, (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    }
}
