//! What cannot change while it runs: it stays as it is, whoever asks is told what runs, and the log says so each time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use orchestrator::config::{self, Config, Journal, Plaintext};
use orchestrator::ingress::listener::secure;
use serde_json::{Value, json};

use super::process::Server;
use super::{route, take};
use crate::stage::{client, embedded, start};

/// What a text means besides the embedded fleet.
fn meant(text: &str) -> Config {
    let read = config::read_bytes("c.json".as_ref(), text.as_bytes(), &|_| None);
    read.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[tokio::test]
async fn what_cannot_change_stays_as_it_is_and_is_told_each_time() {
    let app = start(embedded()).await;
    let running = embedded();
    let mut traces = running.clone();
    traces.traces =
        meant(r#"{"instances": [], "traces": {"endpoint": "http://127.0.0.1:1"}}"#).traces;
    let mut sessions = running.clone();
    sessions.sessions.sessions_max = 7;
    let changed = [
        (
            "listen",
            Config {
                listen: "127.0.0.1:1".parse().unwrap(),
                ..running.clone()
            },
        ),
        (
            "socket_mode",
            Config {
                socket_mode: 0o666,
                ..running.clone()
            },
        ),
        (
            "tls",
            Config {
                tls: Some(secure::Settings::new("c".into(), "k".into(), None)),
                ..running.clone()
            },
        ),
        (
            "plaintext",
            Config {
                plaintext: Plaintext::Allowed,
                ..running.clone()
            },
        ),
        (
            "the data directory",
            Config {
                journal: Journal::Folder("/nowhere".into()),
                ..running.clone()
            },
        ),
        ("sessions", sessions),
        (
            "operators",
            Config {
                operators: Some("127.0.0.1:1".parse().unwrap()),
                ..running.clone()
            },
        ),
        ("traces", traces),
    ];
    for (name, config) in changed {
        // Also what is said for the second time has no effect.
        for _ in 0..2 {
            let taken = take(&app, config.clone()).await;
            assert_eq!(taken.changes.after_restart, [name]);
            assert_eq!(taken.generation, 1, "{name}: nothing else was said");
        }
        let taken = take(&app, running.clone()).await;
        assert!(taken.changes.is_empty(), "{name}: {:?}", taken.changes);
    }
    client(&app).await.route(route(&["A"])).await.unwrap();
}

/// What the operator's port answers.
fn shown(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[test]
fn the_log_names_what_needs_a_restart_and_operators_see_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    let write = |config: &Value| fs::write(&path, config.to_string()).unwrap();
    let before = json!({
        "listen": "127.0.0.1:7071",
        "instances": [{"id": "A", "builtin": {}}],
        "operators": {"listen": "127.0.0.1:0"},
        "timeouts": {"route": 5},
    });
    write(&before);
    let server = Server::start(&path, Some("key"));
    let (line, _) = server.logged("operators see metrics, health and the config");
    let operators = line["address"].as_str().unwrap().to_owned();
    let config = || -> Value { serde_json::from_str(&shown(&operators, "/config")).unwrap() };
    assert_eq!(config(), before);

    let mut later = before.clone();
    later["listen"] = json!("127.0.0.1:7072");
    later["socket_mode"] = json!("0660");
    later["sessions"] = json!({"sessions_max": 7});
    later["operators"] = json!({"listen": "127.0.0.1:7073"});
    later["traces"] = json!({"endpoint": "http://127.0.0.1:1"});
    later["timeouts"] = json!({"route": 6});
    write(&later);
    // The first one takes what can change; the second one has nothing new to say, and says the rest again.
    for done in ["config taken", "config read again: nothing has changed"] {
        assert!(server.hang_up());
        let (_, lines) = server.logged(done);
        let mut told = lines
            .iter()
            .filter(|line| line["message"] == "these settings change with the next start only");
        let told = told
            .next_back()
            .unwrap_or_else(|| panic!("{done}: {lines:?}"));
        // `--listen` wins, before as after.
        assert_eq!(told["settings"], "socket_mode, sessions, operators, traces");
        let mut runs = before.clone();
        runs["timeouts"] = json!({"route": 6});
        assert_eq!(config(), runs);
    }
}
