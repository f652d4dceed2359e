//! The results of a fan-out with `aggregate`, up to what one answer may hold.

use super::Leg;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::gather::Outcome;
use crate::domain::limit::{AGGREGATE_BYTES_MAX, FAILURE_DETAIL_CHARS_MAX};

/// Names, codes, durations and lengths of one leg and its tries, encoded, at their longest.
const ENVELOPE_BYTES: usize = 256;

/// Results so far, by position in the roster.
pub(super) struct Collected {
    legs: Vec<Option<Leg>>,
    bytes: usize,
}

impl Collected {
    pub(super) fn new(roster: usize) -> Self {
        Self {
            legs: vec![None; roster],
            bytes: 0,
        }
    }

    /// Keeps the result of one target; false when it does not fit, in which case only its name is kept.
    pub(super) fn add(&mut self, at: usize, mut leg: Leg) -> bool {
        let bytes = bytes_of(&leg);
        let fits = self.bytes + bytes <= AGGREGATE_BYTES_MAX;
        if fits {
            self.bytes += bytes;
        } else {
            let answered = leg.outcome == Outcome::Answered;
            let detail = "the result did not fit";
            leg.failure = answered.then(|| {
                Failure::at(
                    &leg.instance,
                    Reason::AggregateTooLarge,
                    Progress::Answered,
                    detail,
                )
            });
            leg.payload = None;
            leg.attempts.clear();
        }
        // Failures are worth their names only: they alone do not end the call.
        let enough = fits || leg.payload.is_none() && leg.outcome != Outcome::Answered;
        self.legs[at] = Some(leg);
        enough
    }

    pub(super) fn into_legs(self) -> Vec<Leg> {
        self.legs.into_iter().flatten().collect()
    }
}

fn bytes_of(leg: &Leg) -> usize {
    let payload = leg
        .payload
        .as_ref()
        .map_or(0, |payload| payload.encoded().len());
    let failures = usize::from(leg.failure.is_some()) * (1 + leg.attempts.len());
    // A character has at most four bytes.
    payload + failures * FAILURE_DETAIL_CHARS_MAX * 4 + (1 + leg.attempts.len()) * ENVELOPE_BYTES
}
