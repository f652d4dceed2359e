//! What is other in one config than in another, by name and without any secret: for the log. And what of it a running
//! process can take over.

use std::collections::BTreeMap;
use std::fmt;

use super::{Config, Planned, shown};
use crate::domain::health::Admin;
use crate::domain::id::InstanceId;
use crate::ingress::caller::{Key, Keys};
use crate::ingress::identity::Identity;

/// Names of one kind that a log line repeats.
const SHOWN_MAX: usize = 20;

/// What is other in a later config.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Keys, by the name in logs.
    pub keys: Named,
    /// Callers that are known by a certificate, by the name in logs.
    pub identities: Named,
    /// Instances of the config.
    pub instances: Named,
    /// Other parts of it, by the name of their key in the file.
    pub settings: Vec<&'static str>,
    /// What is other too, and cannot change while it runs.
    pub after_restart: Vec<&'static str>,
}

/// Which of several named things have changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Named {
    /// Those that were not there.
    pub added: Vec<String>,
    /// Those that are there no more.
    pub removed: Vec<String>,
    /// Those of which something else is said.
    pub changed: Vec<String>,
}

impl Changes {
    /// What `later` says otherwise than `earlier`.
    #[must_use]
    pub fn between(earlier: &Config, later: &Config) -> Self {
        // Taken apart, so that a new part of the config does not compile until it has its place here.
        let Config {
            instances,
            admin,
            keys,
            forwarders,
            cors,
            probe,
            health,
            networks,
            take_over,
            limits,
            admission,
            retry,
            hedging,
            timeouts,
            shutdown,
            // What cannot change while it runs: `after_restart`.
            listen: _,
            socket_mode: _,
            tls: _,
            plaintext: _,
            journal: _,
            sessions: _,
            operators: _,
            traces: _,
            // The same in other words.
            shown: _,
        } = earlier;
        let is_other = [
            ("forwarders", *forwarders != later.forwarders),
            ("cors", *cors != later.cors),
            ("reflection", keys.reflection != later.keys.reflection),
            ("health", *probe != later.probe || *health != later.health),
            (
                "registration",
                *networks != later.networks || *take_over != later.take_over,
            ),
            ("limits", *limits != later.limits),
            ("admission", *admission != later.admission),
            ("retry", *retry != later.retry),
            ("hedging", *hedging != later.hedging),
            ("timeouts", *timeouts != later.timeouts),
            ("shutdown", *shutdown != later.shutdown),
        ];
        let others = |parts: &[(&'static str, bool)]| {
            let other = parts.iter().filter(|(_, is_other)| *is_other);
            other.map(|(name, _)| *name).collect()
        };
        Self {
            identities: Named::between(&certified(keys), &certified(&later.keys)),
            keys: Named::between(&known(keys), &known(&later.keys)),
            instances: Named::between(
                &planned(instances, admin),
                &planned(&later.instances, &later.admin),
            ),
            settings: others(&is_other),
            after_restart: others(&after_restart(earlier, later)),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What cannot change while it runs, by name, and whether it is other.
fn after_restart(earlier: &Config, later: &Config) -> [(&'static str, bool); 8] {
    [
        ("listen", earlier.listen != later.listen),
        ("socket_mode", earlier.socket_mode != later.socket_mode),
        ("tls", earlier.tls != later.tls),
        ("plaintext", earlier.plaintext != later.plaintext),
        ("the data directory", earlier.journal != later.journal),
        ("sessions", earlier.sessions != later.sessions),
        ("operators", earlier.operators != later.operators),
        ("traces", earlier.traces != later.traces),
    ]
}

/// The keys of the config file for all that.
const AFTER_RESTART: [&str; 7] = [
    "listen",
    "socket_mode",
    "tls",
    "plaintext",
    "sessions",
    "operators",
    "traces",
];

impl Config {
    /// This config, as far as a process that runs by another one can take it over: what cannot change stays as it
    /// runs, also in what operators are shown.
    #[must_use]
    pub fn taken_over(self, running: &Self) -> Self {
        Self {
            listen: running.listen.clone(),
            socket_mode: running.socket_mode,
            tls: running.tls.clone(),
            plaintext: running.plaintext,
            journal: running.journal.clone(),
            sessions: running.sessions.clone(),
            operators: running.operators,
            traces: running.traces.clone(),
            shown: shown::with_parts_of(&self.shown, &running.shown, &AFTER_RESTART),
            ..self
        }
    }
}

fn planned(
    instances: &[Planned],
    admin: &BTreeMap<InstanceId, Admin>,
) -> BTreeMap<String, (Planned, Option<Admin>)> {
    let with_state = |planned: &Planned| {
        let id = planned.id();
        (id.to_string(), (planned.clone(), admin.get(id).copied()))
    };
    instances.iter().map(with_state).collect()
}

fn known(keys: &Keys) -> BTreeMap<String, Key> {
    let keys = keys.keys.iter();
    keys.map(|key| (key.name.to_string(), key.clone()))
        .collect()
}

fn certified(keys: &Keys) -> BTreeMap<String, Identity> {
    let identities = keys.identities.iter();
    identities
        .map(|identity| (identity.name.to_string(), identity.clone()))
        .collect()
}

impl Named {
    fn between<T: PartialEq>(earlier: &BTreeMap<String, T>, later: &BTreeMap<String, T>) -> Self {
        let only = |one: &BTreeMap<String, T>, other: &BTreeMap<String, T>| {
            let names = one.keys().filter(|name| !other.contains_key(*name));
            names.cloned().collect()
        };
        let changed = later
            .iter()
            .filter(|(name, value)| earlier.get(*name).is_some_and(|earlier| earlier != *value));
        Self {
            added: only(later, earlier),
            removed: only(earlier, later),
            changed: changed.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// `+a -b ~c`: added, removed, changed; `none` when there are none.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ('+', &self.added),
            ('-', &self.removed),
            ('~', &self.changed),
        ];
        let names = kinds
            .iter()
            .flat_map(|(sign, names)| names.iter().map(move |name| (sign, name)));
        let mut count = 0;
        for (sign, name) in names {
            if count < SHOWN_MAX {
                let space = if count == 0 { "" } else { " " };
                write!(f, "{space}{sign}{name}")?;
            }
            count += 1;
        }
        match count {
            0 => f.write_str("none"),
            count if SHOWN_MAX < count => write!(f, " and {} more", count - SHOWN_MAX),
            _all_told => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::told;
    use crate::config::{Settled, read_bytes};
    use crate::ingress::listener::secure;

    fn config(text: &str) -> Config {
        assert_eq!(told(text), "");
        read_bytes("c.json".as_ref(), text.as_bytes(), &|_| None).unwrap()
    }

    /// What has changed, as the log tells it.
    fn check(earlier: &str, later: &str, expected: [&str; 4]) {
        let changes = Changes::between(&config(earlier), &config(later));
        let found = [
            changes.keys.to_string(),
            changes.instances.to_string(),
            changes.settings.join(" "),
            changes.after_restart.join(" "),
        ];
        assert_eq!(found, expected, "{earlier} {later}");
        assert_eq!(changes.is_empty(), expected == ["none", "none", "", ""]);
    }

    #[test]
    fn what_has_changed_is_told_by_name() {
        let instances = |instances: &str| format!(r#"{{"instances": [{instances}]}}"#);
        let (a, b) = (
            r#"{"id": "A", "address": "a:1"}"#,
            r#"{"id": "B", "builtin": {}}"#,
        );
        let both = instances(&format!("{a}, {b}"));
        check(&both, &both, ["none", "none", "", ""]);
        // The order says nothing.
        check(
            &both,
            &instances(&format!("{b}, {a}")),
            ["none", "none", "", ""],
        );
        check(&instances(a), &instances(b), ["none", "+B -A", "", ""]);
        let disabled = r#"{"id": "A", "address": "a:1", "state": "disabled"}"#;
        check(&instances(a), &instances(disabled), ["none", "~A", "", ""]);
        let keyed = |name: &str, hash: &str| {
            let hash = hash.repeat(64);
            format!(
                r#"{{"instances": [], "keys": [{{"name": "{name}", "sha256": "{hash}", "scopes": ["route"]}}]}}"#
            )
        };
        check(
            &keyed("ci", "a"),
            &keyed("ops", "a"),
            ["+ops -ci", "none", "", ""],
        );
        check(
            &keyed("ci", "a"),
            &keyed("ci", "b"),
            ["~ci", "none", "", ""],
        );
        let with = |more: &str| format!(r#"{{"instances": [], {more}}}"#);
        check(
            r#"{"instances": []}"#,
            &with(
                r#""health": {"interval": 1}, "timeouts": {"max": "5s"}, "listen": "127.0.0.1:1""#,
            ),
            ["none", "none", "health timeouts", "listen"],
        );
        check(
            &with(
                r#""limits": {"connections": 5}, "admission": {"calls_burst": 1, "calls_per_second": 1}"#,
            ),
            &with(
                r#""reflection": "public", "shutdown": {"grace": 1}, "registration": {"take_over": "same_key"}, "retry": {"attempts_max": 2}, "hedging": {"percent": 1}"#,
            ),
            [
                "none",
                "none",
                "reflection registration limits admission retry hedging shutdown",
                "",
            ],
        );
    }

    #[test]
    fn what_cannot_change_stays_as_it_runs_whatever_else_is_taken_over() {
        let running = config(r#"{"instances": [], "listen": "127.0.0.1:7"}"#);
        let (mut journal, mut tls) = (running.clone(), running.clone());
        journal.journal = crate::config::Journal::Folder("/elsewhere".into());
        tls.tls = Some(secure::Settings::new("c".into(), "k".into(), None));
        let written = |more: &str| {
            let listen = r#""listen": "127.0.0.1:7""#;
            config(&format!(r#"{{"instances": [], {listen}, {more}}}"#))
        };
        let rows = [
            ("listen", config(r#"{"instances": []}"#)),
            ("socket_mode", written(r#""socket_mode": "0660""#)),
            ("tls", tls),
            ("plaintext", written(r#""plaintext": "allowed""#)),
            ("the data directory", journal),
            ("sessions", written(r#""sessions": {"sessions_max": 7}"#)),
            (
                "operators",
                written(r#""operators": {"listen": "127.0.0.1:1"}"#),
            ),
            (
                "traces",
                written(r#""traces": {"endpoint": "http://127.0.0.1:1"}"#),
            ),
        ];
        let all = after_restart(&running, &running).map(|(name, _)| name);
        assert_eq!(rows.each_ref().map(|(name, _)| *name), all);
        for (name, mut later) in rows {
            assert_eq!(Changes::between(&running, &later).after_restart, [name]);
            later.timeouts.route += later.timeouts.route;
            let taken = later.taken_over(&running);
            assert_eq!(*taken.shown, *running.shown, "{name}");
            let changes = Changes::between(&running, &taken);
            assert_eq!(
                (changes.settings, changes.after_restart),
                (vec!["timeouts"], vec![])
            );
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let many = |count: usize| Named {
            removed: (0..count).map(|at| at.to_string()).collect(),
            ..Named::default()
        };
        assert!(many(20).to_string().ends_with(" -19"));
        assert!(many(10_000).to_string().ends_with(" -19 and 9980 more"));
        // Also of a key that was made there is nothing to see.
        let mut made = Config::empty();
        let settled = crate::config::settle_keys(&mut made, None, || "canary".to_owned());
        assert_eq!(settled, Ok(Settled::Made("canary".to_owned())));
        let changes = Changes::between(&Config::empty(), &made);
        assert!(!format!("{changes:?}{}", changes.keys).contains("canary"));
    }
}
