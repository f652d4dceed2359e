//! Listening to a session: what its instance says, as server-sent events.

use http::Method;
use serde_json::{Value, json};

use super::ask::{Ask, WAYS, Way};
use super::reading::{Event, Reading, stuck};
use super::sessions::{House, SESSIONS};
use crate::raw::soon;
use crate::session::Attached;
use crate::stage::{KEY, client, embedded, reason, start};

impl House {
    fn asks(&self, last_id: Option<u64>) -> Ask {
        let ask = Ask::get(&format!("{SESSIONS}/s/events"));
        let ask = ask.with("accept", "text/event-stream");
        match last_id {
            Some(id) => ask.with("last-event-id", &id.to_string()),
            None => ask,
        }
    }

    /// Listens to the session `s`.
    async fn listen(&self, last_id: Option<u64>) -> Reading {
        let reading = Reading::open(&self.asks(last_id), self.way, self.app.address()).await;
        assert_eq!(reading.status, 200);
        assert_eq!(reading.headers["content-type"], "text/event-stream");
        reading
    }

    async fn refused(&self, ask: Ask) -> (u16, String) {
        self.ask(ask).await.failure()
    }

    /// Posts to the session `s`, without waiting for the reply.
    async fn post_to_s(&self, payload: &Value) {
        let body = json!({"sessionId": "s", "data": payload, "wait": false});
        let sent = self.send(body).await;
        assert_eq!(sent.status, 200, "{sent:?}");
    }

    async fn unacknowledged(&self) -> Value {
        self.get("/s").await.json()["session"]["unacknowledgedByClient"].clone()
    }
}

fn message(event: &Event) -> (Option<u64>, &Value) {
    assert_eq!(event.name, "data");
    assert_eq!(event.data["seq"], event.id.unwrap().to_string());
    (event.id, &event.data["payload"])
}

#[tokio::test]
async fn what_an_instance_says_comes_as_events_and_goes_on_behind_the_last_one() {
    for way in WAYS {
        let house = House::new(way).await;
        house
            .spawn(json!({"sessionId": "s", "instances": ["A"]}))
            .await;
        let mut reading = house.listen(None).await;
        let ready = reading.expect("ready").await;
        assert_eq!((ready.id, ready.retry), (None, Some(1000)));
        assert_eq!(ready.data["sessionId"], "s");
        assert_eq!(ready.data["instance"], "A");
        assert_eq!(ready.data["firstSeq"], "1");
        for at in 1..=3 {
            house.post_to_s(&json!({"z": at, "a": null})).await;
        }
        for at in 1..=3 {
            let event = reading.expect("data").await;
            assert_eq!(message(&event), (Some(at), &json!({"z": at, "a": null})));
            assert_eq!(event.data["inReplyToPost"], at.to_string());
            assert_eq!(event.data["redelivered"], false);
        }
        // What was handed to a socket is not acknowledged.
        assert_eq!(house.unacknowledged().await, "3");
        drop(reading);
        let mut again = house.listen(Some(2)).await;
        assert_eq!(again.expect("ready").await.data["firstSeq"], "3");
        assert_eq!(again.expect("data").await.id, Some(3));
        assert_eq!(house.unacknowledged().await, "1");
        let truncated = (410, "session_truncated".to_owned());
        assert_eq!(house.refused(house.asks(Some(1))).await, truncated);
        drop(again);
        // Who has lost its place gets what it has not acknowledged.
        let mut anew = house.listen(None).await;
        assert_eq!(anew.expect("ready").await.data["firstSeq"], "3");
        assert_eq!(anew.expect("data").await.id, Some(3));
    }
}

