//! One unit of work, as it is handed to instances.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use super::failure::Failure;
use super::id::InstanceId;
use super::idempotency::Word;
use super::limit::{METADATA_BYTES_MAX, METADATA_ENTRIES_MAX};
use super::payload::Payload;
use super::trace::Carried;

/// A task. What differs between tries of it (deadline, number of the try) is not part of it.
#[derive(Debug, Clone)]
pub struct Task {
    /// The work, never looked into.
    pub payload: Payload,
    /// The caller's own words to the instance.
    pub metadata: Metadata,
    /// Names that only serve to find the call again in logs and traces.
    pub names: Names,
    /// The payload as it is told to instances that do not take it as it is.
    pub form: Form,
}

/// The payload in another form: made when the first instance needs it, shared by all tries and legs.
#[derive(Debug, Clone, Default)]
pub struct Form(OnceLock<Bytes>);

impl Form {
    /// The form, which `make` makes when it is not there. Two that come at once may both make it.
    pub fn get_or_make<E>(&self, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(made) = self.0.get() {
            return Ok(made.clone());
        }
        let made = make()?;
        Ok(self.0.get_or_init(|| made).clone())
    }
}

/// What a call is called in logs and traces.
#[derive(Debug, Clone)]
pub struct Names {
    /// `x-request-id`, the caller's or made up.
    pub request_id: Bytes,
    /// W3C `traceparent`, the caller's or made up.
    pub traceparent: Bytes,
    /// Other headers about traces, as the caller sent them.
    pub carried: Carried,
}

/// Names and values that travel with a task; checked.
#[derive(Debug, Clone, Default)]
pub struct Metadata(Vec<(String, String)>);

/// Why metadata is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMetadata {
    /// Too many entries, or too many bytes.
    #[error("at most {METADATA_ENTRIES_MAX} entries and {METADATA_BYTES_MAX} bytes are taken")]
    TooLarge,
    /// Not a name that can travel.
    #[error("the name `{0}` is not allowed: use 1 or more of a-z 0-9 . _ -")]
    Name(String),
    /// A name that is the protocol's or the orchestrator's own.
    #[error("the name `{0}` is reserved")]
    Reserved(String),
    /// Not a value that can travel.
    #[error(
        "the value of `{0}` is not allowed: use printable ASCII without leading or trailing spaces"
    )]
    Value(String),
}

/// The name under which an idempotency key travels to an instance.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Names that mean something to the protocol, to proxies, or to the orchestrator. Names that begin with
/// one of `RESERVED_STARTS` or `:` are reserved too, and binary names (`-bin`) have no text value.
const RESERVED: [&str; 26] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    IDEMPOTENCY_KEY,
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "request-timeout",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "traceparent",
    "via",
    "x-real-ip",
    "x-request-id",
];

/// An instance's sidecar would repeat a task, or cut its time, for whoever could write `x-envoy-…`.
const RESERVED_STARTS: [&str; 4] = ["grpc-", "x-envoy-", "x-forwarded-", "x-orchestrator-"];

impl Metadata {
    /// Checks names and values that came from outside.
    pub fn check(entries: impl IntoIterator<Item = (String, String)>) -> Result<Self, BadMetadata> {
        let mut checked: Vec<_> = entries.into_iter().collect();
        let bytes: usize = checked
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if METADATA_ENTRIES_MAX < checked.len() || METADATA_BYTES_MAX < bytes {
            return Err(BadMetadata::TooLarge);
        }
        for (name, value) in &checked {
            check_entry(name, value)?;
        }
        checked.sort();
        Ok(Self(checked))
    }

    /// Adds the caller's idempotency key, so that its instance may use it too.
    pub fn add_idempotency_key(&mut self, word: &Word) {
        let entry = (IDEMPOTENCY_KEY.to_owned(), word.as_str().to_owned());
        self.0.push(entry);
    }

    /// The caller's other headers about traces, but for those that the request itself names otherwise.
    pub fn beside<'a>(
        &'a self,
        carried: &'a Carried,
    ) -> impl Iterator<Item = (&'static str, &'a Bytes)> {
        let is_named = |name: &str| self.iter().any(|(own, _)| own == name);
        carried.iter().filter(move |(name, _)| !is_named(name))
    }

    /// The entries, those of the caller sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn check_entry(name: &str, value: &str) -> Result<(), BadMetadata> {
    let allowed =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(BadMetadata::Name(name.chars().take(80).collect()));
    }
    let reserved = RESERVED.contains(&name)
        || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
        || name.ends_with("-bin");
    if reserved {
        return Err(BadMetadata::Reserved(name.to_owned()));
    }
    let printable = value.bytes().all(|c| (b' '..=b'~').contains(&c));
    if !printable || value.trim() != value {
        return Err(BadMetadata::Value(name.to_owned()));
    }
    Ok(())
}

/// One try of a task at one instance, as it is told to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub instance: InstanceId,
    /// Why it was made.
    pub kind: AttemptKind,
    /// Why it did not bring the answer; `None` when it did.
    pub failure: Option<Failure>,
    /// When it began, counted from the arrival of the call.
    pub offset: Duration,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why a try was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first try.
    First,
    /// After a first one that provably never began.
    TransparentRetry,
    /// After one that failed.
    Retry,
    /// At an instance that was not named, after those that were.
    Fallback,
    /// While another one was still running.
    Hedge,
}

impl AttemptKind {
    /// Every reason there is.
    pub const ALL: [Self; 5] = [
        Self::First,
        Self::TransparentRetry,
        Self::Retry,
        Self::Fallback,
        Self::Hedge,
    ];

    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::TransparentRetry => "transparent_retry",
            Self::Retry => "retry",
            Self::Fallback => "fallback",
            Self::Hedge => "hedge",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_could_mean_something_else_is_refused() {
        let check = |name: &str, value: &str, expected: Result<(), BadMetadata>| {
            let found = Metadata::check([(name.to_owned(), value.to_owned())]).map(|_| ());
            assert_eq!(found, expected, "{name}");
        };
        check("tenant", "blue", Ok(()));
        check("x-tenant", "", Ok(()));
        for reserved in [
            "authorization",
            "grpc-timeout",
            "te",
            "connection",
            "expect",
            "request-timeout",
            "x-orchestrator-attempt",
            "x-envoy-max-retries",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "forwarded",
            "idempotency-key",
            "k-bin",
        ] {
            check(
                reserved,
                "x",
                Err(BadMetadata::Reserved(reserved.to_owned())),
            );
        }
        for name in ["", "Tenant", "a b", ":path", "ä"] {
            check(name, "x", Err(BadMetadata::Name(name.to_owned())));
        }
        for value in ["a\nb", "ä", " a", "a "] {
            check(
                "tenant",
                value,
                Err(BadMetadata::Value("tenant".to_owned())),
            );
        }
        check(
            "tenant",
            &"x".repeat(METADATA_BYTES_MAX),
            Err(BadMetadata::TooLarge),
        );
    }
}
