//! TLS at the front door: who is served, who is not, and how certificates are replaced while calls run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use orchestrator::domain::health::{Admin, State};
use orchestrator::domain::id::InstanceId;
use orchestrator::ingress::listener::Limits;
use orchestrator::ingress::listener::secure::ClientCertificate;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{HealthState, HealthWatchRequest, RouteRequest};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::raw::{rest, soon};
use crate::stage::authority::{Authority, Caller, DOOR, Files, Pair, Time, relink};
use crate::stage::program::{Server, orchestrator};
use crate::stage::{App, Bearer, Config, KEY, embedded, start, text};

pub(crate) async fn house(files: &Files) -> App {
    let mut tls = files.settings();
    tls.look_interval = Duration::from_millis(5);
    start(Config {
        tls: Some(tls),
        ..embedded()
    })
    .await
}

pub(crate) async fn route(channel: Channel) -> Result<(), tonic::Status> {
    let mut client = OrchestratorServiceClient::with_interceptor(channel, Bearer(Arc::from(KEY)));
    let request = RouteRequest {
        instances: vec!["A-H".into()],
        payload: text("task"),
        ..Default::default()
    };
    let answer = client.route(request).await?.into_inner();
    assert_eq!(answer.payload, text("task"));
    Ok(())
}

#[tokio::test]
async fn callers_over_tls_are_served_by_both_doors() {
    let authority = Authority::new();
    let files = Files::new(&authority.pair(DOOR, Time::Valid), None);
    let app = house(&files).await;
    let caller = Caller::new(&authority, None);
    route(caller.channel(app.address()).await.unwrap())
        .await
        .unwrap();

    // Without ALPN, as old HTTP/1.1 clients come.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = config.clone();
        config.alpn_protocols = alpn.clone();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(app.address()).await.unwrap();
        let name = DOOR.try_into().unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen, alpn.first().cloned());
        let request = b"GET /health/check HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A folder of Kubernetes: the files are links into a folder that is itself a link.
struct Mounted {
    files: Files,
    turns: usize,
}

impl Mounted {
    fn new(pair: &Pair) -> Self {
        let files = Files::new(pair, None);
        let mut mounted = Self { files, turns: 0 };
        mounted.put(pair);
        for name in ["c.pem", "k.pem"] {
            let target = std::path::Path::new("..data").join(name);
            relink(&mounted.files.path(name), &target);
        }
        mounted
    }

    fn put(&mut self, pair: &Pair) {
        self.turns += 1;
        let turn = format!("turn-{}", self.turns);
        std::fs::create_dir(self.files.path(&turn)).unwrap();
        self.files.put(&format!("{turn}/c.pem"), &pair.certificate);
        self.files.put(&format!("{turn}/k.pem"), &pair.key);
        relink(&self.files.path("..data"), turn.as_ref());
    }
}

/// The certificate that a new connection is shown, as PEM would hold it.
async fn shown(caller: &Caller, app: &App) -> Vec<u8> {
    let stream = caller.shake(app.address()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    let found = rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes());
    found.unwrap().to_vec()
}

