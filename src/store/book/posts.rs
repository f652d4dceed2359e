//! The posts of one session that are remembered, so that a repeated one is recognised and gets the same reply.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::limit::{POST_BYTES_REMEMBERED_MAX, POSTS_REMEMBERED_MAX};
use crate::store::record::{Hash, PostKey, ReplyTo};

/// What a remembered post costs besides its words.
const POST_BYTES: usize = 128;

/// A post that is remembered. The bytes of its reply are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct PostEntry {
    /// Its position.
    pub(in crate::store) position: u64,
    /// Its key, and what was posted under it.
    pub(in crate::store) key: Option<Arc<PostKey>>,
    /// When it was posted.
    pub(in crate::store) at_ms: u64,
    /// The reply that named it.
    pub(in crate::store) reply: Option<ReplyEntry>,
}

/// The reply to a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ReplyEntry {
    /// Its number.
    pub(in crate::store) seq: u64,
    /// Its size.
    pub(in crate::store) bytes: usize,
}

/// The posts that are remembered, by position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Posts {
    entries: VecDeque<PostEntry>,
    /// The newest one that is not remembered any more.
    forgotten: u64,
    bytes: usize,
}

impl PostEntry {
    fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.key.len());
        POST_BYTES + key + self.reply.map_or(0, |reply| reply.bytes)
    }
}

impl Posts {
    /// The posts that were written down, by position.
    pub(in crate::store) fn restore(
        forgotten: u64,
        entries: impl IntoIterator<Item = PostEntry>,
    ) -> Self {
        let mut posts = Self {
            forgotten,
            ..Self::default()
        };
        for entry in entries {
            posts.push(entry);
        }
        posts
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn push(&mut self, entry: PostEntry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Takes back what was pushed since there were this many.
    pub(super) fn truncate(&mut self, len: usize) {
        while len < self.entries.len() {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.bytes();
            }
        }
    }

    /// The post with this key.
    pub(super) fn find(&self, key: &str) -> Option<(&PostEntry, Hash)> {
        self.entries.iter().rev().find_map(|entry| {
            let known = entry.key.as_ref().filter(|known| known.key == key)?;
            Some((entry, known.body))
        })
    }

    fn at(&self, position: u64) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&position, |entry| entry.position)
    }

    /// What a position was, in a log whose newest message has these two numbers.
    pub(super) fn what(&self, position: u64, last: u64, last_client_seq: u64) -> ReplyTo {
        if position == 0 {
            return ReplyTo::Nothing;
        }
        match self.at(position) {
            Ok(_) => ReplyTo::Post { position },
            Err(_) if last < position || position <= self.forgotten => {
                ReplyTo::Unknown { position }
            }
            Err(at) => {
                // Every message but a post has a number of the client.
                let posts_until = (last - last_client_seq) - (self.entries.len() - at) as u64;
                let seq = position - posts_until;
                ReplyTo::Stream { position, seq }
            }
        }
    }

    /// Notes the first reply that names a post. Whether it was the first.
    pub(super) fn reply(&mut self, position: u64, reply: ReplyEntry) -> First {
        let entry = self
            .at(position)
            .ok()
            .and_then(|at| self.entries.get_mut(at));
        match entry.filter(|entry| entry.reply.is_none()) {
            Some(entry) => {
                entry.reply = Some(reply);
                self.bytes += reply.bytes;
                First::Yes
            }
            None => First::No,
        }
    }

    /// Takes back what `reply` noted.
    pub(super) fn unreply(&mut self, position: u64) {
        let entry = self
            .at(position)
            .ok()
            .and_then(|at| self.entries.get_mut(at));
        if let Some(reply) = entry.and_then(|entry| entry.reply.take()) {
            self.bytes -= reply.bytes;
        }
    }

    /// Forgets the oldest beyond the bounds.
    pub(super) fn trim(&mut self) {
        while POSTS_REMEMBERED_MAX < self.entries.len()
            || 1 < self.entries.len() && POST_BYTES_REMEMBERED_MAX < self.bytes
        {
            self.forget_oldest();
        }
    }

    /// Whether the oldest was posted before an instant.
    pub(super) fn is_older_than(&self, at_ms: u64) -> bool {
        let oldest = self.entries.front();
        oldest.is_some_and(|entry| entry.at_ms < at_ms)
    }

    /// Forgets those posted before an instant, in the order of their positions.
    pub(super) fn forget_before(&mut self, at_ms: u64) {
        while self.is_older_than(at_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes();
            self.forgotten = entry.position;
        }
    }
}

/// Whether a reply is the first one to a remembered post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum First {
    /// It is.
    Yes,
    /// It is not, or the post is not remembered.
    No,
}
