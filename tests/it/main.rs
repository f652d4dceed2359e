//! What the orchestrator promises, on real sockets: one file for each promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "a test may fail"
)]

mod raw;
mod stage;

mod limits;
mod route;
