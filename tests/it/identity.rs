//! Callers that are known by a certificate, their own or one that a forwarder tells of: the table of all methods holds
//! for them as it does for keys.

use std::net::SocketAddr;

use http::Request;
use orchestrator::ingress::access::{METHODS, Scope};
use orchestrator::ingress::caller::Revoked;
use orchestrator::ingress::identity::{Identity, Pattern};
use orchestrator::ingress::listener::secure::ClientCertificate;
use orchestrator::ingress::visitor::Forwarder;
use orchestrator::proto::orchestrator::HealthWatchRequest;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::auth::methods;
use crate::raw::soon;
use crate::rest::ask::{Answer, Ask, Way};
use crate::stage::authority::{Authority, Caller, DOOR, Files, Time};
use crate::stage::{App, Config, KEY, channel, embedded, reason, start};

const FORWARDED: &str = "x-forwarded-client-cert";
const ADMIN: &str = "spiffe://td/ns/ops/sa/admin";
const ROUTER: &str = "spiffe://td/ns/apps/sa/router";
const STRANGER: &str = "spiffe://td/ns/other/sa/x";

fn identities() -> Vec<Identity> {
    let identity = |name: &str, pattern: &str, scopes: &[Scope]| Identity {
        name: name.into(),
        pattern: Pattern::spiffe(pattern).unwrap(),
        scopes: scopes.to_vec(),
        quota: None,
        revoked: Revoked::default(),
    };
    vec![
        identity("ops", ADMIN, &[Scope::Admin]),
        identity("apps", "spiffe://td/ns/apps/*", &[Scope::Route]),
        Identity {
            pattern: Pattern::dns("edge.internal").unwrap(),
            ..identity("edge", ADMIN, &[Scope::Health])
        },
    ]
}

async fn house(files: Option<&Files>, forwarders: &[Forwarder]) -> App {
    let mut config = Config {
        tls: files.map(Files::settings),
        forwarders: forwarders.to_vec(),
        ..embedded()
    };
    config.keys.identities = identities();
    start(config).await
}

/// What a call with these headers and an empty message is answered with.
async fn ask(channel: &mut Channel, path: &str, headers: &[(&str, &str)]) -> (Code, String) {
    let mut request = Request::post(format!("http://orchestrator{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let empty = http_body_util::Full::from(bytes::Bytes::from_static(&[0; 5]));
    let request = request.body(Body::new(empty)).unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    let status = Status::from_header_map(response.headers());
    let told = status.as_ref().map(reason).unwrap_or_default();
    (status.map_or(Code::Ok, |status| status.code()), told)
}

/// Whether each method lets pass whom it should, given what the caller may do; nobody where it is not known.
async fn check(channel: &mut Channel, headers: &[(&str, &str)], scopes: Option<&[Scope]>) {
    for path in methods() {
        let (code, told) = ask(channel, &path, headers).await;
        let needed = METHODS.iter().find(|(method, _)| *method == path);
        let expected = match (scopes, needed) {
            _ if path.starts_with("/grpc.health.v1.Health/") => None,
            (None, _) => Some("KEY_MISSING"),
            (Some(scopes), Some((_, needed)))
                if !scopes.contains(needed) && !scopes.contains(&Scope::Admin) =>
            {
                Some("SCOPE_MISSING")
            }
            (Some(_), _) => None,
        };
        match expected {
            Some(expected) => assert_eq!(told, expected, "{path} {headers:?}"),
            None => assert!(
                ![Code::Unauthenticated, Code::PermissionDenied].contains(&code),
                "{path} {headers:?}: {code} {told}"
            ),
        }
    }
}

#[tokio::test]
async fn a_certificate_stands_for_a_key_and_its_scopes_are_those_of_its_identity() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientCertificate::Optional));
    let files = Files::new(&authority.pair(DOOR, Time::Valid), clients);
    let app = house(Some(&files), &[]).await;
    let address = app.address();
    let with = async |shown: Option<&str>| {
        let pair = shown.map(|name| authority.pair(name, Time::Valid));
        Caller::new(&authority, pair.as_ref())
            .channel(address)
            .await
            .unwrap()
    };
    check(&mut with(Some(ADMIN)).await, &[], Some(&[Scope::Admin])).await;
    check(&mut with(Some(ROUTER)).await, &[], Some(&[Scope::Route])).await;
    check(
        &mut with(Some("edge.internal")).await,
        &[],
        Some(&[Scope::Health]),
    )
    .await;
    check(&mut with(Some(STRANGER)).await, &[], None).await;
    check(&mut with(None).await, &[], None).await;

    // What somebody says who may not speak for others changes nothing, for better or worse.
    let says = format!("By=x;Hash=1;URI={ADMIN}");
    let claim = [(FORWARDED, says.as_str())];
    check(&mut with(None).await, &claim, None).await;
    check(&mut with(Some(STRANGER)).await, &claim, None).await;
    check(&mut with(Some(ROUTER)).await, &claim, Some(&[Scope::Route])).await;

    // A key counts alone, and one that is wrong is not made good.
    let mut admin = with(Some(ADMIN)).await;
    let mut stranger = with(Some(STRANGER)).await;
    let right = format!("Bearer {KEY}");
    let drain = METHODS[14].0;
    let wrong = ask(&mut admin, drain, &[("authorization", "Bearer wrong")]).await;
    assert_eq!(wrong, (Code::Unauthenticated, "KEY_INVALID".to_owned()));
    let none = ask(&mut admin, drain, &[("authorization", "")]).await;
    assert_eq!(none, (Code::Unauthenticated, "KEY_MISSING".to_owned()));
    let (code, _) = ask(&mut stranger, drain, &[("authorization", &right)]).await;
    assert!(![Code::Unauthenticated, Code::PermissionDenied].contains(&code));
}

