//! Sessions as people use them: the commands, and a conversation that outlives its server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::stage::peer::Peer;
use crate::stage::program::{Server, json_of, orchestrator};

/// Longer than anything here may take, so that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// `sessions attach`, in the hands of a test.
struct Conversation {
    child: Child,
    /// The lines that it prints, as they come.
    lines: mpsc::Receiver<String>,
}

impl Conversation {
    fn begin(server: &str, id: &str) -> Self {
        let mut child = orchestrator(&["sessions", "attach", "--id", id])
            .env("ORCHESTRATOR_SERVER", server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, lines) = mpsc::channel();
        let printed = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in printed.lines() {
                if told.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn say(&mut self, line: &str) {
        let mut input = self.child.stdin.as_ref().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it answers")
    }

    /// The input ends: what else it prints, its exit code, and what it said beside that.
    fn end(mut self) -> (Vec<String>, Option<i32>, String) {
        drop(self.child.stdin.take());
        let rest: Vec<_> = self.lines.iter().collect();
        let code = self.child.wait().unwrap().code();
        let mut said = String::new();
        let mut errors = self.child.stderr.take().unwrap();
        errors.read_to_string(&mut said).unwrap();
        (rest, code, said)
    }
}

/// A server that can come back where it was. Nobody else of these tests is at this address, so that its port is not
/// given to another one meanwhile.
fn serve(listen: &str, data: &tempfile::TempDir) -> Server {
    let data = data.path().to_str().unwrap();
    Server::start(&["--listen", listen, "--data-dir", data])
}

#[test]
fn a_conversation_goes_on_over_a_server_that_is_killed_and_over_one_that_stops() {
    let data = tempfile::tempdir().unwrap();
    let mut server = serve("127.77.4.1:0", &data);
    let address = server.address.clone();
    let spawned = server.run(&["sessions_spawn", "--id", "s"]);
    assert!(spawned.status.success(), "{spawned:?}");
    let mut conversation = Conversation::begin(&address, "s");
    let mut said = 0;
    let mut say = |conversation: &mut Conversation| {
        said += 1;
        let line = format!("\"line {said}\"");
        conversation.say(&line);
        line
    };
    for end in ["KILL", "TERM"] {
        let before = say(&mut conversation);
        assert_eq!(conversation.line(), before);
        if end == "KILL" {
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        } else {
            assert_eq!(server.stop().0, Some(0));
        }
        let meanwhile = say(&mut conversation);
        server = serve(&address, &data);
        assert_eq!(server.address, address);
        assert_eq!(conversation.line(), meanwhile, "typed before {end}");
        let after = say(&mut conversation);
        assert_eq!(conversation.line(), after);
    }
    let (rest, code, told) = conversation.end();
    assert_eq!((rest, code), (Vec::new(), Some(0)), "{told}");
    assert!(told.contains("attaching again"), "{told}");
}

#[tokio::test]
async fn a_conversation_names_its_session_where_proxies_can_read_it() {
    let mut peer = Peer::start(65_535).await;
    let conversation = Conversation::begin(&peer.address.to_string(), "s-1");
    let stream = peer.stream().await;
    let named = stream.request.headers().get("x-orchestrator-session");
    assert_eq!(named.map(|named| named.as_bytes()), Some(&b"s-1"[..]));
    drop(stream);
    let Conversation { mut child, .. } = conversation;
    child.kill().unwrap();
    child.wait().unwrap();
}

fn good(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    json_of(output)
}

#[test]
fn sessions_are_begun_listed_and_closed_by_what_is_typed() {
    let server = Server::start(&[]);
    let spawn = |id: &str, more: &[&str]| {
        let words = ["sessions_spawn", "--id", id];
        good(&server.run(&[&words, more].concat()))
    };
    let ordered = ["--instances", "C", "B", "--selection", "ordered"];
    let red = ["--label", "team=red", "--label", "tier=1"];
    let spawned = spawn("first", &[&ordered[..], &red].concat());
    assert_eq!(spawned["instance"], "C");
    assert_eq!(spawned["session"]["epoch"], "1");
    spawn("second", &["--label", "team=red", "--instances", "A"]);
    let hashed = |id| spawn(id, &["--selection", "hash", "--hash-key", "k"])["instance"].clone();
    assert_eq!(hashed("third"), hashed("fourth"));
    let refused = server.run(&["sessions_spawn", "--selection", "hash"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    let listed = |more: &[&str]| -> Vec<String> {
        let listed = good(&server.run(&[&["sessions", "list"], more].concat()));
        let sessions = listed.as_array().unwrap().iter();
        let ids = sessions.map(|session| session["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    assert_eq!(listed(&[]), ["first", "fourth", "second", "third"]);
    assert_eq!(listed(&["--label", "team=red"]), ["first", "second"]);
    assert_eq!(listed(&red), ["first"]);
    assert_eq!(listed(&["--label", "team=blue"]), [""; 0]);
    let at_c = ["--instance", "C", "--label", "tier=1"];
    assert_eq!(listed(&at_c), ["first"]);
    assert_eq!(listed(&["--state", "closed"]), [""; 0]);

    let closed = good(&server.run(&["sessions", "close", "--id", "second"]));
    assert_eq!(closed["state"], "closed");
    assert_eq!(closed["closeReason"], "by_client");
    assert_eq!(listed(&["--state", "closed"]), ["second"]);
    assert_eq!(listed(&["--state", "open"]), ["first", "fourth", "third"]);
    let unknown = server.run(&["sessions", "close", "--id", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
}

#[test]
fn a_message_that_is_not_waited_for_is_accepted_and_delivered() {
    let server = Server::start(&[]);
    good(&server.run(&["sessions_spawn", "--id", "s"]));
    let send = |data: &str, more: &[&str]| {
        let words = ["sessions_send", "--id", "s", "--data", data];
        good(&server.run(&[&words, more].concat()))
    };
    let accepted = send("1", &["--no-wait", "--idempotency-key", "k"]);
    assert_eq!(accepted["position"], "1");
    assert_eq!(accepted["payload"], Value::Null);
    assert_eq!(send("2", &[])["payload"], json!(2));
    // It was delivered before the one that was waited for.
    let again = send("1", &["--idempotency-key", "k"]);
    assert_eq!(
        (&again["position"], &again["payload"]),
        (&json!("1"), &json!(1))
    );
}

#[test]
fn a_drain_that_moves_sessions_is_over_once_they_have_moved() {
    let server = Server::start(&[]);
    let spawn = ["sessions_spawn", "--id", "s", "--loss-policy", "reassign"];
    let at = ["--instances", "A", "B", "--selection", "ordered"];
    let spawned = good(&server.run(&[&spawn[..], &at].concat()));
    assert_eq!(spawned["instance"], "A");
    good(&server.run(&["sessions_send", "--id", "s", "--data", "1"]));
    let drained = good(&server.run(&["drain", "A", "--move"]));
    assert_eq!(drained[0]["drained"], json!(true));
    let shown = good(&server.run(&["sessions", "show", "--id", "s"]));
    assert_eq!(shown["instance"], "B");
    let sent = good(&server.run(&["sessions_send", "--id", "s", "--data", "2"]));
    assert_eq!(sent["payload"], json!(2));
}
