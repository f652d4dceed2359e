//! The program as a process, for whoever runs it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The key of the environment, searched for where it must not be.
pub(crate) const KEY: &str = "process-key-canary-93b1";

const LOG: &str = "log";

/// A server of its own on a free port.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    /// Where it keeps its sessions, and its log is.
    data: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        // However much it is: a pipe that nobody reads would hold the process up.
        let log = File::create(data.path().join(LOG)).unwrap();
        Self::start_over(data, arguments, log.into())
    }

    /// Starts one whose log goes elsewhere.
    pub(crate) fn start_with_log(log: Stdio) -> Self {
        let data = tempfile::tempdir().unwrap();
        File::create(data.path().join(LOG)).unwrap();
        Self::start_over(data, &[], log)
    }

    fn start_over(data: tempfile::TempDir, arguments: &[&str], log: Stdio) -> Self {
        let mut command = orchestrator(&["serve"]);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(arguments)
            .env("XDG_DATA_HOME", data.path())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let started: Value = serde_json::from_str(&line).expect("one line of JSON when redirected");
        Self {
            child,
            address: started["listening"].as_str().unwrap().to_owned(),
            data,
        }
    }

    /// The line that it has logged with this message before it said that it listens.
    pub(crate) fn logged(&self, message: &str) -> Value {
        let log = std::fs::read_to_string(self.data.path().join(LOG)).unwrap();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut lines = lines.filter(|line| line["message"] == message);
        lines.next().unwrap_or_else(|| panic!("{message}: {log}"))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        orchestrator(arguments)
            .env("ORCHESTRATOR_SERVER", &self.address)
            .output()
            .unwrap()
    }

    /// Ends it as an operator does; its exit code and its log.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.child, "TERM");
        let status = self.child.wait().unwrap();
        let log = std::fs::read_to_string(self.data.path().join(LOG)).unwrap();
        (status.code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn orchestrator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    command
        .args(arguments)
        .env("ORCHESTRATOR_API_KEY", KEY)
        .env_remove("ORCHESTRATOR_LOG")
        .stdin(Stdio::null());
    command
}

/// Ends a process and all that it has started, which are a group.
pub(crate) fn signal_group(child: &Child) {
    let sent = Command::new("kill")
        .args(["-s", "KILL", "--", &format!("-{}", child.id())])
        .status()
        .unwrap();
    assert!(sent.success());
}

pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
