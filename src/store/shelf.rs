//! One session with its messages in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::book::{Book, First};
use super::record::{
    Appended, Direction, Fence, NewToClient, NewToInstance, Origin, Post, Reply, Slice, Taken,
    ToClient, ToInstance,
};

/// A session and its messages.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    /// Its row, where an engine has rows. Such an engine keeps the messages of durable sessions there.
    pub(super) row: i64,
    pub(super) book: Book,
    to_instance: VecDeque<ToInstance>,
    to_client: VecDeque<ToClient>,
    /// By the position of the post.
    replies: BTreeMap<u64, Bytes>,
}

impl Shelf {
    pub(super) fn new(book: Book) -> Self {
        Self {
            row: 0,
            book,
            to_instance: VecDeque::new(),
            to_client: VecDeque::new(),
            replies: BTreeMap::new(),
        }
    }

    pub(super) fn append_to_instance(
        &mut self,
        fence: &Fence,
        messages: Vec<NewToInstance>,
        free: usize,
    ) -> Result<Vec<Appended>, Error> {
        let there = &self.to_instance;
        let payload = |message: &ToInstance| (message.position, message.payload.clone());
        let written = &mut |number| find(there.iter().map(payload), number);
        let decided = self
            .book
            .append_to_instance(fence, messages, free, written)?;
        for kept in decided.kept {
            let client_seq = match kept.message.origin {
                Origin::Stream { seq } => seq,
                Origin::Post { .. } => 0,
            };
            self.to_instance.push_back(ToInstance {
                position: kept.number,
                client_seq,
                in_reply_to: kept.message.in_reply_to,
                payload: kept.message.payload,
            });
        }
        self.drop_removed();
        Ok(decided.answers)
    }

    pub(super) fn append_to_client(
        &mut self,
        fence: &Fence,
        messages: Vec<NewToClient>,
        free: usize,
    ) -> Result<Vec<Appended>, Error> {
        let there = &self.to_client;
        let payload = |message: &ToClient| (message.seq, message.payload.clone());
        let written = &mut |number| find(there.iter().map(payload), number);
        let decided = self.book.append_to_client(fence, messages, free, written)?;
        for kept in decided.kept {
            if kept.first_reply == First::Yes {
                let payload = kept.message.payload.clone();
                self.replies.insert(kept.message.in_reply_to, payload);
            }
            self.to_client.push_back(ToClient {
                seq: kept.number,
                epoch: fence.epoch,
                instance_seq: kept.message.instance_seq,
                reply_to: kept.reply_to,
                taken: Taken::No,
                payload: kept.message.payload,
            });
        }
        self.drop_removed();
        Ok(decided.answers)
    }

    pub(super) fn take(&mut self, fence: &Fence, seq: u64) -> Result<(), Error> {
        let settled = self.book.session().to_client.settled;
        self.book.take(fence, seq)?;
        let taken = self.to_client.iter_mut().find(|message| message.seq == seq);
        if let Some(message) = taken.filter(|_| settled < seq) {
            message.taken = Taken::Yes;
        }
        self.drop_removed();
        Ok(())
    }

    /// Drops what the book does not count any more. To be called after every change of the book.
    pub(super) fn drop_removed(&mut self) {
        let session = self.book.session();
        let gone = |number: u64, direction| number <= session.counters(direction).removed;
        while let Some(message) = self.to_instance.front()
            && gone(message.position, Direction::ToInstance)
        {
            self.to_instance.pop_front();
        }
        while let Some(message) = self.to_client.front()
            && gone(message.seq, Direction::ToClient)
        {
            self.to_client.pop_front();
        }
        let forgotten = self.book.posts_forgotten();
        while let Some(entry) = self.replies.first_entry()
            && *entry.key() <= forgotten
        {
            entry.remove();
        }
    }

    pub(super) fn read_to_instance(&self, after: u64, bytes_max: usize) -> Slice<ToInstance> {
        let later = self.to_instance.iter().filter(|m| after < m.position);
        Slice {
            removed: self.book.session().to_instance.removed,
            messages: fitting(later.cloned(), |m| m.payload.len(), bytes_max),
        }
    }

    pub(super) fn read_to_client(&self, after: u64, bytes_max: usize) -> Slice<ToClient> {
        let later = self.to_client.iter().filter(|m| after < m.seq);
        Slice {
            removed: self.book.session().to_client.removed,
            messages: fitting(later.cloned(), |m| m.payload.len(), bytes_max),
        }
    }

    pub(super) fn find_post(&self, key: &str) -> Option<Post> {
        let (position, body, reply) = self.book.post(key)?;
        let payload = self.replies.get(&position).cloned();
        let reply = reply.zip(payload).map(|(reply, payload)| Reply {
            seq: reply.seq,
            payload,
        });
        Some(Post {
            position,
            body,
            reply,
        })
    }
}

/// The payload with this number.
fn find(mut there: impl Iterator<Item = (u64, Bytes)>, number: u64) -> Result<Bytes, Error> {
    let found = there.find(|(at, _)| *at == number);
    found
        .map(|(_, payload)| payload)
        .ok_or_else(|| lost(number))
}

/// A message that is counted and not there: a bug of ours, or a file that somebody has changed.
pub(super) fn lost(number: u64) -> Error {
    Error::Failed(Arc::from(format!(
        "message {number} is counted and not there"
    )))
}

/// The first of these that fit, and at least one.
pub(super) fn fitting<T>(
    messages: impl Iterator<Item = T>,
    bytes: impl Fn(&T) -> usize,
    bytes_max: usize,
) -> Vec<T> {
    let (mut found, mut sum) = (Vec::new(), 0_usize);
    for message in messages {
        sum = sum.saturating_add(bytes(&message));
        if bytes_max < sum && !found.is_empty() {
            break;
        }
        found.push(message);
    }
    found
}
