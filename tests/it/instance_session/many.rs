//! Many sessions beside calls, and sessions that do not move.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use orchestrator::domain::failure::{Progress, Reason};
use orchestrator::domain::limit::{SESSION_LINK_STREAM_WINDOW, SESSION_LINK_STREAMS_MAX};
use orchestrator::domain::task::{Form, Metadata, Names, Task};
use orchestrator::domain::trace::Carried;
use orchestrator::instance::builtin::{self, Behaviour};
use orchestrator::instance::session::{Frame, Opened};
use orchestrator::instance::{Call, InstanceClient as _, Sent};
use orchestrator::proto::instance::SessionData;
use orchestrator::proto::instance::session_request::Frame as Told;
use orchestrator::proto::instance::session_response::Frame as Said;
use orchestrator::tasks::Tasks;

use super::{answer, data, instance, open, opening, payload, receive, send};
use crate::raw::soon;
use crate::stage::peer::{Peer, encoded};
use crate::stage::text;

/// More than one connection holds.
const SESSIONS: usize = SESSION_LINK_STREAMS_MAX + 500;

fn call() -> Call {
    let names = Names {
        request_id: "call".into(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        carried: Carried::default(),
    };
    Call {
        task: Arc::new(Task {
            payload: payload("task"),
            metadata: Metadata::default(),
            names,
            form: Form::default(),
        }),
        attempt: 1,
        ends: tokio::time::Instant::now() + Duration::from_secs(60),
        sent: Sent::default(),
        trace: None,
    }
}

#[tokio::test]
async fn fifteen_hundred_sessions_on_one_instance_leave_its_calls_alone() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let opened = open(&instance, opening(&format!("s{number}"), 1)).await;
        sessions.push(opened.unwrap());
    }
    soon(instance.execute(call())).await.unwrap();
    for (number, session) in sessions.iter_mut().enumerate() {
        send(session, data(1, payload(&number.to_string()))).await;
    }
    soon(instance.execute(call())).await.unwrap();
    for (number, session) in sessions.iter_mut().enumerate() {
        let echo = answer(1, 1, payload(&number.to_string()));
        assert_eq!(receive(session).await, echo);
    }
}

/// Whether one more frame may be sent, as far as is known now.
fn is_ready(session: &mut Opened) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(session.sender.ready()).poll(&mut context).is_ready()
}

#[tokio::test]
async fn an_instance_that_opens_no_window_is_sent_nothing_more() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(1000).await;
    let way = instance(peer.address, &tasks);
    let (session, mut held) = tokio::join!(open(&way, opening("s", 1)), async {
        let mut stream = peer.stream().await;
        let sending = stream.agree().await;
        (stream, sending)
    });
    let mut session = session.unwrap();
    let large = payload(&"x".repeat(5000));
    soon(session.sender.ready()).await.unwrap();
    session.sender.send(data(1, large.clone())).unwrap();
    // The first message fills the window: nobody may send another one, however often it asks.
    for _ in 0..100 {
        assert!(!is_ready(&mut session));
        tokio::task::yield_now().await;
    }
    let Told::Data(first) = held.0.told().await else {
        panic!("no data");
    };
    assert_eq!(first.payload, Some(large.encoded().clone()));
    soon(session.sender.ready()).await.unwrap();
    session.sender.send(data(2, large)).unwrap();
    assert!(matches!(held.0.told().await, Told::Data(_)));
}

#[tokio::test]
async fn a_session_that_is_not_received_slows_its_instance_and_nobody_else() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(65_535).await;
    let way = instance(peer.address, &tasks);
    let mut begin = async |name: &str| {
        let (session, held) = tokio::join!(open(&way, opening(name, 1)), async {
            let mut stream = peer.stream().await;
            let sending = stream.agree().await;
            (stream, sending)
        });
        (session.unwrap(), held)
    };
    let (mut slow, (_slow_stream, mut slow_sending)) = begin("slow").await;
    let (mut quick, (_quick_stream, mut quick_sending)) = begin("quick").await;
    let message = |seq| {
        let payload = text(&"x".repeat(10_000));
        encoded(Said::Data(SessionData {
            seq,
            payload,
            ..SessionData::default()
        }))
    };
    // As much as the instance is let.
    let window = SESSION_LINK_STREAM_WINDOW as usize;
    slow_sending.reserve_capacity(10 * window);
    while slow_sending.capacity() < window - 100 {
        soon(std::future::poll_fn(|context| {
            slow_sending.poll_capacity(context)
        }))
        .await;
    }
    assert!(slow_sending.capacity() <= window, "no more than its window");
    let count = (10 * window / message(1).len()) as u64;
    for seq in 1..=count {
        slow_sending.send_data(message(seq).into(), false).unwrap();
    }
    // The other session on the same connection goes on.
    for seq in 1..=count {
        quick_sending.send_data(message(seq).into(), false).unwrap();
        assert!(matches!(receive(&mut quick).await, Frame::Data(_)));
    }
    // And so does this one, once it is taken.
    for seq in 1..=count {
        let Frame::Data(data) = receive(&mut slow).await else {
            panic!("no data");
        };
        assert_eq!(data.seq, seq);
    }
}

#[tokio::test]
async fn a_session_too_many_is_refused_and_one_that_ends_makes_room() {
    let tasks = Tasks::new();
    // The instance itself allows so few streams that the connections are soon full.
    let mut peer = Peer::with_streams(2).await;
    let way = instance(peer.address, &tasks);
    let mut sessions = Vec::new();
    let full = loop {
        let pending = open(&way, opening("s", 1));
        let agreeing = async {
            let mut stream = peer.stream().await;
            let sending = stream.agree().await;
            (stream, sending)
        };
        let mut agreeing = pin!(agreeing);
        let mut pending = pin!(pending);
        let mut held = None;
        let opened = loop {
            tokio::select! {
                opened = &mut pending => break opened,
                agreed = &mut agreeing, if held.is_none() => held = Some(agreed),
            }
        };
        match opened {
            Ok(session) => sessions.push((session, held)),
            Err(failure) => break failure,
        }
    };
    assert_eq!(
        (full.reason, full.progress),
        (Reason::TooMany, Progress::NeverSent)
    );
    let links = orchestrator::domain::limit::SESSION_LINKS_PER_INSTANCE_MAX;
    assert_eq!(sessions.len(), 2 * links);
    drop(sessions.pop());
    let (again, _held) = tokio::join!(open(&way, opening("s", 1)), async {
        let mut stream = peer.stream().await;
        let sending = stream.agree().await;
        (stream, sending)
    });
    assert!(again.is_ok());
}
