//! What the orchestrator promises, on real sockets: one file for each promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "a test may fail"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test's own tasks end with the test"
)]

mod raw;
mod stage;

mod admission;
mod auth;
mod cancel;
mod cluster;
mod conversation_vectors;
mod deadline;
mod deprived;
mod doors;
mod drain;
mod ejection;
mod expired;
mod exposure;
mod fan_out;
mod front_tls;
mod health;
mod hedge;
mod http_instance;
mod idempotency;
mod identity;
mod instance_session;
mod journal;
mod killed;
mod limits;
mod live;
mod operate;
mod process;
mod reflection;
mod rest;
mod retry;
mod retry_wire;
mod revoked;
mod room;
mod route;
mod session;
mod session_pressure;
mod session_process;
mod session_time;
mod shutdown;
mod socket;
mod terminal;
mod tls;
mod traces;
mod web;
