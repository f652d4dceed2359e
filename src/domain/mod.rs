//! Decides. No IO, no async, no clock, no logging, no serde, no proto: time and randomness come in as values.

pub mod admission;
pub mod budget;
pub mod conversation;
pub mod deadline;
pub mod failure;
pub mod gather;
pub mod health;
pub mod hedge;
pub mod id;
pub mod idempotency;
pub mod latency;
pub mod limit;
pub mod nearest;
pub mod payload;
pub mod retry;
pub mod selection;
pub mod session;
pub mod target;
pub mod task;
pub mod trace;
