//! The orchestrator, in the order in which its story is read. ARCHITECTURE.md is the map.
//!
//! A request comes in at a door of `ingress`, becomes a value of `domain`, is worked on in a room of
//! `orchestrate` with the current view of the `fleet`, goes out by `instance`, and the answer walks back.
//! `app` builds all of it from a `config`; `cli` is how people use it.

pub mod cli;

pub mod app;
pub mod config;

pub mod ingress;

pub mod orchestrate;

pub mod fleet;

pub mod instance;
pub mod store;

pub mod message_json;

pub mod certificates;
pub mod chance;
pub mod late_flush;
pub mod memory;
pub mod payload_json;
pub mod tasks;
pub mod telemetry;

pub mod domain;

pub mod proto;
