//! Whether others could read along: plain text leaves this machine only when somebody has said that it may.

use std::net::SocketAddr;

use super::Config;
use crate::ingress::listener::Address;

/// Where plain text may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// On this machine.
    #[default]
    Local,
    /// Everywhere: something else, a mesh or a network of its own, keeps others out.
    Allowed,
}

/// Why an orchestrator may not start where it is told to listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and without TLS its keys could be read on the way: add `tls` to the \
     config, listen on 127.0.0.1 or on unix:/PATH, or say that the network is trusted with \"plaintext\": \"allowed\" \
     or --allow-plaintext"
)]
pub struct Exposed(Address);

/// Refuses plain text beyond this machine, unless it is allowed.
pub fn refuse_exposure(config: &Config) -> Result<(), Exposed> {
    let is_private = config.listen.is_local() || config.tls.is_some();
    match config.plaintext {
        Plaintext::Local if !is_private => Err(Exposed(config.listen.clone())),
        Plaintext::Local | Plaintext::Allowed => Ok(()),
    }
}

/// Why operators may not be shown anything where they are told to look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and everybody there would see metrics, health and the config without a key: \
     listen on 127.0.0.1, or say that only operators come there with \"plaintext\": \"allowed\" beside it"
)]
pub(super) struct ExposedOperators(SocketAddr);

/// Refuses an operator's port beyond this machine, unless that is allowed. It asks nobody for a key, so that what is
/// allowed at the front door says nothing about it.
pub(super) fn refuse_exposed_operators(
    listen: SocketAddr,
    plaintext: Plaintext,
) -> Result<(), ExposedOperators> {
    match plaintext {
        Plaintext::Local if !Address::Tcp(listen).is_local() => Err(ExposedOperators(listen)),
        Plaintext::Local | Plaintext::Allowed => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::listener::secure::Settings;

    #[test]
    fn plain_text_beyond_this_machine_needs_a_word() {
        let check = |listen: &str, expected: bool| {
            let mut config = Config::empty();
            config.listen = listen.parse().unwrap();
            let refused = refuse_exposure(&config);
            assert_eq!(refused.is_ok(), expected, "{listen}");
            if let Err(refused) = refused {
                let told = refused.to_string();
                assert!(told.starts_with(&format!("{listen} can be reached")));
                assert!(told.contains("--allow-plaintext"), "{told}");
            }
            config.plaintext = Plaintext::Allowed;
            assert_eq!(refuse_exposure(&config), Ok(()));
            config.plaintext = Plaintext::Local;
            config.tls = Some(Settings::new("c".into(), "k".into(), None));
            assert_eq!(refuse_exposure(&config), Ok(()));
        };
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "unix:/o.sock"] {
            check(local, true);
        }
        for open in ["0.0.0.0:7070", "[::]:7070", "10.0.0.1:1", "[fe80::1]:1"] {
            check(open, false);
        }
    }

    #[test]
    fn operators_beyond_this_machine_need_a_word_of_their_own() {
        let judged = |listen: &str, plaintext| {
            let judged = refuse_exposed_operators(listen.parse().unwrap(), plaintext);
            judged.map_err(|exposed| exposed.to_string())
        };
        for local in ["127.0.0.1:7071", "[::1]:7071", "[::ffff:127.0.0.1]:7071"] {
            assert_eq!(judged(local, Plaintext::Local), Ok(()));
        }
        for open in ["0.0.0.0:7071", "[::]:7071", "10.0.0.1:7071"] {
            let told = judged(open, Plaintext::Local).unwrap_err();
            assert!(
                told.starts_with(&format!("{open} can be reached")),
                "{told}"
            );
            assert!(told.contains(r#""plaintext": "allowed""#), "{told}");
            assert_eq!(judged(open, Plaintext::Allowed), Ok(()));
        }
    }
}
