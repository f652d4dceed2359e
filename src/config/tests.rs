//! Whole files: what they mean, and that nothing in them is a crash or lets a secret out.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Admission, Config, Mistakes, Plaintext, Planned, Sessions, Shutdown, read, read_bytes,
};
use crate::domain::admission::{self, Quota, Rate};
use crate::domain::budget::Share;
use crate::domain::failure::Status;
use crate::domain::health;
use crate::domain::health::Thresholds;
use crate::domain::retry::Backoff;
use crate::domain::session::Bounds;
use crate::domain::{hedge, retry};
use crate::fleet::ProbeSettings;
use crate::fleet::registration::TakeOver;
use crate::ingress::access::Scope;
use crate::ingress::caller::{Key, Reflection, Revoked, hash};
use crate::ingress::identity::{Identity, Pattern};
use crate::ingress::listener::Limits;
use crate::ingress::listener::secure::{self, ClientCertificate, Clients, OverdueList};
use crate::ingress::methods::Timeouts;
use crate::ingress::visitor::Forwarder;
use crate::instance::Credential;
use crate::instance::builtin::Behaviour;
use crate::orchestrate::hold_session;

pub(super) const CANARY: &str = "canary-0123456789abcdef";

fn meant_by(text: impl AsRef<[u8]>) -> Result<Config, Mistakes> {
    let environment = |name: &str| match name {
        "B_TOKEN" => Some(format!("{CANARY}-env\n")),
        "EMPTY" => Some("\n".to_owned()),
        "SPACED" => Some(format!("{CANARY} x")),
        _ => None,
    };
    let found = read_bytes(Path::new("orchestrator.json"), text.as_ref(), &environment);
    assert!(!format!("{found:?}").contains(CANARY), "{found:?}");
    found
}

/// What is told about a text; empty when it is right.
pub(super) fn told(text: impl AsRef<[u8]>) -> String {
    let told = meant_by(text).map_or_else(|mistakes| mistakes.to_string(), |_| String::new());
    assert!(!told.contains(CANARY), "{told}");
    told
}

#[test]
fn a_full_file_means_what_it_says() {
    let folder = full_folder();
    let environment = |name: &str| (name == "B_TOKEN").then(|| format!("{CANARY}-env"));
    let config = read(&folder.path().join("orchestrator.json"), &environment).unwrap();
    assert!(!format!("{config:?}").contains(CANARY), "{config:?}");

    assert_eq!(config.listen, "0.0.0.0:7443".parse().unwrap());
    full_tls(&config, folder.path());
    full_instances(&config.instances);
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600);
    let key = |name: &str, key: &[u8], scopes: &[Scope], expires, quota| Key {
        name: name.into(),
        hash: hash(key),
        scopes: scopes.to_vec(),
        expires,
        quota,
        revoked: Revoked::default(),
    };
    let keys = [
        key(
            "ci",
            b"secret",
            &[Scope::Route, Scope::Fanout],
            Some(expires),
            Some(quota(100, 20, 30)),
        ),
        key("ops", b"other", &[Scope::Admin], None, None),
    ];
    assert_eq!(config.keys.keys, keys);
    assert_eq!(config.keys.reflection, Reflection::Public);
    full_settings(&config);
}

