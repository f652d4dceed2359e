//! What operators type: drain, undrain, --explain, and health at an interval.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::stage::program::{Server, json_of, orchestrator, signal_group};

/// Longer than anything here may take, so that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_task_that_failed_is_told_as_json_where_that_is_read_and_in_words_beside_it() {
    let server = Server::start(&[]);
    let fail = r#"{"_builtin": {"fail": "ABORTED"}}"#;
    let run = |format: &str| {
        let words = ["route", "--instances", "A", "--payload", fail];
        server.run(&[&words[..], &["--output", format]].concat())
    };
    for format in ["json", "jsonl"] {
        let failed = run(format);
        assert_eq!(failed.status.code(), Some(1));
        let told = json_of(&failed);
        assert_eq!(told["error"]["code"], "instance_failed");
        assert_eq!(told["error"]["instance"], "A");
        assert_eq!(told["error"]["attempts"][0]["kind"], "first");
        let words = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(words.starts_with("error: INSTANCE_FAILED"), "{words}");
    }
    assert_eq!(run("table").stdout, b"");
}

#[test]
fn a_drain_waits_until_nothing_is_left_and_is_undone() {
    let server = Server::start(&[]);
    let mut running = orchestrator(&["route", "--instances", "A", "--timeout", "60s"])
        .args(["--payload", r#"{"_builtin": {"silent": true}}"#])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let outstanding = || {
        let health = json_of(&server.run(&["health", "--instances", "A", "--verbose"]));
        health[0]["callsOutstanding"].clone()
    };
    while outstanding() != json!(1) {}
    let late = server.run(&["drain", "A", "B-C", "--timeout", "0.3"]);
    assert_eq!(late.status.code(), Some(6), "{late:?}");
    let told = json_of(&late);
    assert_eq!(told[0]["state"], "draining");
    assert_eq!(
        (&told[0]["callsOutstanding"], &told[0]["drained"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(told[2]["drained"], json!(true));

    let refused = server.run(&["route", "--instances", "A"]);
    assert_eq!(refused.status.code(), Some(4));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("INSTANCE_DRAINING"), "{said}");

    running.kill().unwrap();
    running.wait().unwrap();
    let drained = server.run(&["drain", "A"]);
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
    assert_eq!(json_of(&drained)[0]["drained"], json!(true));
    let listed = json_of(&server.run(&["instances"]));
    assert_eq!(listed[0]["health"]["admin"], "draining");
    let words = json_of(&server.run(&["health", "--instances", "A", "D"]));
    assert_eq!(words, json!({"A": "draining", "D": "healthy"}));

    let back = server.run(&["undrain", "A-C"]);
    assert_eq!(json_of(&back)[0]["state"], "healthy");
    let again = server.run(&["route", "--instances", "A"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}

#[test]
fn explain_shows_what_a_call_would_do() {
    let server = Server::start(&[]);
    server.run(&["drain", "B"]);
    let route = [
        "route",
        "--instances",
        "B",
        "A",
        "Z",
        "--selection",
        "ordered",
        "--retry",
        "1",
    ];
    let explained = server.run(&[&route[..], &["--timeout", "10s", "--explain"]].concat());
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    let told = json_of(&explained);
    let order: Vec<_> = told["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| {
            (
                told["instance"].as_str().unwrap(),
                told["exclusion"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        order,
        [("A", "none"), ("B", "draining"), ("Z", "not_in_fleet")]
    );
    assert_eq!(told["policy"]["attemptsMax"], 2);
    assert_eq!(told["policy"]["timeout"], "10s");
    assert_eq!(told["panicMode"], false);

    let fanout = [
        "fanout",
        "--targets",
        "A-C",
        "--explain",
        "--output",
        "table",
    ];
    let table = server.run(&fanout);
    let table = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("INSTANCE  ASKED"), "{table}");
    assert!(lines[2].starts_with("B         draining"), "{table}");
    assert_eq!(
        lines[4], "10.00s for the call, 9.75s of them for instances; 4 tries",
        "{table}"
    );
}

#[test]
fn health_at_an_interval_prints_one_document_a_line_until_it_is_ended() {
    let server = Server::start(&[]);
    let mut child = orchestrator(&["health", "--instances", "A-B", "--watch"])
        .args(["--interval", "0.05", "--output", "json"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut documents = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let healthy = json!({"A": "healthy", "B": "healthy"});
    // The first probes may be under way.
    assert!(documents.by_ref().take(200).any(|words| words == healthy));
    for words in documents.take(2) {
        assert_eq!(words, healthy);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let alone = server.run(&["health", "--interval", "1s"]);
    assert_eq!(
        alone.status.code(),
        Some(2),
        "an interval goes with --watch"
    );
    let mut denied = orchestrator(&["health", "--watch", "--interval", "0.05"]);
    denied.env("ORCHESTRATOR_API_KEY", "wrong");
    let denied = denied
        .env("ORCHESTRATOR_SERVER", &server.address)
        .output()
        .unwrap();
    assert_eq!(denied.status.code(), Some(3), "asking again is of no use");
}

/// The script and whatever it has started; they end with the test.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        signal_group(&self.0);
        let _ = self.0.wait();
    }
}

#[test]
fn the_script_that_reroutes_says_who_should_have_the_work() {
    let server = Server::start(&[]);
    let programs = Path::new(env!("CARGO_BIN_EXE_orchestrator"))
        .parent()
        .unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
    let mut script = Command::new("sh");
    let key = orchestrator(&[]);
    script
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/reroute.sh"))
        .args(["A", "B", "C"])
        .envs(
            key.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("ORCHESTRATOR_SERVER", &server.address)
        .env("INTERVAL", "0.05")
        .stdout(Stdio::piped())
        .process_group(0);
    let mut script = Script(script.spawn().unwrap());
    let lines = BufReader::new(script.0.stdout.take().unwrap()).lines();
    let (tx, said) = mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| tx.send(line))
    });
    let said = || said.recv_timeout(PATIENCE).unwrap();
    assert_eq!(said(), "A");
    server.run(&["drain", "A"]);
    assert_eq!(said(), "B");
    server.run(&["drain", "B", "C"]);
    // Both at once, or one after the other.
    assert!(["C", "none"].contains(&said().as_str()));
    server.run(&["undrain", "A-C"]);
    while said() != "A" {}
    let answer = server.run(&["route", "--instances", "A"]);
    assert_eq!(json_of(&answer)["instance"], "A");
}
