//! Instances behind TLS: HTTP/2 or HTTP/1.1 as they choose, and what the resets of HTTP/2 prove about a task.

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason as Reset, RecvStream};
use http::{Request, Response};
use orchestrator::domain::limit::LINKS_PER_INSTANCE_MAX;
use orchestrator::instance::Serving;
use orchestrator::tasks::Finish;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::raw::soon;
use crate::stage::authority::Authority;
use crate::tls::{acceptor, trusting};

/// A stream as it came, and the number of its connection.
type Stream = (usize, Request<RecvStream>, SendResponse<Bytes>);

/// An instance that speaks HTTP/2 over TLS and leaves each stream to the test. It answers no probe.
async fn over_http2(authority: &Authority, streams_max: u32) -> (u16, mpsc::Receiver<Stream>) {
    let acceptor = acceptor(authority, &[b"h2", b"http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tx, streams) = mpsc::channel(1024);
    tokio::spawn(async move {
        for connection in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut http = server::Builder::new();
                http.max_concurrent_streams(streams_max);
                let mut open = http.handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = open.accept().await {
                    let is_last = request.uri().path() == "/last";
                    let _ = tx.send((connection, request, respond)).await;
                    if is_last {
                        open.graceful_shutdown();
                    }
                }
            });
        }
    });
    (port, streams)
}

fn behind_tls(port: u16, path: &str, authority: &Authority) -> Spec {
    Spec {
        tls: trusting(authority),
        ..spec(&format!("https://127.0.0.1:{port}{path}"))
    }
}

async fn whole(mut body: RecvStream) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(piece) = soon(body.data()).await {
        read.extend_from_slice(&piece.unwrap());
    }
    read
}

fn answer(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut body_out = respond.send_response(Response::new(()), false).unwrap();
    body_out.send_data(body.into(), true).unwrap();
}

#[tokio::test]
async fn many_calls_share_one_connection_and_each_is_a_post_of_its_payload() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let reached = reach(&behind_tls(port, "/v1/run", &authority));
    // All at once, so that all of them find no connection.
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(told(reached.instance.execute(call(r#"{"b":1,"a":2}"#)))))
        .collect();
    for _ in 0..50 {
        let (connection, request, respond) = soon(streams.recv()).await.unwrap();
        assert_eq!(connection, 1);
        let uri = request.uri().to_string();
        assert_eq!(uri, format!("https://127.0.0.1:{port}/v1/run"));
        let headers = request.headers();
        assert_eq!(headers["authorization"], "Bearer token-of-a");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["content-length"], "13");
        assert!(headers.contains_key("request-timeout") && !headers.contains_key("host"));
        assert_eq!(whole(request.into_body()).await, br#"{"b":1,"a":2}"#);
        answer(respond, "[1]");
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "[1]");
    }
    let finished = reached.tasks.finish(Duration::from_secs(30)).await;
    assert_eq!(finished, Finish::Complete);
}

#[tokio::test]
async fn further_calls_get_further_connections_where_one_takes_no_more() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 2).await;
    let reached = reach(&behind_tls(port, "/run", &authority));
    let mut held = Vec::new();
    let mut calls = Vec::new();
    for expected in [1, 1, 2, 2] {
        calls.push(tokio::spawn(told(reached.instance.execute(call("1")))));
        let (connection, request, respond) = soon(streams.recv()).await.unwrap();
        assert_eq!(connection, expected);
        held.push((request, respond));
    }
    for (_, respond) in held {
        answer(respond, "1");
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "1");
    }
}

#[tokio::test]
async fn a_burst_over_an_instance_that_takes_one_call_on_a_connection_fails_none() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 1).await;
    let reached = reach(&behind_tls(port, "/run", &authority));
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(told(reached.instance.execute(call("1")))))
        .collect();
    for _ in 0..50 {
        let (connection, _, respond) = soon(streams.recv()).await.unwrap();
        assert!(connection <= LINKS_PER_INSTANCE_MAX, "one more is made");
        answer(respond, "1");
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "1");
    }
}