fn full_tls(config: &Config, folder: &Path) {
    assert_eq!(
        (config.socket_mode, config.plaintext),
        (0o660, Plaintext::Allowed)
    );
    let clients = Clients {
        ca: folder.join("ca.pem"),
        crl: Some(folder.join("crl.pem")),
        overdue: OverdueList::Accepted,
        certificate: ClientCertificate::Optional,
    };
    let (certificate, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let tls = secure::Settings::new(certificate, key, Some(clients));
    assert_eq!(config.tls, Some(tls));
    let identity = |name: &str, pattern, scopes: &[Scope], quota| Identity {
        name: name.into(),
        pattern,
        scopes: scopes.to_vec(),
        quota,
        revoked: Revoked::default(),
    };
    let below = Pattern::spiffe("spiffe://cluster.local/ns/batch/*").unwrap();
    let expected = [
        identity("batch", below, &[Scope::Fanout], Some(quota(100, 20, 30))),
        identity(
            "edge",
            Pattern::dns("edge.internal").unwrap(),
            &[Scope::Route, Scope::Health],
            None,
        ),
    ];
    assert_eq!(config.keys.identities, expected);
    let forwarders = [
        Forwarder::Network("127.0.0.0/8".parse().unwrap()),
        Forwarder::Unix,
    ];
    assert_eq!(config.forwarders, forwarders);
}

/// A folder with the full config and everything that it points to.
pub(super) fn full_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.internal".to_owned()]).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", &made.cert.pem());
    write("c.pem", &made.cert.pem());
    write("k.pem", &made.signing_key.serialize_pem());
    write("crl.pem", &revocation_list());
    write("a.token", &format!("{CANARY}-file\r\n"));
    write("orchestrator.json", include_str!("samples/full.json"));
    folder
}

/// A list of nobody.
fn revocation_list() -> String {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(authority, key).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&authority).unwrap().pem().unwrap()
}

fn quota(in_flight_max: u32, per_second: u32, burst: u32) -> Quota {
    let rate = Some(Rate { per_second, burst });
    Quota {
        in_flight_max,
        rate,
    }
}

fn full_instances(planned: &[Planned]) {
    let [
        Planned::Remote(a),
        Planned::Remote(b),
        Planned::Builtin(c),
        Planned::Builtin(d),
    ] = planned
    else {
        panic!("{planned:?}");
    };
    assert_eq!((a.id.as_str(), a.weight), ("A", 2));
    assert_eq!(a.calls_in_flight_max, Some(12));
    assert_eq!(a.endpoint.to_string(), "grpcs://10.0.0.5:50051");
    assert_eq!(a.labels, [("zone".to_owned(), "a".to_owned())].into());
    assert_eq!(a.credential, Credential::bearer(&format!("{CANARY}-file")));
    assert!(a.tls.ca.is_some() && a.tls.identity.is_some());
    assert_eq!(a.tls.server_name.as_deref(), Some("a.internal"));
    assert!(a.tls.files.ca.is_some() && a.tls.files.identity.is_some());

    assert_eq!((b.id.as_str(), b.weight), ("B", 1));
    assert_eq!(b.endpoint.to_string(), "grpc://b.internal:50051");
    assert_eq!(b.credential, Credential::bearer(&format!("{CANARY}-env")));
    assert!(b.tls.ca.is_none() && b.tls.identity.is_none());

    let misbehaving = Behaviour {
        delay: Duration::from_millis(200),
        fail: Some(Status::Unavailable),
        silent: true,
        flap: Some(Duration::from_secs(5)),
    };
    assert_eq!((c.id.as_str(), c.behaviour), ("C", misbehaving));
    assert_eq!((d.id.as_str(), d.behaviour), ("D", Behaviour::default()));
    assert_eq!((d.weight, d.labels.len()), (1000, 1));
    assert_eq!(d.calls_in_flight_max, Some(13));
}

fn full_settings(config: &Config) {
    let seconds = Duration::from_secs;
    let probe = ProbeSettings {
        interval: seconds(7),
        timeout: Duration::from_millis(1500),
        thresholds: Thresholds {
            failures_down: 4,
            successes_up: 1,
        },
    };
    assert_eq!(config.probe, probe);
    let judged = health::Settings {
        busy_probes_max: 0,
        ejection: health::observed::Settings {
            failures_in_a_row: 6,
            window: seconds(20),
            calls_min: 30,
            success_percent_min: 60,
            time: seconds(60),
            time_max: seconds(600),
        },
        ejected_percent_max: 20,
        panic_below_percent: 40,
        slow_start: Duration::ZERO,
    };
    assert_eq!(config.health, judged);
    let admin: Vec<_> = config
        .admin
        .iter()
        .map(|(id, state)| (id.as_str(), *state))
        .collect();
    assert_eq!(admin, [("D", health::Admin::Disabled)]);
    assert_eq!(config.take_over, TakeOver::SameKey);
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
    assert_eq!(config.networks, networks);
    full_limits(config);
}

