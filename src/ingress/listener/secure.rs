//! TLS at the front door: whose certificate is shown, who must show one, and which of those are revoked.
//!
//! `keeper` looks at the files, and `outlook` at their dates. A connection keeps what it began with, as long as the
//! certificate that it has shown is good; the next one gets what is there then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

pub use super::keeper::{Keeper, Unusable};
use crate::certificates::{self, BadTls, Term};
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
    /// What a list counts whose successor is overdue.
    pub overdue: OverdueList,
    /// Whether there must be one.
    pub certificate: ClientCertificate,
}

/// What a revocation list counts once the next one should have come (RFC 5280, section 5.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverdueList {
    /// Nothing: whoever it speaks of is refused, as where there is no list.
    #[default]
    Refused,
    /// As much as before.
    Accepted,
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
    /// What a list counts whose successor is overdue.
    pub overdue: OverdueList,
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
            overdue: self.overdue,
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
        let verifier = match self.overdue {
            OverdueList::Refused => verifier.enforce_revocation_expiration(),
            OverdueList::Accepted => verifier,
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

impl ClientTexts {
    /// That of the list that will be overdue first.
    fn lists(&self) -> Result<Option<Term>, BadTls> {
        let Some(crl) = &self.crl else {
            return Ok(None);
        };
        let lists = certificates::revocation_lists(crl, "client_crl")?;
        let terms = lists.iter().filter_map(certificates::term_of_list);
        Ok(terms.min_by_key(|term| term.until))
    }
}

/// What handshakes are made with.
#[derive(Clone)]
pub struct Shown {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// How long all of it counts.
    pub(super) terms: Terms,
}

/// How long what handshakes are made with counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The certificate of the front door.
    pub certificate: Option<Term>,
    /// The revocation list that will be overdue first.
    pub lists: Option<Term>,
    /// What it counts then.
    pub overdue: OverdueList,
}

impl Terms {
    /// By the key of the config that names the file: when what is in it ends.
    #[must_use]
    pub fn ends(&self) -> Vec<(&'static str, SystemTime)> {
        let files = [
            ("certificate_file", self.certificate),
            ("client_crl_file", self.lists),
        ];
        let known = files
            .into_iter()
            .filter_map(|(file, term)| Some((file, term?)));
        known.map(|(file, term)| (file, term.ended())).collect()
    }
}

impl Shown {
    /// Whether a handshake would be made, at an instant, with whoever has shown this.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'_>], at: SystemTime) -> bool {
        let (Some(clients), Some((first, others))) = (&self.clients, chain.split_first()) else {
            return true;
        };
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let at = UnixTime::since_unix_epoch(since.unwrap_or_default());
        clients.verify_client_cert(first, others, at).is_ok()
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
        let terms = Terms {
            certificate: chain.first().and_then(certificates::term),
            lists: match &self.clients {
                Some(clients) => clients.lists()?,
                None => None,
            },
            overdue: self
                .clients
                .as_ref()
                .map(|clients| clients.overdue)
                .unwrap_or_default(),
        };
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
            clients,
            terms,
        })
    }
}
