//! The real program and its config file: signals, changes, links that are exchanged, mistakes, supervisors.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use orchestrator::ingress::caller;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::authority::{Authority, Caller, DOOR, Files, Time};
use crate::stage::instance::{Act, Instance};
use crate::stage::program::{json_of, orchestrator};

const LONG: Duration = Duration::from_secs(60);

/// A server with a config file, whose log is read line by line and whose supervisor is the test.
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
    log: Receiver<Value>,
    supervisor: UnixDatagram,
    _folder: TempDir,
}

impl Server {
    pub(super) fn start(config: &Path, key: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("notify");
        let supervisor = UnixDatagram::bind(&socket).unwrap();
        supervisor.set_read_timeout(Some(LONG)).unwrap();
        let mut command =
            orchestrator(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        match key {
            Some(key) => command.env("ORCHESTRATOR_API_KEY", key),
            None => command.env_remove("ORCHESTRATOR_API_KEY"),
        };
        let mut child = command
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", &socket)
            .env("XDG_DATA_HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = lines.send(line);
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let started: Value = serde_json::from_str(&line).expect("it starts");
        let server = Self {
            child,
            address: started["listening"].as_str().unwrap().to_owned(),
            log,
            supervisor,
            _folder: folder,
        };
        assert_eq!(server.told(), "READY=1");
        server
    }

    /// What the supervisor is told next.
    fn told(&self) -> String {
        let mut bytes = [0; 512];
        let count = self.supervisor.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    }

    /// Has the config read again; whether it was taken.
    pub(super) fn hang_up(&self) -> bool {
        self.signal("HUP");
        let told = self.told();
        let (reloading, when) = told.split_once('\n').unwrap();
        assert_eq!(reloading, "RELOADING=1");
        let micros = when.strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() != 0);
        let told = self.told();
        let (ready, status) = told.split_once('\n').unwrap();
        assert_eq!(ready, "READY=1");
        status == "STATUS=serving"
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// The next line of the log with this message, and those before it.
    fn logged(&self, message: &str) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let line = self.log.recv_timeout(LONG).unwrap_or_else(|_| {
                panic!("nothing is logged as {message:?}: {before:?}");
            });
            if line["message"] == message {
                return (line, before);
            }
            before.push(line);
        }
    }

    pub(super) fn run(&self, key: &str, arguments: &[&str]) -> Output {
        orchestrator(arguments)
            .env("ORCHESTRATOR_SERVER", &self.address)
            .env("ORCHESTRATOR_API_KEY", key)
            .output()
            .unwrap()
    }

    fn ids(&self, key: &str) -> String {
        let listed = json_of(&self.run(key, &["instances"]));
        let ids = listed.as_array().unwrap().iter();
        let ids: Vec<_> = ids
            .map(|instance| instance["id"].as_str().unwrap())
            .collect();
        ids.join(" ")
    }