fn full_limits(config: &Config) {
    let seconds = Duration::from_secs;
    let limits = Limits {
        connections: 5000,
        connections_per_address: 50,
        trusted: vec!["10.1.0.0/16".parse().unwrap()],
        streams: 64,
        stream_window: 65_535,
        connection_window: 2_097_152,
        tls_handshake: seconds(9),
        first_bytes: seconds(3),
        http1_headers: seconds(8),
        body: seconds(14),
        stream_idle: seconds(240),
        keepalive_interval: seconds(21),
        keepalive_timeout: seconds(11),
        age: seconds(3600),
        age_grace: seconds(0),
    };
    assert_eq!(config.limits, limits);
    let admission = Admission {
        calls: admission::Limits {
            all: quota(500, 400, 400),
            each: quota(100, 50, 50),
            legs_max: 6000,
            waiting_max: 0,
        },
        instance_calls_max: 70,
        instance_rate: Some(admission::Rate {
            per_second: 60,
            burst: 6,
        }),
        buffered_bytes: Some(256 << 20),
    };
    assert_eq!(config.admission, admission);
    full_retries(config);
    let timeouts = Timeouts {
        route: seconds(16),
        fanout: seconds(9),
        max: seconds(300),
    };
    assert_eq!(config.timeouts, timeouts);
    let shutdown = Shutdown {
        not_ready_for: seconds(2),
        grace: seconds(20),
    };
    assert_eq!(config.shutdown, shutdown);
    let folder = config.sessions.data_directory.as_deref();
    assert!(folder.is_some_and(|folder| folder.is_absolute() && folder.ends_with("sessions")));
    let sessions = Sessions {
        data_directory: config.sessions.data_directory.clone(),
        idle_ttl: seconds(600),
        sessions_max: 1000,
        journal_bytes_max: 1 << 30,
        each: hold_session::Settings {
            bounds: Bounds {
                messages: 100,
                bytes: 65_536,
            },
        },
    };
    assert_eq!(config.sessions, sessions);
}

fn full_retries(config: &Config) {
    let share = |per_call, floor, per_second, kept_max| Share {
        per_call,
        floor,
        per_second,
        kept_max,
    };
    let retry = retry::Settings {
        attempts_default: 2,
        attempts_max: 3,
        backoff: Backoff {
            first: Duration::from_millis(20),
            max: Duration::from_secs(2),
        },
        budget: share(0.1, 3.0, 2.0, 40.0),
        // What it does not say is as over all, and what is kept is not less than what there is at once.
        instance_budget: share(0.15, 60.0, 2.0, 60.0),
    };
    assert_eq!(config.retry, retry);
    let hedging = hedge::Settings {
        share: share(0.03, 2.0, 0.0, 20.0),
        samples_min: 50,
    };
    assert_eq!(config.hedging, hedging);
}