#[tokio::test]
async fn a_listener_says_what_it_has_without_coming_back_and_replies_to_what_it_was_asked() {
    for way in WAYS {
        let house = House::new(way).await;
        house.spawn(json!({"sessionId": "s"})).await;
        let ack = format!("{SESSIONS}/s/ack");
        let mut reading = house.listen(None).await;
        reading.expect("ready").await;
        for at in 1..=3 {
            house.post_to_s(&json!(at)).await;
            reading.expect("data").await;
        }
        let acked = house.post(&ack, json!({"seq": 2})).await;
        assert_eq!(acked.status, 200, "{acked:?}");
        let session = &acked.json()["session"];
        assert_eq!(session["unacknowledgedByClient"], "1");
        let beyond = house.post(&ack, json!({"seq": "4"})).await;
        assert_eq!(beyond.failure(), (400, "argument_invalid".to_owned()));
        // Whoever listens is neither sent away nor sent anything again.
        let reply = json!({"sessionId": "s", "data": "yes", "inReplyTo": "3", "wait": false});
        assert_eq!(house.send(reply).await.status, 200);
        let event = reading.expect("data").await;
        assert_eq!(message(&event), (Some(4), &json!("yes")));
        let nobody = format!("{SESSIONS}/t/ack");
        let nobody = house.post(&nobody, json!({"seq": 1})).await;
        assert_eq!(nobody.failure(), (404, "session_unknown".to_owned()));
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_meant_is_refused_before_anybody_is_sent_away() {
    for way in WAYS {
        let house = House::new(way).await;
        house.spawn(json!({"sessionId": "s"})).await;
        let mut reading = house.listen(None).await;
        reading.expect("ready").await;
        let invalid = (400, "argument_invalid".to_owned());
        for bad in ["x", "-1", "1.0", "99", "18446744073709551616"] {
            let ask = house.asks(None).with("last-event-id", bad);
            assert_eq!(house.refused(ask).await, invalid, "{bad}");
        }
        let twice = house.asks(Some(0)).with("last-event-id", "0");
        assert_eq!(house.refused(twice).await, invalid);
        let json = house.asks(None).without("accept");
        let json = json.with("accept", "application/json");
        assert_eq!(
            house.refused(json).await,
            (406, "not_acceptable".to_owned())
        );
        let unknown = Ask::get(&format!("{SESSIONS}/nobody/events"));
        assert_eq!(
            house.refused(unknown).await,
            (404, "session_unknown".to_owned())
        );
        let verb = Ask {
            verb: Method::POST,
            ..house.asks(None)
        };
        let refused = house.ask(verb).await;
        assert_eq!(refused.failure(), (405, "method_not_allowed".to_owned()));
        assert_eq!(refused.header("allow"), "GET, HEAD, OPTIONS");
        // To ask whether there is something is not to listen.
        let head = Ask {
            verb: Method::HEAD,
            ..house.asks(None)
        };
        let head = house.ask(head).await;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), "text/event-stream");
        house.post_to_s(&json!("still here")).await;
        let event = reading.expect("data").await;
        assert_eq!(message(&event), (Some(1), &json!("still here")));
    }
}

#[tokio::test]
async fn the_newer_of_two_who_listen_is_the_one_who_does_by_whichever_door() {
    let house = House::new(Way::Http1).await;
    house.spawn(json!({"sessionId": "s"})).await;
    let mut older = house.listen(None).await;
    older.expect("ready").await;
    let mut newer = house.listen(None).await;
    newer.expect("ready").await;
    let end = older.expect("failed").await;
    assert_eq!(end.data["error"]["code"], "session_superseded");
    // One that came back at once would send the other away, and so on for ever.
    assert_eq!(end.retry, Some(3_600_000));
    assert_eq!(older.next().await, None);

    let mut client = client(&house.app).await;
    let mut attached = Attached::try_new(&mut client, "s", None).await.unwrap();
    newer.expect("failed").await;
    let mut third = house.listen(None).await;
    third.expect("ready").await;
    let status = attached.next().await.unwrap_err();
    assert_eq!(reason(&status), "SESSION_SUPERSEDED");
}

#[tokio::test]
async fn a_session_that_ends_says_why_and_then_is_not_there_to_listen_to() {
    for way in WAYS {
        let house = House::new(way).await;
        house.spawn(json!({"sessionId": "s"})).await;
        let mut reading = house.listen(None).await;
        reading.expect("ready").await;
        assert_eq!(house.delete("s").await.status, 200);
        let closed = reading.expect("closed").await;
        assert_eq!(closed.data, json!({"reason": "by_client"}));
        assert_eq!(reading.next().await, None);
        // Another status than 200 is what makes a browser give up.
        let late = house.refused(house.asks(None)).await;
        assert_eq!(late, (409, "session_closed".to_owned()));
    }
}