#[tokio::test]
async fn certificates_are_replaced_under_load_and_no_call_fails() {
    let authority = Authority::new();
    let pair = || authority.pair(DOOR, Time::Valid);
    let mut mounted = Mounted::new(&pair());
    let app = Arc::new(house(&mounted.files).await);
    let caller = Caller::new(&authority, None);
    // These two were there before the first turn, with a stream that stays open, and are there after the last one.
    let waiting = Caller::new(&authority, None);
    let old = waiting.channel(app.address()).await.unwrap();
    let mut watch = {
        let channel = waiting.channel(app.address()).await.unwrap();
        let mut client = OrchestratorServiceClient::with_interceptor(channel, Bearer(KEY.into()));
        let watch = client.health_watch(HealthWatchRequest::default()).await;
        watch.unwrap().into_inner()
    };
    watch.message().await.unwrap().unwrap();
    let (over, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (app, caller) = (Arc::clone(&app), caller.clone());
            let (over, calls) = (Arc::clone(&over), Arc::clone(&calls));
            tokio::task::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    // Each over a connection of its own: each makes a handshake.
                    route(caller.channel(app.address()).await.unwrap())
                        .await
                        .unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 0..6 {
        let next = pair();
        // Every other one comes after a pair that cannot be used: one of whose parts is that of another, and
        // one that has expired.
        match turn % 3 {
            1 => mounted.put(&Pair {
                key: pair().key,
                ..pair()
            }),
            2 => mounted.put(&authority.pair(DOOR, Time::Past)),
            _ => {}
        }
        let before = calls.load(Ordering::Relaxed);
        soon(async {
            while calls.load(Ordering::Relaxed) < before + 8 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        mounted.put(&next);
        soon(async { while shown(&caller, &app).await != der(&next) {} }).await;
        route(old.clone()).await.unwrap();
    }
    assert_eq!(
        waiting.dialled(),
        2,
        "no connection was lost and made again"
    );
    over.store(true, Ordering::Relaxed);
    for load in load {
        load.await.unwrap();
    }
    assert!(48 <= calls.load(Ordering::Relaxed));
    // The stream of before the first turn still says what changes.
    let drained = InstanceId::parse("A").unwrap();
    app.fleet().set_admin([&drained], Admin::Draining, "test");
    let told = async {
        loop {
            let changed = watch.message().await.unwrap().expect("it is open");
            let mut draining = changed.instances.iter();
            if draining.any(|it| it.instance == "A" && it.state() == HealthState::Draining) {
                return;
            }
        }
    };
    soon(told).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_and_holds_one_place_until_then() {
    let authority = Authority::new();
    let files = Files::new(&authority.pair(DOOR, Time::Valid), None);
    let config = |handshake: Duration| Config {
        tls: Some(files.settings()),
        limits: Limits {
            connections: 1,
            tls_handshake: handshake,
            ..Limits::default()
        },
        ..embedded()
    };
    let app = start(config(Duration::from_millis(100))).await;
    // The beginning of a handshake record, and then nothing.
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(said).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"");
    }
    let app = start(config(Duration::from_secs(600))).await;
    let first = TcpStream::connect(app.address()).await.unwrap();
    let mut second = TcpStream::connect(app.address()).await.unwrap();
    assert_eq!(rest(&mut second).await, b"", "there is one place");
    drop(first);
    let caller = Caller::new(&authority, None);
    let served = async {
        loop {
            if let Ok(channel) = caller.channel(app.address()).await
                && route(channel).await.is_ok()
            {
                return;
            }
        }
    };
    soon(served).await;
    // A handshake under way does not hold up the end.
    let _stalled = TcpStream::connect(app.address()).await.unwrap();
    soon(app.stop()).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_shown_and_callers_refuse_it() {
    let authority = Authority::new();
    let files = Files::new(&authority.pair(DOOR, Time::Past), None);
    let app = house(&files).await;
    let caller = Caller::new(&authority, None);
    let refused = caller.shake(app.address()).await.unwrap_err().to_string();
    assert!(refused.contains("expired"), "{refused}");
    // The next one is found without a restart.
    let next = authority.pair(DOOR, Time::Valid);
    files.put("c.pem", &next.certificate);
    files.put("k.pem", &next.key);
    soon(async { while caller.shake(app.address()).await.is_err() {} }).await;
    assert!(
        app.fleet()
            .view()
            .members()
            .iter()
            .all(|member| member.health.state != State::Down)
    );
}

/// Lines of the log with this message.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line));
    lines
        .filter(|line: &Value| line["message"] == message)
        .collect()
}

/// A server in a process of its own, with a config in the folder of its files.
fn served(files: &Files, more: &str) -> Server {
    let config = format!(
        r#"{{
            "instances": [{{"id": "A", "builtin": {{}}}}],
            "tls": {{"certificate_file": "c.pem", "key_file": "k.pem", "client_ca_file": "ca.pem"}},
            "limits": {{"tls_handshake_timeout": "300ms"}}{more}
        }}"#
    );
    files.put("orchestrator.json", &config);
    Server::start(&[
        "--config",
        files.path("orchestrator.json").to_str().unwrap(),
    ])
}

