//! The file: how it is opened, which version its tables have, and how an older version becomes the newest.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::space::Space;

/// "ojnl": says that a file is a journal of ours.
const APPLICATION_ID: i32 = 0x6f6a_6e6c;

/// How long a statement waits for a backup or a check that holds the file for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages in the log before they are moved into the file, 16 MiB.
const CHECKPOINT_PAGES: i64 = 4096;

/// What makes version n + 1 out of version n, from an empty file on. An entry that was released never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    caller TEXT NOT NULL,
    spawn_key TEXT,
    spawn_request BLOB,
    token BLOB NOT NULL,
    targets TEXT NOT NULL,
    selection TEXT NOT NULL,
    hash_key TEXT,
    instance TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    loss_policy TEXT NOT NULL,
    durability TEXT NOT NULL,
    labels TEXT NOT NULL,
    idle_ttl_ms INTEGER NOT NULL,
    lifetime_ms INTEGER,
    created_ms INTEGER NOT NULL,
    closed_ms INTEGER,
    closed_reason TEXT,
    spoken INTEGER,
    to_instance_acked INTEGER NOT NULL,
    to_instance_removed INTEGER NOT NULL,
    to_instance_sender_seq INTEGER NOT NULL,
    to_client_acked INTEGER NOT NULL,
    to_client_removed INTEGER NOT NULL,
    to_client_sender_seq INTEGER NOT NULL,
    posts_forgotten INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_by_spawn ON sessions (caller, spawn_key) WHERE spawn_key IS NOT NULL;

CREATE TABLE to_instance (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    client_seq INTEGER NOT NULL,
    in_reply_to INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
-- All that is needed to count, so that a start does not read payloads.
CREATE INDEX to_instance_log ON to_instance (session, position, client_seq, bytes);

CREATE TABLE to_client (
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    instance_seq INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    reply_kind TEXT,
    reply_position INTEGER NOT NULL,
    reply_seq INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX to_client_log ON to_client (session, seq, epoch, instance_seq, taken, bytes);

CREATE TABLE posts (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT,
    body BLOB,
    at_ms INTEGER NOT NULL,
    reply_seq INTEGER,
    reply_bytes INTEGER,
    reply BLOB
) STRICT;
CREATE UNIQUE INDEX posts_log ON posts (session, position);
",
    // What the log of a session has no more and its instance was never given.
    "
ALTER TABLE sessions ADD COLUMN gone_first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN gone_last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN gone_since INTEGER NOT NULL DEFAULT 0;
",
    // The same of what was posted, and the last post that the log has no more. An older file does not tell which that
    // is: no later one than the last message that is not there.
    "
ALTER TABLE sessions ADD COLUMN gone_posts_first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN gone_posts_last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN gone_posts_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN to_instance_removed_post INTEGER NOT NULL DEFAULT 0;
UPDATE sessions SET to_instance_removed_post = to_instance_removed
WHERE to_instance_removed > coalesce(
    (SELECT min(client_seq) - 1 FROM to_instance WHERE session = number AND client_seq > 0),
    to_instance_sender_seq
);
",
];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// Damaged.
    #[error(
        "the journal {path} is damaged: {what}. Nothing was changed. `orchestrator journal check` tells more; to go on, \
         put a backup in its place, or move the file away and begin an empty one"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite says.
        what: String,
    },
    /// Something else lies there.
    #[error(
        "{path} is not a journal of the orchestrator; move it away or name another data directory"
    )]
    Foreign {
        /// The file.
        path: String,
    },
    /// Written by a newer program.
    #[error(
        "the journal {path} has version {found}, and this program knows versions up to {known}: use the program that wrote \
         it, or a newer one"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: usize,
        /// The newest known version.
        known: usize,
    },
    /// The disk is full.
    #[error("the journal {path} cannot be opened: there is no room on its disk")]
    NoRoom {
        /// The file.
        path: String,
    },
    /// The system or SQLite refuses.
    #[error("the journal {path} cannot be opened: {what}")]
    Unusable {
        /// The file.
        path: String,
        /// What they say.
        what: String,
    },
}

impl BadFile {
    pub(super) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Self {
        let (path, what) = (path.display().to_string(), error.to_string());
        Self::Unusable { path, what }
    }

    pub(super) fn judge(path: &Path, error: &rusqlite::Error) -> Self {
        let shown = path.display().to_string();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::Foreign { path: shown },
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => Self::Damaged {
                path: shown,
                what: error.to_string(),
            },
            Some(rusqlite::ErrorCode::DiskFull) => Self::NoRoom { path: shown },
            // Beside the file stand its log and an index of that. SQLite says otherwise that it could not make them.
            Some(rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::CannotOpen)
                if Space::of(path).is_some_and(Space::is_tight) =>
            {
                Self::NoRoom { path: shown }
            }
            _ => Self::unusable(path, error),
        }
    }
}

/// Opens the file for its one writer: makes it when there is none, checks it, and brings it to the newest version.
pub(super) fn open_writer(path: &Path) -> Result<Connection, BadFile> {
    let judge = |error: rusqlite::Error| BadFile::judge(path, &error);
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(judge)?;
    version(path, &connection, MIGRATIONS.len())?;
    prepare(&connection).map_err(judge)?;
    let flaws = flaws(&connection, "quick_check").map_err(judge)?;
    if !flaws.is_empty() {
        return Err(BadFile::Damaged {
            path: path.display().to_string(),
            what: flaws.join("; "),
        });
    }
    migrate(&mut connection, MIGRATIONS).map_err(judge)?;
    Ok(connection)
}

/// Opens the file to read, also while a writer holds it.
pub(super) fn open_reader(path: &Path) -> Result<Connection, BadFile> {
    let judge = |error: rusqlite::Error| BadFile::judge(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(judge)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(judge)?;
    version(path, &connection, MIGRATIONS.len())?;
    Ok(connection)
}

/// The version of a file that is ours or empty.
pub(super) fn version(
    path: &Path,
    connection: &Connection,
    known: usize,
) -> Result<usize, BadFile> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let judge = |error: rusqlite::Error| BadFile::judge(path, &error);
    let (id, found) = (
        pragma("application_id").map_err(judge)?,
        pragma("user_version").map_err(judge)?,
    );
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(judge)?;
    let path = path.display().to_string();
    if id != APPLICATION_ID && (id != 0 || found != 0 || tables != 0) {
        return Err(BadFile::Foreign { path });
    }
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if known < found {
        return Err(BadFile::Newer { path, found, known });
    }
    Ok(found)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // The log goes back to this size after a backup has kept it from being emptied.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)
}

/// Brings the file to the newest version, one version in one transaction.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let found: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(found).unwrap_or(0);
    for (at, migration) in migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", at + 1)?;
        transaction.commit()?;
        if 0 < found {
            tracing::info!(version = at + 1, "the journal has a new version");
        }
    }
    Ok(())
}

/// What `quick_check` or `integrity_check` finds; nothing when the file is whole.
pub(super) fn flaws(connection: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA {check}(10)"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let found = lines.collect::<rusqlite::Result<Vec<_>>>()?;
    // One flaw may come with a heading, in a line of its own, that says no more than that there is one.
    let flaws = found.iter().flat_map(|rows| rows.lines());
    let flaws = flaws.filter(|line| *line != "ok" && !line.starts_with("*** in database "));
    Ok(flaws.map(str::to_owned).collect())
}
