//! What every test of sessions under faults shares, whether the faults are simulated or real: what is written down,
//! the judge of it, and the instance that takes part.

pub(crate) mod history;
pub(crate) mod instance;
pub(crate) mod judge;