#[tokio::test]
async fn a_reset_proves_what_it_says_and_nothing_more() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let reached = reach(&behind_tls(port, "/run", &authority));
    let lost = (Reason::InstanceLost, Progress::MayHaveBegun);
    for (reset, expected) in [
        (
            Reset::REFUSED_STREAM,
            (Reason::InstanceDown, Progress::NeverBegan),
        ),
        (Reset::CANCEL, lost),
        (Reset::INTERNAL_ERROR, lost),
    ] {
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let (connection, _, mut respond) = soon(streams.recv()).await.unwrap();
        assert_eq!(connection, 1);
        respond.send_reset(reset);
        let failure = outcome.await.unwrap().unwrap_err();
        assert_eq!(
            (failure.reason, failure.progress),
            expected,
            "{reset:?}: {failure}"
        );
    }
    // The answer had begun.
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let (_, _, mut respond) = soon(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("[1,2,3".into(), false).unwrap();
    soon(async {
        // Until it was read: the request itself weighs one byte.
        while reached.memory.held() <= 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    body.send_reset(Reset::INTERNAL_ERROR);
    let failure = outcome.await.unwrap().unwrap_err();
    assert_eq!(
        (failure.reason, failure.progress),
        (Reason::InstanceLost, Progress::Answered)
    );
}

#[tokio::test]
async fn a_connection_that_goes_away_finishes_what_it_has_and_gets_nothing_new() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let reached = reach(&behind_tls(port, "/last", &authority));
    for expected in [1, 2] {
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let (connection, request, respond) = soon(streams.recv()).await.unwrap();
        assert_eq!(connection, expected);
        drop(request);
        answer(respond, "1");
        assert_eq!(outcome.await.unwrap().unwrap(), "1");
        soon(async {
            while reached.tasks.left() != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_dropped_call_resets_its_stream_and_leaves_the_others_alone() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let reached = reach(&behind_tls(port, "/run", &authority));
    let dropped = tokio::spawn(told(reached.instance.execute(call("1"))));
    let (_, _, mut first) = soon(streams.recv()).await.unwrap();
    let kept = tokio::spawn(told(reached.instance.execute(call("1"))));
    let (_, _, second) = soon(streams.recv()).await.unwrap();
    dropped.abort();
    let reset = soon(std::future::poll_fn(|context| first.poll_reset(context))).await;
    assert_eq!(reset.unwrap(), Reset::CANCEL);
    answer(second, "2");
    assert_eq!(kept.await.unwrap().unwrap(), "2");
}

#[tokio::test]
async fn what_runs_goes_on_while_its_connection_is_doubted() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let reached = reach(&behind_tls(port, "/run", &authority));
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let (_, _request, mut respond) = soon(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("[1,".into(), false).unwrap();
    // Nobody waits any longer for this probe, which has come and is not answered.
    let probe = tokio::spawn(reached.instance.probe());
    let (connection, _probe, _unanswered) = soon(streams.recv()).await.unwrap();
    assert_eq!(connection, 1);
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    let next = tokio::spawn(told(reached.instance.execute(call("1"))));
    let (connection, _request, respond) = soon(streams.recv()).await.unwrap();
    assert_eq!(connection, 2);
    answer(respond, "2");
    assert_eq!(next.await.unwrap().unwrap(), "2");
    body.send_data("2]".into(), true).unwrap();
    assert_eq!(outcome.await.unwrap().unwrap(), "[1,2]");
}

#[tokio::test]
async fn an_instance_that_chooses_http_1_or_chooses_nothing_is_spoken_to_so() {
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let authority = Authority::new();
        let acceptor = acceptor(&authority, protocols);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = reach(&behind_tls(port, "/run", &authority));
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let (stream, _) = soon(listener.accept()).await.unwrap();
        let mut stream = soon(acceptor.accept(stream)).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n1") {
            soon(stream.read_buf(&mut read)).await.unwrap();
        }
        assert!(read.starts_with(b"POST /run HTTP/1.1\r\n"));
        let said = super::by_hand::json("2");
        stream.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(outcome.await.unwrap().unwrap(), "2");
    }
}

#[tokio::test]
async fn nothing_is_said_to_an_instance_that_is_not_trusted() {
    let authority = Authority::new();
    let (port, mut streams) = over_http2(&authority, 100).await;
    let good = behind_tls(port, "/run", &authority);
    let foreign = tls::Settings {
        ca: Some(Authority::new().pem()),
        ..good.tls.clone()
    };
    let misnamed = tls::Settings {
        server_name: Some("gpu-b.internal".to_owned()),
        ..good.tls.clone()
    };
    for tls in [foreign, misnamed] {
        let reached = reach(&Spec {
            tls,
            ..good.clone()
        });
        let failure = told(reached.instance.execute(call("1"))).await.unwrap_err();
        assert_eq!(
            (failure.reason, failure.progress),
            (Reason::InstanceDown, Progress::NeverSent)
        );
        assert!(failure.detail.contains("certificate"), "{failure}");
    }
    // An instance that does not trust us says so only after we could have spoken.
    let nobody = tls::Settings {
        identity: None,
        ..good.tls.clone()
    };
    let reached = reach(&Spec {
        tls: nobody,
        ..good.clone()
    });
    let failure = told(reached.instance.execute(call("1"))).await.unwrap_err();
    assert_eq!(
        (failure.reason, failure.progress),
        (Reason::InstanceDown, Progress::NeverSent)
    );
    assert!(failure.detail.contains("CertificateRequired"), "{failure}");
    assert!(streams.is_empty());
    let reached = reach(&good);
    let probe = tokio::spawn(reached.instance.probe());
    let (_, request, respond) = soon(streams.recv()).await.unwrap();
    assert_eq!(request.uri().path(), "/api/health/check");
    assert_eq!(request.method(), "GET");
    answer(respond, r#"{"status": "healthy"}"#);
    assert_eq!(probe.await.unwrap(), Ok(Serving::Yes));
}
