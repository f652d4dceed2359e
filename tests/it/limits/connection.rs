//! How many connections there are, how they may begin, and when they end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use orchestrator::app::Stopped;
use orchestrator::ingress::listener::Limits;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{House, call, streams};
use crate::raw::frame;
use crate::raw::{End, PREFACE, Peer, rest, soon};
use crate::stage::instance::{Act, Instance};
use crate::stage::{Config, config, planned, start};

/// Short enough to be waited for, and no test is wrong when it takes longer.
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_connection_too_many_is_closed_and_a_place_that_was_left_is_free() {
    let house = House::with(Limits {
        connections: 3,
        ..Limits::default()
    })
    .await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(house.address()).await;
        peer.pong().await;
        peers.push(peer);
    }
    let mut fourth = Peer::connect(house.address()).await;
    assert_eq!(fourth.next().await, None);
    for peer in &mut peers {
        peer.pong().await;
    }
    peers.pop();
    until_there_is_a_place(house.address()).await;
}

/// Tries again until a connection is let in.
async fn until_there_is_a_place(address: SocketAddr) {
    soon(async { while Peer::connect(address).await.next().await.is_none() {} }).await;
}

#[tokio::test]
async fn a_connection_that_does_not_say_what_it_speaks_is_closed() {
    let house = House::with(Limits {
        first_bytes: SHORT,
        ..Limits::default()
    })
    .await;
    for said in [0, 1, 12, PREFACE.len() - 1] {
        let mut stream = TcpStream::connect(house.address()).await.unwrap();
        stream.write_all(&PREFACE[..said]).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{said} bytes of the preface");
    }
    house.serves_others().await;
}

#[tokio::test]
async fn a_preface_that_trickles_in_is_cut_off_as_well() {
    let house = House::with(Limits {
        first_bytes: SHORT,
        ..Limits::default()
    })
    .await;
    let (mut reading, mut writing) = TcpStream::connect(house.address())
        .await
        .unwrap()
        .into_split();
    let trickle = async {
        let mut pace = tokio::time::interval(SHORT / 2);
        for byte in &PREFACE[..PREFACE.len() - 1] {
            pace.tick().await;
            let _ = writing.write_all(&[*byte]).await;
        }
    };
    let mut bytes = Vec::new();
    // A limit that each byte moved would outlast the trickle, which takes eleven times as long.
    tokio::select! {
        ended = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut bytes) => { let _ = ended; }
        () = trickle => panic!("the connection is still open"),
    }
    assert_eq!(bytes, b"");
}

#[tokio::test]
async fn http1_headers_that_do_not_come_are_not_waited_for() {
    let house = House::with(Limits {
        // For what could still become HTTP/2.
        first_bytes: SHORT,
        http1_headers: SHORT,
        ..Limits::default()
    })
    .await;
    for said in [
        "P",
        "POST ",
        "GET / HTTP/1.1\r\nhost: house\r\n",
        "GET / HTTP/1.1\r\nhost",
    ] {
        let mut stream = TcpStream::connect(house.address()).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let answer = String::from_utf8(rest(&mut stream).await).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{said}: {answer}"
        );
    }
    // Between two requests, too.
    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: house\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    house.serves_others().await;
}

