//! Sessions with the built-in instances: real gRPC servers.

use orchestrator::domain::failure::{Reason, Status};
use orchestrator::instance::builtin::{self, Behaviour};
use orchestrator::instance::session::{CloseReason, Frame, Gone, Open, Received};
use orchestrator::tasks::Tasks;
use prost_types::value::Kind;

use super::{answer, asking, data, failure, instance, open, opening, payload, receive, send};
use crate::raw::soon;
use crate::stage::instance::{Act, Instance};

#[tokio::test]
async fn each_message_comes_back_once_and_is_acknowledged_when_its_answer_was_taken() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    let mut session = open(&instance, opening("s", 1)).await.unwrap();
    assert_eq!(session.received_through, 0);
    for seq in 1..=3 {
        let words = payload(&format!("message {seq}"));
        send(&mut session, data(seq, words.clone())).await;
        assert_eq!(receive(&mut session).await, answer(seq, seq, words));
        // Delivered again, it is not answered again.
        send(&mut session, data(seq, payload("again"))).await;
        send(&mut session, Frame::Ack { through: seq }).await;
        assert_eq!(receive(&mut session).await, Frame::Ack { through: seq });
    }
    send(&mut session, close(CloseReason::Done)).await;
    assert_eq!(soon(session.receiver.receive()).await, None);
    assert_eq!(session.sender.send(Frame::Ack { through: 3 }), Err(Gone));
}

#[tokio::test]
async fn a_large_message_goes_through_both_ways() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let mut session = open(&instance(address, &tasks), opening("s", 1))
        .await
        .unwrap();
    // More than any window on the way, and pieces that fit no frame.
    let large = payload(&"x".repeat(3_000_001));
    for seq in 1..=2 {
        send(&mut session, data(seq, large.clone())).await;
        assert_eq!(receive(&mut session).await, answer(seq, seq, large.clone()));
    }
}

#[tokio::test]
async fn a_newer_epoch_goes_on_where_the_older_one_was_and_ends_it() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    let mut first = open(&instance, opening("s", 1)).await.unwrap();
    for seq in 1..=3 {
        send(&mut first, data(seq, payload("words"))).await;
        receive(&mut first).await;
    }
    // The answer to the first message was taken, and the instance never heard of it.
    let again = Open {
        received: Received {
            through: 1,
            epoch: 1,
        },
        ..opening("s", 2)
    };
    let mut second = open(&instance, again).await.unwrap();
    assert_eq!(second.received_through, 3);
    for seq in 2..=3 {
        assert_eq!(
            receive(&mut second).await,
            answer(seq, seq, payload("words"))
        );
    }
    assert_eq!(receive(&mut second).await, Frame::Ack { through: 1 });
    send(&mut second, data(4, payload("more"))).await;
    assert_eq!(receive(&mut second).await, answer(4, 4, payload("more")));
    let ended = failure(&mut first).await;
    assert_eq!(ended.reason, Reason::InstanceFailed(Status::Aborted));

    for epoch in [1, 2] {
        let stale = open(&instance, opening("s", epoch)).await.err().unwrap();
        let expected = Reason::InstanceFailed(Status::FailedPrecondition);
        assert_eq!(stale.reason, expected);
    }
    // Spawned anew under the same id, it is another session.
    let anew = Open {
        spawned_ms: 1_700_000_000_124,
        ..opening("s", 1)
    };
    assert_eq!(open(&instance, anew).await.unwrap().received_through, 0);
}

#[tokio::test]
async fn messages_that_were_answered_before_are_applied_and_not_answered() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let replay = Open {
        answered_through: 2,
        received: Received {
            through: 2,
            epoch: 1,
        },
        ..opening("s", 2)
    };
    let mut session = open(&instance(address, &tasks), replay).await.unwrap();
    for seq in 1..=3 {
        send(&mut session, data(seq, payload("words"))).await;
    }
    assert_eq!(receive(&mut session).await, Frame::Ack { through: 1 });
    assert_eq!(receive(&mut session).await, Frame::Ack { through: 2 });
    assert_eq!(receive(&mut session).await, answer(3, 3, payload("words")));
}

#[tokio::test]
async fn a_message_may_ask_for_silence_failure_or_the_end() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    let mut session = open(&instance, opening("s", 1)).await.unwrap();
    send(
        &mut session,
        data(1, asking("silent", Kind::BoolValue(true))),
    )
    .await;
    assert_eq!(receive(&mut session).await, Frame::Ack { through: 1 });
    let fail = asking("fail", Kind::StringValue("UNAVAILABLE".into()));
    send(&mut session, data(2, fail)).await;
    let failed = failure(&mut session).await.reason;
    assert_eq!(failed, Reason::InstanceFailed(Status::Unavailable));

    let mut session = open(&instance, opening("s", 2)).await.unwrap();
    assert_eq!(session.received_through, 2);
    assert_eq!(receive(&mut session).await, Frame::Ack { through: 2 });
    let end = asking("close", Kind::StringValue("SUSPENDED".into()));
    send(&mut session, data(3, end.clone())).await;
    assert_eq!(receive(&mut session).await, answer(1, 3, end));
    let Frame::Close { reason, .. } = receive(&mut session).await else {
        panic!("not closed");
    };
    assert_eq!(reason, CloseReason::Suspended);
    assert_eq!(soon(session.receiver.receive()).await, None);
}

#[tokio::test]
async fn a_gap_and_an_acknowledgement_of_nothing_end_the_stream() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    let ends_with = async |epoch, frame, status| {
        let mut session = open(&instance, opening("s", epoch)).await.unwrap();
        send(&mut session, frame).await;
        let ended = failure(&mut session).await.reason;
        assert_eq!(ended, Reason::InstanceFailed(status));
    };
    ends_with(1, data(2, payload("words")), Status::DataLoss).await;
    ends_with(2, Frame::Ack { through: 1 }, Status::InvalidArgument).await;
}

#[tokio::test]
async fn a_closed_session_is_forgotten_and_a_suspended_one_is_not() {
    let tasks = Tasks::new();
    let address = builtin::start(Behaviour::default(), &tasks).await.unwrap();
    let instance = instance(address, &tasks);
    for (reason, epoch, remembered) in [
        (CloseReason::Suspended, 1, 0),
        (CloseReason::Done, 2, 1),
        (CloseReason::Expired, 3, 0),
        (CloseReason::Moved, 4, 0),
        (CloseReason::Moved, 5, 0),
    ] {
        let mut session = open(&instance, opening("s", epoch)).await.unwrap();
        assert_eq!(session.received_through, remembered, "epoch {epoch}");
        send(&mut session, data(remembered + 1, payload("words"))).await;
        send(&mut session, close(reason)).await;
        while soon(session.receiver.receive()).await.is_some() {}
    }
}

#[tokio::test]
async fn an_instance_without_sessions_says_so() {
    let tasks = Tasks::new();
    let other = Instance::start(Act::Echo).await;
    let failed = open(&instance(other.address, &tasks), opening("s", 1)).await;
    let failed = failed.err().unwrap();
    assert_eq!(failed.reason, Reason::InstanceFailed(Status::Unimplemented));
}

fn close(reason: CloseReason) -> Frame {
    Frame::Close {
        reason,
        detail: "as the test wants it".into(),
    }
}
