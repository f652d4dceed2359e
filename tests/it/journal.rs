//! The journal: what it has answered outlives `kill -9`, and the commands that look after it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::selection::Policy;
use orchestrator::domain::session::{Durability, Epoch, LossPolicy, SessionId};
use orchestrator::store::record::{
    Appended, Direction, Fence, Hash, NewSession, NewToClient, NewToInstance, Origin, Owner,
    Session, Terms,
};
use orchestrator::store::sqlite::{Settings, SqliteStore};
use orchestrator::store::{Error, Store as _};
use orchestrator::tasks::Tasks;
use serde_json::Value;

use crate::stage::program::orchestrator;

/// Tells the process that is killed where its journal is.
const DIRECTORY: &str = "JOURNAL_OF_THE_PROCESS_THAT_IS_KILLED";
const SESSIONS: u32 = 8;
const KILLS: u32 = 12;
/// Answers after which a process is killed, at most.
const ANSWERS_MAX: usize = 400;

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(directory, Settings::default(), &Tasks::new()).unwrap()
}

fn id(at: u32) -> SessionId {
    SessionId::parse(&format!("s{at}")).unwrap()
}

fn new_session(at: u32, owner: &Owner) -> NewSession {
    NewSession {
        terms: Terms {
            id: id(at),
            caller: "desk".to_owned(),
            spawn: None,
            targets: Vec::new(),
            selection: Policy::Balanced,
            loss_policy: LossPolicy::Reassign,
            durability: Durability::Durable,
            labels: BTreeMap::new(),
            idle_ttl: Duration::from_secs(300),
            lifetime: None,
            created_ms: 0,
        },
        token: Hash([7; 32]),
        instance: InstanceId::parse("A").unwrap(),
        owner: owner.clone(),
    }
}

/// What a message of this number says; its size differs.
fn words(session: &SessionId, number: u64) -> Bytes {
    let length = usize::try_from(number * 37 % 3000).unwrap();
    let mut words = format!("{session} {number} ").into_bytes();
    words.resize(words.len() + length, b'.');
    words.into()
}

/// Says a line to whoever kills this process.
fn tell(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").unwrap();
    output.flush().unwrap();
}

/// One writer of one session: asks, answers, acknowledges, and tells each answer as soon as it has it.
async fn write(store: SqliteStore, session: Session) {
    let id = session.id().clone();
    let fence = Fence {
        epoch: session.epoch,
        owner: session.owner.clone(),
    };
    let (mut asked, mut answered) = (session.to_instance.last, session.to_client.last);
    for instance_seq in 1.. {
        let message = NewToInstance {
            origin: Origin::Stream { seq: asked + 1 },
            in_reply_to: 0,
            payload: words(&id, asked + 1),
        };
        let there = store.append_to_instance(&id, &fence, vec![message]).await;
        asked += 1;
        assert_eq!(there, Ok(vec![Appended::New(asked)]));
        tell(&format!("ask {id} {asked}"));
        let message = NewToClient {
            instance_seq,
            in_reply_to: asked,
            payload: words(&id, answered + 1),
        };
        let there = store.append_to_client(&id, &fence, vec![message]).await;
        answered += 1;
        assert_eq!(there, Ok(vec![Appended::New(answered)]));
        tell(&format!("say {id} {answered}"));
        for (direction, through) in [
            (Direction::ToInstance, asked),
            (Direction::ToClient, answered),
        ] {
            let through = through.saturating_sub(3);
            store
                .acknowledge(&id, &fence, direction, through)
                .await
                .unwrap();
        }
    }
}

/// The process that is killed; without its variable it is no test and does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = open(Path::new(&directory));
    let owner = Owner::new(&std::process::id().to_string());
    let mut sessions = store.recover(&owner).await.unwrap();
    if sessions.is_empty() {
        for at in 0..SESSIONS {
            store.create(new_session(at, &owner)).await.unwrap();
            sessions.push(store.get(&id(at)).await.unwrap());
        }
    }
    let tasks = Tasks::new();
    for session in sessions {
        tasks.spawn(write(store.clone(), session));
    }
    std::future::pending::<()>().await;
}

