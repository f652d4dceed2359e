//! The program as people run it: processes, standard streams, exit codes, signals.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::stage::program::{KEY, Server, json_of, orchestrator, signal};

#[test]
fn the_commands_of_the_seed_answer_with_json_when_redirected() {
    let server = Server::start(&[]);
    let route = server.run(&[
        "route",
        "--instances",
        "A",
        "B",
        "--payload",
        r#"{"data": "task"}"#,
    ]);
    assert_eq!(route.status.code(), Some(0), "{route:?}");
    assert_eq!(json_of(&route)["payload"], json!({"data": "task"}));

    let fanout = server.run(&[
        "fanout",
        "--targets",
        "A-H",
        "--aggregate",
        "true",
        "--timeout",
        "10s",
    ]);
    let array = json_of(&fanout);
    let ids: Vec<_> = array
        .as_array()
        .unwrap()
        .iter()
        .map(|leg| leg["instance"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["A", "B", "C", "D", "E", "F", "G", "H"]);

    let health = json_of(&server.run(&["health", "--instances", "A-C", "--output", "json"]));
    let words: Vec<_> = health
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(words, ["A", "B", "C"]);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"instances": ["A"], "timeout": 5}"#).unwrap();
    let route = server.run(&["route", "--config", config.to_str().unwrap()]);
    assert_eq!(json_of(&route)["instance"], json!("A"));

    let instances = json_of(&server.run(&["instances"]));
    assert!(
        instances.to_string().contains("grpc://127.0.0.1:"),
        "{instances}"
    );
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn exit_codes_tell_usage_auth_unavailable_partial_and_deadline_apart() {
    let server = Server::start(&[]);
    let check = |arguments: &[&str], expected: i32, told: &str| {
        let output = server.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{arguments:?}: {errors}"
        );
        assert!(errors.contains(told), "{arguments:?}: {errors}");
    };
    check(&["route"], 2, "--instances");
    check(
        &["route", "--instances", "A", "--payload", "{"],
        2,
        "line 1",
    );
    check(&["route", "--instances", "Z"], 1, "no instance `Z`");
    check(
        &[
            "route",
            "--instances",
            "A",
            "--payload",
            r#"{"_builtin":{"delay":"2s"}}"#,
            "--timeout",
            "300ms",
        ],
        6,
        "time",
    );
    check(
        &[
            "route",
            "--instances",
            "A",
            "--payload",
            r#"{"_builtin":{"fail":"UNAVAILABLE"}}"#,
        ],
        4,
        "UNAVAILABLE",
    );
    let slow = r#"{"_builtin":{"silent":true}}"#;
    check(
        &[
            "fanout",
            "--targets",
            "A-B",
            "--payload",
            slow,
            "--timeout",
            "300ms",
        ],
        5,
        "2 of 2",
    );
    check(
        &[
            "fanout",
            "--targets",
            "A-B",
            "--payload",
            slow,
            "--timeout",
            "300ms",
            "--majority",
        ],
        5,
        "targets answered",
    );
    check(
        &["route", "--instances", "A", "--server", "127.0.0.1:1"],
        4,
        "orchestrator serve",
    );

    let wrong = orchestrator(&["health"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .env("ORCHESTRATOR_API_KEY", "wrong")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    let none = orchestrator(&["health"])
        .env_remove("ORCHESTRATOR_API_KEY")
        .output()
        .unwrap();
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("ORCHESTRATOR_API_KEY"));
}

#[test]
fn every_failed_delegation_is_logged_as_json_and_no_secret_ever_is() {
    // Down to the frames of its connections.
    let server = Server::start(&["--log", "trace"]);
    let fail = server.run(&[
        "route",
        "--instances",
        "A",
        "--payload",
        r#"{"_builtin":{"fail":"ABORTED"},"canary":"payload-canary-51"}"#,
    ]);
    assert_eq!(fail.status.code(), Some(1));
    let silent = r#"{"_builtin":{"silent":true},"canary":"payload-canary-51"}"#;
    let late = ["fanout", "--targets", "A-H", "--timeout", "2s"];
    let late = server.run(&[&late[..], &["--payload", silent]].concat());
    assert_eq!(late.status.code(), Some(5));
    let spawned = json_of(&server.run(&["sessions_spawn", "--id", "s1", "--instances", "B"]));
    let token = spawned["token"].as_str().expect("shown once");
    let canary = r#"{"canary":"payload-canary-51"}"#;
    let sent = server.run(&["sessions_send", "--id", "s1", "--data", canary]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let wrong = orchestrator(&["health"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .env("ORCHESTRATOR_API_KEY", "wrong-key-canary-77")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    let token = token.to_owned();
    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    for secret in [KEY, "payload-canary-51", "wrong-key-canary-77", &token] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    let failed: Vec<_> = lines
        .filter(|line| line["message"] == "delegation failed")
        .collect();
    for line in &failed {
        for field in ["timestamp", "request_id", "instance", "attempt", "code"] {
            assert!(!line[field].is_null(), "{field}: {line}");
        }
    }
    // Each of the legs that were late at the same moment has its line, too.
    let of = |code: &str| failed.iter().filter(|line| line["code"] == code).count();
    assert_eq!((of("INSTANCE_FAILED"), of("DEADLINE_EXCEEDED")), (1, 8));
}

#[test]
fn a_reader_who_leaves_is_no_panic() {
    let server = Server::start(&[]);
    let mut fanout = orchestrator(&["fanout", "--targets", "A-H", "--output", "jsonl"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(fanout.stdout.take());
    let output = fanout.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panic"), "{errors}");
    assert_eq!(output.status.code(), Some(0), "{errors}");
}

#[test]
fn without_a_key_one_is_made_on_loopback_and_refused_elsewhere() {
    let data = tempfile::tempdir().unwrap();
    let made = |listen: &str| {
        orchestrator(&["serve", "--listen", listen])
            .env("XDG_DATA_HOME", data.path())
            .env_remove("ORCHESTRATOR_API_KEY")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut server = made("127.0.0.1:0");
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    let key = started["apiKey"].as_str().expect(&line).to_owned();
    let health = orchestrator(&["health"])
        .env("ORCHESTRATOR_API_KEY", &key)
        .env(
            "ORCHESTRATOR_SERVER",
            started["listening"].as_str().unwrap(),
        )
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(0), "{health:?}");
    signal(&server, "TERM");
    let log = server.wait_with_output().unwrap();
    assert!(
        !String::from_utf8_lossy(&log.stderr).contains(&key),
        "shown once and never logged"
    );

    let refused = made("0.0.0.0:0").wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ORCHESTRATOR_API_KEY"));
}

#[test]
fn the_demo_tells_its_story_and_exits_well() {
    let demo = orchestrator(&["demo"])
        .env_remove("ORCHESTRATOR_API_KEY")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{demo:?}");
    for part in [
        "Route",
        "Fanout",
        "Health",
        "6 answered, 1 failed, 1 timed out",
        "Session",
        "\"two\" → G",
        "\"three\" → H → \"three\"",
        "timed out",
        "INSTANCE_DOWN",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(
        demo.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&demo.stderr)
    );
}

#[test]
fn a_config_file_names_the_fleet_and_its_mistakes_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.json");
    let serve = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ["--config", path.to_str().unwrap()].map(str::to_owned)
    };
    let good = serve(
        r#"{"instances": [{"id": "left", "builtin": {}}, {"id": "right", "builtin": {"fail": "ABORTED"}}]}"#,
    );
    let mut arguments = good.each_ref().map(String::as_str).to_vec();
    arguments.extend(["--threads", "1"]);
    let server = Server::start(&arguments);
    let fanout = json_of(&server.run(&["fanout", "--targets", "left right", "--aggregate"]));
    let outcomes: Vec<_> = fanout
        .as_array()
        .unwrap()
        .iter()
        .map(|leg| leg["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["answered", "failed"]);
    drop(server);

    let bad =
        serve("{\n  \"instances\": [{\"id\": \"w1-w9\", \"builtin\": {}}],\n  \"helth\": {}\n}");
    let refused = orchestrator(&["serve"]).args(bad).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    for part in [
        "orchestrator.json:2:",
        "instances[0].id",
        "reads as a range",
        "orchestrator.json:3:",
        "health",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_supervisor_is_told_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    supervisor
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let count = supervisor.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    };
    let mut child = orchestrator(&["serve", "--listen", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path)
        .env("XDG_DATA_HOME", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(told(), "READY=1");
    signal(&child, "TERM");
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_conversation_brings_every_line_over_and_every_answer_back() {
    let server = Server::start(&[]);
    let spawned = server.run(&["sessions_spawn", "--id", "many"]);
    assert_eq!(spawned.status.code(), Some(0), "{spawned:?}");
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    let input = folder.path().join("lines");
    std::fs::write(&input, &lines).unwrap();
    let attached = orchestrator(&["sessions", "attach", "--id", "many"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdin(std::fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert_eq!(attached.status.code(), Some(0), "{attached:?}");
    assert_eq!(String::from_utf8(attached.stdout).unwrap(), lines);
}

#[test]
fn a_conversation_shows_nothing_that_an_earlier_one_has_shown() {
    let server = Server::start(&[]);
    assert!(
        server
            .run(&["sessions_spawn", "--id", "again"])
            .status
            .success()
    );
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("line");
    for number in 1..=3 {
        let line = format!("{number}\n");
        std::fs::write(&input, &line).unwrap();
        let attached = orchestrator(&["sessions", "attach", "--id", "again"])
            .env("ORCHESTRATOR_SERVER", &server.address)
            .stdin(std::fs::File::open(&input).unwrap())
            .output()
            .unwrap();
        assert_eq!(attached.status.code(), Some(0), "{attached:?}");
        assert_eq!(String::from_utf8(attached.stdout).unwrap(), line);
    }
}

#[test]
fn a_conversation_of_which_a_line_was_left_out_has_not_succeeded() {
    let server = Server::start(&[]);
    assert!(
        server
            .run(&["sessions_spawn", "--id", "odd"])
            .status
            .success()
    );
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("lines");
    std::fs::write(&input, "1\nno JSON\n2\n").unwrap();
    let attached = orchestrator(&["sessions", "attach", "--id", "odd"])
        .env("ORCHESTRATOR_SERVER", &server.address)
        .stdin(std::fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert_eq!(attached.status.code(), Some(2), "{attached:?}");
    assert_eq!(String::from_utf8(attached.stdout).unwrap(), "1\n2\n");
}

#[test]
fn a_watch_ends_when_nobody_reads_it_any_more() {
    let server = Server::start(&[]);
    for more in [&[][..], &["--interval", "1h"]] {
        let watch = ["health", "--watch", "--output", "jsonl"];
        let mut child = orchestrator(&[&watch, more].concat())
            .env("ORCHESTRATOR_SERVER", &server.address)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        drop(reader);
        // Nothing changes, and it ends all the same.
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn shells_and_man_get_what_they_need() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = orchestrator(&["completions", shell]).output().unwrap();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("fanout")
        );
    }
    let bash = orchestrator(&["completions", "bash"]).output().unwrap();
    let mut check = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), &bash.stdout).unwrap();
    assert!(check.wait().unwrap().success(), "bash can read it");

    let page = orchestrator(&["man"]).output().unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains(".TH ORCHESTRATOR 1"));
    let folder = tempfile::tempdir().unwrap();
    let written = orchestrator(&["man", "--directory", folder.path().to_str().unwrap()]);
    assert!({ written }.status().unwrap().success());
    assert!(folder.path().join("orchestrator-route.1").exists());
}
