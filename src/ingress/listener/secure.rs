//! TLS at the front door: whose certificate is shown, who must show one, and which of those are revoked.
//!
//! `keeper` looks at the files. A connection keeps what it began with, as long as the certificate that it has shown is
//! good; the next one gets what is there then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

pub use super::keeper::{Keeper, Unusable};
use crate::certificates::{self, BadTls};
use crate::domain::limit::CERTIFICATES_LOOK_INTERVAL;

/// TLS settings of the front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The certificate and those that lead to its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// What callers must show; nothing when absent.
    pub clients: Option<Clients>,
    /// How often the files are looked at.
    pub look_interval: Duration,
}

/// What callers must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Who may sign their certificates, PEM.
    pub ca: PathBuf,
    /// Which of those are revoked, PEM: a list of each authority that signs any.
    pub crl: Option<PathBuf>,
    /// Whether there must be one.
    pub certificate: ClientCertificate,
}

/// Whether a caller must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// No connection without one.
    #[default]
    Required,
    /// One that is shown must be good.
    Optional,
}

/// The texts of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Texts {
    /// The certificate and those that lead to its authority.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// What callers must show.
    pub clients: Option<ClientTexts>,
}

/// The texts by which the certificates of callers are judged.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientTexts {
    /// Who may sign them.
    pub ca: Vec<u8>,
    /// Which of them are revoked.
    pub crl: Option<Vec<u8>>,
    /// Whether there must be one.
    pub certificate: ClientCertificate,
}

impl Settings {
    /// With the usual look at the files.
    #[must_use]
    pub fn new(certificate: PathBuf, key: PathBuf, clients: Option<Clients>) -> Self {
        Self {
            certificate,
            key,
            clients,
            look_interval: CERTIFICATES_LOOK_INTERVAL,
        }
    }

    pub(super) async fn read(&self) -> Result<Texts, String> {
        let clients = match &self.clients {
            Some(clients) => Some(clients.read().await?),
            None => None,
        };
        Ok(Texts {
            certificate: certificates::read(&self.certificate).await?,
            key: certificates::read(&self.key).await?,
            clients,
        })
    }
}

impl Clients {
    async fn read(&self) -> Result<ClientTexts, String> {
        let crl = match &self.crl {
            Some(crl) => Some(certificates::read(crl).await?),
            None => None,
        };
        Ok(ClientTexts {
            ca: certificates::read(&self.ca).await?,
            crl,
            certificate: self.certificate,
        })
    }
}

impl ClientTexts {
    /// Without a list of the authority that has signed it, a certificate is refused: nobody can say that it is good.
    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, BadTls> {
        let bad = BadTls::Certificate("client_ca");
        let mut roots = RootCertStore::empty();
        for authority in certificates::certificates(&self.ca, "client_ca")? {
            roots.add(authority).map_err(|_| bad.clone())?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match &self.crl {
            Some(crl) => verifier.with_crls(certificates::revocation_lists(crl, "client_crl")?),
            None => verifier,
        };
        let verifier = match self.certificate {
            ClientCertificate::Required => verifier,
            ClientCertificate::Optional => verifier.allow_unauthenticated(),
        };
        let built = verifier.build();
        built.map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(_) => BadTls::RevocationList("client_crl"),
            // The list of kinds is open.
            VerifierBuilderError::NoRootAnchors | _ => bad,
        })
    }
}

/// What handshakes are made with.
#[derive(Clone)]
pub struct Shown {
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificate: CertificateDer<'static>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Shown {
    /// Whether a handshake would be made with whoever has shown this.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let (Some(clients), Some((first, others))) = (&self.clients, chain.split_first()) else {
            return true;
        };
        let now = UnixTime::now();
        clients.verify_client_cert(first, others, now).is_ok()
    }
}

impl Texts {
    /// What handshakes are made with, or what is wrong with it.
    pub fn shown(&self) -> Result<Shown, BadTls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(BadTls::Identity)?;
        let clients = match &self.clients {
            Some(clients) => Some(clients.verifier(provider)?),
            None => None,
        };
        let builder = match &clients {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates::certificates(&self.certificate, "certificate")?;
        let key = certificates::key(&self.key, "key")?;
        let first = chain.first().cloned();
        let certificate = first.ok_or(BadTls::Certificate("certificate"))?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(BadTls::of_identity)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if self.clients.is_some() {
            // Whoever comes back by a ticket would not be asked for its certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Shown {
            config: Arc::new(config),
            certificate,
            clients,
        })
    }
}
