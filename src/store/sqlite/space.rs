//! How much room the disk of the journal has. Clients are refused a little before it is gone: without a reserve a disk that
//! is full of their messages would take no answer to any of them, and stay full.

use std::path::{Path, PathBuf};

use crate::domain::limit::{JOURNAL_RESERVE_BYTES_MAX, JOURNAL_RESERVE_SHARE};
use crate::store::Error;

/// The room of a disk at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes that may still be written.
    free: u64,
    /// Bytes of the whole disk.
    total: u64,
    /// Bytes of the log beside the file.
    log: u64,
}

impl Space {
    /// What the system says of the disk of this journal; nothing where it says nothing.
    pub(super) fn of(journal: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(journal).ok()?;
        let log = std::fs::metadata(log(journal)).map_or(0, |log| log.len());
        Some(Self {
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
            log,
        })
    }

    /// Whether only the reserve is left.
    pub(super) fn is_tight(self) -> bool {
        let reserve = (self.total / JOURNAL_RESERVE_SHARE).min(JOURNAL_RESERVE_BYTES_MAX);
        self.free < reserve
    }

    /// Whether the log is about to be longer than what is free: moving it into the file may take as much.
    pub(super) fn is_outgrown(self) -> bool {
        self.free < self.log.saturating_mul(2)
    }
}

/// The reserve of a disk, as the writer sees to it.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// Whether nothing else is left.
    pub(super) is_tight: bool,
    refused: bool,
}

impl Reserve {
    /// Refuses a client that would take of it.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.refused |= self.is_tight;
        if self.is_tight {
            Err(Error::NoSpace)
        } else {
            Ok(())
        }
    }

    /// Whether clients were refused since this was asked last.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

fn log(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(free: u64, total: u64, log: u64, expected: (bool, bool)) {
        let space = Space { free, total, log };
        assert_eq!(
            (space.is_tight(), space.is_outgrown()),
            expected,
            "{space:?}"
        );
    }

    #[test]
    fn clients_are_refused_while_there_is_still_a_reserve_and_the_log_never_takes_the_last_room() {
        const MIB: u64 = 1 << 20;
        check(100_000 * MIB, 500_000 * MIB, 16 * MIB, (false, false));
        check(
            JOURNAL_RESERVE_BYTES_MAX - 1,
            500_000 * MIB,
            16 * MIB,
            (true, false),
        );
        check(30 * MIB, 500_000 * MIB, 16 * MIB, (true, true));
        check(MIB, 2 * MIB, MIB / 4, (false, false));
        check(MIB, 2 * MIB, 3 * MIB / 4, (false, true));
        check(MIB / 8, 2 * MIB, 0, (true, false));
        check(0, 2 * MIB, 0, (true, false));
    }

    #[test]
    fn a_disk_that_is_there_has_some_room() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::of(folder.path()).unwrap();
        assert!(0 < space.total && space.free <= space.total);
    }
}
