//! What holds of this engine only: its file, its lock, its thread, its commits.

use std::fs;

use rusqlite::Connection;

use super::desk::Broken;
use super::*;
use crate::domain::limit::SETTLED_KEPT;
use crate::store::conformance::{
    Engine as _, Sqlite, fence, id, instance, make, owner, posted, said, streamed, to_client,
    to_instance,
};

fn open(directory: &Path) -> Result<SqliteStore, String> {
    let opened = SqliteStore::open(directory, Settings::default(), &Tasks::new());
    opened.map_err(|error| error.to_string())
}

async fn stop(sqlite: Sqlite) -> tempfile::TempDir {
    sqlite.store.stop().await;
    sqlite.directory
}

#[test]
fn sqlite_is_new_enough() {
    // 3.51.3 mends a fault by which a log could be damaged.
    assert!(3_051_003 <= rusqlite::version_number());
}

#[tokio::test]
async fn what_is_to_survive_a_power_cut_is_waited_for() {
    let sqlite = Sqlite::empty(usize::MAX);
    let pragmas = |sync| {
        sqlite.store.write(sync, 0, |desk| {
            let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
            let mode = desk.file.pragma_query_value(None, "journal_mode", mode)?;
            let waits = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            let waits = desk.file.pragma_query_value(None, "synchronous", waits)?;
            Ok((mode, waits))
        })
    };
    let wal = |synchronous| Ok(("wal".to_owned(), synchronous));
    // FULL is 2: the log is synced with each commit. NORMAL is 1: only before it is moved into the file.
    for (sync, expected) in [(Sync::Full, 2), (Sync::Ordered, 1), (Sync::Full, 2)] {
        assert_eq!(pragmas(sync).await, wal(expected));
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_journal() {
    let first = Sqlite::empty(usize::MAX);
    let refused = open(first.directory.path()).err().unwrap();
    let (path, holder) = (
        first.directory.path().join("journal.sqlite3"),
        std::process::id(),
    );
    let expected = format!(
        "the journal {} is in use by process {holder}",
        path.display()
    );
    assert!(refused.starts_with(&expected), "{refused}");
    let directory = stop(first).await;
    open(directory.path()).unwrap();
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data");
    let store = open(&directory).unwrap();
    make(&store, "s").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_file_of_something_else_or_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = SqliteStore::path(directory.path());
    fs::write(&path, "a letter of several words").unwrap();
    let refused = open(directory.path()).err().unwrap();
    assert!(refused.contains("is not a journal"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"a letter of several words");

    fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE recipes (name TEXT)")
        .unwrap();
    drop(other);
    let refused = open(directory.path()).err().unwrap();
    assert!(refused.contains("is not a journal"), "{refused}");

    fs::remove_file(&path).unwrap();
    let store = open(directory.path()).unwrap();
    store.stop().await;
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let refused = open(directory.path()).err().unwrap();
    assert!(refused.contains("has version 99"), "{refused}");
}

#[tokio::test]
async fn a_damaged_file_stops_the_start_and_says_what_to_do() {
    let sqlite = Sqlite::empty(usize::MAX);
    for at in 0..50 {
        let s = make(sqlite.store(), &format!("s{at}")).await;
        let words = vec![streamed(1, &"x".repeat(3000))];
        let append = sqlite.store().append_to_instance(&s, &fence(), words);
        append.await.unwrap();
    }
    let directory = stop(sqlite).await;
    let path = SqliteStore::path(directory.path());
    let whole = fs::read(&path).unwrap();
    assert_eq!(
        inspect::check(directory.path()).unwrap().flaws,
        Vec::<String>::new()
    );
    let mut damaged = whole.clone();
    // The middle of the file; its header stays as it was.
    let page = (damaged.len() / 4096 / 2) * 4096;
    damaged[page..page + 4096].fill(0xa5);
    fs::write(&path, damaged).unwrap();
    let refused = open(directory.path()).err().unwrap();
    for word in ["is damaged", "journal check", "backup"] {
        assert!(refused.contains(word), "{refused}");
    }
    let found = inspect::check(directory.path()).unwrap();
    assert!(!found.flaws.is_empty());
    fs::write(&path, whole).unwrap();
    open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_missing_message_is_damage_even_where_the_pages_are_whole() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let words = (1..=3).map(|seq| streamed(seq, "m")).collect();
    let append = sqlite.store().append_to_instance(&s, &fence(), words);
    append.await.unwrap();
    let directory = stop(sqlite).await;
    let file = Connection::open(SqliteStore::path(directory.path())).unwrap();
    file.execute("DELETE FROM to_instance WHERE position = 2", [])
        .unwrap();
    drop(file);
    let refused = open(directory.path()).err().unwrap();
    assert!(
        refused.contains("session s: message 2 is missing"),
        "{refused}"
    );
}

#[test]
fn an_older_version_becomes_the_newest_and_keeps_what_it_had() {
    let mut file = Connection::open_in_memory().unwrap();
    let one = "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('kept')";
    let two = "ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'new'";
    schema::migrate(&mut file, &[one]).unwrap();
    schema::migrate(&mut file, &[one, two]).unwrap();
    schema::migrate(&mut file, &[one, two]).unwrap();
    let row: (String, String) = file
        .query_row("SELECT a, b FROM t", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(row, ("kept".to_owned(), "new".to_owned()));
    let version = || schema::version(Path::new("x"), &file, 2).unwrap();
    assert_eq!(version(), 2);
    // A version that cannot be made leaves the file as it was.
    let bad = "ALTER TABLE t ADD COLUMN c TEXT; SELECT nonsense FROM nowhere";
    let mut file = file;
    schema::migrate(&mut file, &[one, two, bad]).unwrap_err();
    assert_eq!(schema::version(Path::new("x"), &file, 2).unwrap(), 2);
    file.prepare("SELECT c FROM t").unwrap_err();
}

/// A file of the first version, as a program of that time has left it.
#[tokio::test]
async fn a_journal_of_an_older_version_is_opened_and_goes_on() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let one = vec![streamed(1, "kept")];
    let store = sqlite.store();
    store.append_to_instance(&s, &fence(), one).await.unwrap();
    // Of these the log has no more what came first.
    let many = 3 * SETTLED_KEPT as u64;
    let mut removed = Vec::new();
    for name in ["posted", "streamed"] {
        let s = make(store, name).await;
        let first = match name {
            "posted" => posted(None, "one"),
            _ => streamed(1, "one"),
        };
        let from = if name == "posted" { 1 } else { 2 };
        let rest = (from..many).map(|seq| streamed(seq, "m"));
        let messages = std::iter::once(first).chain(rest).collect();
        let answers = store.append_to_instance(&s, &fence(), messages).await;
        let last = answers.unwrap().len() as u64;
        let acked = store.acknowledge(&s, &fence(), Direction::ToInstance, last);
        acked.await.unwrap();
        removed.push(store.get(&s).await.unwrap().to_instance.removed);
    }
    let directory = stop(sqlite).await;
    let file = Connection::open(SqliteStore::path(directory.path())).unwrap();
    for of in ["gone", "gone_posts"] {
        for column in ["first", "last", "since"] {
            let drop = format!("ALTER TABLE sessions DROP COLUMN {of}_{column}");
            file.execute(&drop, []).unwrap();
        }
    }
    let drop_last = "ALTER TABLE sessions DROP COLUMN to_instance_removed_post";
    file.execute(drop_last, []).unwrap();
    file.pragma_update(None, "user_version", 1).unwrap();
    drop(file);
    let found = inspect::check(directory.path()).unwrap();
    assert_eq!((found.version, found.flaws), (1, Vec::<String>::new()));
    let sqlite = Sqlite::open(directory, usize::MAX);
    assert_eq!(to_instance(sqlite.store(), &s, 0).await, ["1 kept"]);
    let noted = sqlite.store().note_gone(&s, &fence(), 1).await;
    let (gone, posts) = noted.unwrap();
    assert_eq!((gone.first, gone.last, posts.last), (1, 1, 0));
    // Which of them was posted such a file does not tell: that it is told at all counts.
    let store = sqlite.store();
    for (name, all, post) in [
        ("posted", removed[0], removed[0]),
        ("streamed", removed[1], 0),
    ] {
        let noted = store.note_gone(&id(name), &fence(), all).await;
        let (gone, posts) = noted.unwrap();
        let streamed = if post == 0 { all } else { all - 1 };
        assert_eq!((gone.last, posts.last), (streamed, post), "{name}");
    }
}

#[tokio::test]
async fn the_fence_holds_in_the_file_whatever_this_process_believes() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let append = |seq| {
        let store = sqlite.store();
        store.append_to_instance(&s, &fence(), vec![streamed(seq, "m")])
    };
    append(1).await.unwrap();
    // Somebody else takes the session over behind the engine's back.
    let other = Connection::open(SqliteStore::path(sqlite.directory.path())).unwrap();
    other
        .execute("UPDATE sessions SET epoch = 2, owner = 'other'", [])
        .unwrap();
    drop(other);
    let refused = append(2).await;
    assert!(matches!(refused, Err(Error::Failed(_))), "{refused:?}");
    until(&sqlite.store, Readiness::Ready).await;
    let current = Epoch::new(2);
    assert_eq!(append(2).await, Err(Error::StaleEpoch { current }));
    assert_eq!(to_instance(sqlite.store(), &s, 0).await, ["1 m"]);
}

async fn until(store: &SqliteStore, state: Readiness) {
    let mut readiness = store.readiness();
    readiness.wait_for(|now| *now == state).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_fails_leaves_nothing_and_the_store_goes_on_when_the_file_is_whole() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let mut none = crate::store::conformance::new_session("none");
    none.terms.durability = Durability::None;
    sqlite.store().create(none).await.unwrap();
    let words = vec![streamed(1, "in memory")];
    let append = sqlite
        .store()
        .append_to_instance(&id("none"), &fence(), words);
    append.await.unwrap();
    let (to_append, to_forget) = (s.clone(), s.clone());
    let broken = sqlite.store.write(Sync::Full, 0, move |desk| {
        desk.append_to_instance(&to_append, &fence(), vec![posted(Some("k"), "lost")])?;
        desk.append_to_client(&to_append, &fence(), vec![said(1, 1, "lost")])?;
        Err::<(), _>(Broken::Foreign.into())
    });
    assert!(matches!(broken.await, Err(Error::Failed(_))));
    until(&sqlite.store, Readiness::Ready).await;
    let nothing = Vec::<String>::new();
    assert_eq!(to_instance(sqlite.store(), &s, 0).await, nothing);
    assert_eq!(to_client(sqlite.store(), &s, 0).await, nothing);
    assert_eq!(sqlite.store().find_post(&s, "k").await, Ok(None));
    let kept = to_instance(sqlite.store(), &id("none"), 0).await;
    assert_eq!(kept, ["1 in memory"], "no process has ended");
    let words = vec![streamed(1, "kept")];
    let append = sqlite.store().append_to_instance(&s, &fence(), words);
    assert_eq!(append.await, Ok(vec![Appended::New(1)]));
    // A refusal is no failure: it does not touch the rest of its batch.
    let refused = sqlite.store.write(Sync::Full, 0, move |desk| {
        desk.append_to_instance(&to_forget, &fence(), vec![streamed(2, "two")])?;
        Err::<(), _>(Error::Conflict.into())
    });
    assert_eq!(refused.await, Err(Error::Conflict));
    let engine = sqlite.crash();
    let there = to_instance(engine.store(), &s, 0).await;
    assert_eq!(there, ["1 kept", "2 two"]);
}

#[tokio::test]
async fn without_room_sends_are_refused_and_go_on_when_there_is_some() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let append = |seq| {
        let words = vec![streamed(seq, &"x".repeat(100_000))];
        sqlite.store().append_to_instance(&s, &fence(), words)
    };
    append(1).await.unwrap();
    let pages = |pages: u32| {
        sqlite
            .store
            .write(Sync::Ordered, 0, move |desk| Ok(desk.limit_pages(pages)?))
    };
    pages(1).await.unwrap();
    assert_eq!(append(2).await, Err(Error::NoSpace));
    assert_eq!(append(2).await, Err(Error::NoSpace));
    let readiness = sqlite.store.readiness();
    assert_eq!(*readiness.borrow(), Readiness::NoSpace);
    let old = Old {
        closed_before_ms: 0,
        posted_before_ms: 0,
    };
    sqlite.store().forget_old(old).await.unwrap();
    let is = *readiness.borrow();
    assert_eq!(is, Readiness::NoSpace, "what writes nothing finds no room");
    let there = sqlite.store().read_to_instance(&s, 0, usize::MAX).await;
    assert_eq!(there.unwrap().messages.len(), 1, "what was taken stays");
    pages(u32::MAX).await.unwrap();
    sqlite.store().try_room().await.unwrap();
    assert_eq!(*readiness.borrow(), Readiness::Ready);
    assert_eq!(append(2).await, Ok(vec![Appended::New(2)]));
    assert_eq!(*sqlite.store.readiness().borrow(), Readiness::Ready);
    assert_eq!(
        sqlite
            .crash()
            .store()
            .get(&s)
            .await
            .unwrap()
            .to_instance
            .last,
        2
    );
}

#[tokio::test]
async fn a_journal_in_use_can_be_checked_and_copied() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    let words = vec![streamed(1, "four")];
    let append = sqlite.store().append_to_instance(&s, &fence(), words);
    append.await.unwrap();
    let contents = inspect::check(sqlite.directory.path()).unwrap();
    assert_eq!((contents.open, contents.closed), (1, 0));
    assert_eq!(
        (contents.to_instance.count, contents.to_instance.bytes),
        (1, 4)
    );
    assert_eq!(
        (contents.version, contents.flaws.len()),
        (schema::MIGRATIONS.len(), 0)
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = SqliteStore::path(elsewhere.path());
    inspect::back_up(sqlite.directory.path(), &copy).unwrap();
    let again = inspect::back_up(sqlite.directory.path(), &copy);
    assert!(matches!(again, Err(inspect::InspectError::Exists(_))));
    assert_eq!(
        fs::read_dir(elsewhere.path()).unwrap().count(),
        1,
        "no partial one"
    );
    let words = vec![streamed(2, "later")];
    let append = sqlite.store().append_to_instance(&s, &fence(), words);
    append.await.unwrap();
    // The copy is a journal.
    let restored = Sqlite::open(elsewhere, usize::MAX);
    assert_eq!(to_instance(restored.store(), &s, 0).await, ["1 four"]);
    let missing = inspect::check(Path::new("/nowhere"));
    assert!(matches!(missing, Err(inspect::InspectError::Missing(_))));
}

#[tokio::test]
async fn whatever_has_queued_shares_one_commit() {
    let sqlite = Sqlite::empty(usize::MAX);
    let s = make(sqlite.store(), "s").await;
    // The writer is held up while others queue.
    let (begun, has_begun) = oneshot::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let holds = sqlite.store.write(Sync::Ordered, 0, move |_| {
        let _ = begun.send(());
        let _ = may_go.recv();
        Ok(())
    });
    let commits = |store: &SqliteStore| store.write(Sync::Ordered, 0, |desk| Ok(desk.commits()));
    let before = commits(&sqlite.store).await.unwrap();
    let tasks = Tasks::new();
    let (told, mut answered) = mpsc::channel(100);
    tasks.spawn(async move { holds.await.unwrap() });
    has_begun.await.unwrap();
    let appends: Vec<_> = (0..50)
        .map(|at| {
            let words = vec![posted(Some(&at.to_string()), "m")];
            sqlite.store.append_to_instance(&s, &fence(), words)
        })
        .collect();
    for append in appends {
        let told = told.clone();
        tasks.spawn(async move { told.send(append.await.unwrap()).await.unwrap() });
    }
    while sqlite.store.writer.max_capacity() - sqlite.store.writer.capacity() < 50 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    for _ in 0..50 {
        answered.recv().await.unwrap();
    }
    assert_eq!(commits(&sqlite.store).await.unwrap(), before + 1);
    let session = sqlite
        .store()
        .take_over(&s, Epoch::FIRST, &owner(), &instance("B"));
    assert_eq!(session.await.unwrap().to_instance.last, 50);
}
