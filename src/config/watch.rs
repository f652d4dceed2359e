//! Whether a config, or a file that it points to, has changed: a look at what the names lead to now.
//!
//! Names are followed to their end at each look, so that a link which is exchanged (as Kubernetes does for a whole
//! folder) is a change as any other. What has changed is taken once it is the same for two looks: who writes a file
//! piece by piece, or one after the other, is not read in the middle of it. No facility of the system is needed, and
//! none can be lost: notifications do not come over every file system.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a name leads to: device and inode, length, and when its content and it itself last changed.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

/// The files of a config.
#[derive(Debug)]
pub struct Watch {
    files: Vec<PathBuf>,
    /// As they were when they were last read.
    read: Vec<Stamp>,
    /// As they were at the last look.
    seen: Vec<Stamp>,
}

/// What a look finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing has changed.
    Same,
    /// Something has changed and may be changing still.
    Changing,
    /// Something has changed, and is as it was at the last look: it is to be read now.
    Changed,
}

impl Watch {
    /// Watches a config. It is read once more soon: nobody knows what has happened since it was read first.
    #[must_use]
    pub fn new(config: &Path) -> Self {
        Self {
            files: vec![config.to_owned()],
            read: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Looks whether anything has changed.
    pub fn look(&mut self) -> Look {
        let now: Vec<_> = self.files.iter().map(|path| stamp(path)).collect();
        if now == self.read {
            self.seen = now;
            return Look::Same;
        }
        if now != self.seen {
            self.seen = now;
            return Look::Changing;
        }
        self.read = now;
        Look::Changed
    }

    /// The config is about to be read, whatever a look would find.
    pub fn begin(&mut self) {
        self.read = self.files.iter().map(|path| stamp(path)).collect();
    }

    /// The files that the config points to. When they are others, all are read once more: they may have changed
    /// before they were watched.
    pub fn follow(&mut self, others: impl IntoIterator<Item = PathBuf>) {
        let config = self.files.first().cloned();
        let mut others: Vec<_> = others.into_iter().collect();
        others.sort_unstable();
        others.dedup();
        let files: Vec<_> = config.into_iter().chain(others).collect();
        if files != self.files {
            (self.files, self.read) = (files, Vec::new());
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    let times = [
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ];
    Some((found.dev(), found.ino(), found.len(), times))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Looks until nothing changes; how often it was to be read.
    fn readings(watch: &mut Watch) -> usize {
        let looks: Vec<_> = (0..6).map(|_| watch.look()).collect();
        assert_eq!(looks.last(), Some(&Look::Same), "{looks:?}");
        looks.iter().filter(|look| **look == Look::Changed).count()
    }

    #[test]
    fn a_change_is_read_once_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        let mut watch = Watch::new(&path);
        fs::write(&path, "1").unwrap();
        assert_eq!(
            [watch.look(), watch.look(), watch.look()],
            [Look::Changing, Look::Changed, Look::Same]
        );
        // Somebody writes and writes.
        for length in 2..10 {
            fs::write(&path, "1".repeat(length)).unwrap();
            assert_eq!(watch.look(), Look::Changing);
        }
        assert_eq!(readings(&mut watch), 1);
        // It was read by hand in between.
        fs::write(&path, "by hand").unwrap();
        assert_eq!(watch.look(), Look::Changing);
        watch.begin();
        assert_eq!(readings(&mut watch), 0);
        fs::remove_file(&path).unwrap();
        assert_eq!(readings(&mut watch), 1, "it is told that it is gone");
        let beside = folder.path().join("beside");
        fs::write(&beside, "by hand").unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!(readings(&mut watch), 1);
    }

    #[test]
    fn a_folder_that_is_exchanged_behind_links_is_a_change() {
        // As Kubernetes does: c.json → ..data/c.json, ..data → ..1, and then ..data is exchanged at once.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("c.json"), version).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/c.json", at("c.json")).unwrap();
        let mut watch = Watch::new(&at("c.json"));
        assert_eq!(readings(&mut watch), 1);
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(readings(&mut watch), 1);
        assert_eq!(fs::read_to_string(at("c.json")).unwrap(), "..2");
    }

    #[test]
    fn what_a_config_points_to_is_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let (path, token) = (folder.path().join("c.json"), folder.path().join("token"));
        fs::write(&path, "{}").unwrap();
        let mut watch = Watch::new(&path);
        assert_eq!(readings(&mut watch), 1);
        watch.follow([token.clone(), token.clone()]);
        assert_eq!(
            readings(&mut watch),
            1,
            "it may have changed before it was watched"
        );
        watch.follow([token.clone()]);
        assert_eq!(readings(&mut watch), 0);
        fs::write(&token, "x").unwrap();
        assert_eq!(readings(&mut watch), 1);
        watch.follow([]);
        assert_eq!(readings(&mut watch), 1);
        fs::write(&token, "xy").unwrap();
        assert_eq!(readings(&mut watch), 0);
    }
}
