//! What a session is known by and how it was meant: its id, its epoch, and what it is worth to its caller.

use std::fmt;
use std::sync::Arc;

use super::limit::{SESSION_ID_BYTES_MAX, UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_MAX};

pub mod gone;
pub mod lifetime;
pub mod loss;
pub mod read_ahead;
#[cfg(test)]
mod test_lines;
pub mod to_client;
pub mod to_instance;
pub mod token;

/// The name of a session: 1 to 128 of `a-z A-Z 0-9 . _ -`, with a letter or digit at both ends. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

/// Why a text is not a session id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSessionId {
    /// Nothing there.
    #[error("a session id may not be empty")]
    Empty,
    /// Longer than `SESSION_ID_BYTES_MAX`.
    #[error("a session id may have at most {SESSION_ID_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the set, or a separator at an end.
    #[error(
        "`{0}` is not a session id: letters, digits and . _ - are allowed, with a letter or digit at both ends"
    )]
    Character(String),
}

impl SessionId {
    /// Reads an id from text that came from outside.
    pub fn parse(text: &str) -> Result<Self, BadSessionId> {
        if text.is_empty() {
            return Err(BadSessionId::Empty);
        }
        if SESSION_ID_BYTES_MAX < text.len() {
            return Err(BadSessionId::TooLong(text.len()));
        }
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        if !bytes.iter().copied().all(allowed) || !ends(bytes.first()) || !ends(bytes.last()) {
            return Err(BadSessionId::Character(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often a session has changed hands, from 1. Whoever holds an older one may neither append nor deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a session that was just made.
    pub const FIRST: Self = Self(1);

    /// The epoch with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The epoch after the next change of hands.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Its number, as it is on the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What becomes of a session whose instance is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossPolicy {
    /// It is closed.
    Fail,
    /// Another instance gets what was not acknowledged.
    Reassign,
    /// Another instance gets everything that is still kept, from the beginning.
    Replay,
}

/// What the messages of a session survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Every crash: a message is acknowledged once it is on the disk.
    Durable,
    /// Nothing: the session ends with the process that holds it.
    None,
}

/// How much of one direction of a session may be unacknowledged; one message always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages.
    pub messages: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

impl Bounds {
    /// So much leaves room for as much again; one message is always within it.
    #[must_use]
    pub fn half(self) -> Self {
        Self {
            messages: self.messages.div_ceil(2),
            bytes: self.bytes / 2,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            messages: UNACKNOWLEDGED_MAX,
            bytes: UNACKNOWLEDGED_BYTES_MAX,
        }
    }
}

/// The end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct End {
    /// Why.
    pub reason: CloseReason,
    /// The first and the last of the messages of the client's stream that were accepted and will not be delivered.
    pub lost: Option<(u64, u64)>,
    /// The positions of the first and the last such message that was posted.
    pub lost_posts: Option<(u64, u64)>,
}

impl End {
    /// The words by which it is stored: the reason, and after it what is lost, posts with a `p` before them.
    #[must_use]
    pub fn words(self) -> String {
        let mut words = self.reason.word().to_owned();
        if let Some((first, last)) = self.lost {
            words += &format!(" {first}-{last}");
        }
        if let Some((first, last)) = self.lost_posts {
            words += &format!(" p{first}-{last}");
        }
        words
    }

    /// The end with these words.
    #[must_use]
    pub fn from_words(words: &str) -> Option<Self> {
        let mut words = words.split(' ');
        let mut end = Self {
            reason: CloseReason::from_word(words.next()?)?,
            lost: None,
            lost_posts: None,
        };
        for word in words {
            let (range, lost) = match word.strip_prefix('p') {
                None => (word, &mut end.lost),
                Some(range) => (range, &mut end.lost_posts),
            };
            let (first, last) = range.split_once('-')?;
            *lost = Some((first.parse().ok()?, last.parse().ok()?));
        }
        Some(end)
    }
}

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Its client wanted it.
    ByClient,
    /// Its instance said so.
    ByInstance,
    /// Its instance was lost, and the policy is FAIL.
    InstanceLost,
    /// Its time was over.
    Expired,
    /// The orchestrator ended, and nothing of the session was to survive that.
    Restarted,
}

impl CloseReason {
    const ALL: [Self; 5] = [
        Self::ByClient,
        Self::ByInstance,
        Self::InstanceLost,
        Self::Expired,
        Self::Restarted,
    ];

    /// The word by which it is stored.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ByClient => "by_client",
            Self::ByInstance => "by_instance",
            Self::InstanceLost => "instance_lost",
            Self::Expired => "expired",
            Self::Restarted => "restarted",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_a_name_and_may_read_as_a_range() {
        let check = |text: &str, expected: bool| {
            assert_eq!(SessionId::parse(text).is_ok(), expected, "{text}");
        };
        check("session1", true);
        check("a-z", true);
        check("0191d2c8-7d0b-7b3e-8f51-2f1cf9a8b6a1", true);
        check(&"x".repeat(SESSION_ID_BYTES_MAX), true);
        check(&"x".repeat(SESSION_ID_BYTES_MAX + 1), false);
        for text in ["", "-a", "a.", "a b", "a/b", "\u{e4}", "*"] {
            check(text, false);
        }
    }

    #[test]
    fn an_end_is_read_as_it_was_written() {
        for reason in CloseReason::ALL {
            let ranges = [None, Some((1, 1)), Some((3, u64::MAX))];
            for (lost, lost_posts) in ranges.into_iter().flat_map(|a| ranges.map(|b| (a, b))) {
                let end = End {
                    reason,
                    lost,
                    lost_posts,
                };
                assert_eq!(End::from_words(&end.words()), Some(end));
            }
        }
        for words in [
            "",
            "lost",
            "by_client 1",
            "by_client 1-",
            "by_client x-2",
            "by_client p",
            "by_client p1-",
            "by_client 1-2 ",
            "lost 1-2",
        ] {
            assert_eq!(End::from_words(words), None, "{words}");
        }
    }

    #[test]
    fn an_epoch_only_rises() {
        assert!(Epoch::FIRST < Epoch::FIRST.next());
        assert_eq!(Epoch::new(u64::MAX).next().number(), u64::MAX);
    }
}
