//! The disk is full, or its syncs fail. Needs root and strace.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use orchestrator::proto::orchestrator::LossPolicy;
use tokio::sync::watch;
use tokio::time::{Duration, interval, timeout};

use crate::processes::{Instance, Orchestrator, PATIENCE, binary};
use crate::sessions::judge::Answering;
use crate::talk::Talk;
use crate::talk_kill::{addresses, finished, healthy};

/// A small disk of its own; gone when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that there is.
    fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        let mut bytes = 4096;
        while 0 < bytes {
            if file.write_all(&vec![0; bytes]).is_err() {
                bytes /= 2;
            }
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

pub(crate) async fn a_full_disk_refuses_clearly_keeps_what_was_acknowledged_and_goes_on_by_itself()
{
    let disk = Disk::mount();
    let mut instances = vec![Instance::start("A")];
    let start = |instances: &[Instance]| {
        let command = Command::new(binary());
        Orchestrator::start_on(command, "127.0.0.1:0", &addresses(instances), disk.path())
    };
    let mut orchestrator = start(&instances);
    healthy(&orchestrator).await;
    let (now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("full", LossPolicy::Fail, 2_000);
    let running = tokio::spawn(talk.clone().run(at));
    for round in 0..3 {
        talk.goes_on_for(20).await;
        let refused = talk.full.load(Ordering::Relaxed);
        let ballast = disk.fill();
        let refusing = async {
            let mut looks = interval(Duration::from_millis(20));
            while talk.full.load(Ordering::Relaxed) == refused {
                looks.tick().await;
            }
        };
        let refusing = timeout(PATIENCE, refusing).await;
        refusing.expect("a full disk refuses messages");
        if round == 1 {
            orchestrator.kill();
        }
        std::fs::remove_file(ballast).unwrap();
        if round == 1 {
            orchestrator = start(&instances);
            now_at.send_replace(orchestrator.address);
        }
    }
    talk.goes_on_for(20).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
    println!("refused {} times", talk.full.load(Ordering::Relaxed));
}

/// The program with its syncs tampered with.
fn tampered(how: &str) -> Command {
    let mut command = Command::new("strace");
    let inject = format!("inject=fsync,fdatasync:{how}");
    command
        .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"])
        .args(["-e", "trace=fsync,fdatasync", "-e", &inject])
        .arg(binary());
    command
}

pub(crate) async fn a_sync_that_fails_acknowledges_nothing_and_the_session_goes_on() {
    let mut instances = vec![Instance::start("A")];
    let data = tempfile::tempdir().unwrap();
    // Two in a hundred, from then on.
    let command = tampered("error=EIO:when=40+50");
    let orchestrator =
        Orchestrator::start_on(command, "127.0.0.1:0", &addresses(&instances), data.path());
    healthy(&orchestrator).await;
    let (_now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("eio", LossPolicy::Fail, 0);
    let running = tokio::spawn(talk.clone().run(at));
    let failing = async {
        let mut looks = interval(Duration::from_millis(20));
        while talk.failed.load(Ordering::Relaxed) < 3 {
            looks.tick().await;
        }
    };
    let failing = timeout(PATIENCE, failing).await;
    failing.expect("syncs fail, and the client is told");
    talk.goes_on_for(20).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
    println!("failed {} times", talk.failed.load(Ordering::Relaxed));
}
