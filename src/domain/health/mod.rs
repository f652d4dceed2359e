//! How an instance is, on three axes that nobody mixes: what its operator wants (`Admin`), what its probes say
//! (`probed`), and what its calls say (`observed`). People are shown one word; selection sees who is excluded
//! and why.

use std::time::{Duration, Instant};

use super::selection::Fitness;

mod blame;
pub mod observed;
pub mod probed;
mod window;

use observed::Standing;
pub use probed::Thresholds;

/// What the operator wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admin {
    /// Takes work.
    #[default]
    Active,
    /// Keeps what it has and gets nothing new.
    Draining,
    /// Out of use: gets nothing.
    Disabled,
}

impl Admin {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// How an instance is, in the one word that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not probed yet.
    #[default]
    Unknown,
    /// Was probed, has never answered, and is not given up yet; or its ejection is over, and the next call decides.
    Starting,
    /// Answers its probes.
    Healthy,
    /// Does not answer its probes in time while it works.
    Busy,
    /// Keeps what it has and gets nothing new.
    Draining,
    /// Does not answer its probes, is ejected for what its calls said, or is disabled.
    Down,
}

impl State {
    /// The word of three axes. What the operator wants goes first: it holds however the instance is.
    #[must_use]
    pub fn of(admin: Admin, probed: probed::State, observed: Standing, now: Instant) -> Self {
        match (admin, probed, observed) {
            (Admin::Disabled, _, _) => Self::Down,
            (Admin::Draining, _, _) => Self::Draining,
            (Admin::Active, probed::State::Down, _) => Self::Down,
            (Admin::Active, _, Standing::Ejected { until, .. }) if until <= now => Self::Starting,
            (Admin::Active, _, Standing::Ejected { .. }) => Self::Down,
            (Admin::Active, probed::State::Unknown, Standing::Trusted) => Self::Unknown,
            (Admin::Active, probed::State::Starting, Standing::Trusted) => Self::Starting,
            (Admin::Active, probed::State::Healthy, Standing::Trusted) => Self::Healthy,
            (Admin::Active, probed::State::Busy, Standing::Trusted) => Self::Busy,
        }
    }

    /// The word itself.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// Why an instance gets no work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// Its operator drains it.
    Draining,
    /// Its operator has taken it out of use.
    Disabled,
    /// Its probes fail.
    Down,
    /// Its calls failed: nothing is sent there before that instant.
    Ejected {
        /// When one try may decide.
        until: Instant,
    },
    /// Its ejection is over, and the one try that decides is under way.
    OnTrial,
}

/// Whether so few candidates are well that what their calls said is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Panic {
    /// Everything is as usual.
    #[default]
    Off,
    /// Ejected candidates get work too.
    On,
}

impl Panic {
    /// Decides for the candidates of one call. Where nobody is ejected there is nothing to ignore.
    #[must_use]
    pub fn of(healthy: usize, ejected: usize, all: usize, below_percent: u32) -> Self {
        let few = (healthy as u64) * 100 < (all as u64) * u64::from(below_percent);
        if 0 < ejected && few {
            Self::On
        } else {
            Self::Off
        }
    }
}

/// Why an instance gets no work now; `None` when it may have some. Panic ignores what calls said, and only that.
#[must_use]
pub fn exclusion(
    admin: Admin,
    probed: probed::State,
    observed: Standing,
    panic: Panic,
    now: Instant,
) -> Option<Exclusion> {
    match (admin, probed, observed, panic) {
        (Admin::Draining, _, _, _) => Some(Exclusion::Draining),
        (Admin::Disabled, _, _, _) => Some(Exclusion::Disabled),
        (Admin::Active, probed::State::Down, _, _) => Some(Exclusion::Down),
        (Admin::Active, _, Standing::Ejected { until, .. }, Panic::Off) if now < until => {
            Some(Exclusion::Ejected { until })
        }
        (Admin::Active, _, Standing::Ejected { .. } | Standing::Trusted, _) => None,
    }
}

/// What selection makes of an instance that is not excluded.
#[must_use]
pub fn fitness(probed: probed::State) -> Fitness {
    match probed {
        probed::State::Healthy | probed::State::Busy => Fitness::Fit,
        probed::State::Unknown | probed::State::Starting => Fitness::Unknown,
        probed::State::Down => Fitness::Unfit,
    }
}

/// The least share of its usual work that an instance gets that has just become healthy.
const WARMTH_MIN: f64 = 0.1;

/// The share of its usual work that an instance should get that became healthy so long ago (slow start).
#[must_use]
pub fn warmth(healthy_for: Duration, slow_start: Duration) -> f64 {
    if slow_start <= healthy_for {
        return 1.0;
    }
    (healthy_for.as_secs_f64() / slow_start.as_secs_f64()).max(WARMTH_MIN)
}

/// Whether one more instance may be ejected: never more than the share, but one however small the fleet is.
#[must_use]
pub fn may_eject(ejected: usize, fleet: usize, percent_max: u32) -> bool {
    ejected < ejected_max(fleet, percent_max)
}

