//! An instance that breaks the protocol, or the connection, at any point.

use h2::Reason as Http2;
use orchestrator::domain::failure::{Failure, Progress, Reason, Status};
use orchestrator::instance::InstanceClient as _;
use orchestrator::instance::session::{CloseReason, Frame, Opened};
use orchestrator::proto::instance::session_request::Frame as Told;
use orchestrator::proto::instance::session_response::Frame as Said;
use orchestrator::proto::instance::{SessionAck, SessionClose, SessionData, SessionOpened};
use orchestrator::tasks::Tasks;

use super::{answer, data, failure, instance, open, opening, payload, receive};
use crate::raw::{frame, soon};
use crate::stage::peer::{Order, Peer, Stream, encoded, end, reset, say};
use crate::stage::text;

/// What HTTP/2 begins with.
const WINDOW: u32 = 65_535;

/// What the orchestrator makes of what an instance does with the open.
async fn refused<T>(acts: impl AsyncFnOnce(&mut Peer, Stream) -> T) -> Failure {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let instance = instance(peer.address, &tasks);
    let (opened, _held) = tokio::join!(open(&instance, opening("s", 1)), async {
        let stream = peer.stream().await;
        acts(&mut peer, stream).await
    });
    opened.err().expect("it is refused")
}

/// A session with an instance in the hands of the test.
async fn opened(peer: &mut Peer, tasks: &Tasks) -> (Opened, Stream, h2::SendStream<bytes::Bytes>) {
    let instance = instance(peer.address, tasks);
    let (opened, (stream, sending)) = tokio::join!(open(&instance, opening("s", 1)), async {
        let mut stream = peer.stream().await;
        let sending = stream.agree().await;
        (stream, sending)
    });
    (opened.unwrap(), stream, sending)
}

/// What the orchestrator makes of what an instance says after it has agreed.
async fn ended(acts: impl AsyncFnOnce(&mut Peer, Stream, h2::SendStream<bytes::Bytes>)) -> Failure {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let (mut session, stream, sending) = opened(&mut peer, &tasks).await;
    acts(&mut peer, stream, sending).await;
    failure(&mut session).await
}

fn malformed(detail: &str) -> (Reason, String) {
    (Reason::AnswerMalformed, detail.to_owned())
}

fn said(failure: Failure) -> (Reason, String) {
    (failure.reason, failure.detail.into_owned())
}

#[tokio::test]
async fn the_open_says_all_that_the_contract_promises() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let instance = instance(peer.address, &tasks);
    let pending = instance.open_session(opening("session-1", 3));
    let (_, stream) = tokio::join!(open(&instance, opening("session-2", 3)), async {
        let mut stream = peer.stream().await;
        let Told::Open(open) = stream.told().await else {
            panic!("no open");
        };
        let spawned = open.spawn_time.unwrap();
        assert_eq!(
            (spawned.seconds, spawned.nanos),
            (1_700_000_000, 123_000_000)
        );
        assert_eq!((open.session.as_str(), open.epoch), ("session-2", 3));
        assert_eq!((open.next_seq, open.labels["zone"].as_str()), (1, "a"));
        stream.respond.send_reset(Http2::CANCEL);
        stream
    });
    drop(pending);
    let header = |name: &str| stream.request.headers()[name].to_str().unwrap();
    assert_eq!(header("x-orchestrator-session"), "session-2");
    assert_eq!(header("x-request-id"), "request-1");
    assert_eq!(header("authorization"), "Bearer token-of-a");
    assert_eq!(header("te"), "trailers");
    assert!(!stream.request.headers().contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_a_break() {
    let failed = refused(async |_, mut stream| {
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "9")
            .header("grpc-message", "stale%20epoch");
        let response = response.body(()).unwrap();
        stream.respond.send_response(response, true).unwrap();
    })
    .await;
    let stale = Reason::InstanceFailed(Status::FailedPrecondition);
    assert_eq!(
        said(failed),
        (stale, "FAILED_PRECONDITION: stale epoch".to_owned())
    );

    let failed =
        refused(async |_, mut stream| stream.respond.send_reset(Http2::REFUSED_STREAM)).await;
    assert_eq!(
        (failed.reason, failed.progress),
        (Reason::InstanceDown, Progress::NeverBegan)
    );
    let failed =
        refused(async |_, mut stream| stream.respond.send_reset(Http2::INTERNAL_ERROR)).await;
    assert_eq!(
        (failed.reason, failed.progress),
        (Reason::InstanceLost, Progress::MayHaveBegun)
    );
    let failed = refused(async |peer, stream| {
        peer.order(Order::Break);
        drop(stream);
    })
    .await;
    assert_eq!(failed.reason, Reason::InstanceLost);

    let failed = refused(async |_, mut stream| {
        let mut sending = stream.headers();
        say(&mut sending, Said::Ack(SessionAck { through: 1 }));
        (stream, sending)
    })
    .await;
    assert_eq!(said(failed), malformed("the session begins without opened"));
    let failed = refused(async |_, mut stream| end(&mut stream.headers(), "0", "")).await;
    assert_eq!(said(failed), malformed("the session ended before it began"));
    let failed = refused(async |_, mut stream| end(&mut stream.headers(), "14", "away")).await;
    assert_eq!(failed.reason, Reason::InstanceFailed(Status::Unavailable));

    let tasks = Tasks::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let failed = open(&instance(nobody, &tasks), opening("s", 1))
        .await
        .err()
        .unwrap();
    assert_eq!(
        (failed.reason, failed.progress),
        (Reason::InstanceDown, Progress::NeverSent)
    );
}

