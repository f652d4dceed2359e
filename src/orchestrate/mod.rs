//! The rooms, one verb each. What comes in are domain values and a view of the fleet; nothing here knows
//! which door a call came by, or how an instance is reached.

pub mod admit;
pub mod attempt;
pub mod deduplicate;
pub mod excluded;
pub mod explain;
pub mod fan_out;
pub mod hold_session;
pub mod run_task;

#[cfg(test)]
mod stage;
