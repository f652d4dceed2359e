//! TLS at the front door: whose certificate is shown, who must show one, and how both are replaced while calls run.
//!
//! Files are looked at again and again, by their content: whoever replaces them may rename, link or rewrite. A
//! connection keeps what it began with; the next one gets what is there then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::certificates::{self, BadTls, Validity, validity};
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
    /// Who may sign the certificates of callers, and whether there must be one.
    pub clients: Option<(Vec<u8>, ClientCertificate)>,
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

    async fn read(&self) -> Result<Texts, String> {
        let clients = match &self.clients {
            Some(clients) => Some((certificates::read(&clients.ca).await?, clients.certificate)),
            None => None,
        };
        Ok(Texts {
            certificate: certificates::read(&self.certificate).await?,
            key: certificates::read(&self.key).await?,
            clients,
        })
    }
}

/// What handshakes are made with.
#[derive(Clone)]
pub struct Shown {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Texts {
    /// What handshakes are made with, or what is wrong with it.
    pub fn shown(&self) -> Result<Shown, BadTls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(BadTls::Identity)?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some((ca, certificate)) => {
                let bad = BadTls::Certificate("client_ca");
                let mut roots = RootCertStore::empty();
                for authority in certificates::certificates(ca, "client_ca")? {
                    roots.add(authority).map_err(|_| bad.clone())?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match certificate {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|_| bad)?)
            }
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
        })
    }
}

/// Why the front door cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A file cannot be read.
    #[error("tls: {0}")]
    File(String),
    /// What the files hold cannot be used.
    #[error("tls: {0}")]
    Text(#[from] BadTls),
}

/// Keeps what handshakes are made with as the files have it.
pub struct Keeper {
    settings: Settings,
    shown: ArcSwap<Shown>,
}

impl Keeper {
    /// Reads the files.
    pub async fn open(settings: Settings) -> Result<(Arc<Self>, Texts), Unusable> {
        let texts = settings.read().await.map_err(Unusable::File)?;
        let shown = texts.shown()?;
        warn_of_time(validity(&shown.certificate, SystemTime::now()));
        let keeper = Self {
            settings,
            shown: ArcSwap::from_pointee(shown),
        };
        Ok((Arc::new(keeper), texts))
    }

    /// For a handshake that begins now.
    #[must_use]
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shown.load().config)
    }

    /// Looks at the files again and again; never ends. `texts` are those that were read last.
    pub async fn follow(&self, mut texts: Texts) {
        let mut complaint = Complaint::default();
        let mut time = validity(&self.shown.load().certificate, SystemTime::now());
        loop {
            tokio::time::sleep(self.settings.look_interval).await;
            let found = self.settings.read().await;
            match found.and_then(|found| self.take(&mut texts, found)) {
                Ok(()) => complaint = Complaint::default(),
                Err(what) if complaint.is_due(&what) => {
                    tracing::warn!(%what, "certificates cannot be read again: the old ones stay");
                }
                Err(_told) => {}
            }
            let now = validity(&self.shown.load().certificate, SystemTime::now());
            if now != time {
                warn_of_time(now);
                time = now;
            }
        }
    }

    /// Takes over what was found when it is new and can be used.
    fn take(&self, texts: &mut Texts, found: Texts) -> Result<(), String> {
        if *texts == found {
            return Ok(());
        }
        let shown = found.shown().map_err(|bad| bad.to_string())?;
        let now = SystemTime::now();
        let old = validity(&self.shown.load().certificate, now);
        let new = validity(&shown.certificate, now);
        if old == Validity::Now && new != Validity::Now {
            return Err(told_time(new));
        }
        self.shown.store(Arc::new(shown));
        *texts = found;
        tracing::info!("certificates were replaced: new connections get the new ones");
        Ok(())
    }
}

/// Files that are replaced one after the other do not fit together for a moment: only what is wrong a second time
/// in a row is told, and once.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<String>,
    is_told: bool,
}

impl Complaint {
    fn is_due(&mut self, what: &str) -> bool {
        if self.last.as_deref() != Some(what) {
            self.last = Some(what.to_owned());
            self.is_told = false;
            return false;
        }
        !std::mem::replace(&mut self.is_told, true)
    }
}

fn told_time(validity: Validity) -> String {
    let date = humantime::format_rfc3339_seconds;
    match validity {
        Validity::Now => "valid".to_owned(),
        Validity::From(from) => format!("the certificate is not valid before {}", date(from)),
        Validity::Until(until) => format!("the certificate has expired, on {}", date(until)),
    }
}

/// A certificate out of its time is shown all the same: callers refuse it, and the next one in its place is found
/// without a restart.
fn warn_of_time(validity: Validity) {
    if validity != Validity::Now {
        let what = told_time(validity);
        tracing::warn!(%what, "callers will refuse the certificate of the front door");
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// Where log lines go.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A certificate that ends in this year, and its key.
    fn pair(until: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["a.internal".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn put(folder: &TempDir, certificate: &str, key: &str) {
        std::fs::write(folder.path().join("c.pem"), certificate).unwrap();
        std::fs::write(folder.path().join("k.pem"), key).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_cannot_be_used_are_told_once_and_the_old_ones_stay() {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let _guard = tracing::subscriber::set_default(lines.without_time().finish());

        let folder = tempfile::tempdir().unwrap();
        let (first, second, past) = (pair(2100), pair(2100), pair(2001));
        put(&folder, &first.0, &first.1);
        let path = |name: &str| folder.path().join(name);
        let settings = Settings::new(path("c.pem"), path("k.pem"), None);
        let (keeper, mut texts) = Keeper::open(settings).await.unwrap();
        let mut check = async |certificate: &str, key: &str, is_taken: bool, told: &str| {
            let before = keeper.config();
            put(&folder, certificate, key);
            let many = CERTIFICATES_LOOK_INTERVAL * 10;
            let _endless = tokio::time::timeout(many, keeper.follow(texts.clone())).await;
            if is_taken {
                texts = keeper.settings.read().await.unwrap();
            }
            assert_eq!(Arc::ptr_eq(&before, &keeper.config()), !is_taken, "{told}");
            let lines = std::mem::take(&mut *log.0.lock().unwrap());
            let lines = String::from_utf8(lines).unwrap();
            assert_eq!(
                lines.lines().count(),
                usize::from(!told.is_empty()),
                "{lines}"
            );
            assert!(lines.contains(told), "{told}: {lines}");
        };
        check(&first.0, &first.1, false, "").await;
        check(&second.0, &first.1, false, "is not that of the certificate").await;
        check("", &second.1, false, "not a PEM certificate").await;
        check(&past.0, &past.1, false, "has expired, on 2001-01-01").await;
        check(&second.0, &second.1, true, "certificates were replaced").await;
        check(&second.0, &second.1, false, "").await;
    }

    #[test]
    fn what_is_wrong_twice_in_a_row_is_told_once() {
        let mut complaint = Complaint::default();
        let due = ["a", "a", "a", "b", "a", "a", "a"].map(|what| complaint.is_due(what));
        assert_eq!(due, [false, true, false, false, false, true, false]);
    }
}
