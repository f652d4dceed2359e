//! The map.

pub mod cli;
pub mod domain;
pub mod payload_json;
pub mod proto;
