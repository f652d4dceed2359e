//! Idempotency keys: what is remembered of calls that bear one, and for how long.
//!
//! ```text
//! begin ─▶ running ─▶ kept (a definitive outcome) ─▶ forgotten: too old, or least recently used
//!             └─────▶ forgotten (any other outcome, or nobody waits any more)
//! ```
//!
//! All callers share it. Room is made by whoever holds most, so that nobody loses an outcome to a caller who holds
//! more.
//!
//! It holds no lock and reads no clock. What a running call and an outcome are, it does not know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::{Failure, Reason, Status};
use super::limit::IDEMPOTENCY_KEY_BYTES_MAX;

mod fingerprint;

pub use fingerprint::Fingerprint;

/// The caller's own word for one request; checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word(Box<str>);

/// A word that cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters without spaces")]
pub struct BadWord;

impl Word {
    /// Checks a word that came from outside. It must be able to travel as metadata.
    pub fn check(word: &str) -> Result<Self, BadWord> {
        let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&word.len());
        if fits && word.bytes().all(|c| c.is_ascii_graphic()) {
            Ok(Self(word.into()))
        } else {
            Err(BadWord)
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a request is remembered by: one caller's word means nothing to another caller or method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The name of the caller; `None` where nobody needs one.
    pub caller: Option<Arc<str>>,
    /// The method.
    pub method: &'static str,
    /// The caller's word.
    pub word: Word,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Calls, running ones and outcomes together.
    pub entries_max: usize,
    /// Bytes of all outcomes.
    pub bytes_max: usize,
    /// How long an outcome is kept.
    pub kept_for: Duration,
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a, R, O> {
    /// Nothing: it may begin.
    Nothing,
    /// It is running.
    Running(&'a R),
    /// It has ended like this.
    Kept(&'a O),
    /// The key was given to another request.
    Conflict,
}

/// There is no room: the calls that are remembered run, or are those of callers who hold less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The calls that are remembered: `R` is a running one, `O` an outcome.
#[derive(Debug)]
pub struct Memory<R, O> {
    bounds: Bounds,
    entries: HashMap<Arc<Key>, Entry<R, O>>,
    /// Who holds how much; only those who hold something.
    callers: BTreeMap<Caller, Held>,
    uses: u64,
    /// Outcomes by their number, which is by their age: all are kept for the same time.
    ages: BTreeMap<u64, (Instant, Arc<Key>)>,
    numbers: u64,
    bytes: usize,
}

type Caller = Option<Arc<str>>;

/// What one caller holds.
#[derive(Debug, Default)]
struct Held {
    /// Calls, running ones and outcomes together.
    entries: usize,
    /// Bytes of all outcomes.
    bytes: usize,
    /// Outcomes by their last use.
    used: BTreeMap<u64, Arc<Key>>,
}

#[derive(Debug)]
struct Entry<R, O> {
    fingerprint: Fingerprint,
    state: State<R, O>,
}

#[derive(Debug)]
enum State<R, O> {
    Running(R),
    Kept {
        outcome: O,
        bytes: usize,
        used: u64,
        number: u64,
    },
}

impl<R, O> Memory<R, O> {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            callers: BTreeMap::new(),
            uses: 0,
            ages: BTreeMap::new(),
            numbers: 0,
            bytes: 0,
        }
    }

    /// What is known of a request. An outcome that is found counts as used.
    pub fn find(&mut self, key: &Key, fingerprint: Fingerprint, now: Instant) -> Found<'_, R, O> {
        self.forget_old(now);
        let Some(entry) = self.entries.get_mut(key) else {
            return Found::Nothing;
        };
        if entry.fingerprint != fingerprint {
            return Found::Conflict;
        }
        match &mut entry.state {
            State::Running(running) => Found::Running(running),
            State::Kept { outcome, used, .. } => {
                if let Some(held) = self.callers.get_mut(&key.caller)
                    && let Some(shared) = held.used.remove(used)
                {
                    self.uses += 1;
                    *used = self.uses;
                    held.used.insert(self.uses, shared);
                }
                Found::Kept(outcome)
            }
        }
    }

    /// Remembers a call that begins now. Outcomes make room for it; running calls do not.
    pub fn begin(
        &mut self,
        key: Arc<Key>,
        fingerprint: Fingerprint,
        running: R,
    ) -> Result<(), Full> {
        self.forget(&Arc::clone(&key));
        while self.bounds.entries_max <= self.entries.len() {
            if !self.make_room(&key.caller, |held| held.entries) {
                return Err(Full);
            }
        }
        let state = State::Running(running);
        let held = self.callers.entry(key.caller.clone()).or_default();
        held.entries += 1;
        self.entries.insert(key, Entry { fingerprint, state });
        Ok(())
    }

    /// A running call has ended: keeps its outcome, with the bytes that it weighs, or forgets the call.
    pub fn end(&mut self, key: &Arc<Key>, outcome: Option<(O, usize)>, now: Instant) {
        self.forget_old(now);
        let Some(fingerprint) = self.forget(key) else {
            return;
        };
        let Some((outcome, bytes)) = outcome.filter(|(_, bytes)| *bytes <= self.bounds.bytes_max)
        else {
            return;
        };
        while self.bounds.bytes_max < self.bytes + bytes {
            if !self.make_room(&key.caller, |held| held.bytes) {
                return;
            }
        }
        (self.uses, self.numbers) = (self.uses + 1, self.numbers + 1);
        let ends = now + self.bounds.kept_for;
        self.bytes += bytes;
        let held = self.callers.entry(key.caller.clone()).or_default();
        (held.entries, held.bytes) = (held.entries + 1, held.bytes + bytes);
        held.used.insert(self.uses, Arc::clone(key));
        self.ages.insert(self.numbers, (ends, Arc::clone(key)));
        let state = State::Kept {
            outcome,
            bytes,
            used: self.uses,
            number: self.numbers,
        };
        self.entries
            .insert(Arc::clone(key), Entry { fingerprint, state });
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, (ends, key))) = self.ages.first_key_value()
            && *ends <= now
        {
            let key = Arc::clone(key);
            self.forget(&key);
        }
    }

    /// Forgets the least recently used outcome of whoever holds most; false when the caller who needs the room
    /// holds more itself. Callers are few: there are no more of them than API keys.
    fn make_room(&mut self, caller: &Caller, weight: impl Fn(&Held) -> usize) -> bool {
        let own = self.callers.get(caller).map_or(0, &weight);
        let has_kept = self
            .callers
            .iter()
            .filter(|(_, held)| !held.used.is_empty());
        let heaviest = has_kept
            .map(|(name, held)| (weight(held), name == caller, held))
            .max_by_key(|(weight, is_own, _)| (*weight, *is_own));
        let Some((weight, is_own, held)) = heaviest else {
            return false;
        };
        if weight < own && !is_own {
            return false;
        }
        let least_used = held.used.first_key_value().map(|(_, key)| Arc::clone(key));
        least_used.is_some_and(|key| self.forget(&key).is_some())
    }

    fn forget(&mut self, key: &Key) -> Option<Fingerprint> {
        let Entry { fingerprint, state } = self.entries.remove(key)?;
        let held = self.callers.get_mut(&key.caller)?;
        held.entries -= 1;
        if let State::Kept {
            bytes,
            used,
            number,
            ..
        } = state
        {
            held.bytes -= bytes;
            held.used.remove(&used);
            self.bytes -= bytes;
            self.ages.remove(&number);
        }
        if held.entries == 0 {
            self.callers.remove(&key.caller);
        }
        Some(fingerprint)
    }
}

/// Whether a failure is an outcome like an answer, which repeating the request would not change, or must not:
/// the instance has decided, or has done the work and could not say so. Everything that may pass is not.
#[must_use]
pub fn is_definitive(failure: &Failure) -> bool {
    if let Reason::InstanceFailed(status) = failure.reason {
        // What may pass; UNAUTHENTICATED means our own credential, and nothing was done.
        return !matches!(
            status,
            Status::Unavailable
                | Status::ResourceExhausted
                | Status::DeadlineExceeded
                | Status::Cancelled
                | Status::Aborted
                | Status::Unauthenticated
        );
    }
    matches!(
        failure.reason,
        Reason::AnswerTooLarge | Reason::AnswerMalformed
    )
}

#[cfg(test)]
mod tests;
