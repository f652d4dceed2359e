//! A script is played as it is written: what a room is tested with must not lie.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::{Scripted, SessionAct};
use crate::domain::failure::{Reason, Status};
use crate::domain::payload::Payload;
use crate::instance::InstanceClient as _;
use crate::instance::session::{CloseReason, Data, Frame, Gone, Open, Opened, Received};

fn open(epoch: u64) -> Open {
    Open {
        session: "s".into(),
        spawned_ms: 1,
        epoch,
        next_seq: 1,
        answered_through: 0,
        received: Received::default(),
        labels: Arc::default(),
        names: None,
    }
}

async fn opened(instance: &Scripted, epoch: u64) -> Opened {
    instance.open_session(open(epoch)).await.unwrap()
}

fn data(seq: u64) -> Frame {
    Frame::Data(Data {
        seq,
        in_reply_to: None,
        redelivered: false,
        payload: Payload::null(),
    })
}

/// What comes next, as one letter.
async fn next(opened: &mut Opened) -> char {
    match opened.receiver.receive().await {
        Some(Ok(Frame::Data(_))) => 'd',
        Some(Ok(Frame::Ack { .. })) => 'a',
        Some(Ok(Frame::Close { .. })) => 'c',
        Some(Err(_)) => '!',
        None => '.',
    }
}

async fn is_ready(opened: &mut Opened) -> bool {
    poll_fn(|context| Poll::Ready(opened.sender.poll_ready(context).is_ready())).await
}

#[tokio::test]
async fn an_open_is_refused_or_never_answered() {
    let instance = Scripted::new("A", []);
    instance.sessions.script([
        SessionAct::Refuse,
        SessionAct::Fail(Status::Unimplemented),
        SessionAct::NeverOpen,
    ]);
    for reason in [
        Reason::InstanceDown,
        Reason::InstanceFailed(Status::Unimplemented),
    ] {
        let refused = instance.open_session(open(1)).await.err().unwrap();
        assert_eq!(refused.reason, reason);
    }
    let mut never = pin!(instance.open_session(open(1)));
    assert!(poll_fn(|context| Poll::Ready(never.as_mut().poll(context).is_pending())).await);
}

#[tokio::test]
async fn messages_are_answered_taken_or_met_with_silence() {
    let instance = Scripted::new("A", []);
    let mut echo = opened(&instance, 1).await;
    echo.sender.send(data(1)).unwrap();
    assert_eq!(next(&mut echo).await, 'd');
    echo.sender.send(Frame::Ack { through: 1 }).unwrap();
    assert_eq!(next(&mut echo).await, 'a');

    let acts = [SessionAct::Take, SessionAct::Silent];
    instance.sessions.script(acts);
    let mut take = opened(&instance, 2).await;
    assert_eq!(take.received_through, 1);
    take.sender.send(data(2)).unwrap();
    assert_eq!(next(&mut take).await, 'a');
    assert_eq!(next(&mut echo).await, '!', "a newer epoch takes part");

    let mut silent = opened(&instance, 3).await;
    silent.sender.send(data(3)).unwrap();
    let held = instance.sessions.opened();
    let held = &held[held.len() - 1];
    assert_eq!((held.seqs(), held.seen().len()), (vec![3], 1));
    // Whatever it says, the test says.
    held.send(None, Payload::null());
    held.say(Frame::Ack { through: 3 });
    assert_eq!(next(&mut silent).await, 'd');
    assert_eq!(next(&mut silent).await, 'a');
    assert!(held.is_held());
    drop(silent);
    assert!(!held.is_held());

    instance.sessions.forget();
    assert_eq!(opened(&instance, 1).await.received_through, 0);
    let stale = instance.open_session(open(1)).await.err().unwrap();
    let expected = Reason::InstanceFailed(Status::FailedPrecondition);
    assert_eq!(stale.reason, expected);
}

#[tokio::test]
async fn a_stream_closes_is_lost_or_fills_up_after_so_many_messages() {
    let instance = Scripted::new("A", []);
    instance.sessions.script([
        SessionAct::CloseAfter(2, CloseReason::Done),
        SessionAct::LoseAfter(2),
        SessionAct::FullAfter(2),
    ]);
    for (epoch, ends) in [(1, ['c', '.']), (2, ['!', '.'])] {
        let mut session = opened(&instance, epoch).await;
        for seq in 1..=2 {
            session.sender.send(data(seq)).unwrap();
            assert_eq!(next(&mut session).await, 'd');
        }
        for end in ends {
            assert_eq!(next(&mut session).await, end);
        }
        assert_eq!(session.sender.send(data(3)), Err(Gone));
    }
    let mut full = opened(&instance, 3).await;
    for seq in 1..=2 {
        assert!(is_ready(&mut full).await);
        full.sender.send(data(seq)).unwrap();
    }
    assert!(!is_ready(&mut full).await);
    let held = instance.sessions.opened();
    held[held.len() - 1].let_in();
    assert!(is_ready(&mut full).await);
}