    /// Ends it; nothing that it has logged may hold this.
    fn stop(mut self, secret: &str) {
        self.signal("TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let rest: Vec<_> = self.log.iter().collect();
        assert!(!json!(rest).to_string().contains(secret));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A config with built-in instances and a key for each of these words.
fn config(instances: &str, keys: &str) -> String {
    let instances = instances.split_whitespace();
    let instances: Vec<_> = instances
        .map(|id| json!({"id": id, "builtin": {}}))
        .collect();
    let keys = keys.split_whitespace().map(|key| {
        let hash = hex::encode(caller::hash(key.as_bytes()));
        json!({"name": key, "sha256": hash, "scopes": ["admin"]})
    });
    json!({"instances": instances, "keys": keys.collect::<Vec<_>>()}).to_string()
}

#[test]
fn a_hang_up_takes_a_config_that_is_right_and_refuses_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    fs::write(&path, config("A B", "one")).unwrap();
    let server = Server::start(&path, None);
    assert!(server.hang_up());
    let (same, _) = server.logged("config read again: nothing has changed");
    assert_eq!(same["generation"], 1);

    fs::write(&path, config("B C", "one two")).unwrap();
    assert!(server.hang_up());
    let (taken, _) = server.logged("config taken");
    let told = [
        &taken["generation"],
        &taken["keys"],
        &taken["instances"],
        &taken["settings"],
    ];
    assert_eq!(
        told,
        [&json!(2), &json!("+two"), &json!("+C -A"), &json!("")]
    );
    assert_eq!(server.ids("two"), "B C");

    fs::write(&path, "{\n  \"instances\": [{\"id\": \"D\", \"biultin\": {}}],\n  \"limits\": {\"connections\": 0}\n}").unwrap();
    for _ in 0..2 {
        assert!(!server.hang_up());
        let (refused, before) = server.logged("config refused: the one before goes on");
        assert_eq!(refused["mistakes"], 2);
        let mistakes: Vec<_> = before
            .iter()
            .filter_map(|line| line["mistake"].as_str())
            .collect();
        let shown = path.display();
        assert_eq!(
            mistakes,
            [
                format!("{shown}:2:29: instances[0].biultin: unknown key, did you mean builtin?"),
                format!(
                    "{shown}:3:29: limits.connections: expected a whole number from 1 to 1000000, found the number 0"
                ),
            ]
        );
    }
    assert_eq!(server.ids("one"), "B C");
    fs::remove_file(&path).unwrap();
    assert!(!server.hang_up());
    assert_eq!(server.ids("one"), "B C");

    let mut other: Value = serde_json::from_str(&config("B C", "two")).unwrap();
    other["listen"] = json!("127.0.0.1:1");
    other["timeouts"] = json!({"route": 5});
    fs::write(&path, other.to_string()).unwrap();
    assert!(server.hang_up());
    let (taken, before) = server.logged("config taken");
    assert_eq!(
        (&taken["settings"], &taken["keys"]),
        (&json!("timeouts"), &json!("-one"))
    );
    // `--listen` wins, before as after: there is nothing that would need a restart.
    assert!(
        before
            .iter()
            .all(|line| line["message"] != "these settings change with the next start only")
    );
    let refused = server.run("one", &["instances"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    server.stop("one-secret");
}

#[test]
fn a_change_of_the_file_is_seen_also_behind_links_that_are_exchanged() {
    // As Kubernetes does: c.json → ..data/c.json, ..data → ..1, and then ..data is exchanged at once.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let lay = |version: &str, text: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("c.json"), text).unwrap();
    };
    let exchange = |version: &str| {
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    lay("..1", &config("A", "one"));
    symlink("..1", at("..data")).unwrap();
    symlink("..data/c.json", at("c.json")).unwrap();
    let server = Server::start(&at("c.json"), None);
    lay("..2", &config("A B", "one"));
    exchange("..2");
    let (taken, _) = server.logged("config taken");
    assert_eq!(taken["instances"], "+B");
    assert_eq!(server.ids("one"), "A B");
    // A half of a file, and then the rest of it.
    lay("..3", &config("A B C", "one")[..40]);
    exchange("..3");
    server.logged("config refused: the one before goes on");
    assert_eq!(server.ids("one"), "A B");
    fs::write(at("..3/c.json"), config("A B C", "one")).unwrap();
    let (taken, before) = server.logged("config taken");
    assert_eq!(taken["generation"], 3);
    assert!(
        before
            .iter()
            .all(|line| line["message"] != "config refused: the one before goes on"),
        "once: {before:?}"
    );
    assert_eq!(server.ids("one"), "A B C");
}

#[tokio::test]
async fn a_secret_in_a_file_is_exchanged_with_the_file() {
    let instance = Instance::start(Act::Echo).await;
    let folder = tempfile::tempdir().unwrap();
    let (path, token) = (folder.path().join("c.json"), folder.path().join("token"));
    fs::write(&token, "token-canary-1").unwrap();
    let address = format!("grpc://{}", instance.address);
    let config = json!({"instances": [{"id": "A", "address": address, "credential": {"bearer_file": "token"}}]});
    fs::write(&path, config.to_string()).unwrap();
    let server = Server::start(&path, Some("one"));
    let shown = || {
        assert!(
            server
                .run("one", &["route", "--instances", "A"])
                .status
                .success()
        );
        let seen = instance.seen.lock().unwrap();
        seen.last()
            .unwrap()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(shown(), "Bearer token-canary-1");
    fs::write(&token, "token-canary-2").unwrap();
    let (taken, _) = server.logged("config taken");
    assert_eq!(taken["instances"], "~A");
    assert_eq!(shown(), "Bearer token-canary-2");
    fs::remove_file(&token).unwrap();
    assert!(!server.hang_up());
    assert_eq!(shown(), "Bearer token-canary-2", "the one before goes on");
    server.stop("token-canary");
}

#[test]
fn a_key_that_was_made_lasts_until_the_config_brings_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    fs::write(&path, config("A", "")).unwrap();
    let mut child = orchestrator(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--config",
        path.to_str().unwrap(),
    ])
    .env_remove("ORCHESTRATOR_API_KEY")
    .env("XDG_DATA_HOME", folder.path())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    let (address, made) = (
        started["listening"].as_str().unwrap(),
        started["apiKey"].as_str().unwrap(),
    );
    let ids = |key: &str| {
        let mut command = orchestrator(&["instances"]);
        let output = command
            .env("ORCHESTRATOR_SERVER", address)
            .env("ORCHESTRATOR_API_KEY", key)
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| json_of(&output).as_array().unwrap().len())
    };
    assert_eq!(ids(made), Some(1));
    fs::write(&path, config("A B", "")).unwrap();
    while ids(made) != Some(2) {}
    fs::write(&path, config("A B C", "one")).unwrap();
    while ids("one") != Some(3) {}
    assert_eq!(ids(made), None);
    child.kill().unwrap();
    let log = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&log.stderr).contains(made));
}