/// How many instances of a fleet may be ejected at once; none where the share is none.
#[must_use]
pub fn ejected_max(fleet: usize, percent_max: u32) -> usize {
    if percent_max == 0 {
        return 0;
    }
    let share = (fleet as u64) * u64::from(percent_max) / 100;
    usize::try_from(share).unwrap_or(usize::MAX).max(1)
}

/// How health is judged, beyond how many probes in a row change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Slow probes in a row that are forgiven while work is in flight.
    pub busy_probes_max: u32,
    /// What of an instance's calls speaks against it.
    pub ejection: observed::Settings,
    /// Share of the fleet that may be ejected at once, in percent; one always may, unless this is 0.
    pub ejected_percent_max: u32,
    /// Panic begins when fewer candidates are well, in percent.
    pub panic_below_percent: u32,
    /// How long an instance that became healthy gets less work than the others.
    pub slow_start: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            busy_probes_max: 3,
            ejection: observed::Settings::default(),
            ejected_percent_max: 30,
            panic_below_percent: 50,
            slow_start: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use proptest::prelude::*;

    use super::observed::Cause;
    use super::*;

    const ADMINS: [Admin; 3] = [Admin::Active, Admin::Draining, Admin::Disabled];
    const PROBED: [probed::State; 5] = [
        probed::State::Unknown,
        probed::State::Starting,
        probed::State::Healthy,
        probed::State::Busy,
        probed::State::Down,
    ];

    #[test]
    fn panic_ignores_what_calls_said_and_nothing_else() {
        let now = Instant::now();
        let ejected = |until| Standing::Ejected {
            until,
            cause: Cause::InARow(5),
        };
        let later = now + Duration::from_secs(1);
        for (admin, probed) in ADMINS.iter().flat_map(|a| PROBED.map(|p| (*a, p))) {
            let found = |observed, panic| exclusion(admin, probed, observed, panic, now);
            let trusted = found(Standing::Trusted, Panic::Off);
            assert_eq!(found(Standing::Trusted, Panic::On), trusted);
            assert_eq!(found(ejected(later), Panic::On), trusted);
            assert_eq!(found(ejected(now), Panic::Off), trusted, "its time is over");
            let kept = found(ejected(later), Panic::Off);
            assert_eq!(kept, trusted.or(Some(Exclusion::Ejected { until: later })));
            if admin != Admin::Active || probed == probed::State::Down {
                assert!(trusted.is_some(), "{admin:?} {probed:?}");
            }
        }
    }

    #[test]
    fn whoever_is_shown_as_healthy_gets_work_and_whoever_is_shown_as_down_does_not() {
        let now = Instant::now();
        let ejected = |until| Standing::Ejected {
            until,
            cause: Cause::OnTrial,
        };
        let standings = [
            Standing::Trusted,
            ejected(now + Duration::from_secs(1)),
            ejected(now),
        ];
        for (admin, probed) in ADMINS.iter().flat_map(|a| PROBED.map(|p| (*a, p))) {
            for observed in standings {
                let excluded = exclusion(admin, probed, observed, Panic::Off, now).is_some();
                let shown = State::of(admin, probed, observed, now);
                assert_eq!(
                    excluded,
                    matches!(shown, State::Down | State::Draining),
                    "{admin:?} {probed:?} {observed:?}"
                );
            }
        }
    }

    #[test]
    fn panic_begins_below_half_and_only_where_it_changes_anything() {
        let check = |healthy, ejected, all, expected| {
            assert_eq!(Panic::of(healthy, ejected, all, 50), expected);
        };
        check(4, 3, 8, Panic::Off);
        check(3, 3, 8, Panic::On);
        check(0, 0, 8, Panic::Off);
        check(0, 1, 1, Panic::On);
    }

    proptest! {
        #[test]
        fn the_share_of_work_rises_to_the_whole(ages in proptest::collection::vec(0_u64..40_000, 2..20)) {
            let mut ages = ages;
            ages.sort_unstable();
            let shares: Vec<_> = ages.iter().map(|age| warmth(Duration::from_millis(*age), Duration::from_secs(30))).collect();
            prop_assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(shares.iter().all(|share| (WARMTH_MIN..=1.0).contains(share)));
            prop_assert_eq!(warmth(Duration::from_secs(30), Duration::from_secs(30)), 1.0);
            prop_assert_eq!(warmth(Duration::ZERO, Duration::ZERO), 1.0);
        }

        #[test]
        fn no_more_than_the_share_is_ejected_but_always_one(fleet in 1_usize..10_000) {
            let mut ejected = 0;
            while may_eject(ejected, fleet, 30) {
                ejected += 1;
            }
            prop_assert_eq!(ejected, (fleet * 30 / 100).max(1));
            prop_assert!(!may_eject(0, fleet, 0));
        }
    }
}
