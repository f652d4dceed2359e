//! How an instance is trusted over TLS, and how the orchestrator shows who it is.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// TLS settings of one instance; certificates and keys are PEM text.
#[derive(Clone, Default)]
pub struct Settings {
    /// Who may sign the instance's certificate; the public authorities of the web when absent.
    pub ca: Option<Vec<u8>>,
    /// What the orchestrator shows: certificates and their key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the certificate must have; the host of the address when absent.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// No certificate in the text, or a broken one.
    #[error("{0}: not a PEM certificate")]
    Certificate(&'static str),
    /// No key in the text, or a broken one.
    #[error("{0}: not a PEM private key")]
    Key(&'static str),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Identity(rustls::Error),
    /// Not a name that a certificate can have.
    #[error("`{0}` is not a server name")]
    Name(String),
}

/// What a connection needs.
#[derive(Clone)]
pub struct Connector {
    /// The handshake.
    pub connector: tokio_rustls::TlsConnector,
    /// Who the instance must be.
    pub name: ServerName<'static>,
}

/// Which HTTP is offered to an instance (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/2 alone, as gRPC needs it.
    Http2,
    /// HTTP/2, or else HTTP/1.1.
    AnyHttp,
}

/// Builds what a connection needs, so that mistakes show before the first call.
pub fn connector(settings: &Settings, host: &str, offer: Offer) -> Result<Connector, BadTls> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(pem) => {
            for certificate in certificates(pem, "ca")? {
                roots
                    .add(certificate)
                    .map_err(|_| BadTls::Certificate("ca"))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(BadTls::Identity)?
        .with_root_certificates(roots);
    let mut config = match &settings.identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadTls::Key("key"))?;
            builder
                .with_client_auth_cert(certificates(certificate, "certificate")?, key)
                .map_err(BadTls::Identity)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match offer {
        Offer::Http2 => vec![b"h2".to_vec()],
        Offer::AnyHttp => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    let name = settings.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|_| BadTls::Name(name.to_owned()))?;
    Ok(Connector {
        connector: Arc::new(config).into(),
        name,
    })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(BadTls::Certificate(what)),
    }
}