#[tokio::test]
async fn a_hang_up_reads_the_certificates_of_the_front_door_at_once() {
    let authority = Authority::new();
    let files = Files::new(&authority.pair(DOOR, Time::Valid), None);
    let config = json!({
        "instances": [],
        "tls": {"certificate_file": "c.pem", "key_file": "k.pem"},
    });
    files.put("c.json", &config.to_string());
    let server = Server::start(&files.path("c.json"), Some("one"));
    let address = server.address.parse().unwrap();
    let caller = Caller::new(&authority, None);
    for _ in 0..3 {
        let next = authority.pair(DOOR, Time::Valid);
        files.put("c.pem", &next.certificate);
        files.put("k.pem", &next.key);
        assert!(server.hang_up());
        let stream = caller.shake(address).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let expected =
            rustls::pki_types::CertificateDer::from_pem_slice(next.certificate.as_bytes());
        assert_eq!(shown, expected.unwrap().to_vec());
    }
    // The key of another: told, and the one before stays.
    files.put("k.pem", &authority.pair(DOOR, Time::Valid).key);
    assert!(!server.hang_up());
    server.logged("certificates cannot be read again: the old ones stay");
    assert!(caller.shake(address).await.is_ok());
}

#[test]
fn without_a_config_file_a_hang_up_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(LONG)).unwrap();
    let mut child = orchestrator(&["serve", "--listen", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &socket)
        .env("XDG_DATA_HOME", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        let mut bytes = [0; 512];
        let count = supervisor.recv(&mut bytes).unwrap();
        told.push(String::from_utf8_lossy(&bytes[..count]).trim().to_owned());
        if told.len() == 1 {
            let pid = child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-s", "HUP", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
    assert!(told[1].starts_with("RELOADING=1\n"), "{told:?}");
    assert_eq!(told[2], "READY=1\nSTATUS=serving");
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_config_is_checked_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    let check = |text: &str, output: &str| {
        fs::write(&path, text).unwrap();
        orchestrator(&["config", "check", "--output", output])
            .arg(&path)
            .output()
            .unwrap()
    };
    let good = check(&config("A B", "one two"), "table");
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let shown = path.display();
    let expected = format!(
        "{shown} can be used\n  listen     127.0.0.1:7070\n  instances  2, 2 of them built in\n  keys       one, two\n"
    );
    assert_eq!(String::from_utf8_lossy(&good.stdout), expected);
    let good = check(&config("A", "one"), "json");
    let expected = json!({
        "config": shown.to_string(), "listen": "127.0.0.1:7070", "instances": 1, "builtinInstances": 1, "keys": ["one"],
    });
    assert_eq!(json_of(&good), expected);
    let bad = check("{\"instances\": 1, \"port\": 2}", "table");
    assert_eq!(
        (bad.status.code(), bad.stdout.len()),
        (Some(2), 0),
        "{bad:?}"
    );
    let told = String::from_utf8_lossy(&bad.stderr);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "error: the config cannot be used:".to_owned(),
            format!("  {shown}:1:15: instances: expected a list, found the number 1"),
        ]
    );
    assert!(lines[2].contains(":1:18: port: unknown key"), "{told}");
    assert_eq!(lines.len(), 3);

    let piped = orchestrator(&["config", "check"])
        .stdin(fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    assert_eq!(piped.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("standard input:1:15: instances"));
    let schema = orchestrator(&["config", "schema"]).output().unwrap();
    assert_eq!(
        json_of(&schema)["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
}

#[test]
fn the_unit_starts_and_reloads_the_program_as_it_is() {
    let unit = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/packaging/systemd/orchestrator.service"
    );
    let unit = fs::read_to_string(unit).unwrap();
    let value = |name: &str| {
        let values = unit
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.collect::<Vec<_>>()
    };
    // It says RELOADING=1 and READY=1 at a SIGHUP, which is what this type waits for.
    assert_eq!(
        (value("Type"), value("ReloadSignal")),
        (vec!["notify-reload"], vec!["SIGHUP"])
    );
    let [start] = value("ExecStart")[..] else {
        panic!("one program")
    };
    let arguments: Vec<_> = start.split(' ').skip(1).collect();
    // A copy that systemd makes at the start would never change.
    assert!(
        arguments.contains(&"/etc/orchestrator/orchestrator.json"),
        "{start}"
    );
    let known = orchestrator(&arguments).arg("--help").output().unwrap();
    assert_eq!(known.status.code(), Some(0), "{known:?}");
}
