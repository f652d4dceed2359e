//! Connections over HTTP/1.1: made, kept, given up, and never a reason to send a task twice.

use orchestrator::domain::limit::{HTTP_CONNECTIONS_PER_INSTANCE_MAX, HTTP_IDLE_PER_INSTANCE_MAX};
use orchestrator::instance::Serving;
use orchestrator::tasks::Finish;

use super::by_hand::json;
use super::*;
use crate::raw::soon;

/// Lets everything else run until no connection is open any more.
async fn all_closed(tasks: &Tasks) {
    soon(async {
        while tasks.left() != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_listens_where_nothing_was_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reached = reach(&spec(&format!("http://{address}/run")));
    let call = call("1");
    let sent = call.sent.clone();
    let failure = told(reached.instance.execute(call)).await.unwrap_err();
    assert_eq!(
        (failure.reason, failure.progress),
        (Reason::InstanceDown, Progress::NeverSent)
    );
    let start = format!("connect to http://{address}/run: ");
    assert!(failure.detail.starts_with(&start), "{failure}");
    assert!(!sent.get());
    all_closed(&reached.tasks).await;
}

#[tokio::test]
async fn a_connection_is_used_again_unless_its_server_is_about_to_close_it() {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let short = json("1").replace("\r\n\r\n", "\r\nkeep-alive: timeout=1, max=9\r\n\r\n");
    let close = json("1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 1\r\n\r\nx".to_owned();
    // What is answered, and by which connection the next task comes.
    for (answer, next) in [
        (json("1"), 1),
        (busy, 1),
        (short, 2),
        (close, 3),
        (json("1"), 3),
    ] {
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        by_hand.asked().await.answer(&answer).await;
        let _ = outcome.await.unwrap();
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let asked = by_hand.asked().await;
        assert_eq!(asked.connection, next, "{answer}");
        asked.answer(&json("1")).await;
        outcome.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_not_used_and_one_that_closes_on_a_task_has_lost_it() {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let mut asked = by_hand.asked().await;
    asked.say(&json("1")).await;
    outcome.await.unwrap().unwrap();
    // Its server closes it while nothing is under way.
    drop(asked);
    all_closed(&reached.tasks).await;
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let asked = by_hand.asked().await;
    assert_eq!(asked.connection, 2);
    asked.answer(&json("1")).await;
    outcome.await.unwrap().unwrap();
    // Now the task has come: whoever closes without a word may have begun it.
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let asked = by_hand.asked().await;
    assert_eq!(asked.connection, 2);
    drop(asked);
    let failure = outcome.await.unwrap().unwrap_err();
    assert_eq!(
        (failure.reason, failure.progress),
        (Reason::InstanceLost, Progress::MayHaveBegun)
    );
    all_closed(&reached.tasks).await;
    assert!(!by_hand.has_more(), "it is not sent again");
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection_before_and_within_the_answer() {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1,"] {
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let mut asked = by_hand.asked().await;
        asked.say(begun).await;
        tokio::task::yield_now().await;
        outcome.abort();
        asked.closed().await;
    }
    all_closed(&reached.tasks).await;
    assert_eq!(reached.memory.held(), 0);
}

#[tokio::test]
async fn no_more_connections_are_made_than_may_be_and_further_calls_wait() {
    let mut by_hand = ByHand::start().await;
    let reached = Arc::new(reach_by_hand(&by_hand));
    let ask = || tokio::spawn(told(reached.instance.execute(call("1"))));
    let all: Vec<_> = (0..=HTTP_CONNECTIONS_PER_INSTANCE_MAX)
        .map(|_| ask())
        .collect();
    let mut held = Vec::new();
    for _ in 0..HTTP_CONNECTIONS_PER_INSTANCE_MAX {
        held.push(by_hand.asked().await);
    }
    // Probes wait for no call.
    assert_eq!(soon(reached.instance.probe()).await, Ok(Serving::Yes));
    assert!(!by_hand.has_more());
    assert_eq!(by_hand.connections(), HTTP_CONNECTIONS_PER_INSTANCE_MAX + 1);
    held.pop().unwrap().answer(&json("1")).await;
    held.push(by_hand.asked().await);
    for asked in held.drain(..) {
        asked.answer(&json("1")).await;
    }
    for outcome in all {
        assert_eq!(outcome.await.unwrap().unwrap(), "1");
    }
    assert_eq!(by_hand.connections(), HTTP_CONNECTIONS_PER_INSTANCE_MAX + 1);
    // Of those that have nothing to do any more, only so many are kept.
    soon(async {
        while reached.tasks.left() != HTTP_IDLE_PER_INSTANCE_MAX {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let all: Vec<_> = (0..=HTTP_IDLE_PER_INSTANCE_MAX).map(|_| ask()).collect();
    for _ in 0..=HTTP_IDLE_PER_INSTANCE_MAX {
        held.push(by_hand.asked().await);
    }
    assert_eq!(by_hand.connections(), HTTP_CONNECTIONS_PER_INSTANCE_MAX + 2);
    drop(all);
    let finished = reached.tasks.finish(Duration::from_secs(30)).await;
    assert_eq!(finished, Finish::Complete);
}

#[tokio::test]
async fn an_instance_says_how_it_is() {
    let by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let said = async || {
        let said = soon(reached.instance.probe()).await;
        said.map_err(|failure| failure.detail.to_string())
    };
    assert_eq!(said().await, Ok(Serving::Yes));
    by_hand
        .health
        .send_replace("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(said().await, Ok(Serving::NotSaid));
    by_hand
        .health
        .send_replace("HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"status\":\"draining\"}");
    assert_eq!(
        said().await,
        Err("its health check says draining".to_owned())
    );
    by_hand
        .health
        .send_replace("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(
        said().await,
        Err("its health check answers HTTP 503".to_owned())
    );
    by_hand
        .health
        .send_replace("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n");
    let redirect = "its health check answers with a redirect (HTTP 302), which is never followed";
    assert_eq!(said().await, Err(redirect.to_owned()));
    assert_eq!(by_hand.connections(), 1);
    by_hand.health.send_replace("");
    // A probe that nobody waits for any more dooms what was kept.
    let probe = reached.instance.probe();
    tokio::select! { biased; said = probe => panic!("{said:?}"), () = tokio::task::yield_now() => {} }
    by_hand
        .health
        .send_replace("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(said().await, Ok(Serving::Yes));
    assert_eq!(by_hand.connections(), 2);
}
