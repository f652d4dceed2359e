//! What the messages of one session weigh while they are held in memory, in the account of the whole house.

use tokio::time::Instant;

use super::owner::Owner;
use crate::domain::failure::{Failure, Reason};
use crate::domain::limit::MEMORY_PUSHBACK;
use crate::domain::retry::Pushback;
use crate::memory::{Charge, Full, Memory, Purpose};

/// What one session weighs. Its bounds limit what it holds. When all sessions and calls together fill the memory, what
/// clients send is refused; their acknowledgements are heard, so that room can come of it. What instances say has more
/// room; beyond that they wait.
pub(super) struct Weight {
    memory: Memory,
    charge: Charge,
    /// When it is seen whether there is room again.
    look_at: Option<Instant>,
}

impl Weight {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            charge: memory.charge(),
            look_at: None,
        }
    }

    /// Whether one more message may be read. When not, it is looked at again a little later.
    pub(super) fn has_room(&mut self, purpose: Purpose) -> bool {
        let has_room = self.memory.has_room(purpose);
        if !has_room {
            let later = Instant::now() + MEMORY_PUSHBACK;
            self.look_at.get_or_insert(later);
        }
        has_room
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    pub(super) fn look_again(&mut self, now: Instant) {
        self.look_at = self.look_at.filter(|at| now < *at);
    }
}

/// What somebody is told whose message was not taken for want of memory.
pub(super) fn full() -> Failure {
    Failure {
        pushback: Some(Pushback::Wait(MEMORY_PUSHBACK)),
        ..Failure::new(Reason::MemoryFull, Full.to_string())
    }
}

impl Owner {
    /// Charges what is held now.
    pub(super) fn weigh(&self) {
        let ahead = self.client.as_ref();
        let ahead = ahead.map_or(0, |client| client.ahead.bytes());
        let lines = self.to_instance.bytes() + self.to_client.bytes();
        self.weight.charge.settle(lines + ahead + self.link.bytes());
    }
}
