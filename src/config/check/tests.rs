//! What is told about settings that cannot be meant.

use std::path::Path;

use crate::config::tests::{CANARY, full_folder, told};
use crate::config::{CommandLine, Plaintext, Reader, read_bytes};
use crate::ingress::caller::hash;

/// One thing wrong in an otherwise right file.
fn check(settings: &str, expected: &str) {
    let told = told(format!("{{\"instances\": [], {settings}}}"));
    let told: Vec<_> = told
        .lines()
        .map(|line| line.splitn(4, ':').nth(3).unwrap_or_default().trim())
        .collect();
    assert_eq!(told, expected.lines().collect::<Vec<_>>(), "{settings}");
}

/// One instance with something wrong in it.
fn check_instance(instance: &str, expected: &str) {
    let told = told(format!(
        "{{\"instances\": [{{\"id\": \"A\", {instance}}}]}}"
    ));
    let told = told
        .split_once(" instances[0]")
        .map_or(&*told, |(_, told)| told);
    assert_eq!(told, expected, "{instance}");
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    insta::assert_snapshot!(told(include_str!("../samples/mistakes.json")));
}

#[test]
fn settings_must_fit_together() {
    check(r#""timeouts": {"max": "5s"}"#, "");
    check(
        r#""timeouts": {"max": "5s", "route": "6s"}"#,
        "timeouts.route: is longer than timeouts.max (5s): lower it or raise max",
    );
    check(
        r#""timeouts": {"max": 601}"#,
        "timeouts.max: expected a duration such as \"10s\", or a number of seconds, from 1ms to 10m, found the number 601",
    );
    check(
        r#""limits": {"stream_window_bytes": 2000000}"#,
        "limits.stream_window_bytes: one stream's window (2000000 bytes) is larger than its connection's (1048576 bytes): raise connection_window_bytes or lower stream_window_bytes",
    );
    check(
        r#""limits": {"connection_window_bytes": 65535}"#,
        "limits.connection_window_bytes: one stream's window (65536 bytes) is larger than its connection's (65535 bytes): raise connection_window_bytes or lower stream_window_bytes",
    );
    check(r#""limits": {"connection_window_bytes": 2147483647}"#, "");
    check(
        r#""limits": {"connection_age_grace": 0}, "shutdown": {"grace": 0}"#,
        "",
    );
    check(
        r#""admission": {"calls_burst": 5, "each_key": {"calls_per_second": 0}, "buffered_bytes": 1000}"#,
        "admission.calls_burst: limits nothing without calls_per_second: add it\n\
         admission.each_key.calls_per_second: expected a whole number from 1 to 10000000, found the number 0\n\
         admission.buffered_bytes: expected a whole number from 33554432 to 9223372036854775807, found the number 1000",
    );
    check(
        r#""registration": {"networks": ["10.0.0.5/8"]}"#,
        "registration.networks[0]: expected 10.0.0.0/8 for all of it, or 10.0.0.5/32 for the one address, found the text \"10.0.0.5/8\"",
    );
    check(r#""registration": {"networks": []}"#, "");
}

#[test]
fn what_serve_would_refuse_is_a_mistake_of_the_config_that_says_it() {
    let exposed = "can be reached from other machines, and without TLS its keys could be read on the way: add `tls` to \
                   the config, listen on 127.0.0.1 or on unix:/PATH, or say that the network is trusted with \
                   \"plaintext\": \"allowed\" or --allow-plaintext";
    let text =
        "{\"instances\": [],\n \"listen\": \"0.0.0.0:7070\", \"limits\": {\"connections\": 0}}";
    let told = told(text);
    let lines: Vec<_> = told.lines().collect();
    let expected = format!("orchestrator.json:2:12: listen: 0.0.0.0:7070 {exposed}");
    assert_eq!((lines[0], lines.len()), (&*expected, 2), "{told}");
    check(r#""listen": "0.0.0.0:7070", "plaintext": "allowed""#, "");
    check(r#""listen": "127.0.0.1:7070""#, "");
    check(
        r#""operators": {"listen": "[::]:7071"}"#,
        "operators.listen: [::]:7071 can be reached from other machines, and everybody there would see metrics, health \
         and the config without a key: listen on 127.0.0.1, or say that only operators come there with \
         \"plaintext\": \"allowed\" beside it",
    );
    // What is said of the front door is said of that alone.
    check(
        r#""plaintext": "allowed", "operators": {"listen": "[::]:7071", "plaintext": "allowed"}"#,
        "",
    );
}

#[test]
fn the_command_line_wins_and_is_judged_together_with_the_config() {
    let text = br#"{"instances": [], "listen": "0.0.0.0:7070"}"#;
    let read = |listen: Option<&str>, plaintext| {
        let reader = Reader {
            command_line: CommandLine {
                listen: listen.map(|listen| listen.parse().unwrap()),
                plaintext,
            },
            ..Reader::new(&|_| None)
        };
        let config = reader.read_bytes("c.json".as_ref(), text).ok()?;
        Some(config.listen.to_string())
    };
    assert_eq!(read(None, None), None);
    let allowed = Some(Plaintext::Allowed);
    assert_eq!(read(None, allowed).as_deref(), Some("0.0.0.0:7070"));
    assert_eq!(
        read(Some("127.0.0.1:1"), None).as_deref(),
        Some("127.0.0.1:1")
    );
    // No line of the config is to blame for this: whoever typed it is told.
    assert_eq!(
        read(Some("10.0.0.1:1"), None).as_deref(),
        Some("10.0.0.1:1")
    );
}

#[test]
fn tls_is_made_once_so_that_what_cannot_work_is_told_at_the_start() {
    let folder = full_folder();
    let path = folder.path().join("orchestrator.json");
    let check = |tls: &str, expected: &str| {
        let text =
            format!(r#"{{"instances": [{{"id": "A", "address": "grpcs://a:1", "tls": {tls}}}]}}"#);
        let told = read_bytes(&path, text.as_bytes(), &|_| None);
        let told = told.map_or_else(
            |mistakes| mistakes.told()[0].clone().to_string(),
            |_| String::new(),
        );
        let told = told
            .split_once("instances[0].")
            .map_or("", |(_, told)| told);
        assert_eq!(told, expected, "{tls}");
    };
    check("{}", "");
    check(r#"{"ca_file": "ca.pem"}"#, "");
    check(
        r#"{"ca_file": "k.pem"}"#,
        "tls.ca_file: ca: not a PEM certificate",
    );
    check(
        r#"{"certificate_file": "a.token", "key_file": "k.pem"}"#,
        "tls.certificate_file: certificate: not a PEM certificate",
    );
    check(
        r#"{"certificate_file": "c.pem", "key_file": "c.pem"}"#,
        "tls.key_file: key: not a PEM private key",
    );
    check(
        r#"{"key_file": "k.pem"}"#,
        "tls: has key_file without certificate_file: add it",
    );
    check(
        r#"{"server_name": "a b"}"#,
        "tls.server_name: `a b` is not a server name",
    );
    let absent = format!(
        "tls.key_file: the file named here cannot be read: No such file or directory (os error 2) (names are relative to {})",
        folder.path().display()
    );
    check(
        r#"{"certificate_file": "c.pem", "key_file": "absent"}"#,
        &absent,
    );
}

/// What is told of TLS at the front door in a config that stands there.
fn check_front_tls(path: &Path, tls: &str, expected: &[&str]) {
    let text = format!(r#"{{"instances": [], "tls": {tls}}}"#);
    let told = read_bytes(path, text.as_bytes(), &|_| None);
    let told = told.map_or_else(
        |mistakes| mistakes.told().iter().map(ToString::to_string).collect(),
        |_| Vec::new(),
    );
    let told: Vec<_> = told
        .iter()
        .map(|told| told.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(told, expected, "{tls}");
}

#[test]
fn revocation_lists_are_read_at_the_start_and_need_their_authority() {
    let folder = full_folder();
    let path = folder.path().join("orchestrator.json");
    let check = |tls: &str, expected: &[&str]| check_front_tls(&path, tls, expected);
    let pair = r#""certificate_file": "c.pem", "key_file": "k.pem""#;
    let clients = format!(r#"{pair}, "client_ca_file": "ca.pem""#);
    check(
        &format!(r#"{{{clients}, "client_crl_file": "crl.pem"}}"#),
        &[],
    );
    let broken = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    std::fs::write(folder.path().join("broken.pem"), broken).unwrap();
    for bad in ["ca.pem", "broken.pem"] {
        check(
            &format!(r#"{{{clients}, "client_crl_file": "{bad}"}}"#),
            &[
                "tls.client_crl_file: client_crl: not a PEM revocation list of version 2 (RFC 5280) that is whole",
            ],
        );
    }
    check(
        &format!(r#"{{{clients}, "client_crl_file": "crl.pem", "client_crl_overdue": "ignored"}}"#),
        &["tls.client_crl_overdue: expected one of refused, accepted, found the text \"ignored\""],
    );
    check(
        &format!(r#"{{{clients}, "client_crl_overdue": "accepted"}}"#),
        &[
            "tls.client_crl_overdue: needs client_crl_file, which holds the lists that may be overdue: add it",
        ],
    );
    check(
        &format!(r#"{{{pair}, "client_crl_file": "crl.pem"}}"#),
        &[
            "tls.client_crl_file: needs client_ca_file, which says who may sign the certificates of callers: add it",
        ],
    );
}

#[test]
fn tls_at_the_front_door_is_made_once_too() {
    let folder = full_folder();
    let path = folder.path().join("orchestrator.json");
    let other = rcgen::generate_simple_self_signed(["b.internal".to_owned()]).unwrap();
    let other = other.signing_key.serialize_pem();
    std::fs::write(folder.path().join("other.pem"), other).unwrap();
    let check = |tls: &str, expected: &[&str]| check_front_tls(&path, tls, expected);
    let pair = r#""certificate_file": "c.pem", "key_file": "k.pem""#;
    check(&format!("{{{pair}}}"), &[]);
    check(&format!(r#"{{{pair}, "client_ca_file": "ca.pem"}}"#), &[]);
    check(
        r#"{"certificate_file": "c.pem"}"#,
        &["tls: has no key_file: write the name of a PEM file"],
    );
    check(
        r#"{"certificate_file": "k.pem", "key_file": "k.pem"}"#,
        &["tls.certificate_file: certificate: not a PEM certificate"],
    );
    check(
        r#"{"certificate_file": "c.pem", "key_file": "c.pem"}"#,
        &["tls.key_file: key: not a PEM private key"],
    );
    check(
        r#"{"certificate_file": "c.pem", "key_file": "other.pem"}"#,
        &["tls.key_file: the key is not that of the certificate"],
    );
    check(
        &format!(r#"{{{pair}, "client_ca_file": "a.token", "client_certificate": "maybe"}}"#),
        &[
            "tls.client_ca_file: client_ca: not a PEM certificate",
            "tls.client_certificate: expected one of required, optional, found the text \"maybe\"",
        ],
    );
    check(
        &format!(r#"{{{pair}, "client_certificate": "optional"}}"#),
        &[
            "tls.client_certificate: needs client_ca_file, which says who may sign the certificates of callers: add it",
        ],
    );
    // A key that was pasted where its file belongs is not repeated.
    let (from, canary) = (folder.path().display(), CANARY);
    let unread = format!(
        "tls.key_file: the file named here cannot be read: No such file or directory (os error 2) (names are relative to {from})"
    );
    check(
        &format!(r#"{{"certificate_file": "c.pem", "key_file": "{canary}"}}"#),
        &[&unread],
    );
}

#[test]
fn where_it_listens_and_who_may_show_what_is_read_as_it_is_meant() {
    check(r#""listen": "unix:/run/o.sock", "socket_mode": "0600""#, "");
    check(
        r#""listen": "unix:o.sock", "socket_mode": "888", "plaintext": "yes""#,
        "listen: expected an IP address and a port such as \"127.0.0.1:7070\", or a socket such as \"unix:/run/orchestrator.sock\", found the text \"unix:o.sock\"\n\
         socket_mode: expected permissions in octal digits such as \"0660\", found the text \"888\"\n\
         plaintext: expected one of local, allowed, found the text \"yes\"",
    );
    let identities =
        |list: &str| format!(r#""forwarders": ["10.0.0.0/8"], "identities": [{list}]"#);
    let a = r#""name": "a", "scopes": ["route"]"#;
    check(
        &identities(&format!(
            r#"{{{a}, "spiffe": "spiffe://td/a"}}, {{{a}, "dns": "*.a"}}"#
        )),
        "identities[1].name: identity a is already there, in line 1: logs could not tell them apart\n\
         identities[1].dns: expected a DNS name such as client.internal, without a wildcard",
    );
    check(
        &identities(&format!(r#"{{{a}, "spiffe": "spiffe://td"}}"#)),
        "identities[0].spiffe: expected a SPIFFE ID such as spiffe://cluster.local/ns/a/sa/b, or spiffe://cluster.local/ns/a/* for all below it",
    );
    check(
        &identities(&format!(
            r#"{{{a}}}, {{"name": "b", "dns": "b", "spiffe": "b"}}"#
        )),
        "identities[0]: names no certificate: write \"spiffe\": \"spiffe://...\" or \"dns\": \"...\"\n\
         identities[1]: has both spiffe and dns: keep one\n\
         identities[1]: has no scopes: write a list of some of route, fanout, session, health, register, admin",
    );
    let hash = hex::encode(hash(b"secret"));
    check(
        &format!(
            r#""keys": [{{{a}, "sha256": "{hash}"}}], {}"#,
            identities(&format!(r#"{{{a}, "dns": "a"}}"#))
        ),
        "identities[0].name: a key is called a already: logs could not tell them apart",
    );
    check(
        &format!(r#""identities": [{{{a}, "dns": "a"}}]"#),
        "identities: are of no use where nobody shows a certificate: add tls.client_ca_file, or forwarders",
    );
    check(
        r#""forwarders": ["unix", "10.0.0.1", 5]"#,
        "forwarders: are of no use without identities: add them, or leave it out\n\
         forwarders[1]: expected a network such as \"10.0.0.0/8\", or \"10.0.0.5/32\" for one address, found the text \"10.0.0.1\"\n\
         forwarders[2]: expected a network such as \"10.0.0.0/8\", or \"unix\", found the number 5",
    );
}

#[test]
fn an_instance_is_somewhere_and_only_what_it_can_use_is_said() {
    check_instance(
        r#""address": "grpc://a:1", "builtin": {}"#,
        ": has both address and builtin: keep one",
    );
    check_instance(
        r#""labels": {}"#,
        ": is nowhere: write \"address\": \"grpc://HOST:PORT\" or \"http://HOST:PORT/PATH\", or \"builtin\": {} for one in this process",
    );
    check_instance(
        r#""builtin": {}, "credential": {"bearer_env": "B_TOKEN"}"#,
        ".credential: is of no use to a built-in instance: leave it out",
    );
    check_instance(
        r#""address": "a:1", "tls": {}"#,
        ".tls: needs an address that begins with grpcs:// or https://",
    );
    check_instance(
        r#""address": "grpcs://a_b-:1""#,
        ".address: `a_b-` is not a server name",
    );
    check_instance(
        r#""address": "ftp://a:1""#,
        ".address: `ftp://a:1` is not an instance address: write host:port, grpc://host:port or grpcs://host:port for gRPC, http://host:port/path or https://host:port/path for JSON over HTTP",
    );
}

#[test]
fn a_secret_is_never_repeated_wherever_it_was_written() {
    let check = |instance: &str, expected: &str| {
        check_instance(
            &format!(
                r#""address": "grpc://a:1", {}"#,
                instance.replace("CANARY", CANARY)
            ),
            expected,
        );
    };
    check(
        r#""credential": "CANARY""#,
        ".credential: a secret never stands in the config itself: write {\"bearer_file\": FILE} or {\"bearer_env\": VARIABLE}",
    );
    check(
        r#""credential": {"CANARY": 1, "bearer_env": "B_TOKEN"}"#,
        ".credential: unknown key; known here are bearer_file, bearer_env",
    );
    check(
        r#""credential": {"bearer": "CANARY", "bearer_env": "B_TOKEN"}"#,
        ".credential: a secret never stands in the config itself; known here are bearer_file, bearer_env",
    );
    check(
        r#""credential": {"bearer_env": "CANARY"}"#,
        ".credential.bearer_env: the environment variable named here is not set, or is no text",
    );
    check(
        r#""credential": {"bearer_file": "CANARY"}"#,
        ".credential.bearer_file: the file named here cannot be read: No such file or directory (os error 2)",
    );
    check(
        r#""credential": {"bearer_env": "EMPTY"}"#,
        ".credential.bearer_env: the token named here is empty",
    );
    check(
        r#""credential": {"bearer_env": "SPACED"}"#,
        ".credential.bearer_env: the token named here holds something other than visible ASCII characters",
    );
    let secret = |text: &str| told(text.replace("CANARY", CANARY));
    for text in [
        r#"{"instances": [{"id": "A", "address": "grpc://user:CANARY@a:1"}]}"#,
        r#"{"instances": [{"id": "A", "address": "grpcs://a:1", "tls": {"key_file": "CANARY"}}]}"#,
        r#"{"instances": [{"id": "A", "address": "grpcs://a:1", "tls": "CANARY"}]}"#,
        r#"{"instances": [], "keys": ["CANARY"]}"#,
        r#"{"instances": [], "keys": {"CANARY": 1}}"#,
        r#"{"instances": [], "keys": [{"name": "a", "sha256": "CANARY", "scopes": ["route"]}]}"#,
        r#"{"instances": [], "keys": [{"CANARY": 1, "CANARY": 2}]}"#,
        r#"{"instances": [], "keys": [{"name": "a", "key": "CANARY", "scopes": ["route"]}]}"#,
        r#"{"instances": [{"id": "A", "address": "grpcs://a:1", "tls": {"key_file": "-----BEGIN CANARY"}}]}"#,
        r#"{"instances": [], "keys": "CANARY"}"#,
    ] {
        assert!(!secret(text).is_empty(), "{text}");
    }
}

#[test]
fn a_key_that_could_not_be_meant_is_refused() {
    let check = |key: &str, expected: &str| check(&format!(r#""keys": [{{{key}}}]"#), expected);
    let (hash, empty) = (hash(b"secret"), hash(b""));
    let (hash, empty) = (hex::encode_upper(hash), hex::encode(empty));
    check(
        &format!(r#""name": "a", "sha256": "{hash}", "scopes": ["admin"]"#),
        "",
    );
    check(
        &format!(r#""name": "a", "sha256": "{empty}", "scopes": ["admin"]"#),
        "keys[0].sha256: this is the SHA-256 of nothing: the key was empty when it was hashed",
    );
    check(
        &format!(r#""name": "environment", "sha256": "{hash}", "scopes": ["admin"]"#),
        "keys[0].name: the name environment is kept for a key that is not in the config: take another",
    );
    check(
        &format!(r#""name": "a", "sha256": "{hash}", "scopes": []"#),
        "keys[0].scopes: is empty: a key without a scope may not call anything, leave the key out",
    );
    // Otherwise a restart after that day would leave the house down.
    check(
        &format!(
            r#""name": "a", "sha256": "{hash}", "scopes": ["admin"], "expires": "2001-01-01T00:00:00Z""#
        ),
        "",
    );
}

#[test]
fn lists_have_their_bounds() {
    let many = vec!["1"; 10_001].join(",");
    assert_eq!(
        told(format!("{{\"instances\": [{many}]}}")),
        "orchestrator.json:1:15: instances: holds 10001 entries, at most 10000 are allowed"
    );
    check(
        &format!("\"keys\": [{many}]"),
        "keys: holds 10001 entries, at most 1000 are allowed",
    );
}
