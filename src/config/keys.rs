//! The key of an orchestrator whose config has none, and the key of its environment.

use std::fmt;

use super::Config;
use crate::ingress::caller::Key;
use crate::ingress::listener::Address;

/// What the key of the environment is called in logs.
const ENVIRONMENT: &str = "environment";
/// What a key is called that was made at the start.
const MADE: &str = "made-at-start";
/// Names that a key of the config cannot have.
pub(super) const RESERVED_NAMES: [&str; 2] = [ENVIRONMENT, MADE];

/// Where the keys come from that an orchestrator starts with.
#[derive(Clone, PartialEq, Eq)]
pub enum Settled {
    /// The config's own, and nothing else.
    Configured,
    /// The environment's, besides those of the config.
    Environment,
    /// There was none, so one was made: this one, to be shown once.
    Made(String),
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "Configured",
            Self::Environment => "Environment",
            Self::Made(_) => "Made(…)",
        })
    }
}

/// Why an orchestrator may not start with the keys it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// Nothing in it, or something that no header can carry.
    #[error(
        "the key in ORCHESTRATOR_API_KEY is {0}: set it to visible ASCII characters without spaces, or unset it"
    )]
    Unusable(&'static str),
    /// Everyone who can reach it could call it, or nobody.
    #[error(
        "there is no key, and {0} can be reached from other machines: add one to `keys` in the config, set ORCHESTRATOR_API_KEY, or listen on 127.0.0.1"
    )]
    Missing(Address),
}

/// A new key: 256 random bits in visible ASCII.
#[must_use]
pub fn make_key() -> String {
    format!("ok_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// Adds the environment's key, with all rights. On loopback, makes one when there is none at all.
pub fn settle_keys(
    config: &mut Config,
    from_environment: Option<&str>,
    make: impl FnOnce() -> String,
) -> Result<Settled, NoKey> {
    let keys = &mut config.keys.keys;
    // As the command line does: a file that it was read from ends with a line end.
    if let Some(key) = from_environment.map(str::trim) {
        if key.is_empty() {
            return Err(NoKey::Unusable("empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NoKey::Unusable("not a key"));
        }
        let key = Key::with_all_rights(ENVIRONMENT, key);
        // The command line's own variable may hold a key of few rights. It does not gain any by that.
        if keys.iter().any(|known| known.hash == key.hash) {
            return Ok(Settled::Configured);
        }
        keys.push(key);
        return Ok(Settled::Environment);
    }
    if !keys.is_empty() || !config.keys.identities.is_empty() {
        return Ok(Settled::Configured);
    }
    if !config.listen.is_local() {
        return Err(NoKey::Missing(config.listen.clone()));
    }
    let key = make();
    keys.push(Key::with_all_rights(MADE, &key));
    Ok(Settled::Made(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::access::Scope;
    use crate::ingress::caller::{Revoked, hash};

    const KEY: &str = "canary-key";

    /// Where it listens, the config's keys and the environment's; what comes of it, and the keys afterwards.
    fn check(
        listen: &str,
        configured: &[Key],
        environment: Option<&str>,
        expected: Result<Settled, &str>,
        keys: &[Key],
    ) {
        let mut config = Config::empty();
        config.listen = listen.parse().unwrap();
        config.keys.keys = configured.to_vec();
        let settled = settle_keys(&mut config, environment, || KEY.to_owned());
        assert!(!format!("{settled:?}{config:?}").contains(KEY));
        let settled = settled.map_err(|bad| bad.to_string());
        assert_eq!(settled, expected.map_err(str::to_owned));
        assert_eq!(config.keys.keys, keys);
    }

    fn limited() -> Key {
        Key {
            name: "ci".into(),
            hash: hash(KEY.as_bytes()),
            scopes: vec![Scope::Route],
            expires: None,
            quota: None,
            revoked: Revoked::default(),
        }
    }

    #[test]
    fn the_key_of_the_environment_comes_to_those_of_the_config() {
        let environment = Key::with_all_rights("environment", "other");
        let settled = Ok(Settled::Environment);
        check(
            "0.0.0.0:1",
            &[],
            Some("other"),
            settled.clone(),
            std::slice::from_ref(&environment),
        );
        check(
            "0.0.0.0:1",
            &[limited()],
            Some("other"),
            settled,
            &[limited(), environment],
        );
    }

    #[test]
    fn a_key_of_the_config_gains_no_rights_by_being_in_the_environment() {
        check(
            "127.0.0.1:1",
            &[limited()],
            Some(KEY),
            Ok(Settled::Configured),
            &[limited()],
        );
    }

    #[test]
    fn what_surrounds_the_key_of_the_environment_is_no_part_of_it() {
        let key = format!(" {KEY}\n");
        let settled = Ok(Settled::Configured);
        check(
            "127.0.0.1:1",
            &[limited()],
            Some(&key),
            settled,
            &[limited()],
        );
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        let advice = "set it to visible ASCII characters without spaces, or unset it";
        let empty = format!("the key in ORCHESTRATOR_API_KEY is empty: {advice}");
        for key in ["", " \n"] {
            check("127.0.0.1:1", &[], Some(key), Err(&empty), &[]);
        }
        let no_key = format!("the key in ORCHESTRATOR_API_KEY is not a key: {advice}");
        for key in ["two words", "two\nlines", "schlüssel"] {
            check(
                "127.0.0.1:1",
                &[limited()],
                Some(key),
                Err(&no_key),
                &[limited()],
            );
        }
    }

    #[test]
    fn without_any_key_one_is_made_on_loopback_and_nowhere_else() {
        let made = Key::with_all_rights("made-at-start", KEY);
        for loopback in [
            "127.0.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "unix:/o.sock",
        ] {
            check(
                loopback,
                &[],
                None,
                Ok(Settled::Made(KEY.to_owned())),
                std::slice::from_ref(&made),
            );
        }
        check(
            "0.0.0.0:1",
            &[limited()],
            None,
            Ok(Settled::Configured),
            &[limited()],
        );
        check(
            "127.0.0.1:1",
            &[limited()],
            None,
            Ok(Settled::Configured),
            &[limited()],
        );
        for open in ["0.0.0.0:7070", "[::]:7070", "10.0.0.1:7070"] {
            let missing = format!(
                "there is no key, and {open} can be reached from other machines: add one to `keys` in the config, set ORCHESTRATOR_API_KEY, or listen on 127.0.0.1"
            );
            check(open, &[], None, Err(&missing), &[]);
        }
    }
}