#[tokio::test]
async fn an_orchestrator_that_stops_asks_its_listeners_to_come_again() {
    for way in WAYS {
        let house = House::new(way).await;
        house.spawn(json!({"sessionId": "s"})).await;
        let mut reading = house.listen(None).await;
        reading.expect("ready").await;
        let stopping = tokio::task::spawn(house.app.stop());
        let away = reading.expect("goaway").await;
        assert_eq!(
            (away.retry, &away.data),
            (Some(1000), &json!({"delay": "1s"}))
        );
        assert_eq!(reading.next().await, None);
        soon(stopping).await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_whose_key_is_over_is_told_and_let_go() {
    let config = embedded();
    let revoked = config.keys.keys[0].revoked.clone();
    let house = House {
        app: start(config).await,
        way: Way::Http2,
        token: None,
    };
    house.spawn(json!({"sessionId": "s"})).await;
    let mut reading = house.listen(None).await;
    reading.expect("ready").await;
    revoked.revoke();
    let end = reading.expect("failed").await;
    assert_eq!(end.data["error"]["code"], "key_invalid");
    assert_eq!(reading.next().await, None);
}

#[tokio::test]
async fn the_token_of_a_session_is_enough_to_listen_to_it() {
    for way in WAYS {
        let house = House::new(way).await;
        let spawned = house.spawn(json!({"sessionId": "s"})).await;
        let token = format!("Bearer {}", spawned["token"].as_str().unwrap());
        let ask = house.asks(None).without("authorization");
        let mine = ask.clone().with("authorization", &token);
        let mut reading = Reading::open(&mine, way, house.app.address()).await;
        reading.expect("ready").await;
        let bare = ask.clone().send(way, house.app.address()).await;
        assert_eq!(bare.failure(), (401, "key_missing".to_owned()));
        // A key is never read from where logs and histories would keep it.
        let path = format!("{}?token={KEY}", ask.path);
        let named = Ask { path, ..ask }.send(way, house.app.address()).await;
        assert_eq!(named.failure(), (401, "key_missing".to_owned()));
    }
}

/// Long enough that two of them are as much as a stream hands out.
fn long(at: usize) -> Value {
    json!(format!("{at}:{}", "x".repeat(300 * 1024)))
}

#[tokio::test]
async fn a_stream_ends_before_too_much_is_unacknowledged_and_its_reader_loses_nothing() {
    for way in WAYS {
        let house = House::new(way).await;
        house
            .spawn(json!({"sessionId": "s", "durability": "none"}))
            .await;
        let (mut seen, mut last_id, mut streams) = (Vec::new(), None, 0);
        let mut reading = house.listen(None).await;
        while seen.len() < 9 {
            house.post_to_s(&long(seen.len() + 1)).await;
            loop {
                let event = reading.next().await.expect("it says why it ends");
                match event.name.as_str() {
                    "ready" => streams += 1,
                    "data" => {
                        let (id, payload) = message(&event);
                        seen.push(payload.clone());
                        assert_eq!(id, Some(seen.len() as u64));
                        last_id = id;
                        break;
                    }
                    "goaway" => {
                        assert_eq!(event.retry, Some(0));
                        assert_eq!(event.data, json!({"delay": "0s"}));
                        assert_eq!(reading.next().await, None);
                        reading = house.listen(last_id).await;
                    }
                    _ => panic!("{event:?}"),
                }
            }
        }
        let expected: Vec<_> = (1..=9).map(long).collect();
        assert!(seen == expected, "all of them, once and in order");
        assert_eq!(streams, 5, "two messages a stream");
    }
}

#[tokio::test]
async fn a_listener_who_does_not_read_parks_its_own_session_and_nobody_else() {
    let house = House::new(Way::Http1).await;
    for id in ["s", "other"] {
        let body = json!({"sessionId": id, "durability": "none", "instances": ["A"]});
        house.spawn(body).await;
    }
    let stuck = stuck(&house.asks(None), house.app.address()).await;
    // Until neither direction takes any more: its messages wait, and so do those for it.
    let mut sent = 0;
    let full = loop {
        let body = json!({"sessionId": "s", "data": long(sent + 1), "wait": false});
        let answer = house.send(body).await;
        if answer.status != 200 {
            break answer;
        }
        sent += 1;
        assert!(sent < 100, "it is bounded");
    };
    assert_eq!(full.failure(), (429, "session_full".to_owned()));
    let beside = house.send(json!({"sessionId": "other", "data": 1})).await;
    assert_eq!(beside.json()["payload"], 1);
    let mut seen = 0;
    let mut reading = house.listen(None).await;
    while seen < sent {
        let event = reading.next().await.expect("it says why it ends");
        match event.name.as_str() {
            "ready" => {}
            "data" => {
                seen += 1;
                let (id, payload) = message(&event);
                assert_eq!(id, Some(seen as u64));
                assert!(*payload == long(seen), "message {seen}");
            }
            "goaway" => reading = house.listen(Some(seen as u64)).await,
            _ => panic!("{event:?}"),
        }
    }
    drop(stuck);
}
