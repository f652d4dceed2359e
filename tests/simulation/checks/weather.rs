//! Which links were disturbed, and when: what a check may not expect of them then.

use std::time::Duration;

use crate::history::{Harm, Record, What};
use crate::plan::Link;

/// A connection that has lost something stays broken until both sides notice: keep-alive and probes take this long.
const NOTICED: Duration = Duration::from_millis(450);

/// The disturbances of one run.
pub(crate) struct Weather {
    spells: Vec<Spell>,
    hang_ups: Vec<(String, Duration)>,
}

struct Spell {
    link: Link,
    from: Duration,
    to: Duration,
    /// Until when connections from before may be broken.
    aftermath: Duration,
}

impl Weather {
    pub(crate) fn of(records: &[Record]) -> Self {
        let (mut spells, mut hang_ups) = (Vec::<Spell>::new(), Vec::new());
        for Record { at, what } in records {
            let (link, breaks) = match what {
                What::Disturbed(link, harm) => (link.clone(), *harm != Harm::Holds),
                What::Crashed(id) => (Link::Instance(id.clone()), true),
                What::Mended(link) => {
                    end(&mut spells, link, *at);
                    continue;
                }
                What::Restarted(id) => {
                    end(&mut spells, &Link::Instance(id.clone()), *at);
                    continue;
                }
                What::HungUp(id) => {
                    hang_ups.push((id.clone(), *at));
                    continue;
                }
                _ => continue,
            };
            spells.push(Spell {
                link,
                from: *at,
                to: Duration::MAX,
                aftermath: if breaks { NOTICED } else { Duration::ZERO },
            });
        }
        Self { spells, hang_ups }
    }

    /// Whether the instance has closed a connection in this time.
    pub(crate) fn hung_up(&self, id: &str, from: Duration, to: Duration) -> bool {
        let mut hang_ups = self.hang_ups.iter();
        hang_ups.any(|(other, at)| other == id && from <= *at && *at <= to)
    }

    /// Whether everything that was sent over the link in this time came through.
    pub(crate) fn is_clear(&self, link: &Link, from: Duration, to: Duration) -> bool {
        let disturbs = |spell: &Spell| {
            spell.link == *link
                && spell.from <= to
                && from <= spell.to.saturating_add(spell.aftermath)
        };
        !self.spells.iter().any(disturbs)
    }

    /// For how long the link may have held things back in this time.
    pub(crate) fn held(&self, link: &Link, from: Duration, to: Duration) -> Duration {
        let overlap = |spell: &Spell| spell.to.min(to).saturating_sub(spell.from.max(from));
        let spells = self.spells.iter().filter(|spell| spell.link == *link);
        spells.map(overlap).sum()
    }
}

fn end(spells: &mut [Spell], link: &Link, at: Duration) {
    let open = spells
        .iter_mut()
        .find(|spell| spell.link == *link && spell.to == Duration::MAX);
    if let Some(spell) = open {
        spell.to = at;
    }
}