#[tokio::test]
async fn whoever_does_not_get_through_the_handshake_is_logged_once() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new(
        &authority.pair(DOOR, Time::Valid),
        Some((&authority, ClientCertificate::Required)),
    );
    let server = served(&files, "");
    let address = server.address.parse().unwrap();

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: door\r\n\r\n")
        .await
        .unwrap();
    let answer = rest(&mut plain).await;
    // An alert, or nothing where it was lost with the connection; never an answer.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    let mut stalled = TcpStream::connect(address).await.unwrap();
    stalled
        .write_all(b"\x16\x03\x01\x02\x00\x01")
        .await
        .unwrap();
    assert_eq!(rest(&mut stalled).await, b"");
    // Whoever only looks whether somebody listens is not worth a line.
    drop(TcpStream::connect(address).await.unwrap());
    let refused = async |trusted: &Authority, shown: Option<&Pair>| {
        // With TLS 1.3 the refusal comes after the caller believes to be through.
        let stream = Caller::new(trusted, shown).shake(address).await;
        if let Ok(mut stream) = stream {
            let mut bytes = Vec::new();
            assert!(soon(stream.read_to_end(&mut bytes)).await.is_err());
        }
    };
    refused(&authority, None).await;
    refused(&authority, Some(&authority.pair("a", Time::Past))).await;
    refused(&authority, Some(&other.pair("a", Time::Valid))).await;
    refused(&other, Some(&authority.pair("a", Time::Valid))).await;
    let good = Caller::new(&authority, Some(&authority.pair("a", Time::Valid)));
    let mut stream = good.shake(address).await.unwrap();
    let request = b"GET /health/check HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    let mut told: Vec<_> = lines(&log, "tls handshake failed");
    told.sort_by_key(|line| line["what"].to_string());
    let told: Vec<_> = told
        .iter()
        .map(|line| line["what"].as_str().unwrap())
        .collect();
    let expected = [
        "invalid peer certificate: UnknownIssuer",
        "invalid peer certificate: certificate expired",
        "not done within 300ms",
        "peer sent no certificates",
        "received fatal alert: UnknownCA",
        "the peer does not speak TLS",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}: {expected}");
    }
}

#[test]
fn a_certificate_that_has_expired_is_logged_once_at_the_start() {
    let authority = Authority::new();
    let pair = authority.pair(DOOR, Time::Past);
    let files = Files::new(&pair, Some((&authority, ClientCertificate::Required)));
    let server = served(&files, "");
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    let told = lines(
        &log,
        "callers will refuse the certificate of the front door",
    );
    let [told] = &told[..] else {
        panic!("{log}");
    };
    let what = told["what"].as_str().unwrap();
    assert_eq!(what, "the certificate has expired, on 2021-01-01T00:00:00Z");
}

#[tokio::test]
async fn the_command_line_speaks_tls_and_may_show_a_certificate_instead_of_a_key() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let pair = Pair {
        serial: 0,
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    };
    let files = Files::new(&pair, Some((&authority, ClientCertificate::Optional)));
    let shown = authority.pair("spiffe://td/ns/a/sa/cli", Time::Valid);
    files.put("shown.pem", &shown.certificate);
    files.put("shown.key", &shown.key);
    let config = r#"{
        "instances": [{"id": "A", "builtin": {}}],
        "tls": {"certificate_file": "c.pem", "key_file": "k.pem", "client_ca_file": "ca.pem", "client_certificate": "optional"},
        "identities": [{"name": "cli", "spiffe": "spiffe://td/ns/a/*", "scopes": ["health"]}]
    }"#;
    files.put("orchestrator.json", config);
    let server = Server::start(&[
        "--config",
        files.path("orchestrator.json").to_str().unwrap(),
    ]);
    let url = format!("https://{}", server.address);
    let run = |arguments: &[&str], key: bool, more: &[&str]| {
        let mut command = orchestrator(arguments);
        command.args(["--server", &url]).args(more);
        if !key {
            command.env_remove("ORCHESTRATOR_API_KEY");
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.pem"), path("shown.pem"), path("shown.key"));
    let trusting = ["--ca", &ca];
    let showing = [
        "--ca",
        &ca,
        "--certificate",
        &certificate,
        "--certificate-key",
        &key,
    ];
    assert_eq!(run(&["health"], true, &trusting).0, Some(0));
    assert_eq!(run(&["health"], false, &showing).0, Some(0));
    // It may read health and nothing else; with the key the same caller may do everything.
    let (code, told) = run(&["route", "--instances", "A"], false, &showing);
    assert_eq!(code, Some(3), "{told}");
    assert!(
        told.contains("identity `cli` lacks the scope route"),
        "{told}"
    );
    assert_eq!(
        run(&["route", "--instances", "A"], true, &showing).0,
        Some(0)
    );
    assert_eq!(
        run(&["health"], false, &trusting).0,
        Some(3),
        "nothing is shown"
    );
    let (code, told) = run(&["health"], true, &[]);
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("certificate"), "{told}");
}
