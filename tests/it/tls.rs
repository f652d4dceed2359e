//! Instances behind TLS: trusted by their own authority, shown a certificate and a credential of their own.

use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orchestrator::config::Planned;
use orchestrator::domain::health::State;
use orchestrator::domain::id::InstanceId;
use orchestrator::instance::endpoint::Endpoint;
use orchestrator::instance::{Credential, Spec, tls};
use orchestrator::proto::orchestrator::RouteRequest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

use crate::stage::{self, client, config, settled, start, text};

/// A certificate authority and what it has signed.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A certificate for a name, and its key.
    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        (certificate, key)
    }
}

/// TLS of an instance that wants a certificate of the orchestrator, and speaks these protocols.
pub(crate) fn acceptor(authority: &Authority, protocols: &[&[u8]]) -> TlsAcceptor {
    let (certificate, key) = authority.sign("gpu-a.internal");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(authority.0.der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS instance that wants a certificate of the orchestrator and notes the `authorization` of each call.
async fn instance(authority: &Authority) -> (u16, watch::Receiver<Option<String>>) {
    let acceptor = acceptor(authority, &[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, authorization) = watch::channel(None);
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let seen = seen.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let value = request
                    .headers()
                    .get("authorization")
                    .map(|value| value.to_str().unwrap().to_owned());
                seen.send_replace(value);
                echo(request)
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn(async move { connection.await.ok() });
        }
    });
    (port, authorization)
}

/// ExecuteRequest and ExecuteResponse look alike; a probe is answered UNIMPLEMENTED, which counts as well.
async fn echo(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Body>, std::convert::Infallible> {
    use http_body_util::BodyExt as _;
    if request.uri().path().starts_with("/grpc.health.v1.") {
        return Ok(tonic::Status::unimplemented("").into_http());
    }
    let message = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = http_body_util::Full::from(message).with_trailers(async { Some(Ok(trailers)) });
    let response = http::Response::builder().header("content-type", "application/grpc");
    Ok(response.body(Body::new(body)).unwrap())
}

fn planned(port: u16, tls: tls::Settings) -> Planned {
    Planned::Remote(Spec {
        id: InstanceId::parse("A").unwrap(),
        endpoint: Endpoint::parse(&format!("grpcs://127.0.0.1:{port}")).unwrap(),
        labels: Default::default(),
        weight: 1,
        calls_in_flight_max: None,
        credential: Credential::bearer("instance-credential-77"),
        tls,
    })
}

pub(crate) fn trusting(authority: &Authority) -> tls::Settings {
    let (certificate, key) = authority.sign("orchestrator.internal");
    tls::Settings {
        ca: Some(authority.pem()),
        identity: Some((
            certificate.pem().into_bytes(),
            key.serialize_pem().into_bytes(),
        )),
        server_name: Some("gpu-a.internal".to_owned()),
    }
}

#[tokio::test]
async fn a_tls_instance_is_served_and_sees_its_own_credential_only() {
    let authority = Authority::new();
    let (port, authorization) = instance(&authority).await;
    let instances = vec![planned(port, trusting(&authority))];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        payload: text("task"),
        ..Default::default()
    };
    let answer = client(&app)
        .await
        .route(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.payload, text("task"));
    assert_eq!(
        authorization.borrow().as_deref(),
        Some("Bearer instance-credential-77")
    );
}

#[tokio::test]
async fn an_instance_that_cannot_be_trusted_is_down_with_the_reason() {
    let authority = Authority::new();
    let (port, authorization) = instance(&authority).await;
    let good = trusting(&authority);
    let cases = [
        (
            tls::Settings {
                ca: Some(Authority::new().pem()),
                ..good.clone()
            },
            "certificate",
        ),
        (
            tls::Settings {
                server_name: Some("gpu-b.internal".to_owned()),
                ..good.clone()
            },
            "certificate",
        ),
        (
            tls::Settings {
                identity: None,
                ..good
            },
            "CertificateRequired",
        ),
    ];
    for (tls, told) in cases {
        let instances = vec![planned(port, tls)];
        let app = start(stage::Config {
            instances,
            ..config()
        })
        .await;
        settled(&app, |state| state == State::Down).await;
        let reason = app.fleet().view().members()[0].health.reason.to_string();
        assert!(reason.contains(told), "{reason}");
    }
    assert_eq!(
        *authorization.borrow(),
        None,
        "nothing was said to an instance that is not trusted"
    );
}