async fn plain(address: SocketAddr, headers: &[(&str, &str)], scopes: Option<&[Scope]>) {
    check(&mut channel(address).await, headers, scopes).await;
}

#[tokio::test]
async fn what_a_forwarder_says_of_its_caller_counts_and_from_anybody_else_nothing() {
    let element = |name: &str| format!("By=spiffe://td/us;Hash=0a1b;Subject=\"\";URI={name}");
    let (admin, router) = (element(ADMIN), element(ROUTER));
    let network: Forwarder = Forwarder::Network("127.0.0.0/8".parse().unwrap());

    // Not from here.
    let elsewhere = [
        Forwarder::Network("10.0.0.0/8".parse().unwrap()),
        Forwarder::Unix,
    ];
    for forwarders in [&[][..], &elsewhere] {
        let app = house(None, forwarders).await;
        plain(app.address(), &[(FORWARDED, &admin)], None).await;
        for way in [Way::Http1, Way::Http2] {
            let claim =
                Ask::bare(http::Method::GET, "/orchestrator/health").with(FORWARDED, &admin);
            assert_eq!(claim.send(way, app.address()).await.status, 401);
        }
    }

    let app = house(None, std::slice::from_ref(&network)).await;
    let address = app.address();
    plain(address, &[(FORWARDED, &admin)], Some(&[Scope::Admin])).await;
    plain(address, &[(FORWARDED, &router)], Some(&[Scope::Route])).await;
    plain(address, &[(FORWARDED, &element(STRANGER))], None).await;
    plain(address, &[], None).await;
    // What the caller itself has written stands before what its forwarder has added.
    let both = format!("{admin},{router}");
    plain(address, &[(FORWARDED, &both)], Some(&[Scope::Route])).await;
    let headers = [(FORWARDED, admin.as_str()), (FORWARDED, router.as_str())];
    plain(address, &headers, Some(&[Scope::Route])).await;
    plain(
        address,
        &[(FORWARDED, &format!("{admin},By=x;Hash=1"))],
        None,
    )
    .await;
    plain(address, &[(FORWARDED, "URI=\"")], None).await;
    for way in [Way::Http1, Way::Http2] {
        let good = Ask::bare(http::Method::GET, "/orchestrator/health").with(FORWARDED, &admin);
        assert_eq!(good.send(way, address).await.status, 200);
    }
}

