//! What is wrong with a config: each mistake with its place, all of them at once.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};

/// Mistakes that are told; a file with more is most likely not a config at all.
const TOLD_MAX: usize = 100;
/// Mistakes that are kept until they are put in the order of the file.
const KEPT_MAX: usize = 10_000;
/// Characters of a value that are repeated.
const SHOWN_CHARS_MAX: usize = 80;

/// Everything that is wrong with a config file; at least one mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: PathBuf,
    told: Vec<Mistake>,
    untold: usize,
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands; `None` when it is about the file as a whole.
    pub position: Option<Position>,
    /// The setting, as in `instances[2].address`; empty for the whole.
    pub path: String,
    /// What is wrong and what to do.
    pub what: String,
}

/// A place in the file, as editors count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Mistakes {
    /// The file itself cannot be used.
    pub(super) fn of_file(file: &Path, what: impl Into<String>) -> Self {
        let mistake = Mistake {
            position: None,
            path: String::new(),
            what: what.into(),
        };
        Self {
            file: file.to_owned(),
            told: vec![mistake],
            untold: 0,
        }
    }

    /// How many more there are.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.untold
    }

    /// What was found, in the order of the file; a hundred at most.
    #[must_use]
    pub fn told(&self) -> &[Mistake] {
        &self.told
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = harmless(&self.file.to_string_lossy());
        for (index, mistake) in self.told.iter().enumerate() {
            if index != 0 {
                writeln!(f)?;
            }
            write!(f, "{file}:{mistake}")?;
        }
        if self.untold != 0 {
            write!(f, "\n{file}: and {} more mistakes", self.untold)?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.what)
    }
}

/// Where mistakes are noted while a text is read.
pub(super) struct Notes<'a> {
    text: &'a str,
    /// Bytes before each line.
    lines: Vec<usize>,
    noted: RefCell<Vec<Noted>>,
    dropped: Cell<usize>,
}

struct Noted {
    at: usize,
    path: String,
    what: String,
}

impl<'a> Notes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let newlines = text.match_indices('\n');
        Self {
            text,
            lines: [0]
                .into_iter()
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
            noted: RefCell::default(),
            dropped: Cell::default(),
        }
    }

    pub(super) fn note(&self, at: usize, path: &str, what: &str) {
        let mut noted = self.noted.borrow_mut();
        if KEPT_MAX <= noted.len() {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        noted.push(Noted {
            at,
            path: harmless(path),
            what: harmless(what),
        });
    }

    /// The line of a place.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    fn position(&self, at: usize) -> Position {
        let line = self.line(at);
        let line_start = self.lines.get(line - 1).copied().unwrap_or(0);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let before = rest
            .char_indices()
            .take_while(|(index, _)| line_start + index < at);
        Position {
            line,
            column: before.count() + 1,
        }
    }

    /// `value` when nothing was noted.
    pub(super) fn settle<T>(self, file: &Path, value: T) -> Result<T, Mistakes> {
        let mut noted = self.noted.take();
        if noted.is_empty() {
            return Ok(value);
        }
        noted.sort_by_key(|noted| noted.at);
        let untold = self.dropped.get() + noted.len().saturating_sub(TOLD_MAX);
        let told = noted.into_iter().take(TOLD_MAX).map(|noted| Mistake {
            position: Some(self.position(noted.at)),
            path: noted.path,
            what: noted.what,
        });
        Err(Mistakes {
            file: file.to_owned(),
            told: told.collect(),
            untold,
        })
    }
}

/// A value as it is repeated in a mistake: not too long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text that cannot steer the terminal or pretend to be another line.
fn harmless(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_as_editors_count() {
        let notes = Notes::new("äb\ncd\r\n\nf");
        let check = |at: usize, line: usize, column: usize| {
            assert_eq!(notes.position(at), Position { line, column }, "{at}");
        };
        check(0, 1, 1);
        check(1, 1, 2);
        check(2, 1, 2);
        check(4, 2, 1);
        check(5, 2, 2);
        check(8, 3, 1);
        check(9, 4, 1);
        check(1000, 4, 2);
    }

    #[test]
    fn mistakes_are_told_in_order_and_not_without_end() {
        let notes = Notes::new("a\nb");
        notes.note(2, "b", "second\u{1b}[2J\nline");
        notes.note(0, "a", "first");
        let told = notes.settle(Path::new("c.json"), ()).unwrap_err();
        let expected = "c.json:1:1: a: first\nc.json:2:1: b: second\u{fffd}[2J\u{fffd}line";
        assert_eq!(told.to_string(), expected);

        let notes = Notes::new("");
        for _ in 0..20_150 {
            notes.note(0, "", "wrong");
        }
        let told = notes.settle(Path::new("c.json"), ()).unwrap_err();
        assert_eq!(told.told().len(), 100);
        let told = told.to_string();
        assert!(
            told.ends_with("\nc.json: and 20050 more mistakes"),
            "{told}"
        );
    }

    #[test]
    fn a_file_without_mistakes_is_what_it_says() {
        assert_eq!(Notes::new("").settle(Path::new("c.json"), 1), Ok(1));
        let unread = Mistakes::of_file(Path::new("c.json"), "cannot be read");
        assert_eq!(unread.to_string(), "c.json: cannot be read");
    }
}
