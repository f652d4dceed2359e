//! Messages of the contract as JSON and back (the JSON mapping of proto3), by their descriptors.
//!
//! A JSON document becomes the very bytes that a gRPC caller would have sent, so that both are read by the same
//! code from there on, and a field that the contract gains needs nothing here. A payload inside is written
//! down as it is read, by `payload_json`.
//!
//! More is taken than proto3 asks for: a duration may be a number of seconds, and an enum value may be written
//! short and in lower case. Less is taken, too: a field that is not known, or is there twice, is refused.
//! Answers have every field that has a value of its own even when it is empty or zero, and enum values in their
//! short form.

mod leaf;
mod read;
mod schema;
mod write;

pub use self::read::{Beside, Means, Read, read};
pub use self::schema::{BadSchema, Enum, Field, Kind, Message, Schema};
pub use self::write::Written;

/// Why a text is not the message that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Not JSON at all.
    #[error("not JSON at line {line}, column {column}: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// A field that cannot be read.
    #[error("{path}: {what} (line {line}, column {column})")]
    Field {
        /// Where, as in `policy.attemptsMax` or `instances[2]`; the body as a whole is `body`.
        path: String,
        /// Of its value; counted from 1.
        line: usize,
        /// Of its value; counted from 1, in bytes.
        column: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A payload that cannot travel.
    #[error("{what}")]
    Payload {
        /// What is wrong, with the path.
        what: String,
    },
}

#[cfg(test)]
mod tests;