#[tokio::test]
async fn a_forwarder_s_own_certificate_gives_its_callers_nothing() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientCertificate::Required));
    let files = Files::new(&authority.pair(DOOR, Time::Valid), clients);
    let network = Forwarder::Network("127.0.0.0/8".parse().unwrap());
    let app = house(Some(&files), &[network]).await;
    let pair = authority.pair(ADMIN, Time::Valid);
    let mut channel = Caller::new(&authority, Some(&pair))
        .channel(app.address())
        .await
        .unwrap();
    check(&mut channel, &[], None).await;
    let says = format!("URI={ROUTER}");
    check(&mut channel, &[(FORWARDED, &says)], Some(&[Scope::Route])).await;
}

/// One answer of a connection that stays open.
async fn kept_open(stream: &mut TcpStream, ask: &Ask) -> u16 {
    stream.write_all(&ask.text()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = soon(stream.read(&mut part)).await.unwrap();
        assert_ne!(read, 0, "ended after {seen:?}");
        seen.extend_from_slice(&part[..read]);
        let end = seen.windows(4).position(|part| part == b"\r\n\r\n");
        let Some(end) = end else { continue };
        let head = Answer::head(&seen[..end + 4]);
        if head.header("content-length").parse() == Ok(seen.len() - end - 4) {
            return head.status;
        }
    }
}

#[tokio::test]
async fn a_forwarder_that_is_taken_out_is_believed_no_more_on_its_open_connections_either() {
    let here = Forwarder::Network("127.0.0.0/8".parse().unwrap());
    let elsewhere = Forwarder::Network("10.0.0.0/8".parse().unwrap());
    let app = house(None, std::slice::from_ref(&here)).await;
    let take = async |forwarders: &[Forwarder]| {
        let mut config = Config {
            forwarders: forwarders.to_vec(),
            ..embedded()
        };
        config.keys.identities = identities();
        let taken = app.reload().take(config).await.unwrap().unwrap();
        assert_eq!(taken.changes.settings, ["forwarders"]);
    };
    let says = format!("By=x;Hash=1;URI={ADMIN}");
    let claim = [(FORWARDED, says.as_str())];
    let health = Ask::bare(http::Method::GET, "/orchestrator/health").with(FORWARDED, &says);
    let mut open = channel(app.address()).await;
    let mut open_http1 = TcpStream::connect(app.address()).await.unwrap();
    let watch = |channel: &Channel, metadata: (&'static str, String)| {
        let mut request = tonic::Request::new(HealthWatchRequest::default());
        let value = metadata.1.parse().unwrap();
        request.metadata_mut().insert(metadata.0, value);
        let mut client = OrchestratorServiceClient::new(channel.clone());
        async move { client.health_watch(request).await.unwrap().into_inner() }
    };
    let mut on_its_word = watch(&open, (FORWARDED, says.clone())).await;
    let mut by_key = watch(&open, ("authorization", format!("Bearer {KEY}"))).await;
    on_its_word.message().await.unwrap().unwrap();
    by_key.message().await.unwrap().unwrap();

    // Whoever stays is believed as before, and what it has vouched for goes on.
    take(&[elsewhere.clone(), here.clone()]).await;
    check(&mut open, &claim, Some(&[Scope::Admin])).await;
    assert_eq!(kept_open(&mut open_http1, &health).await, 200);

    take(std::slice::from_ref(&elsewhere)).await;
    check(&mut open, &claim, None).await;
    assert_eq!(kept_open(&mut open_http1, &health).await, 401);
    let ended = loop {
        if let Err(status) = soon(on_its_word.message()).await {
            break status;
        }
    };
    let found = (ended.code(), reason(&ended));
    let expected = (Code::Unauthenticated, "KEY_INVALID".to_owned());
    assert_eq!(found, expected);

    // And the other way round.
    take(&[here, elsewhere]).await;
    check(&mut open, &claim, Some(&[Scope::Admin])).await;
    assert_eq!(kept_open(&mut open_http1, &health).await, 200);
    // What does not rest on the word of a forwarder is no business of theirs.
    let stopping = tokio::spawn(app.stop());
    let ended = loop {
        match soon(by_key.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(reason(&status)),
        }
    };
    assert_eq!(ended.as_deref(), Some("DRAINING"));
    soon(stopping).await.unwrap();
}