#[tokio::test]
async fn what_is_no_frame_ends_the_session_with_a_reason() {
    let sends = async |bytes: Vec<u8>| {
        said(
            ended(async |_, stream, mut sending| {
                sending.send_data(bytes.into(), false).unwrap();
                // The failure needs no end of the stream.
                std::mem::forget((stream, sending));
            })
            .await,
        )
    };
    let message = |bytes: &[u8]| [frame::prefix(bytes.len()), bytes.to_vec()].concat();
    assert_eq!(
        sends(vec![1, 0, 0, 0, 0]).await,
        malformed("the session is compressed, which was not asked for")
    );
    assert_eq!(
        sends(message(&[0xff; 7])).await,
        malformed("the session has what is not a SessionResponse")
    );
    assert_eq!(
        sends(message(&[])).await,
        malformed("the session has a frame of an unknown kind")
    );
    assert_eq!(
        sends(message(&[0x7a, 0])).await,
        malformed("the session has a frame of an unknown kind")
    );
    let again = encoded(Said::Opened(SessionOpened::default()));
    assert_eq!(
        sends(again).await,
        malformed("the session says opened twice")
    );
    let moved = encoded(Said::Close(SessionClose {
        reason: 3,
        detail: String::new(),
    }));
    assert_eq!(
        sends(moved).await,
        malformed("the instance closes the session for no reason of its own")
    );
    let bad = SessionData {
        seq: 1,
        payload: Some(vec![0x78, 1].into()),
        ..SessionData::default()
    };
    assert_eq!(
        sends(encoded(Said::Data(bad))).await,
        malformed("payload has a Value without a kind at byte 2: write null as null_value")
    );
    // Believed as soon as it is announced, and not gathered.
    let (reason, _) = sends(frame::prefix(64 << 20)).await;
    assert_eq!(reason, Reason::AnswerTooLarge);
}

#[tokio::test]
async fn the_end_of_a_stream_says_whether_anything_is_missing() {
    let failed = ended(async |_, _stream, mut sending| end(&mut sending, "8", "full")).await;
    assert_eq!(
        said(failed),
        (
            Reason::InstanceFailed(Status::ResourceExhausted),
            "RESOURCE_EXHAUSTED: full".to_owned()
        )
    );
    let failed = ended(async |_, _stream, mut sending| {
        sending.send_data(bytes::Bytes::new(), true).unwrap();
    })
    .await;
    assert_eq!(
        said(failed),
        malformed("the answer ended without a grpc-status")
    );
    let failed = ended(async |_, _stream, mut sending| {
        let begun = encoded(Said::Ack(SessionAck { through: 300 }));
        sending
            .send_data(begun[..7].to_vec().into(), false)
            .unwrap();
        end(&mut sending, "0", "");
    })
    .await;
    assert_eq!(
        said(failed),
        malformed("the session ended within a message")
    );
    let failed = ended(async |_, mut stream, sending| {
        stream.respond.send_reset(Http2::INTERNAL_ERROR);
        drop(sending);
    })
    .await;
    assert_eq!(failed.reason, Reason::InstanceLost);
    let failed = ended(async |peer, stream, sending| {
        peer.order(Order::Break);
        drop((stream, sending));
    })
    .await;
    assert_eq!(failed.reason, Reason::InstanceLost);
}

