//! How many calls there were lately, and how many of them failed.

use std::time::{Duration, Instant};

use super::observed::Said;

const SLOTS: usize = 10;

/// Calls and failures of the last while, in slots of a tenth of it each.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    began: Option<Instant>,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which tenth since the beginning it counts.
    at: u64,
    calls: u32,
    failures: u32,
}

impl Window {
    fn at(&self, now: Instant, window: Duration) -> u64 {
        let began = self.began.unwrap_or(now);
        let slot = (window / SLOTS as u32).max(Duration::from_nanos(1));
        let at = now.saturating_duration_since(began).as_nanos() / slot.as_nanos();
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// Takes one call into account.
    pub(super) fn count(&mut self, said: Said, now: Instant, window: Duration) {
        self.began.get_or_insert(now);
        let at = self.at(now, window);
        let slot = &mut self.slots[(at % SLOTS as u64) as usize];
        if slot.at != at {
            *slot = Slot {
                at,
                ..Slot::default()
            };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot
            .failures
            .saturating_add(u32::from(said == Said::Failure));
    }

    /// Calls, and failures among them.
    pub(super) fn sums(&self, now: Instant, window: Duration) -> (u32, u32) {
        let at = self.at(now, window);
        let recent = self
            .slots
            .iter()
            .filter(|slot| at < slot.at.saturating_add(SLOTS as u64));
        recent.fold((0_u32, 0_u32), |(calls, failures), slot| {
            (
                calls.saturating_add(slot.calls),
                failures.saturating_add(slot.failures),
            )
        })
    }
}
