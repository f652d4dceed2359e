//! What the command line shows to a person at a terminal while it waits, and to nobody else.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::thread;

use orchestrator::app::App;
use orchestrator::proto::orchestrator::RouteRequest;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::sync::watch;

use crate::raw::soon;
use crate::stage::instance::{Act, Instance};
use crate::stage::program::{orchestrator, signal};
use crate::stage::{self, KEY, client, config, planned, start, text};

/// A terminal, and everything that was written to it so far.
struct Terminal {
    end: File,
    written: watch::Receiver<String>,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let end = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        Self {
            end: end.into(),
            written: read(master.into()),
        }
    }
}

/// Reads until nobody can write any more.
fn read(mut from: File) -> watch::Receiver<String> {
    let (told, written) = watch::channel(String::new());
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        // The end of a terminal is an error.
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            told.send_modify(|all| all.push_str(&text));
        }
    });
    written
}

async fn until(written: &mut watch::Receiver<String>, words: &str) {
    let seen = written.wait_for(|all| all.contains(words));
    let _ = soon(seen)
        .await
        .unwrap_or_else(|_| panic!("it ends without {words}"));
}

/// An orchestrator with two instances, the second of which answers once it may.
async fn stage() -> (App, Instance, Instance, watch::Sender<bool>) {
    let (open, gate) = watch::channel(false);
    let quick = Instance::start(Act::Echo).await;
    let held = Instance::start(Act::EchoOnce(gate)).await;
    let instances = vec![planned("A", quick.address), planned("B", held.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    (app, quick, held, open)
}

/// Its standard error goes to `stderr`, and what it prints nowhere.
fn run(app: &App, arguments: &[&str], stderr: impl Into<Stdio>) -> Child {
    let mut command = orchestrator(arguments);
    command
        .env("ORCHESTRATOR_SERVER", app.address().to_string())
        .env("ORCHESTRATOR_API_KEY", KEY)
        .env("TERM", "xterm")
        .stdout(Stdio::null())
        .stderr(stderr);
    command.spawn().unwrap()
}

async fn ends(mut child: Child) {
    let status = soon(tokio::task::spawn_blocking(move || child.wait())).await;
    assert!(status.unwrap().unwrap().success());
}

const FAN_OUT: [&str; 4] = ["fanout", "--targets", "A-B", "--payload=1"];

#[tokio::test]
async fn a_person_sees_how_far_a_fan_out_has_come() {
    let (app, _quick, _held, open) = stage().await;
    let Terminal { end, mut written } = Terminal::open();
    let child = run(&app, &FAN_OUT, end);
    until(&mut written, "1/2 arrived, 0 failed, 1 waiting").await;
    open.send_replace(true);
    ends(child).await;
}

#[tokio::test]
async fn a_person_sees_what_a_drain_waits_for() {
    let (app, _quick, held, open) = stage().await;
    let mut client = client(&app).await;
    let request = RouteRequest {
        instances: vec!["B".to_owned()],
        payload: text("task"),
        ..Default::default()
    };
    let running = tokio::spawn(async move { client.route(request).await });
    held.until(|counts| counts.begun == 1).await;
    let Terminal { end, mut written } = Terminal::open();
    let child = run(&app, &["drain", "A-B"], end);
    let words = "1 of 2 still have work: 1 calls and 0 sessions";
    until(&mut written, words).await;
    open.send_replace(true);
    running.await.unwrap().unwrap();
    ends(child).await;
}

#[tokio::test]
async fn nobody_else_is_shown_any_progress() {
    let (app, _quick, held, open) = stage().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stderr");
    let file = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap()
    };
    let child = run(&app, &FAN_OUT, file());
    held.until(|counts| counts.begun == 1).await;
    let draining = run(&app, &["drain", "A-B"], file());
    let mut changes = app.fleet().changes();
    soon(changes.wait_for(|_| {
        let view = app.fleet().view();
        let mut members = view.members().iter();
        members.all(|member| member.health.admin != orchestrator::domain::health::Admin::Active)
    }))
    .await
    .unwrap();
    open.send_replace(true);
    ends(child).await;
    ends(draining).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
}

/// What a person sees who runs `health`, with this in the environment.
async fn health_seen(app: &App, environment: (&str, &str)) -> String {
    let Terminal { end, mut written } = Terminal::open();
    let mut command = orchestrator(&["health"]);
    command
        .env("ORCHESTRATOR_SERVER", app.address().to_string())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env(environment.0, environment.1)
        .env("ORCHESTRATOR_API_KEY", KEY)
        .stdout(end)
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    // It holds the end of the terminal, too.
    drop(command);
    ends(child).await;
    until(&mut written, "healthy").await;
    soon(async { while written.changed().await.is_ok() {} }).await;
    written.borrow().clone()
}

const ESCAPE: char = '\u{1b}';

#[tokio::test]
async fn a_person_sees_a_table_with_colours_unless_they_are_not_wanted() {
    let (app, _quick, _held, _open) = stage().await;
    let coloured = health_seen(&app, ("LANG", "C")).await;
    assert!(coloured.contains(ESCAPE), "{coloured:?}");
    assert!(!coloured.contains('{'), "no JSON: {coloured}");
    let plain = health_seen(&app, ("NO_COLOR", "1")).await;
    assert!(!plain.contains(ESCAPE), "{plain:?}");
    let rows = ["A", "B"].map(|id| plain.lines().any(|row| row.contains(id)));
    assert_eq!(rows, [true, true], "{plain}");
    // An empty value is none (no-color.org).
    assert!(health_seen(&app, ("NO_COLOR", "")).await.contains(ESCAPE));
}

#[tokio::test]
async fn a_person_who_starts_it_gets_commands_to_paste_and_a_log_to_read() {
    let data = tempfile::tempdir().unwrap();
    let (shown, log) = (Terminal::open(), Terminal::open());
    let mut command = orchestrator(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("XDG_DATA_HOME", data.path())
        .env("TERM", "xterm")
        .env_remove("ORCHESTRATOR_API_KEY")
        .stdout(shown.end)
        .stderr(log.end);
    let child = command.spawn().unwrap();
    drop(command);
    let (mut shown, mut log) = (shown.written, log.written);
    until(&mut shown, " list\r\n").await;
    let welcome = shown.borrow().clone();
    for words in [
        "export ORCHESTRATOR_API_KEY=",
        "orchestrator route --server 127.0.0.1:",
        "orchestrator fanout --server 127.0.0.1:",
        "grpcurl -plaintext",
    ] {
        assert!(welcome.contains(words), "{words}: {welcome}");
    }
    until(&mut log, "serving").await;
    signal(&child, "TERM");
    ends(child).await;
    let log = log.borrow().clone();
    assert!(!log.contains("{\""), "for people: {log}");
}