#[tokio::test]
async fn frames_are_read_however_they_are_cut() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let (mut session, _stream, mut sending) = opened(&mut peer, &tasks).await;
    let close = SessionClose {
        reason: 1,
        detail: "over".to_owned(),
    };
    let message = SessionData {
        seq: 1,
        in_reply_to: 7,
        redelivered: false,
        payload: text("words"),
    };
    let frames = [
        Said::Ack(SessionAck { through: 9 }),
        Said::Data(message),
        Said::Close(close),
    ];
    let bytes: Vec<u8> = frames.into_iter().flat_map(encoded).collect();
    for piece in 1..=bytes.len() {
        for bytes in bytes.chunks(piece) {
            sending.send_data(bytes.to_vec().into(), false).unwrap();
        }
        assert_eq!(receive(&mut session).await, Frame::Ack { through: 9 });
        assert_eq!(receive(&mut session).await, answer(1, 7, payload("words")));
        let over = Frame::Close {
            reason: CloseReason::Done,
            detail: "over".into(),
        };
        assert_eq!(receive(&mut session).await, over);
    }
    end(&mut sending, "0", "");
    assert_eq!(soon(session.receiver.receive()).await, None);
}

#[tokio::test]
async fn a_session_outlives_the_goaway_of_its_connection() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let way = instance(peer.address, &tasks);
    let (session, (mut stream, mut sending)) = tokio::join!(open(&way, opening("s", 1)), async {
        let mut stream = peer.stream().await;
        let sending = stream.agree().await;
        (stream, sending)
    });
    let mut session = session.unwrap();
    peer.order(Order::GoAway);
    session.sender.send(data(1, payload("words"))).unwrap();
    assert!(matches!(stream.told().await, Told::Data(_)));
    say(&mut sending, Said::Ack(SessionAck { through: 1 }));
    assert_eq!(receive(&mut session).await, Frame::Ack { through: 1 });
    end(&mut sending, "0", "");
    assert_eq!(soon(session.receiver.receive()).await, None);
    drop((stream, sending));
    // The next one finds another connection.
    let (again, _held) = tokio::join!(open(&way, opening("s", 2)), async {
        let mut stream = peer.stream().await;
        let sending = stream.agree().await;
        (stream, sending)
    });
    assert!(again.is_ok());
}

#[tokio::test]
async fn letting_go_resets_the_stream_and_a_close_goes_out_first() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let (session, _stream, mut sending) = opened(&mut peer, &tasks).await;
    drop(session);
    assert_eq!(reset(&mut sending).await, Http2::CANCEL);

    let (mut session, mut stream, mut sending) = opened(&mut peer, &tasks).await;
    let detail = "closed by its owner".into();
    session
        .sender
        .send(Frame::Close {
            reason: CloseReason::Expired,
            detail,
        })
        .unwrap();
    let Told::Close(close) = stream.told().await else {
        panic!("no close");
    };
    assert_eq!(
        (close.reason, close.detail.as_str()),
        (2, "closed by its owner")
    );
    assert!(soon(stream.body.data()).await.is_none(), "half-closed");
    end(&mut sending, "0", "");
    assert_eq!(soon(session.receiver.receive()).await, None);
}

#[tokio::test]
async fn an_open_that_is_given_up_resets_its_stream() {
    let tasks = Tasks::new();
    let mut peer = Peer::start(WINDOW).await;
    let way = instance(peer.address, &tasks);
    let mut pending = way.open_session(opening("s", 1));
    let mut stream = tokio::select! {
        _ = &mut pending => panic!("nobody has agreed"),
        stream = peer.stream() => stream,
    };
    assert!(matches!(stream.told().await, Told::Open(_)));
    drop(pending);
    let ended = soon(stream.body.data()).await.unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(Http2::CANCEL));
}
