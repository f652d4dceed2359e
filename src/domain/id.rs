//! The name of an instance.

use std::fmt;
use std::sync::Arc;

use super::limit::ID_BYTES_MAX;
use super::target;

/// The name of an instance: 1 to 63 of `a-z A-Z 0-9 . _ -`, with a letter or digit at both ends, and not
/// readable as a range. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

/// Why a text is not an instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Nothing there.
    #[error("an instance id may not be empty")]
    Empty,
    /// Longer than `ID_BYTES_MAX`.
    #[error("an instance id may have at most {ID_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the set, or a separator at an end.
    #[error(
        "`{0}` is not an instance id: letters, digits and . _ - are allowed, with a letter or digit at both ends"
    )]
    Character(String),
    /// `w1-w9` could never be told from the range.
    #[error("`{0}` reads as a range and cannot be an instance id")]
    Range(String),
}

impl InstanceId {
    /// Reads an id from text that came from outside.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::Empty);
        }
        if ID_BYTES_MAX < text.len() {
            return Err(BadId::TooLong(text.len()));
        }
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        if !bytes.iter().copied().all(allowed) || !ends(bytes.first()) || !ends(bytes.last()) {
            return Err(BadId::Character(text.to_owned()));
        }
        if target::reads_as_range(text) {
            return Err(BadId::Range(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_name_and_never_a_range() {
        let check = |text: &str, expected: Result<(), &str>| {
            let found = InstanceId::parse(text).map(|_| ());
            assert_eq!(
                found.map_err(|bad| bad.to_string()),
                expected.map_err(str::to_owned),
                "{text}"
            );
        };
        for good in [
            "A",
            "w01",
            "gpu-a",
            "us-east-1",
            "a.b_c",
            "A1-b2",
            &"x".repeat(63),
        ] {
            check(good, Ok(()));
        }
        check("", Err("an instance id may not be empty"));
        check(
            "A-H",
            Err("`A-H` reads as a range and cannot be an instance id"),
        );
        check(
            "w01-w64",
            Err("`w01-w64` reads as a range and cannot be an instance id"),
        );
        check(
            "H-A",
            Err("`H-A` reads as a range and cannot be an instance id"),
        );
        check(
            "*",
            Err(
                "`*` is not an instance id: letters, digits and . _ - are allowed, with a letter or digit at both ends",
            ),
        );
        check(
            &"x".repeat(64),
            Err("an instance id may have at most 63 characters, this one has 64"),
        );
    }
}