#[tokio::test]
async fn http1_headers_over_the_limit_are_refused() {
    let house = House::new().await;
    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: house\r\n")
        .await
        .unwrap();
    let long = format!("x-long: {}\r\n\r\n", "x".repeat(16 * 1024));
    let _ = stream.write_all(long.as_bytes()).await;
    let answer = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn an_http1_body_that_does_not_come_is_not_waited_for() {
    let house = House::new().await;
    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    let head = "POST /v1/route HTTP/1.1\r\nhost: house\r\ncontent-length: 1000\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_cut() {
    let house = House::with(Limits {
        keepalive_interval: SHORT,
        keepalive_timeout: SHORT,
        ..Limits::default()
    })
    .await;
    let mut idle = Peer::mute(house.address()).await;
    idle.last_words().await;
    let mut busy = Peer::mute(house.address()).await;
    busy.send(&call(1, "silent")).await;
    busy.last_words().await;
    // Whoever is cut has left: nobody works for them any more.
    house.silent.until(|counts| counts.reset == 1).await;
}

#[tokio::test]
async fn a_peer_that_answers_pings_stays() {
    let house = House::with(Limits {
        keepalive_interval: SHORT / 10,
        ..Limits::default()
    })
    .await;
    let mut peer = Peer::connect(house.address()).await;
    for _ in 0..10 {
        peer.until(|frame| frame.kind == frame::PING).await;
    }
    peer.send(&call(1, "echo")).await;
    assert_eq!(peer.end_of(1).await, End::Answered);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut_although_nothing_gets_through_to_it() {
    // More than sockets hold between them.
    let answer = prost::Message::encode_to_vec(&prost_types::Value::from("x".repeat(3 << 20)));
    let lavish = Instance::start(Act::Answer(Bytes::from(answer))).await;
    let app = start(Config {
        instances: vec![planned("lavish", lavish.address)],
        limits: Limits {
            connections: 1,
            keepalive_interval: SHORT,
            keepalive_timeout: SHORT,
            ..Limits::default()
        },
        ..config()
    })
    .await;
    let mut peer = Peer::narrow(app.address()).await;
    for id in streams(6) {
        peer.send(&call(id, "lavish")).await;
    }
    lavish.until(|counts| counts.answered == 6).await;
    until_there_is_a_place(app.address()).await;
}

fn ageing(age: Duration, age_grace: Duration) -> Limits {
    Limits {
        age,
        age_grace,
        ..Limits::default()
    }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn an_old_connection_finishes_its_calls_and_takes_no_new_ones() {
    let house = House::with(ageing(SHORT, LONG)).await;
    let mut peer = Peer::connect(house.address()).await;
    peer.send(&call(1, "held")).await;
    // The first says that the end is near, the second where it is (RFC 9113, 6.8).
    for _ in 0..2 {
        let goaway = peer.until(|frame| frame.kind == frame::GOAWAY).await;
        assert_eq!(goaway.reason(), Reason::NO_ERROR);
    }
    house.serves_others().await;
    peer.send(&call(3, "echo")).await;
    house.let_go.send_replace(true);
    assert_eq!(peer.end_of(1).await, End::Answered);
    assert_eq!(peer.next().await, None);
    house.held.until(|counts| counts.answered == 1).await;
    assert_eq!(house.echo.counts.borrow().begun, 1);
}

#[tokio::test]
async fn an_old_connection_whose_call_never_ends_is_cut_after_its_grace() {
    let house = House::with(ageing(SHORT, SHORT)).await;
    let mut peer = Peer::connect(house.address()).await;
    peer.send(&call(1, "silent")).await;
    assert_eq!(peer.last_words().await, Some(Reason::NO_ERROR));
    house.silent.until(|counts| counts.reset == 1).await;
    house.serves_others().await;
}

#[tokio::test]
async fn a_shutdown_leaves_the_calls_of_an_old_connection_their_grace() {
    let house = House::with(ageing(SHORT, LONG)).await;
    let address = house.address();
    let mut peer = Peer::connect(address).await;
    peer.send(&call(1, "held")).await;
    peer.until(|frame| frame.kind == frame::GOAWAY).await;
    house.held.until(|counts| counts.begun == 1).await;
    let caller = async {
        // Nobody listens any more: from then on everything knows that the house stops.
        soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
        peer.pong().await;
        house.let_go.send_replace(true);
        peer.end_of(1).await
    };
    let (stopped, ended) = tokio::join!(house.app.stop(), caller);
    assert_eq!((stopped, ended), (Stopped::Clean, End::Answered));
}