/// Runs it until it has answered so many times, kills it, and gives back all that it had told.
fn run_and_kill(directory: &Path, answers: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("journal::a_process_that_writes_until_it_is_killed")
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_answer = |line: &String| line.starts_with("ask ") || line.starts_with("say ");
    let mut told = Vec::new();
    while told.len() < answers {
        let line = lines.next().expect("it writes until it is killed").unwrap();
        told.extend(Some(line).filter(is_answer));
    }
    child.kill().unwrap();
    // What it had told before it was dead counts too; half a line was not told.
    let mut rest: Vec<_> = lines.map_while(Result::ok).collect();
    rest.pop();
    told.extend(rest.into_iter().filter(is_answer));
    child.wait().unwrap();
    told
}

#[tokio::test]
async fn nothing_that_was_answered_is_missing_after_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
    for kill in 1..=KILLS {
        let answers = rand::random_range(1..ANSWERS_MAX);
        for line in run_and_kill(directory.path(), answers) {
            let [direction, id, number] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let key = (direction.to_owned(), id.to_owned());
            let number: u64 = number.parse().unwrap();
            let known = newest.entry(key).or_default();
            *known = number.max(*known);
        }
        let store = open(directory.path());
        for at in 0..SESSIONS {
            let session = match store.get(&id(at)).await {
                Err(Error::NotFound) => panic!("session {at} is gone"),
                found => found.unwrap(),
            };
            assert!(session.epoch <= Epoch::new(kill.into()));
            let told = |direction: &str| {
                let key = (direction.to_owned(), session.id().to_string());
                newest.get(&key).copied().unwrap_or(0)
            };
            let (asked, said) = (session.to_instance, session.to_client);
            assert!(told("ask") <= asked.last, "{session:?}");
            assert!(told("say") <= said.last, "{session:?}");
            let read = store.read_to_instance(session.id(), 0, usize::MAX).await;
            let there = read.unwrap().messages.into_iter();
            let there: Vec<_> = there.map(|m| (m.position, m.payload)).collect();
            check(session.id(), asked.removed, asked.last, &there);
            let read = store.read_to_client(session.id(), 0, usize::MAX).await;
            let there = read.unwrap().messages.into_iter();
            let there: Vec<_> = there.map(|m| (m.seq, m.payload)).collect();
            check(session.id(), said.removed, said.last, &there);
        }
        store.stop().await;
    }
    assert_eq!(
        newest.len() as u32,
        2 * SESSIONS,
        "all of them have written"
    );
}

fn check(id: &SessionId, removed: u64, last: u64, there: &[(u64, Bytes)]) {
    let expected: Vec<_> = (removed + 1..=last)
        .map(|number| (number, words(id, number)))
        .collect();
    assert!(there == expected, "{id}: {removed} to {last}");
}

fn journal(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .arg("journal")
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_journal_is_checked_and_copied_while_it_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let missing = journal(&["check"], directory.path());
    assert_eq!(missing.status.code(), Some(1));
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(error.contains("there is no journal at"), "{error}");

    let store = open(directory.path());
    let owner = Owner::new("run-1");
    store.create(new_session(1, &owner)).await.unwrap();
    let checked = journal(&["check", "--output", "json"], directory.path());
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let contents: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(contents["sessionsOpen"], 1);
    assert_eq!(contents["flaws"], Value::Array(Vec::new()));

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("journal.sqlite3");
    let shown = copy.to_str().unwrap();
    let copied = journal(&["backup", shown], directory.path());
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    let again = journal(&["backup", shown], directory.path());
    assert_eq!(again.status.code(), Some(1), "nothing is overwritten");
    store.stop().await;

    let restored = open(elsewhere.path());
    assert!(restored.get(&id(1)).await.is_ok());
    restored.stop().await;
    let mut damaged = std::fs::read(&copy).unwrap();
    let middle = damaged.len() / 4096 / 2 * 4096;
    damaged[middle..middle + 4096].fill(0xa5);
    std::fs::write(&copy, damaged).unwrap();
    let found = journal(&["check"], elsewhere.path());
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(String::from_utf8_lossy(&found.stdout).contains("damaged"));

    let before = std::fs::read(&copy).unwrap();
    let refused = orchestrator(&["serve", "--listen", "127.0.0.1:0", "--log", "off"])
        .arg("--data-dir")
        .arg(elsewhere.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty(), "it does not listen: {refused:?}");
    let told = String::from_utf8(refused.stderr).unwrap();
    let damaged = format!("error: the journal {shown} is damaged: ");
    assert!(told.starts_with(&damaged), "{told}");
    assert!(told.contains("`orchestrator journal check`"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(std::fs::read(&copy).unwrap(), before, "nothing was changed");
}
