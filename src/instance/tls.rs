//! How an instance is trusted over TLS, and how the orchestrator shows who it is.
//!
//! Files are read again whenever a connection is made, so that a certificate that was replaced is used from the next
//! connection on. What has become unusable is told in the log, and what was there before stays.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::certificates;
pub use crate::certificates::BadTls;

/// TLS settings of one instance; certificates and keys are PEM text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who may sign the instance's certificate; the public authorities of the web when absent.
    pub ca: Option<Vec<u8>>,
    /// What the orchestrator shows: certificates and their key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the certificate must have; the host of the address when absent.
    pub server_name: Option<String>,
    /// Where the above was read, to be read again.
    pub files: Box<Files>,
}

/// Where certificates and keys were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// `Settings::ca`.
    pub ca: Option<PathBuf>,
    /// `Settings::identity`.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("server_name", &self.server_name)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// What a connection needs.
#[derive(Clone)]
pub struct Connector {
    /// The handshake.
    pub connector: tokio_rustls::TlsConnector,
    /// Who the instance must be.
    pub name: ServerName<'static>,
    again: Arc<Again>,
}

/// Which HTTP is offered to an instance (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/2 alone, as gRPC needs it.
    Http2,
    /// HTTP/2, or else HTTP/1.1.
    AnyHttp,
}

/// What is read again for each connection.
struct Again {
    files: Box<Files>,
    last: Mutex<Last>,
}

/// What was read last.
struct Last {
    offer: Offer,
    settings: Settings,
    connector: tokio_rustls::TlsConnector,
    /// What was told of files that cannot be used.
    told: Option<String>,
}

/// Builds what a connection needs, so that mistakes show before the first call.
pub fn connector(settings: &Settings, host: &str, offer: Offer) -> Result<Connector, BadTls> {
    let name = settings.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|_| BadTls::Name(name.to_owned()))?;
    let connector = handshake(settings, offer)?;
    let last = Last {
        offer,
        settings: settings.clone(),
        connector: connector.clone(),
        told: None,
    };
    Ok(Connector {
        connector,
        name,
        again: Arc::new(Again {
            files: settings.files.clone(),
            last: Mutex::new(last),
        }),
    })
}

impl Connector {
    /// The same with what the files hold now.
    pub async fn current(&self) -> Self {
        let files = &self.again.files;
        if **files == Files::default() {
            return self.clone();
        }
        let found = read(files).await;
        let mut last = self
            .again
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = found.and_then(|(ca, identity)| last.take(ca, identity));
        match taken {
            Ok(()) => last.told = None,
            Err(bad) if last.told.as_ref() != Some(&bad) => {
                tracing::warn!(?files, what = %bad, "certificates for instances cannot be read again: the old ones stay");
                last.told = Some(bad);
            }
            Err(_told) => {}
        }
        Self {
            connector: last.connector.clone(),
            ..self.clone()
        }
    }
}

impl Last {
    fn take(
        &mut self,
        ca: Option<Vec<u8>>,
        identity: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        if self.settings.ca == ca && self.settings.identity == identity {
            return Ok(());
        }
        let settings = Settings {
            ca,
            identity,
            ..self.settings.clone()
        };
        self.connector = handshake(&settings, self.offer).map_err(|bad| bad.to_string())?;
        self.settings = settings;
        Ok(())
    }
}

/// The authority, and the certificates with their key.
type Found = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

async fn read(files: &Files) -> Result<Found, String> {
    let ca = match &files.ca {
        Some(ca) => Some(certificates::read(ca).await?),
        None => None,
    };
    let identity = match &files.identity {
        Some((certificate, key)) => Some((
            certificates::read(certificate).await?,
            certificates::read(key).await?,
        )),
        None => None,
    };
    Ok((ca, identity))
}

fn handshake(settings: &Settings, offer: Offer) -> Result<tokio_rustls::TlsConnector, BadTls> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(pem) => {
            for certificate in certificates::certificates(pem, "ca")? {
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
            let key = certificates::key(key, "key")?;
            builder
                .with_client_auth_cert(certificates::certificates(certificate, "certificate")?, key)
                .map_err(BadTls::of_identity)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match offer {
        Offer::Http2 => vec![b"h2".to_vec()],
        Offer::AnyHttp => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config).into())
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An instance with a certificate of its own, which is its own authority, and that as PEM.
    fn instance() -> (TlsAcceptor, String) {
        let made = rcgen::generate_simple_self_signed(["a.internal".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Arc::new(config).into(), made.cert.pem())
    }

    async fn is_trusted(connector: &Connector, instance: &TlsAcceptor) -> bool {
        let connector = connector.current().await;
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let connecting = connector.connector.connect(connector.name.clone(), ours);
        let (connected, _accepted) = tokio::join!(connecting, instance.accept(theirs));
        connected.is_ok()
    }

    #[tokio::test]
    async fn the_files_of_an_instance_are_read_again_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let ((old, old_pem), (new, new_pem)) = (instance(), instance());
        let settings = Settings {
            ca: Some(old_pem.clone().into_bytes()),
            files: Box::new(Files {
                ca: Some(path.clone()),
                identity: None,
            }),
            ..Settings::default()
        };
        let connector = connector(&settings, "a.internal", Offer::Http2).unwrap();
        let check = async |text: Option<&str>, old_is_trusted: bool| {
            match text {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            assert_eq!(
                is_trusted(&connector, &old).await,
                old_is_trusted,
                "{text:?}"
            );
            assert_eq!(
                is_trusted(&connector, &new).await,
                !old_is_trusted,
                "{text:?}"
            );
        };
        check(Some(&old_pem), true).await;
        check(Some("no certificate"), true).await;
        check(Some(&new_pem), false).await;
        check(None, false).await;
        check(Some(&old_pem), true).await;
    }
}
