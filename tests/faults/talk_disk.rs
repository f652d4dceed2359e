//! The disk is full, its syncs fail, or the process dies in one of them. Needs root and strace.

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
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
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
    fills_up("32m").await;
}

/// Smaller than the log may grow, so that the log itself can take all the room.
pub(crate) async fn a_small_disk_that_the_log_could_fill_goes_on_by_itself() {
    fills_up("2m").await;
}

async fn fills_up(size: &str) {
    let disk = Disk::mount(size);
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
        let ballast = disk.fill();
        is_refused(&talk).await;
        if 0 < round {
            if round == 1 {
                orchestrator.kill();
            } else {
                orchestrator.stop();
            }
            orchestrator = start(&instances);
            // The disk is still full: tasks are served, and sessions wait.
            healthy(&orchestrator).await;
            now_at.send_replace(orchestrator.address);
            is_refused(&talk).await;
        }
        std::fs::remove_file(ballast).unwrap();
    }
    talk.goes_on_for(20).await;
    talk.end();
    finished(vec![running]).await;
    talk.check(&mut instances, Answering::Once);
    println!("refused {} times", talk.full.load(Ordering::Relaxed));
}

async fn is_refused(talk: &Talk) {
    let refused = talk.full.load(Ordering::Relaxed);
    let refusing = async {
        let mut looks = interval(Duration::from_millis(20));
        while talk.full.load(Ordering::Relaxed) == refused {
            looks.tick().await;
        }
    };
    let refusing = timeout(PATIENCE, refusing).await;
    refusing.expect("a full disk refuses messages");
}

const SYNC: &str = "fsync,fdatasync";
const WRITE: &str = "pwrite64";

/// The program with some of its system calls tampered with. Each thread counts its own.
fn tampered(calls: &str, how: &str) -> Command {
    let mut command = Command::new("strace");
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{how}"));
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
        // Looking at each system call is slow; but with `--seccomp-bpf` strace gives no signals.
        .arg(binary());
    command
}

pub(crate) async fn a_sync_that_fails_acknowledges_nothing_and_the_session_goes_on() {
    let mut instances = vec![Instance::start("A")];
    let data = tempfile::tempdir().unwrap();
    // Two in a hundred, from then on.
    let command = tampered(SYNC, "error=EIO:when=40+50");
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

/// At which calls of its writer the orchestrator is killed, life after life: the first sync is that of its start. What
/// was written survives the process, so that a kill at a sync loses nothing but what comes after it; a kill at a write
/// leaves half a transaction.
fn last_calls() -> Vec<(&'static str, u32)> {
    let syncs = [1, 2, 3, 5, 8].map(|at| (SYNC, at));
    let writes = (1..60)
        .step_by(2)
        .chain((60..400).step_by(37))
        .map(|at| (WRITE, at));
    writes.chain(syncs).collect()
}

pub(crate) async fn a_kill_at_any_write_or_sync_of_the_journal_loses_nothing_that_was_acknowledged()
{
    let mut instances = vec![Instance::start("A")];
    let data = tempfile::tempdir().unwrap();
    let start = |command, instances: &[Instance]| {
        Orchestrator::try_start_on(command, "127.0.0.1:0", &addresses(instances), data.path())
    };
    let mut orchestrator = start(Command::new(binary()), &instances).expect("it listens");
    healthy(&orchestrator).await;
    let (now_at, at) = watch::channel(orchestrator.address);
    let talk = Talk::new("cut", LossPolicy::Replay, 200);
    let running = [
        tokio::spawn(talk.clone().run(at.clone())),
        tokio::spawn(talk.clone().post(at)),
    ];
    talk.goes_on_for(20).await;
    orchestrator.kill();
    let mut died_at_start = 0;
    let last_calls = last_calls();
    for (call, at) in &last_calls {
        let killed = start(
            tampered(call, &format!("signal=KILL:when={at}")),
            &instances,
        );
        let Some(mut killed) = killed else {
            died_at_start += 1;
            continue;
        };
        now_at.send_replace(killed.address);
        let dying = async {
            let mut looks = interval(Duration::from_millis(5));
            while !killed.has_ended() {
                looks.tick().await;
            }
        };
        let dying = timeout(PATIENCE, dying).await;
        assert!(dying.is_ok(), "it comes to {call} {at}");
    }
    assert!(died_at_start < last_calls.len() / 2, "it dies under load");
    let orchestrator = start(Command::new(binary()), &instances).expect("it listens");
    now_at.send_replace(orchestrator.address);
    talk.goes_on_for(20).await;
    talk.end();
    finished(running.into()).await;
    talk.check(&mut instances, Answering::Once);
    println!(
        "{died_at_start} of {} kills before it listened",
        last_calls.len()
    );
}
