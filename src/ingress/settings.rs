//! What the door reads at each request and each connection: one picture of the config, exchanged as a whole while
//! calls run.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::time;

use super::caller::{Keys, Revoked};
use super::cors::Cors;
use super::listener::Limits;
use super::methods::Timeouts;
use super::visitor::Forwarders;
use crate::domain::retry;

/// What the door goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who may call.
    pub keys: Keys,
    /// Limits of connections. Their age and how long readers may stand still hold for open ones too; the rest is as it
    /// was when each came.
    pub limits: Limits,
    /// Who may say who is calling.
    pub forwarders: Forwarders,
    /// Which pages may call from a browser; none without it.
    pub cors: Option<Arc<Cors>>,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// How tasks are tried again.
    pub retry: retry::Settings,
    /// The config behind all this, as operators are shown it.
    pub shown: Arc<str>,
}

/// The settings as they are when it is asked. Clones are the same.
#[derive(Clone)]
pub struct SettingsNow(Arc<Shared>);

struct Shared {
    now: ArcSwap<Settings>,
    changed: watch::Sender<()>,
}

impl SettingsNow {
    /// These settings, until they are replaced.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Shared {
            now: ArcSwap::from_pointee(settings),
            changed: watch::Sender::new(()),
        }))
    }

    /// The settings of this moment.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Settings>> {
        self.0.now.load()
    }

    /// Other settings from the next request on. What is open with a key that is gone, or may do less than before, or on
    /// the word of somebody who may no longer speak for others, ends at once.
    pub fn replace(&self, mut next: Settings) {
        let previous = self.0.now.load_full();
        next.keys.inherit(&previous.keys);
        next.forwarders.inherit(&previous.forwarders);
        let next = Arc::new(next);
        self.0.now.store(Arc::clone(&next));
        previous.keys.revoke_all_but(&next.keys);
        previous.forwarders.revoke_all_but(&next.forwarders);
        self.0.changed.send_replace(());
    }

    /// From now on: whether there are other settings than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Revokes each key at its date; never ends.
    pub async fn expire_keys(&self) {
        let mut changes = self.changes();
        loop {
            let wait = self.load().keys.revoke_expired(SystemTime::now());
            tokio::select! {
                biased;
                Ok(()) = changes.changed() => {}
                () = time::sleep(wait) => {}
            }
        }
    }
}

impl Keys {
    /// What is open with a key goes on when the key is still here, and may do no less than before.
    fn inherit(&mut self, previous: &Self) {
        for key in &mut self.keys {
            let same = previous.keys.iter().find(|old| old.hash == key.hash);
            if let Some(old) = same
                && !old.revoked.is_revoked()
                && old.scopes.iter().all(|scope| key.grant().allows(*scope))
            {
                key.revoked = old.revoked.clone();
            }
        }
        for identity in &mut self.identities {
            let mut known = previous.identities.iter();
            let same = known.find(|old| old.pattern == identity.pattern);
            if let Some(old) = same
                && !old.revoked.is_revoked()
                && (old.scopes.iter()).all(|scope| identity.grant().allows(*scope))
            {
                identity.revoked = old.revoked.clone();
            }
        }
    }

    /// Ends what is open with a key that `next` has not inherited.
    fn revoke_all_but(&self, next: &Self) {
        for revoked in self.all_revoked() {
            if !next.all_revoked().any(|other| other.is_that_of(revoked)) {
                revoked.revoke();
            }
        }
    }

    fn all_revoked(&self) -> impl Iterator<Item = &Revoked> {
        let keys = self.keys.iter().map(|key| &key.revoked);
        let identities = self.identities.iter();
        keys.chain(identities.map(|identity| &identity.revoked))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::ingress::access::Scope;
    use crate::ingress::caller::{Key, Reflection};

    pub(in crate::ingress) fn settings(keys: &[Key]) -> Settings {
        // As they come from a config that was read again.
        let unknown = |key: &Key| Key {
            revoked: Revoked::default(),
            ..key.clone()
        };
        Settings {
            keys: Keys {
                keys: keys.iter().map(unknown).collect(),
                identities: Vec::new(),
                reflection: Reflection::WithKey,
            },
            limits: Limits::default(),
            forwarders: Forwarders::default(),
            cors: None,
            timeouts: Timeouts::default(),
            retry: retry::Settings::default(),
            shown: Arc::from(""),
        }
    }

    fn key(name: &str, scopes: &[Scope]) -> Key {
        Key {
            scopes: scopes.to_vec(),
            ..Key::with_all_rights(name, name)
        }
    }

    /// Whether what was opened with the first of these keys has ended once those after it are there.
    fn check(before: &Key, after: &[Key], is_over: bool) {
        let now = SettingsNow::new(settings(std::slice::from_ref(before)));
        let open = now.load().keys.keys[0].revoked.clone();
        now.replace(settings(after));
        let ended = open.wait().now_or_never().is_some();
        assert_eq!(ended, is_over, "{before:?} {after:?}");
        // And so it is with the settings after that.
        now.replace(settings(after));
        assert_eq!(open.wait().now_or_never().is_some(), is_over);
    }

    #[test]
    fn what_is_open_ends_with_a_key_that_is_gone_or_may_do_less() {
        let both = key("a", &[Scope::Route, Scope::Fanout]);
        check(&both, &[], true);
        check(&both, &[key("b", &[Scope::Admin])], true);
        check(&both, &[key("b", &[Scope::Admin]), both.clone()], false);
        check(&both, &[key("a", &[Scope::Route])], true);
        check(&both, &[key("a", &[Scope::Admin])], false);
        check(
            &key("a", &[Scope::Admin]),
            std::slice::from_ref(&both),
            true,
        );
        let renamed = Key {
            name: "other".into(),
            ..both.clone()
        };
        check(&both, &[renamed], false);
    }

    #[tokio::test(start_paused = true)]
    async fn a_date_that_comes_with_new_settings_is_kept_and_one_that_is_put_off_revives_its_key() {
        let staying = key("a", &[Scope::Route]);
        let now = SettingsNow::new(settings(std::slice::from_ref(&staying)));
        let expiring = now.expire_keys();
        let mut expiring = std::pin::pin!(expiring);
        assert!(expiring.as_mut().now_or_never().is_none());
        let open = now.load().keys.keys[0].revoked.clone();
        let past = SystemTime::now() - Duration::from_secs(1);
        let over = Key {
            expires: Some(past),
            ..staying.clone()
        };
        now.replace(settings(&[over]));
        assert!(open.wait().now_or_never().is_none());
        assert!(expiring.as_mut().now_or_never().is_none());
        assert!(
            open.wait().now_or_never().is_some(),
            "without waiting for the next look"
        );
        now.replace(settings(&[staying]));
        let fresh = now.load().keys.keys[0].revoked.clone();
        assert!(expiring.as_mut().now_or_never().is_none());
        assert!(fresh.wait().now_or_never().is_none());
    }
}
