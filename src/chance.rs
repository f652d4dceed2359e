//! Where random numbers come from: the system, or a seed that gives the same ones again.

use std::sync::{Arc, Mutex, PoisonError};

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// A source of random numbers. Clones are the same source.
#[derive(Debug, Clone, Default)]
pub struct Chance(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    /// A generator of each thread's own, fed by the system: callers never wait for each other.
    #[default]
    System,
    /// One for all, so that the order of the draws decides everything.
    Seeded(Arc<Mutex<SmallRng>>),
}

impl Chance {
    /// The same numbers for the same seed. Whoever knows the seed knows them all.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let numbers = SmallRng::seed_from_u64(seed);
        Self(Source::Seeded(Arc::new(Mutex::new(numbers))))
    }

    /// The next number, uniform over all that there are; of a float, from 0 to 1 and without the 1.
    #[must_use]
    pub fn draw<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        match &self.0 {
            Source::System => rand::random(),
            Source::Seeded(numbers) => numbers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .random(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(chance: &Chance) -> [u64; 4] {
        std::array::from_fn(|_| chance.draw())
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_the_system_does_not() {
        assert_eq!(drawn(&Chance::seeded(7)), drawn(&Chance::seeded(7)));
        assert_ne!(drawn(&Chance::seeded(7)), drawn(&Chance::seeded(8)));
        assert_ne!(drawn(&Chance::default()), drawn(&Chance::default()));
    }

    #[test]
    fn clones_draw_from_one_source() {
        let chance = Chance::seeded(7);
        let both = [drawn(&chance), drawn(&chance.clone())];
        let one = Chance::seeded(7);
        assert_eq!(both, [drawn(&one), drawn(&one)]);
    }
}
