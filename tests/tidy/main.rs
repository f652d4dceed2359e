//! The house rules, as tests: each reads the source as text. ARCHITECTURE.md says what they are for.
//!
//! A rule is a function from one source file to what is wrong with it. It is tested itself on a snippet that
//! breaks it, so that a rule that no longer sees anything is noticed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may fail"
)]

mod source;

mod bans;
mod docs;
mod failures;
mod floors;
mod limits;
mod retries;
mod sizes;
mod tonic_types;
mod words;
