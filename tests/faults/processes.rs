//! The processes of a test: a real orchestrator and real instances, each of which can be killed or stopped.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::instance;

/// The key of every orchestrator here.
pub(crate) const KEY: &str = "faults-key-51c3";
/// How often the orchestrators here probe their instances.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Longer than anything here may take, so that a hang is a failure and not a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What an instance says that is kept until it is asked for.
const KEPT: [&str; 3] = ["began ", "answered ", "event "];

/// An instance in a process of its own.
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    lines: Receiver<String>,
    hearing: Option<JoinHandle<()>>,
}

impl Instance {
    /// Starts one on a free port of loopback.
    pub(crate) fn start(id: &str) -> Self {
        Self::start_by(
            Command::new(std::env::current_exe().unwrap()),
            id,
            "127.0.0.1:0",
        )
    }

    /// Starts one by a command that ends with this test binary, listening there.
    pub(crate) fn start_by(mut command: Command, id: &str, listen: &str) -> Self {
        let mut child = command
            .env(instance::LISTEN, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = channel();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let hearing = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if KEPT.iter().any(|kind| line.starts_with(kind)) {
                    heard.lock().unwrap().push(line);
                } else if tx.send(line).is_err() {
                    break;
                }
            }
        });
        let mut instance = Self {
            id: id.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            child,
            said,
            lines,
            hearing: Some(hearing),
        };
        let listening = instance.next_line();
        instance.address = listening
            .strip_prefix("listening ")
            .unwrap()
            .parse()
            .unwrap();
        instance
    }

    fn next_line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing", self.id),
            Err(RecvTimeoutError::Disconnected) => panic!("{} has died", self.id),
        }
    }

    /// Tells it what to do from now on, and waits until it does.
    pub(crate) fn tell(&mut self, act: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{act}").unwrap();
        assert_eq!(self.next_line(), format!("now {act}"));
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// `kill -9`; when this returns its address is free for another one.
    pub(crate) fn kill(&mut self) {
        // Killed already in some tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it; what it said of sessions in its life.
    pub(crate) fn last_words(&mut self) -> Vec<String> {
        self.kill();
        if let Some(hearing) = self.hearing.take() {
            hearing.join().unwrap();
        }
        let said = self.said.lock().unwrap();
        let events = said.iter().filter_map(|line| line.strip_prefix("event "));
        events.map(str::to_owned).collect()
    }

    /// How often each task was begun here.
    pub(crate) fn begun(&self) -> BTreeMap<String, usize> {
        let mut begun = BTreeMap::new();
        for line in self.said.lock().unwrap().iter() {
            if let Some(task) = line.strip_prefix("began ") {
                *begun.entry(task.to_owned()).or_default() += 1;
            }
        }
        begun
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How often each task was begun anywhere.
pub(crate) fn begun<'a>(
    instances: impl IntoIterator<Item = &'a Instance>,
) -> BTreeMap<String, usize> {
    let mut sum = BTreeMap::new();
    for instance in instances {
        for (task, count) in instance.begun() {
            *sum.entry(task).or_default() += count;
        }
    }
    sum
}

/// A real orchestrator.
pub(crate) struct Orchestrator {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Orchestrator {
    /// Starts one in front of instances.
    pub(crate) fn start(instances: &[(&str, SocketAddr)]) -> Self {
        Self::start_by(Command::new(binary()), "127.0.0.1:0", instances)
    }

    /// Starts one that judges its instances by the rules of a config that says nothing of them.
    pub(crate) fn start_as_usual(instances: &[(&str, SocketAddr)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        let (command, listen) = (Command::new(binary()), "127.0.0.1:0");
        Self::start_over(command, listen, instances, &data, folder, json!({})).expect("it listens")
    }

    /// Starts one by a command that ends with the program.
    pub(crate) fn start_by(
        command: Command,
        listen: &str,
        instances: &[(&str, SocketAddr)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        Self::start_over(command, listen, instances, &data, folder, patient()).expect("it listens")
    }

    /// Starts one over a data directory, that ejects instances by these rules; nothing when it has ended before it
    /// listens.
    fn start_over(
        mut command: Command,
        listen: &str,
        instances: &[(&str, SocketAddr)],
        data: &Path,
        folder: TempDir,
        ejection: Value,
    ) -> Option<Self> {
        let instances: Vec<_> = instances
            .iter()
            .map(|(id, address)| json!({"id": id, "address": address.to_string()}))
            .collect();
        let probe = format!("{}ms", PROBE_INTERVAL.as_millis());
        let config = json!({
            "instances": instances,
            "health": {
                "interval": probe, "timeout": "1s", "failures_down": 2, "successes_up": 1,
                "ejection": ejection,
            },
        });
        let file = folder.path().join("orchestrator.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut child = command
            // The network is one of the test's own.
            .args(["serve", "--log", "off", "--allow-plaintext"])
            .args(["--listen", listen, "--config"])
            .arg(&file)
            .env("ORCHESTRATOR_API_KEY", KEY)
            .env_remove("ORCHESTRATOR_LOG")
            .arg("--data-dir")
            .arg(data)
            // What it was started by ends with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let started: Value = serde_json::from_str(&line).expect("one line of JSON when redirected");
        Some(Self {
            child,
            address: started["listening"].as_str().unwrap().parse().unwrap(),
            _folder: folder,
        })
    }
}

impl Orchestrator {
    /// Starts one over a data directory, which outlives it.
    pub(crate) fn start_on(
        command: Command,
        listen: &str,
        instances: &[(&str, SocketAddr)],
        data: &Path,
    ) -> Self {
        Self::try_start_on(command, listen, instances, data).expect("it listens")
    }

    /// The same; nothing when it has ended before it listens.
    pub(crate) fn try_start_on(
        command: Command,
        listen: &str,
        instances: &[(&str, SocketAddr)],
        data: &Path,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Self::start_over(command, listen, instances, data, folder, patient())
    }

    /// `kill -9`, together with what it was started by.
    pub(crate) fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        // It may be gone already.
        let _ = Command::new("kill")
            .args(["-s", "KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }

    /// Lets it stop in its own time.
    pub(crate) fn stop(&mut self) {
        signal(&self.child, "TERM");
        let _ = self.child.wait();
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

/// Otherwise an instance that is cut again and again would be left alone, and not be cut any more.
fn patient() -> Value {
    json!({"failures_in_a_row": 1000, "calls_min": 1000})
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program.
pub(crate) fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_orchestrator").into()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}
