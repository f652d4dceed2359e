//! The token of a session: good for its own session's calls and for nothing else.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// How every token begins, so that it is told from a key at once, also by those who search for leaked ones.
pub const PREFIX: &str = "ost_";

/// SHA-256 of a token. The token itself is never kept.
pub type Hash = [u8; 32];

/// The token made of 256 random bits.
#[must_use]
pub fn of(random: [u8; 32]) -> String {
    let mut token = PREFIX.to_owned();
    for byte in random {
        // Writing to a string does not fail.
        let _ = write!(token, "{byte:02x}");
    }
    token
}

/// Its hash.
#[must_use]
pub fn hash(token: &[u8]) -> Hash {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_prefix_and_64_digits() {
        let token = of([0xab; 32]);
        assert_eq!(token.len(), 68);
        assert!(token.starts_with("ost_abab") && token.is_ascii());
        assert_ne!(hash(token.as_bytes()), hash(of([0xac; 32]).as_bytes()));
    }
}
