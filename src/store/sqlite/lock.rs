//! The lock on a data directory: one process writes, and a second one is told who does.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The journal within a data directory.
const FILE: &str = "journal.sqlite3";
const LOCK: &str = "journal.lock";

/// Where the journal of a data directory is.
pub(super) fn journal(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Held as long as the journal is; the system lets go of it when the process ends, in whatever way.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, never read")] File);

/// Why a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Another process has it.
    #[error(
        "the journal {path} is in use by {holder}: stop that process, or name another data directory"
    )]
    InUse {
        /// The journal.
        path: String,
        /// The other process, as far as it is known.
        holder: String,
    },
    /// The system refuses.
    #[error("the data directory {path} cannot be used: {what}")]
    System {
        /// The directory.
        path: String,
        /// What the system says.
        what: String,
    },
}

impl Lock {
    /// Makes the directory if there is none, readable for nobody else, and takes it.
    pub(super) fn take(directory: &Path) -> Result<Self, Unavailable> {
        let system = |error: io::Error| Unavailable::System {
            path: directory.display().to_string(),
            what: error.to_string(),
        };
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(system)?;
        let path = directory.join(LOCK);
        let mut file = private(&path).map_err(system)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Unavailable::InUse {
                    path: journal(directory).display().to_string(),
                    holder: holder(&mut file),
                });
            }
            Err(error) => return Err(system(error.into())),
        }
        // Who holds it is told to people only: where the disk is full, the lock holds all the same.
        let _ = write_holder(&mut file);
        private(&journal(directory)).map_err(system)?;
        // The names of new files must survive a power cut too.
        let sync = File::open(directory).and_then(|directory| directory.sync_all());
        sync.map_err(system)?;
        Ok(Self(file))
    }
}

/// Opens a file, or makes it so that nobody else can read it: it holds messages and hashes of tokens.
pub(super) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let id = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
    id.map_or_else(
        || "another process".to_owned(),
        |id| format!("process {id}"),
    )
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Whether there is a journal at all.
pub(super) fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file())
}
