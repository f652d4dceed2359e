//! The sessions by their names and by their tokens, and when the time of each is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Signal};
use super::fleet_change::Waiting;
use super::{House, storing};
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::SESSION_PAGE_READ;
use crate::domain::session::SessionId;
use crate::domain::session::lifetime::{Lifetime, Presence};
use crate::domain::session::token;
use crate::store::record::{Query, Session, State, StateFilter};

/// The sessions by their names and by their tokens.
#[derive(Default)]
pub(super) struct Registry {
    by_id: BTreeMap<SessionId, Listed>,
    by_token: HashMap<token::Hash, Token>,
    /// Those that were spawned under an idempotency key: by its caller and by itself.
    by_spawn: HashMap<(String, String), SessionId>,
    /// When the time of each session is looked at next: one look for each.
    looks: BTreeSet<(Instant, SessionId)>,
}

struct Listed {
    entry: Arc<Entry>,
    token: token::Hash,
    look_at: Instant,
}

/// What a token is good for.
struct Token {
    session: SessionId,
    /// Fires when it is good for nothing any more; made once somebody comes with it.
    void: OnceLock<CancellationToken>,
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(void) = self.void.get() {
            void.cancel();
        }
    }
}

impl Registry {
    pub(super) fn find(&self, id: &SessionId) -> Option<Arc<Entry>> {
        self.by_id.get(id).map(|listed| Arc::clone(&listed.entry))
    }

    /// The session that a token is good for, and what fires when it is good for it no more.
    pub(super) fn find_by_token(
        &self,
        hash: &token::Hash,
    ) -> Option<(&Arc<Entry>, CancellationToken)> {
        let token = self.by_token.get(hash)?;
        let void = token.void.get_or_init(CancellationToken::new).clone();
        Some((&self.by_id.get(&token.session)?.entry, void))
    }

    fn insert(&mut self, entry: &Arc<Entry>, token: token::Hash, now: Instant) {
        let id = &entry.terms.id;
        // One that is being forgotten may still be there.
        self.remove(id);
        let look_at = entry.look_at(now);
        self.looks.insert((look_at, id.clone()));
        self.insert_token(id.clone(), token);
        if let Some(key) = spawned_by(entry) {
            self.by_spawn.insert(key, id.clone());
        }
        let listed = Listed {
            entry: Arc::clone(entry),
            token,
            look_at,
        };
        self.by_id.insert(id.clone(), listed);
    }

    fn remove(&mut self, id: &SessionId) {
        if let Some(listed) = self.by_id.remove(id) {
            self.by_token.remove(&listed.token);
            self.looks.remove(&(listed.look_at, id.clone()));
            // Another one may have the key by now.
            if let Some(key) = spawned_by(&listed.entry)
                && self.by_spawn.get(&key) == Some(id)
            {
                self.by_spawn.remove(&key);
            }
        }
    }

    /// The token of a session is another one now: whoever came with the one before has to leave.
    pub(super) fn replace_token(&mut self, id: &SessionId, token: token::Hash) {
        let Some(listed) = self.by_id.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut listed.token, token);
        self.by_token.remove(&before);
        self.insert_token(id.clone(), token);
    }

    fn insert_token(&mut self, session: SessionId, token: token::Hash) {
        let void = OnceLock::new();
        self.by_token.insert(token, Token { session, void });
    }

    /// The next session whose time is looked at now, which is looked at again later.
    pub(super) fn next_look(&mut self, now: Instant) -> Option<Arc<Entry>> {
        let (at, _) = self.looks.first()?;
        if now < *at {
            return None;
        }
        let (_, id) = self.looks.pop_first()?;
        let listed = self.by_id.get_mut(&id)?;
        listed.look_at = listed.entry.look_at(now);
        self.looks.insert((listed.look_at, id));
        Some(Arc::clone(&listed.entry))
    }
}

/// The caller and the key that a session was spawned by.
fn spawned_by(entry: &Entry) -> Option<(String, String)> {
    let spawn = entry.terms.spawn.as_ref()?;
    Some((entry.terms.caller.clone(), spawn.key.clone()))
}

