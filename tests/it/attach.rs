//! `sessions attach`: a conversation on a terminal that outlives its server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::stage::program::{Server, orchestrator};

/// A safety net only: what is waited for comes.
const SOON: Duration = Duration::from_secs(120);

/// How a server ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Stopped,
}

/// Somebody at a terminal, who sees each answer as a line.
struct Attached {
    child: Child,
    lines: Receiver<String>,
}

impl Attached {
    fn new(server: &Server, id: &str) -> Self {
        let mut child = orchestrator(&["sessions", "attach", "--id", id])
            .env("ORCHESTRATOR_SERVER", &server.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // Whoever has seen enough has left.
                let _ = tx.send(line.unwrap());
            }
        });
        Self { child, lines }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn hears(&self) -> String {
        self.lines.recv_timeout(SOON).expect("an answer comes")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Ended already unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_conversation_goes_on_when_its_server_is_killed_or_stopped_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", folder.path().join("o.sock").display());
    let data = folder.path().join("data").display().to_string();
    let start = || Server::start(&["--listen", &listen, "--data-dir", &data]);
    for (id, end) in [("killed", End::Killed), ("stopped", End::Stopped)] {
        let server = start();
        let spawned = server.run(&["sessions_spawn", "--id", id]);
        assert!(spawned.status.success(), "{spawned:?}");
        let mut attached = Attached::new(&server, id);
        attached.say("1");
        assert_eq!(attached.hears(), "1");
        match end {
            End::Killed => drop(server),
            End::Stopped => assert_eq!(server.stop().0, Some(0)),
        }
        attached.say("2");
        let _server = start();
        attached.say("3");
        assert_eq!(
            (attached.hears(), attached.hears()),
            ("2".into(), "3".into())
        );
        drop(attached.child.stdin.take());
        assert_eq!(attached.child.wait().unwrap().code(), Some(0), "{end:?}");
        let more: Vec<_> = attached.lines.iter().collect();
        assert_eq!(more, [""; 0], "each line once");
    }
}
