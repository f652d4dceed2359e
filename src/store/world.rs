//! All sessions of an engine, and what a batch has changed of them.

use std::collections::BTreeMap;

use crate::domain::limit::STORE_SHARE_OF_ANSWERS;
use crate::domain::session::{Durability, SessionId};
use crate::store::book::Book;
use crate::store::record::{Created, NewSession, Old, Owner, Query, Session};
use crate::store::shelf::Shelf;
use crate::store::{Bound, Error, REASON_RESTARTED};

/// What is kept.
#[derive(Default)]
pub(super) struct World {
    shelves: BTreeMap<SessionId, Shelf>,
    /// By caller and key.
    spawns: BTreeMap<(String, String), SessionId>,
    /// What the sessions were that have changed since the last commit.
    before: BTreeMap<SessionId, Option<Shelf>>,
    bytes: usize,
    room: Room,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    /// Bytes of all sessions.
    pub(super) bytes_max: usize,
    /// Sessions, closed ones included.
    pub(super) sessions_max: usize,
    /// Acknowledged messages of a session that may be replayed.
    pub(super) replay_kept: usize,
}

impl World {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// Their names.
    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.shelves.keys().cloned().collect()
    }

    pub(super) fn shelf(&self, id: &SessionId) -> Result<&Shelf, Error> {
        self.shelves.get(id).ok_or(Error::NotFound)
    }

    /// Changes one session. `free` is what there is room for.
    pub(super) fn change<T, E: From<Error>>(
        &mut self,
        id: &SessionId,
        change: impl FnOnce(&mut Shelf, usize) -> Result<T, E>,
    ) -> Result<T, E> {
        let shelf = self.shelves.get_mut(id).ok_or(Error::NotFound)?;
        if !self.before.contains_key(id) {
            self.before.insert(id.clone(), Some(shelf.clone()));
        }
        let bytes = shelf.book.bytes();
        let free = self.room.bytes_max.saturating_sub(self.bytes);
        let done = change(shelf, free);
        shelf.drop_removed();
        self.bytes = self.bytes + shelf.book.bytes() - bytes;
        done
    }

    /// Changes one session for a client that sends. Some room is left for what instances say: without it a store
    /// that is full of messages would take no answer to any of them, and stay full.
    pub(super) fn change_for_client<T, E: From<Error>>(
        &mut self,
        id: &SessionId,
        change: impl FnOnce(&mut Shelf, usize) -> Result<T, E>,
    ) -> Result<T, E> {
        let kept_free = self.room.bytes_max / STORE_SHARE_OF_ANSWERS;
        self.change(id, |shelf, free| {
            change(shelf, free.saturating_sub(kept_free))
        })
    }

    pub(super) fn create(&mut self, new: NewSession) -> Result<Created, Error> {
        let caller = new.terms.caller.clone();
        let spawn = new.terms.spawn.as_ref();
        let spawn = spawn.map(|spawn| (caller, spawn.key.clone()));
        let same = spawn.as_ref().and_then(|spawn| self.spawns.get(spawn));
        if let Some(id) = same.cloned() {
            return self.change(&id, |shelf, _| shelf.book.spawn_again(&new));
        }
        let id = new.terms.id.clone();
        if self.shelves.contains_key(&id) {
            return Err(Error::AlreadyExists);
        }
        if self.room.sessions_max <= self.shelves.len() {
            return Err(Error::Full(Bound::Sessions));
        }
        let mut book = Book::new(new);
        book.keep_for_replay(self.room.replay_kept);
        let session = book.session();
        if let Some(spawn) = spawn {
            self.spawns.insert(spawn, id.clone());
        }
        self.before.entry(id.clone()).or_insert(None);
        self.shelves.insert(id, Shelf::new(book));
        Ok(Created::New(session))
    }

    pub(super) fn list(&self, query: &Query) -> Vec<Session> {
        let all = self.shelves.iter();
        let after = all.filter(|(id, _)| query.after.as_ref().is_none_or(|after| after < *id));
        let sessions = after.map(|(_, shelf)| shelf.book.session());
        let selected = sessions.filter(|session| query.selects(session));
        selected.take(query.limit).collect()
    }

    pub(super) fn recover(&mut self, owner: &Owner) -> Vec<Session> {
        let ids = self.ids();
        let mut recover =
            |id| self.change(id, |shelf, _| Ok::<_, Error>(shelf.book.recover(owner)));
        ids.iter().filter_map(|id| recover(id).ok()?).collect()
    }

    pub(super) fn forget(&mut self, id: &SessionId) -> Result<(), Error> {
        self.shelf(id)?.book.closed()?;
        if let Some(shelf) = self.shelves.remove(id) {
            self.bytes -= shelf.book.bytes();
            let terms = shelf.book.session().terms;
            if let Some(spawn) = &terms.spawn {
                self.spawns
                    .remove(&(terms.caller.clone(), spawn.key.clone()));
            }
            self.before.entry(id.clone()).or_insert(Some(shelf));
        }
        Ok(())
    }

    pub(super) fn forget_old(&mut self, old: Old) -> usize {
        let is_old = |shelf: &Shelf| {
            let closed = shelf.book.closed();
            closed.is_ok_and(|at| at < old.closed_before_ms)
        };
        // Most sessions have nothing that is old.
        let with_old = |(id, shelf): (&SessionId, &Shelf)| {
            let is_old = is_old(shelf);
            let has_old = is_old || shelf.book.has_posts_before(old.posted_before_ms);
            has_old.then(|| (id.clone(), is_old))
        };
        let found: Vec<_> = self.shelves.iter().filter_map(with_old).collect();
        let mut forgotten = 0;
        for (id, is_old) in found {
            if is_old {
                forgotten += usize::from(self.forget(&id).is_ok());
                continue;
            }
            // It is there: it was looked up just now.
            let _ = self.change(&id, |shelf, _| {
                shelf.book.forget_posts(old.posted_before_ms);
                Ok::<_, Error>(())
            });
        }
        forgotten
    }

    /// The sessions that have changed since the last commit, each as it was before.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&SessionId, Option<&Shelf>)> {
        self.before.iter().map(|(id, shelf)| (id, shelf.as_ref()))
    }

    /// Puts a session there that was written down.
    pub(super) fn restore(&mut self, shelf: Shelf) {
        let terms = shelf.book.session().terms;
        if let Some(spawn) = &terms.spawn {
            let spawn = (terms.caller.clone(), spawn.key.clone());
            self.spawns.insert(spawn, terms.id.clone());
        }
        self.bytes += shelf.book.bytes();
        self.shelves.insert(terms.id.clone(), shelf);
    }

    /// All sessions.
    pub(super) fn shelves(&self) -> impl Iterator<Item = &Shelf> {
        self.shelves.values()
    }

    /// Takes back what has changed since the last commit.
    pub(super) fn roll_back(&mut self) {
        for (id, shelf) in std::mem::take(&mut self.before) {
            match shelf {
                Some(shelf) => self.shelves.insert(id, shelf),
                None => self.shelves.remove(&id),
            };
        }
        self.count();
    }

    /// Keeps what has changed, and answers the names of what did.
    pub(super) fn commit(&mut self) -> impl Iterator<Item = SessionId> + use<> {
        std::mem::take(&mut self.before).into_keys()
    }

    /// Makes these sessions what they are in another world; what is never to be durable is left out.
    pub(super) fn copy(&mut self, from: &Self, ids: impl IntoIterator<Item = SessionId>) {
        for id in ids {
            let Some(shelf) = from.shelves.get(&id) else {
                self.shelves.remove(&id);
                continue;
            };
            let durable = match shelf.book.session().terms.durability {
                Durability::Durable => shelf.clone(),
                Durability::None => Shelf::new(shelf.book.without_messages()),
            };
            self.shelves.insert(id, durable);
        }
        self.count();
    }

    /// What a new process finds: sessions that survive nothing are over.
    pub(super) fn reopen(&mut self) {
        let ends = |(id, shelf): (&SessionId, &Shelf)| {
            let book = &shelf.book;
            let created_ms = book.session().terms.created_ms;
            book.ends_with_its_process()
                .then(|| (id.clone(), created_ms))
        };
        let ended: Vec<_> = self.shelves.iter().filter_map(ends).collect();
        for (id, created_ms) in ended {
            // It is there: it was looked up just now.
            let _ = self.change(&id, |shelf, _| {
                shelf.book.end(REASON_RESTARTED, created_ms);
                Ok::<_, Error>(())
            });
        }
    }

    fn count(&mut self) {
        let spawn = |(id, shelf): (&SessionId, &Shelf)| {
            let terms = shelf.book.session().terms;
            let key = terms.spawn.as_ref()?.key.clone();
            Some(((terms.caller.clone(), key), id.clone()))
        };
        self.spawns = self.shelves.iter().filter_map(spawn).collect();
        self.bytes = self.shelves.values().map(|shelf| shelf.book.bytes()).sum();
    }
}
