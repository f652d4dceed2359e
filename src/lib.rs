//! The map.

pub mod app;
pub mod config;
pub mod domain;
pub mod fleet;
pub mod ingress;
pub mod instance;
pub mod orchestrate;
pub mod proto;
pub mod tasks;
