//! Sessions over REST, one call at a time.

use http::Method;
use serde_json::{Value, json};

use super::ask::{Answer, Ask, WAYS, Way};
use crate::stage::{App, embedded, start};

pub(crate) const SESSIONS: &str = "/api/orchestrator/sessions";

/// A caller, by the key of the stage or by the token of a session.
pub(crate) struct House {
    pub(crate) app: App,
    pub(crate) way: Way,
    pub(crate) token: Option<String>,
}

impl House {
    pub(crate) async fn new(way: Way) -> Self {
        Self {
            app: start(embedded()).await,
            way,
            token: None,
        }
    }

    pub(crate) async fn ask(&self, mut ask: Ask) -> Answer {
        if let Some(token) = &self.token {
            let token = format!("Bearer {token}");
            ask = ask.without("authorization").with("authorization", &token);
        }
        ask.send(self.way, self.app.address()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Ask::post(path, body.to_string())).await
    }

    pub(crate) async fn spawn(&self, body: Value) -> Value {
        let answer = self.post(&format!("{SESSIONS}/spawn"), body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn send(&self, body: Value) -> Answer {
        self.post(&format!("{SESSIONS}/send"), body).await
    }

    pub(crate) async fn get(&self, rest: &str) -> Answer {
        self.ask(Ask::get(&format!("{SESSIONS}{rest}"))).await
    }

    pub(crate) async fn delete(&self, id: &str) -> Answer {
        let get = Ask::get(&format!("{SESSIONS}/{id}"));
        let verb = Method::DELETE;
        self.ask(Ask { verb, ..get }).await
    }

    /// The ids of a page, and the token of the next.
    async fn page(&self, query: &str) -> (Vec<String>, Value) {
        let answer = self.get(query).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        let sessions = told["sessions"].as_array().unwrap().iter();
        let ids = sessions.map(|session| session["id"].as_str().unwrap().to_owned());
        (ids.collect(), told["nextPageToken"].clone())
    }
}

#[tokio::test]
async fn a_session_is_begun_told_something_looked_at_and_ended() {
    for way in WAYS {
        let house = House::new(way).await;
        let asked = json!({"sessionId": "session1", "instances": ["B"], "idle_ttl": 60});
        let spawned = house.spawn(asked).await;
        assert_eq!(spawned["sessionId"], "session1");
        assert_eq!(spawned["instance"], "B");
        assert_eq!(spawned["deduplicated"], false);
        assert!(spawned["token"].as_str().unwrap().starts_with("ost_"));
        assert_eq!(spawned["session"]["id"], "session1");
        assert_eq!(spawned["session"]["state"], "open");
        assert_eq!(spawned["expireTime"], spawned["session"]["expireTime"]);
        assert!(spawned["expireTime"].is_string(), "{spawned}");

        let payload = r#"{"z":1,"a":[9007199254740992,null]}"#;
        for (at, name) in [(1, "payload"), (2, "data")] {
            let body = format!(r#"{{"sessionId": "session1", "{name}": {payload}, "wait": true}}"#);
            let sent = Ask::post("/orchestrator/sessions/send", body);
            let sent = house.ask(sent).await;
            assert_eq!(sent.status, 200, "{sent:?}");
            let text = String::from_utf8(sent.body).unwrap();
            let expected = format!(
                r#"{{"position":"{at}","replySeq":"{at}","payload":{payload},"deduplicated":false}}"#
            );
            assert_eq!(text, expected, "the reply is as it was");
        }
        for flag in [json!({"wait": false}), json!({"noWait": true})] {
            let mut body = json!({"session_id": "session1", "data": "unheard"});
            let flags = flag.as_object().unwrap().clone();
            body.as_object_mut().unwrap().extend(flags);
            let sent = house.send(body).await;
            assert_eq!(sent.status, 200, "{sent:?}");
            assert_eq!(sent.json()["replySeq"], "0");
            assert_eq!(sent.json().get("payload"), None);
        }

        let told = house.get("/session1").await;
        assert_eq!(told.status, 200, "{told:?}");
        assert_eq!(told.json()["session"]["instance"], "B");
        let encoded = house.get("/session%31").await;
        assert_eq!(encoded.json()["session"]["id"], "session1");
        let closed = house.delete("session1").await;
        assert_eq!(closed.status, 200, "{closed:?}");
        assert_eq!(closed.json()["session"]["state"], "closed");
        assert_eq!(closed.json()["session"]["closeReason"], "by_client");
        let late = house.send(json!({"sessionId": "session1"})).await;
        assert_eq!(late.failure(), (409, "session_closed".to_owned()));
    }
}

#[tokio::test]
async fn a_key_sends_a_message_once_and_begins_a_session_once() {
    for way in WAYS {
        let house = House::new(way).await;
        let asked = json!({"sessionId": "s", "idempotencyKey": "k"});
        let first = house.spawn(asked.clone()).await;
        let again = house.spawn(asked).await;
        assert_eq!(again["deduplicated"], true);
        assert_eq!(again["sessionId"], "s");
        assert_ne!(again["token"], first["token"]);
        let message = json!({"sessionId": "s", "data": "x", "idempotencyKey": "m"});
        let first = house.send(message.clone()).await.json();
        let again = house.send(message).await.json();
        assert_eq!(first["deduplicated"], false);
        assert_eq!(again["deduplicated"], true);
        assert_eq!(again["position"], first["position"]);
        assert_eq!(again["payload"], "x");
        let other = json!({"sessionId": "s", "data": "y", "idempotencyKey": "m"});
        let other = house.send(other).await;
        assert_eq!(other.failure(), (400, "idempotency_conflict".to_owned()));
    }
}

#[tokio::test]
async fn sessions_are_listed_by_pages_and_by_what_they_are() {
    for way in WAYS {
        let house = House::new(way).await;
        for (id, instance) in [("a", "A"), ("b", "B"), ("c", "A")] {
            let labels = json!({"team": instance, "id": id});
            house
                .spawn(json!({"sessionId": id, "instances": [instance], "labels": labels}))
                .await;
        }
        assert_eq!(house.delete("c").await.status, 200);
        let (ids, next) = house.page("?pageSize=2").await;
        assert_eq!((ids.join(" "), next), ("a b".to_owned(), json!("b")));
        let (ids, next) = house.page("?page_size=2&page_token=b").await;
        assert_eq!((ids.join(" "), next), ("c".to_owned(), json!("")));
        for (query, expected) in [
            ("", "a b c"),
            ("?state=open", "a b"),
            ("?state=CLOSED", "c"),
            ("?state=SESSION_STATE_OPEN&instance=A", "a"),
            ("?instance=B", "b"),
            ("?labels=team=A", "a c"),
            ("?labels=team%3DA&labels=id=c", "c"),
            ("?labels=team=nobody", ""),
        ] {
            assert_eq!(house.page(query).await.0.join(" "), expected, "{query}");
        }
        for (query, message) in [
            ("?state=gone", "query state: use one of open, closed"),
            ("?state=unspecified", "query state: use one of open, closed"),
            ("?labels=team", "query labels: expected NAME=VALUE"),
            (
                "?states=open",
                "query states: unknown name, did you mean state?",
            ),
        ] {
            let refused = house.get(query).await;
            assert_eq!(refused.failure(), (400, "argument_invalid".to_owned()));
            assert_eq!(refused.json()["error"]["message"], message);
        }
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_session_by_this_door_too() {
    for way in WAYS {
        let mut house = House::new(way).await;
        let mine = house.spawn(json!({"sessionId": "mine"})).await;
        house.spawn(json!({"sessionId": "other"})).await;
        house.token = Some(mine["token"].as_str().unwrap().to_owned());

        assert_eq!(house.get("/mine").await.status, 200);
        let sent = house.send(json!({"sessionId": "mine", "data": 1})).await;
        assert_eq!(sent.json()["payload"], 1, "{sent:?}");
        let foreign = [
            house.get("/other").await,
            house.get("/%6fther").await,
            house.get("/nobody").await,
            house.send(json!({"sessionId": "other"})).await,
            house.delete("other").await,
            house.get("").await,
            house.post(&format!("{SESSIONS}/spawn"), json!({})).await,
            house
                .post("/api/orchestrator/route", json!({"instances": ["A"]}))
                .await,
            house.get("/other/events").await,
        ];
        for answer in foreign {
            let expected = (403, "session_token_foreign".to_owned());
            assert_eq!(answer.failure(), expected, "{answer:?}");
        }
        assert_eq!(house.delete("mine").await.status, 200);
        house.token = Some("ost_0000".to_owned());
        let wrong = house.get("/other").await;
        assert_eq!(wrong.failure(), (401, "key_invalid".to_owned()));
    }
}

#[tokio::test]
async fn what_is_not_there_or_there_already_is_said_as_json() {
    for way in WAYS {
        let house = House::new(way).await;
        house.spawn(json!({"sessionId": "s"})).await;
        let again = json!({"sessionId": "s"});
        let again = house.post(&format!("{SESSIONS}/spawn"), again).await;
        assert_eq!(again.failure(), (409, "session_exists".to_owned()));
        for unknown in [
            house.get("/nobody").await,
            house.delete("nobody").await,
            house.send(json!({"sessionId": "nobody"})).await,
        ] {
            assert_eq!(unknown.failure(), (404, "session_unknown".to_owned()));
        }
        for bad in [
            house.get("/no%20name").await,
            house.get("/%ff").await,
            house.delete("-").await,
            house.send(json!({"data": 1})).await,
            house.send(json!({"sessionId": "s", "wait": "no"})).await,
            house.send(json!({"sessionId": "s", "wiat": true})).await,
        ] {
            assert_eq!(bad.failure(), (400, "argument_invalid".to_owned()));
        }
        let verb = house.get("/spawn").await;
        assert_eq!(verb.failure(), (405, "method_not_allowed".to_owned()));
        assert_eq!(verb.header("allow"), "POST, OPTIONS");
        let nobody = json!({"instances": ["Z"]});
        let nobody = house.post(&format!("{SESSIONS}/spawn"), nobody).await;
        assert_eq!(nobody.failure(), (404, "target_unknown".to_owned()));
        // Where the name of a session stands in a path, these are words of their own.
        for taken in ["spawn", "send"] {
            let refused = json!({"sessionId": taken});
            let refused = house.post(&format!("{SESSIONS}/spawn"), refused).await;
            assert_eq!(refused.failure(), (400, "argument_invalid".to_owned()));
            let told = refused.json();
            let message = told["error"]["message"].as_str().unwrap();
            assert!(message.starts_with("session_id: "), "{message}");
        }
    }
}