impl House {
    /// Notes a session that the store has.
    pub(super) fn enter(&self, session: &Session) -> Arc<Entry> {
        let terms = &session.terms;
        let now = Instant::now();
        let age = Duration::from_millis(self.now_ms().saturating_sub(terms.created_ms));
        let lifetime = Lifetime {
            idle_ttl: terms.idle_ttl,
            ends: terms
                .lifetime
                .map(|lifetime| (now + lifetime.saturating_sub(age)).into_std()),
        };
        let expires = match session.state {
            State::Open => lifetime.expires(now.into_std(), Presence::Away),
            State::Closed { .. } => Some((now + terms.idle_ttl).into_std()),
        };
        let entry = Entry::new(Arc::clone(terms), lifetime, expires.map(Instant::from_std));
        let is_closed = matches!(session.state, State::Closed { .. });
        entry.closed.store(is_closed, Ordering::Relaxed);
        let mut registry = self.change_registry();
        // Two answers of the store may tell of the same session, the later one first.
        if let Some(there) = registry.find(session.id())
            && !there.closed.load(Ordering::Relaxed)
        {
            return there;
        }
        registry.insert(&entry, session.token.0, now);
        entry
    }

    /// Takes over the sessions of the store, and notes those that have ended and are not forgotten yet.
    pub(super) async fn take_up(self: &Arc<Self>) -> Result<(), Failure> {
        let recovered = self.store.recover(&self.owner).await;
        for session in recovered.map_err(|error| storing::failure(&error))? {
            let entry = self.enter(&session);
            self.count(&entry, Some(&session.instance));
            let was_used = 0 < session.to_instance.last || session.spoken.is_some();
            entry.known_from_before.store(was_used, Ordering::Relaxed);
            if session.to_instance.acked < session.to_instance.last {
                self.wake(&entry);
            }
        }
        self.enter_listed(Some(StateFilter::Closed)).await
    }

    /// The store has no room to write down that its sessions are ours: they are shown, and that is all.
    pub(super) async fn wait_for_room(&self) -> Result<(), Failure> {
        tracing::warn!("the disk of the journal is full: sessions wait until there is room");
        self.waits_for_room.store(true, Ordering::Release);
        self.enter_listed(None).await
    }

    /// Tries again what there was no room for.
    pub(super) async fn try_to_take_up(self: &Arc<Self>) {
        match self.take_up().await {
            Ok(()) => {
                self.waits_for_room.store(false, Ordering::Release);
                tracing::info!("the journal has room: its sessions go on");
            }
            Err(failure) if failure.reason == Reason::JournalFull => {}
            Err(failure) => tracing::warn!(%failure, "the sessions of the journal wait"),
        }
    }

    /// Fails as long as the sessions are only shown.
    pub(super) fn check_room(&self) -> Result<(), Failure> {
        if self.waits_for_room.load(Ordering::Acquire) {
            let detail = "the disk of the journal is full: its sessions wait until there is room";
            return Err(Failure::new(Reason::JournalFull, detail));
        }
        Ok(())
    }

    /// Notes all sessions in this state.
    async fn enter_listed(&self, state: Option<StateFilter>) -> Result<(), Failure> {
        let mut query = Query {
            state,
            limit: SESSION_PAGE_READ,
            ..Query::default()
        };
        loop {
            let page = self.store.list(query.clone()).await;
            let page = page.map_err(|error| storing::failure(&error))?;
            for session in &page {
                self.enter(session);
            }
            match page.last() {
                Some(last) if page.len() == SESSION_PAGE_READ => {
                    query.after = Some(last.id().clone());
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// The session that this caller has spawned under this key.
    pub(super) fn find_by_spawn(&self, caller: &str, key: &str) -> Option<SessionId> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let key = (caller.to_owned(), key.to_owned());
        registry.by_spawn.get(&key).cloned()
    }

    pub(super) fn known(&self) -> usize {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.len()
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let listed = registry.by_id.values();
        listed.map(|listed| Arc::clone(&listed.entry)).collect()
    }

    pub(super) fn signal_all(&self, signal: Signal) {
        for entry in self.entries() {
            entry.signal(signal);
        }
    }

    /// Forgets a session, and no other one that has its name by now.
    pub(super) fn forget(&self, entry: &Arc<Entry>) {
        self.count(entry, None);
        self.note_waiting(entry, Waiting::No);
        let id = &entry.terms.id;
        let mut registry = self.change_registry();
        let found = registry.find(id);
        if found.is_some_and(|found| Arc::ptr_eq(&found, entry)) {
            registry.remove(id);
        }
    }

    pub(super) fn change_registry(&self) -> RwLockWriteGuard<'_, Registry> {
        let registry = self.registry.write();
        registry.unwrap_or_else(PoisonError::into_inner)
    }
}
