//! The sessions by their names and by their tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Signal};
use super::{House, now_ms, storing};
use crate::domain::failure::Failure;
use crate::domain::limit::{POSTS_REMEMBERED_FOR, SESSION_PAGE_READ};
use crate::domain::session::SessionId;
use crate::domain::session::lifetime::{Lifetime, Presence};
use crate::domain::session::token;
use crate::store::record::{Old, Query, Session, State, StateFilter};

/// The sessions by their names and by their tokens.
#[derive(Default)]
pub(super) struct Registry {
    by_id: BTreeMap<SessionId, Arc<Entry>>,
    by_token: HashMap<token::Hash, Token>,
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
        self.by_id.get(id).cloned()
    }

    /// The session that a token is good for, and what fires when it is good for it no more.
    pub(super) fn find_by_token(
        &self,
        hash: &token::Hash,
    ) -> Option<(&Arc<Entry>, CancellationToken)> {
        let token = self.by_token.get(hash)?;
        let void = token.void.get_or_init(CancellationToken::new).clone();
        Some((self.by_id.get(&token.session)?, void))
    }

    fn insert(&mut self, entry: &Arc<Entry>, token: token::Hash) {
        let id = entry.terms.id.clone();
        self.insert_token(id.clone(), token);
        self.by_id.insert(id, Arc::clone(entry));
    }

    fn remove(&mut self, id: &SessionId) {
        self.by_id.remove(id);
        // Once for each session that is forgotten.
        self.by_token.retain(|_, token| token.session != *id);
    }

    /// The token of a session is another one now: whoever came with the one before has to leave.
    pub(super) fn replace_token(&mut self, id: &SessionId, token: token::Hash) {
        self.by_token.retain(|_, token| token.session != *id);
        self.insert_token(id.clone(), token);
    }

    fn insert_token(&mut self, session: SessionId, token: token::Hash) {
        let void = OnceLock::new();
        self.by_token.insert(token, Token { session, void });
    }
}

impl House {
    /// Notes a session that the store has.
    pub(super) fn enter(&self, session: &Session) -> Arc<Entry> {
        let terms = &session.terms;
        let now = Instant::now();
        let age = Duration::from_millis(now_ms().saturating_sub(terms.created_ms));
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
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        registry.insert(&entry, session.token.0);
        entry
    }

    /// Sessions that have ended and are not forgotten yet.
    pub(super) async fn enter_closed(&self) -> Result<(), Failure> {
        let mut query = Query {
            state: Some(StateFilter::Closed),
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

    pub(super) fn known(&self) -> usize {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.len()
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.values().cloned().collect()
    }

    pub(super) fn signal_all(&self, signal: Signal) {
        for entry in self.entries() {
            entry.signal(signal);
        }
    }

    pub(super) fn has_live(&self) -> bool {
        self.entries().iter().any(|entry| entry.is_live())
    }

    pub(super) fn forget(&self, id: &SessionId) {
        if let Ok(entry) = self.find(id) {
            self.count(&entry, None);
        }
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        registry.remove(id);
    }

    /// Ends what has expired, and forgets what ended long ago.
    pub(super) async fn sweep(self: &Arc<Self>) {
        let now = Instant::now();
        let is_due = |entry: &Arc<Entry>| entry.expires().is_some_and(|expires| expires <= now);
        for entry in self.entries().into_iter().filter(is_due) {
            if !entry.closed.load(Ordering::Relaxed) {
                self.call(&entry, Signal::Expire);
            } else if !entry.attached.load(Ordering::Relaxed) {
                entry.end();
                let id = &entry.terms.id;
                // One that cannot be forgotten now is when the orchestrator is started again.
                if let Err(error) = self.store.forget(id).await {
                    tracing::warn!(session = %id, %error, "a closed session could not be forgotten");
                }
                self.forget(id);
            }
        }
        let remembered = u64::try_from(POSTS_REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX);
        let old = Old {
            closed_before_ms: 0,
            posted_before_ms: now_ms().saturating_sub(remembered),
        };
        // Tried again at once.
        drop(self.store.forget_old(old).await);
    }
}