#[test]
fn what_nobody_wrote_of_retries_follows_what_was_written() {
    let retry = |text: &str| {
        let config = meant_by(format!(r#"{{"instances": [], "retry": {text}}}"#));
        config.unwrap().retry
    };
    let usual = retry::Settings::default();
    assert_eq!(retry("{}"), usual);
    let once = retry(r#"{"attempts_max": 1}"#);
    assert_eq!((once.attempts_default, once.attempts_max), (1, 1));
    let slow = retry(r#"{"backoff": "5s"}"#).backoff;
    assert_eq!(
        (slow.first, slow.max),
        (Duration::from_secs(5), Duration::from_secs(5))
    );
    let brief = retry(r#"{"backoff_max": "10ms"}"#).backoff;
    assert_eq!(brief.first, Duration::from_millis(10));
    let few = retry(r#"{"budget": {"kept_max": 2}}"#);
    assert_eq!((few.budget.floor, few.budget.kept_max), (2.0, 2.0));
    assert_eq!(few.instance_budget, few.budget);
    let many = retry(r#"{"budget": {"floor": 500}}"#).budget;
    assert_eq!((many.floor, many.kept_max), (500.0, 500.0));
}

#[test]
fn an_almost_empty_file_means_the_defaults() {
    let config = Config {
        shown: Config::empty().shown,
        ..meant_by(r#"{"instances": []}"#).unwrap()
    };
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::empty()));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, expected: &str| {
        let path = folder.path().join(name);
        let told = read(&path, &|_| None).unwrap_err().to_string();
        assert_eq!(told, format!("{}: {expected}", path.display()));
    };
    check(
        "absent",
        "cannot be read: No such file or directory (os error 2)",
    );
    check(".", "cannot be read: Is a directory (os error 21)");
    let large = fs::File::create(folder.path().join("large")).unwrap();
    large.set_len(16 * 1024 * 1024 + 1).unwrap();
    check("large", "is larger than 16777216 bytes");
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    let check = |text: &[u8], expected: &str| {
        assert_eq!(told(text), format!("orchestrator.json:{expected}"));
    };
    check(
        b"{\n  \"instances\": [],\n}",
        "2:18: not JSON: trailing commas are not allowed",
    );
    check(
        b"{\n  \"instances\": [] // none\n}",
        "2:19: not JSON: comments are not allowed",
    );
    check(b"[\"\xff\"]", "1:3: not JSON: the bytes here are no UTF-8");
    check(
        b"",
        "1:1: there is nothing here: write at least {\"instances\": []}",
    );
    check(
        b"[]",
        "1:1: expected an object with $schema, listen, socket_mode, tls, plaintext, instances, keys, identities, forwarders, cors, reflection, health, registration, limits, admission, retry, hedging, timeouts, shutdown, sessions, operators, traces, found a list",
    );
    check(
        b"{}",
        "1:1: has no instances: write a list, or [] when all of them will register",
    );
}

fn json() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec![
        "instances",
        "id",
        "address",
        "builtin",
        "labels",
        "weight",
        "tls",
        "credential",
        "bearer_env",
        "keys",
        "name",
        "sha256",
        "scopes",
        "expires",
        "limits",
        "timeouts",
        "max",
        "route",
        "health",
        "interval",
    ]);
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        any::<f64>()
            .prop_filter("JSON", |number| number.is_finite())
            .prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "[0-9]{1,30}(s|ms|y| month|Z)?|[0-9:TZ.-]{20,30}|\\PC{20,24}"
            .prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    scalar.prop_recursive(5, 60, 6, move |inner| {
        let entry =
            (name.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\": {value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|list| format!("[{}]", list.join(", "))),
            prop::collection::vec(entry, 0..6)
                .prop_map(|entries| format!("{{{}}}", entries.join(", "))),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = told(bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"'\\\\/*0-9a-fuxtrueE+.\u{e9}\u{2028}\u{1f600} \n\t-]{0,60}") {
        let _ = told(text);
    }

    #[test]
    fn no_json_makes_it_panic(text in json()) {
        let _ = told(text);
    }

    #[test]
    fn no_cut_or_changed_file_makes_it_panic(at in 0..2500_usize, len in 0..20_usize, inserted in "\\PC{0,4}") {
        let mut text = include_str!("samples/full.json").to_owned();
        let to = text.len().min(at + len);
        let from = to.min(at);
        text.replace_range(from..to, &inserted);
        let _ = told(text);
    }
}
