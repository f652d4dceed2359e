//! The map.

pub mod domain;
pub mod payload_json;
pub mod proto;
