//! When what TLS goes by ends: told a while before, so that somebody can still renew it, and once it has.

use std::time::SystemTime;

use super::secure::{OverdueList, Terms};
use crate::certificates::{Term, Validity};

/// How the dates stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outlook {
    certificate: Stage,
    lists: Stage,
    overdue: OverdueList,
}

/// How far a term has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing to tell.
    Fine,
    /// It begins later.
    Early(SystemTime),
    /// The next one should be there.
    Due(SystemTime),
    /// It is over.
    Over(SystemTime),
}

impl Stage {
    fn of(term: Option<Term>, now: SystemTime) -> Self {
        // What cannot be read is not for us to judge.
        let Some(term) = term else { return Self::Fine };
        match term.at(now) {
            Validity::From(from) => Self::Early(from),
            Validity::Until(until) => Self::Over(until),
            Validity::Now if term.renewal_is_due() <= now => Self::Due(term.until),
            Validity::Now => Self::Fine,
        }
    }
}

impl Outlook {
    pub(super) fn at(terms: &Terms, now: SystemTime) -> Self {
        Self {
            certificate: Stage::of(terms.certificate, now),
            lists: Stage::of(terms.lists, now),
            overdue: terms.overdue,
        }
    }

    /// What is wrong with exchanging what stands so for `next`: what counts must not give way to what does not.
    pub(super) fn complaint(&self, next: &Self) -> Option<String> {
        let counts = |stage: Stage| matches!(stage, Stage::Fine | Stage::Due(_));
        if counts(self.certificate) && !counts(next.certificate) {
            return told(next.certificate);
        }
        let is_over = matches!(next.lists, Stage::Over(_));
        let matters = is_over && next.overdue == OverdueList::Refused;
        (matters && counts(self.lists)).then(|| told_of_list(next.lists))?
    }

    /// Says in the log what is other than `before`: a certificate out of its time is shown all the same, since callers
    /// refuse it and the next one in its place is found without a restart.
    pub(super) fn tell(&self, before: Option<&Self>) {
        if before.map(|before| before.certificate) != Some(self.certificate)
            && let Some(what) = told(self.certificate)
        {
            match self.certificate {
                Stage::Fine => {}
                Stage::Due(_) => {
                    tracing::warn!(%what, "the certificate of the front door should be renewed");
                }
                Stage::Early(_) | Stage::Over(_) => {
                    tracing::warn!(%what, "callers will refuse the certificate of the front door");
                }
            }
        }
        if before.map(|before| before.lists) != Some(self.lists)
            && let Some(what) = told_of_list(self.lists)
        {
            match (self.lists, self.overdue) {
                (Stage::Fine | Stage::Early(_), _) => {}
                (Stage::Over(_), OverdueList::Refused) => {
                    tracing::error!(%what, "certificates of callers are refused");
                }
                (Stage::Over(_), OverdueList::Accepted) | (Stage::Due(_), _) => {
                    tracing::warn!(%what, "the revocation lists of callers should be renewed");
                }
            }
        }
    }
}

fn told(stage: Stage) -> Option<String> {
    let date = humantime::format_rfc3339_seconds;
    match stage {
        Stage::Fine => None,
        Stage::Early(from) => Some(format!(
            "the certificate is not valid before {}",
            date(from)
        )),
        Stage::Due(until) => Some(format!("the certificate expires on {}", date(until))),
        Stage::Over(until) => Some(format!("the certificate has expired, on {}", date(until))),
    }
}

/// Whether a list is dated ahead says nothing of whether it can be believed.
fn told_of_list(stage: Stage) -> Option<String> {
    let date = humantime::format_rfc3339_seconds;
    match stage {
        Stage::Fine | Stage::Early(_) => None,
        Stage::Due(until) => Some(format!(
            "a revocation list is overdue after {}",
            date(until)
        )),
        Stage::Over(until) => Some(format!(
            "a revocation list is overdue since {}",
            date(until)
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// In days from the start of 1970.
    fn day(number: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(number * 86_400)
    }

    fn terms(certificate: [u64; 2], lists: Option<[u64; 2]>, overdue: OverdueList) -> Terms {
        let term = |[from, until]: [u64; 2]| Term {
            from: day(from),
            until: day(until),
        };
        Terms {
            certificate: Some(term(certificate)),
            lists: lists.map(term),
            overdue,
        }
    }

    #[test]
    fn what_counts_does_not_give_way_to_what_does_not() {
        let check = |old: &Terms, new: &Terms, expected: Option<&str>| {
            let now = day(50);
            let complaint = Outlook::at(old, now).complaint(&Outlook::at(new, now));
            assert_eq!(complaint.as_deref(), expected, "{old:?} {new:?}");
        };
        let refused = OverdueList::Refused;
        let plain = |certificate| terms(certificate, None, refused);
        check(&plain([0, 90]), &plain([10, 100]), None);
        check(
            &plain([0, 90]),
            &plain([60, 100]),
            Some("the certificate is not valid before 1970-03-02T00:00:00Z"),
        );
        check(
            &plain([0, 90]),
            &plain([0, 40]),
            Some("the certificate has expired, on 1970-02-10T00:00:00Z"),
        );
        // Nothing is worse than what is there.
        check(&plain([0, 40]), &plain([0, 45]), None);
        let listed = |list, overdue| terms([0, 90], Some(list), overdue);
        let old = listed([0, 60], refused);
        check(&old, &listed([40, 70], refused), None);
        check(
            &old,
            &listed([0, 40], refused),
            Some("a revocation list is overdue since 1970-02-10T00:00:00Z"),
        );
        check(&old, &listed([0, 40], OverdueList::Accepted), None);
        check(&listed([0, 30], refused), &listed([0, 40], refused), None);
    }

    #[test]
    fn a_term_is_told_once_it_is_due_and_once_it_is_over() {
        let stages = [10, 88, 89, 90, 91].map(|now| {
            let terms = terms([0, 90], Some([0, 90]), OverdueList::Refused);
            let outlook = Outlook::at(&terms, day(now));
            assert_eq!(outlook.lists, outlook.certificate);
            outlook.certificate
        });
        let until = day(90);
        let due = Stage::Due(until);
        assert_eq!(
            stages,
            [Stage::Fine, Stage::Fine, due, due, Stage::Over(until)]
        );
        let early = Outlook::at(&terms([20, 90], None, OverdueList::Refused), day(10));
        assert_eq!(early.certificate, Stage::Early(day(20)));
        assert_eq!(early.lists, Stage::Fine);
    }
}
