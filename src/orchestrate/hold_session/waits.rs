//! Why a session is not with its instance, in words for whoever asks.

use std::time::Duration;

use tokio::time::Instant;

use super::fleet_change::Waiting;
use super::owner::Owner;
use crate::domain::id::InstanceId;
use crate::domain::session::loss::Step;

/// What a session waits for that should be with an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waits {
    /// The one that should have it.
    pub(super) instance: InstanceId,
    /// The name of the failure by which it was lost last; none where it was not tried.
    pub(super) code: Option<&'static str>,
    /// How often in a row it was taken and lost again before anything came of it.
    pub(super) fruitless: u32,
    /// When it is looked at again at the latest.
    pub(super) until: Instant,
}

impl Waits {
    /// The same in words.
    pub(super) fn words(&self, now: Instant) -> String {
        let Self {
            instance,
            code,
            fruitless,
            until,
        } = self;
        let what = match (fruitless, code) {
            (0, None) => format!("{instance} is down, or not there"),
            (0, Some(code)) => format!("{instance} has lost the session ({code})"),
            (times, code) => {
                let code = code.map_or_else(String::new, |code| format!(" ({code})"));
                format!(
                    "{instance} has taken the session {times} times in a row and lost it again before anything came of it{code}"
                )
            }
        };
        let left = until.saturating_duration_since(now);
        let left = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        format!("{what}; looked at again within {left:?}")
    }
}

impl Owner {
    /// Shows what is waited for, or that nothing is any more.
    pub(super) fn show_wait(&self, step: Step) {
        let waits = match step {
            Step::Reopen | Step::Move | Step::End => None,
            Step::Wait(until) => Some(Waits {
                instance: self.session.instance.clone(),
                code: self.lost_by,
                fruitless: self.fruitless.times(),
                until: Instant::from_std(until),
            }),
        };
        self.set_waits(waits);
    }

    /// It waits for nothing any more.
    pub(super) fn waits_no_more(&self) {
        self.set_waits(None);
    }

    fn set_waits(&self, waits: Option<Waits>) {
        let is_waiting = waits.is_some();
        let was_waiting = self.entry.set_waits(waits).is_some();
        // Most never wait, and leave the list of those who do alone.
        match (was_waiting, is_waiting) {
            (false, true) => self.house.note_waiting(&self.entry, Waiting::Yes),
            (true, false) => self.house.note_waiting(&self.entry, Waiting::No),
            (true, true) | (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_who_how_often_and_until_when() {
        let now = Instant::now();
        let check = |code, fruitless, expected: &str| {
            let waits = Waits {
                instance: InstanceId::parse("A").unwrap(),
                code,
                fruitless,
                until: now + Duration::from_micros(1_600_900),
            };
            assert_eq!(waits.words(now), expected);
        };
        check(
            None,
            0,
            "A is down, or not there; looked at again within 1.6s",
        );
        check(
            Some("INSTANCE_LOST"),
            0,
            "A has lost the session (INSTANCE_LOST); looked at again within 1.6s",
        );
        check(
            Some("INSTANCE_LOST"),
            3,
            "A has taken the session 3 times in a row and lost it again before anything came of it (INSTANCE_LOST); \
             looked at again within 1.6s",
        );
    }
}
