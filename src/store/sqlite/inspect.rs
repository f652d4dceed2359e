//! Looking at a journal from outside, also while a server writes it: what is in it, whether it is whole, and a copy.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::lock::{self, sync_directory_of};
use super::rows;
use super::schema::{self, BadFile};

/// What is in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The file.
    pub path: PathBuf,
    /// The version of SQLite that reads it.
    pub sqlite: String,
    /// The version of its tables.
    pub version: usize,
    /// Sessions that are open.
    pub open: u64,
    /// Sessions that are closed and remembered.
    pub closed: u64,
    /// Messages to instances.
    pub to_instance: Messages,
    /// Messages to clients.
    pub to_client: Messages,
    /// What is wrong; nothing when the file is whole.
    pub flaws: Vec<String>,
}

/// Messages of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// How many are kept.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a journal cannot be looked at or copied.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is none.
    #[error("there is no journal at {0}")]
    Missing(String),
    /// There is something where the copy should go.
    #[error("{0} is there already, and is not overwritten")]
    Exists(String),
    /// The file cannot be used.
    #[error(transparent)]
    BadFile(#[from] BadFile),
    /// The copy cannot be written.
    #[error("{path} cannot be written: {what}")]
    Write {
        /// Where it should go.
        path: String,
        /// What SQLite or the system says.
        what: String,
    },
}

/// Checks all of a journal: every page, every index, and that no session misses a message. A journal that is in use
/// can be checked too.
pub fn check(directory: &Path) -> Result<Contents, InspectError> {
    let path = there(directory)?;
    let file = schema::open_reader(&path)?;
    let version = schema::version(&path, &file, schema::MIGRATIONS.len())?;
    let mut contents = Contents {
        path,
        sqlite: rusqlite::version().to_owned(),
        version,
        open: 0,
        closed: 0,
        to_instance: Messages { count: 0, bytes: 0 },
        to_client: Messages { count: 0, bytes: 0 },
        flaws: Vec::new(),
    };
    if let Err(error) = look(&file, &mut contents) {
        contents.flaws.push(error.to_string());
    }
    Ok(contents)
}

fn there(directory: &Path) -> Result<PathBuf, InspectError> {
    let path = lock::journal(directory);
    if lock::is_there(&path) {
        Ok(path)
    } else {
        Err(InspectError::Missing(path.display().to_string()))
    }
}

fn look(file: &Connection, contents: &mut Contents) -> Result<(), rows::Unreadable> {
    // One view of it, whatever is written meanwhile.
    let view = file.unchecked_transaction()?;
    contents.flaws = schema::flaws(&view, "integrity_check")?;
    if contents.version == 0 {
        return Ok(());
    }
    let count = |sql: &str| {
        view.query_row(sql, [], |row| {
            let (one, other): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok((rows::unsigned(one), rows::unsigned(other)))
        })
    };
    let messages = |(count, bytes)| Messages { count, bytes };
    (contents.open, contents.closed) =
        count("SELECT count(*) - count(closed_ms), count(closed_ms) FROM sessions")?;
    let sum = |table: &str| {
        let sql = format!("SELECT count(*), coalesce(sum(length(payload)), 0) FROM {table}");
        count(&sql).map(messages)
    };
    contents.to_instance = sum("to_instance")?;
    contents.to_client = sum("to_client")?;
    rows::load(&view)?;
    Ok(())
}

/// Writes a copy of a journal, as it is at one moment, also while it is in use. The copy is whole and on the disk, or
/// is not there.
pub fn back_up(directory: &Path, to: &Path) -> Result<(), InspectError> {
    let path = there(directory)?;
    if to.exists() {
        return Err(InspectError::Exists(to.display().to_string()));
    }
    let file = schema::open_reader(&path)?;
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(&file, &partial, to);
    if written.is_err() {
        // It may never have been there.
        let _ = fs::remove_file(&partial);
    }
    written.map_err(|what| InspectError::Write {
        path: to.display().to_string(),
        what,
    })
}

fn write(file: &Connection, partial: &Path, to: &Path) -> Result<(), String> {
    let system = |error: io::Error| error.to_string();
    // What a copy that was broken off has left.
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
        Ok(()) | Err(_) => {}
    }
    // Readable for nobody else: it holds messages.
    lock::private(partial).map_err(system)?;
    let name = partial.to_str().ok_or("its name is not UTF-8")?;
    file.execute("VACUUM INTO ?1", params![name])
        .map_err(|error| error.to_string())?;
    let copy = File::open(partial).map_err(system)?;
    copy.sync_all().map_err(system)?;
    // A link and not a new name, so that nothing is overwritten.
    fs::hard_link(partial, to).map_err(system)?;
    fs::remove_file(partial).map_err(system)?;
    sync_directory_of(to).map_err(system)
}
