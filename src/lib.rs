//! The map.

pub mod domain;
pub mod fleet;
pub mod instance;
pub mod orchestrate;
pub mod proto;
pub mod tasks;
