//! How much work the orchestrator of one run takes at once: mostly more than there is, and in some runs hardly
//! enough.

use orchestrator::config;
use orchestrator::domain::admission::{Limits, Quota, Rate};
use rand::RngExt as _;
use rand::rngs::SmallRng;

/// What is allowed.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    /// Over all callers, for each of them, and for the instances that have no limit of their own.
    pub(crate) admission: config::Admission,
    /// What single callers may have instead.
    pub(crate) quotas: Vec<Option<Quota>>,
}

impl Allowance {
    /// Whether calls may be refused for load.
    pub(crate) fn is_tight(&self) -> bool {
        let usual = config::Admission::default();
        self.admission != usual || self.quotas.iter().any(Option::is_some)
    }

    /// Whether a call may wait for its turn, or be refused, before an instance is chosen.
    pub(crate) fn limits_calls(&self) -> bool {
        let usual = config::Admission::default();
        self.admission.calls != usual.calls || self.quotas.iter().any(Option::is_some)
    }

    pub(crate) fn calls(&self) -> Limits {
        self.admission.calls
    }

    /// What a caller may have.
    pub(crate) fn of(&self, caller: usize) -> Quota {
        let own = self.quotas.get(caller).copied().flatten();
        own.unwrap_or(self.calls().each)
    }
}

/// Everything is allowed.
pub(crate) fn ample(callers: usize) -> Allowance {
    Allowance {
        admission: config::Admission::default(),
        quotas: vec![None; callers],
    }
}

/// Enough for the calls at the end of a run, which come one by one, and for a fan-out to everybody.
pub(crate) fn draw(callers: usize, dice: &mut SmallRng) -> Allowance {
    let mut allowance = ample(callers);
    if !dice.random_bool(0.4) {
        return allowance;
    }
    let calls = &mut allowance.admission.calls;
    if dice.random_bool(0.3) {
        // Nearly everybody waits, and the fleet changes meanwhile.
        calls.all.in_flight_max = dice.random_range(2..4);
        calls.waiting_max = dice.random_range(20..60);
        return allowance;
    }
    if dice.random_bool(0.5) {
        calls.all.in_flight_max = dice.random_range(2..9);
        calls.waiting_max = dice.random_range(0..12);
    }
    if dice.random_bool(0.4) {
        calls.each.in_flight_max = dice.random_range(2..6);
        calls.waiting_max = dice.random_range(0..12);
    }
    if dice.random_bool(0.3) {
        calls.legs_max = dice.random_range(8..16);
    }
    if dice.random_bool(0.25) {
        calls.all.rate = Some(rate(dice));
    }
    if dice.random_bool(0.25) {
        calls.each.rate = Some(rate(dice));
    }
    if dice.random_bool(0.3) {
        let caller = dice.random_range(0..callers);
        allowance.quotas[caller] = Some(Quota {
            in_flight_max: dice.random_range(2..6),
            rate: dice.random_bool(0.6).then(|| rate(dice)),
        });
    }
    if dice.random_bool(0.4) {
        allowance.admission.instance_calls_max = dice.random_range(1..5);
    }
    allowance
}

fn rate(dice: &mut SmallRng) -> Rate {
    Rate {
        // The last calls of a run come at a tenth of a second each.
        per_second: dice.random_range(15..45),
        burst: dice.random_range(3..10),
    }
}
