//! One account over the bytes of all messages that are held: requests while they arrive and run, answers until
//! the last of them has left.
//!
//! What is held is charged, and the charge travels with the bytes: whoever drops the last of them pays it back.
//! Requests are let in up to a part of the limit only, so that the answers of what runs have room. The account
//! knows nothing of what libraries keep beneath it; flow-control windows bound that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Of four parts of the limit, those that requests may fill.
const PARTS_FOR_REQUESTS: usize = 3;

/// The account. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Account>);

#[derive(Debug)]
struct Account {
    held: AtomicUsize,
    limit: usize,
}

/// What bytes are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Work that has not begun: it is the first that is refused.
    Request,
    /// Work that is done: refused only when nothing is left at all.
    Answer,
}

/// The account is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the messages that are held fill the memory for them")]
pub struct Full;

impl Memory {
    /// An empty account over so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Account {
            held: AtomicUsize::new(0),
            limit,
        }))
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Acquire)
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Whether there is room for anything at all that is held for this.
    #[must_use]
    pub fn has_room(&self, purpose: Purpose) -> bool {
        self.held() < self.most(purpose)
    }

    fn most(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Request => self.0.limit / 4 * PARTS_FOR_REQUESTS,
            Purpose::Answer => self.0.limit,
        }
    }

    /// A charge of nothing yet.
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge {
            memory: self.clone(),
            bytes: AtomicUsize::new(0),
        }
    }

    fn take(&self, bytes: usize, most: usize) -> Result<(), Full> {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
        let held = &self.0.held;
        match held.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Full),
        }
    }
}

/// Bytes that are held; paid back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    memory: Memory,
    bytes: AtomicUsize,
}

impl Charge {
    /// Holds so many bytes more, unless the account is full.
    pub fn grow(&self, bytes: usize, purpose: Purpose) -> Result<(), Full> {
        self.memory.take(bytes, self.memory.most(purpose))?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Holds so many bytes more, come what may: for what is small, and bounded elsewhere.
    pub fn grow_anyway(&self, bytes: usize) {
        self.memory.0.held.fetch_add(bytes, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Holds exactly so many bytes from now on, come what may: for what asked `has_room` before it grew.
    pub fn settle(&self, bytes: usize) {
        let held = &self.memory.0.held;
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if before < bytes {
            held.fetch_add(bytes - before, Ordering::AcqRel);
        } else if bytes < before {
            held.fetch_sub(before - bytes, Ordering::AcqRel);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.memory.0.held.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The same bytes, not copied; `owner` lives until the last part of them is dropped.
#[must_use]
pub fn kept<O: Send + 'static>(bytes: Bytes, owner: O) -> Bytes {
    Bytes::from_owner(Kept {
        bytes,
        _owner: owner,
    })
}

struct Kept<O> {
    bytes: Bytes,
    _owner: O,
}

impl<O> AsRef<[u8]> for Kept<O> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_leave_room_for_answers() {
        let memory = Memory::new(100);
        let (request, answer) = (memory.charge(), memory.charge());
        assert_eq!(request.grow(75, Purpose::Request), Ok(()));
        assert_eq!(request.grow(1, Purpose::Request), Err(Full));
        assert_eq!(answer.grow(25, Purpose::Answer), Ok(()));
        assert_eq!(answer.grow(1, Purpose::Answer), Err(Full));
        drop(request);
        assert_eq!((memory.held(), memory.limit()), (25, 100));
        answer.grow_anyway(1000);
        assert_eq!(memory.held(), 1025);
        drop(answer);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn a_charge_may_follow_what_is_held() {
        let memory = Memory::new(100);
        let charge = memory.charge();
        for bytes in [10, 120, 120, 0, 75] {
            charge.settle(bytes);
            assert_eq!(memory.held(), bytes);
        }
        assert!(!memory.has_room(Purpose::Request) && memory.has_room(Purpose::Answer));
        drop(charge);
        assert!(memory.has_room(Purpose::Request));
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn a_charge_lives_as_long_as_any_part_of_its_bytes() {
        let memory = Memory::new(100);
        let charge = memory.charge();
        charge.grow(4, Purpose::Answer).unwrap();
        let mut bytes = kept(Bytes::from_static(b"head"), charge);
        let part = bytes.split_to(1);
        assert_eq!(&bytes[..], b"ead");
        drop(bytes);
        assert_eq!(memory.held(), 4);
        drop(part);
        assert_eq!(memory.held(), 0);
    }

    proptest! {
        #[test]
        fn the_account_is_the_sum_of_what_is_held_and_never_above_its_limit(
            steps in proptest::collection::vec((0_usize..8, 0_usize..60, any::<bool>()), 1..200),
        ) {
            let memory = Memory::new(200);
            let mut held: Vec<(Charge, usize)> = Vec::new();
            for (at, bytes, is_answer) in steps {
                let purpose = if is_answer { Purpose::Answer } else { Purpose::Request };
                match held.get_mut(at) {
                    Some(_) if bytes == 0 => drop(held.remove(at)),
                    Some((charge, sum)) => {
                        if charge.grow(bytes, purpose).is_ok() { *sum += bytes }
                    }
                    None => held.push((memory.charge(), 0)),
                }
                prop_assert_eq!(memory.held(), held.iter().map(|(_, sum)| sum).sum::<usize>());
                prop_assert!(memory.held() <= 200);
            }
            drop(held);
            prop_assert_eq!(memory.held(), 0);
        }
    }
}
