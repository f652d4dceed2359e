//! Certificates of the stage, and callers who show and check them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use orchestrator::ingress::listener::secure::{ClientCertificate, Clients, OverdueList, Settings};
use orchestrator::instance::tls;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The name that the front door of the stage has.
pub(crate) const DOOR: &str = "door.internal";

/// A certificate authority and what it has signed.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate says besides its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Valid,
    Past,
    Until(SystemTime),
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) serial: u64,
}

impl Authority {
    pub(crate) fn new() -> Self {
        // No two of them have one name: whoever does not know one does not take it for another.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// A certificate for a name, and its key.
    pub(crate) fn sign(&self, name: &str) -> (Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        self.sign_params(params)
    }

    fn sign_params(&self, params: CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate, key)
    }

    /// A pair for a DNS name, or for a URI where it holds a `:`.
    pub(crate) fn pair(&self, name: &str, time: Time) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = if name.contains(':') {
            SanType::URI(name.try_into().unwrap())
        } else {
            SanType::DnsName(name.try_into().unwrap())
        };
        params.subject_alt_names = vec![name];
        static MADE: AtomicUsize = AtomicUsize::new(1);
        let serial = MADE.fetch_add(1, Ordering::Relaxed) as u64;
        params.serial_number = Some(serial.into());
        if time != Time::Valid {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        }
        match time {
            Time::Valid => {}
            Time::Past => params.not_after = rcgen::date_time_ymd(2021, 1, 1),
            Time::Until(until) => params.not_after = until.into(),
        }
        let (certificate, key) = self.sign_params(params);
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            serial,
        }
    }
}

impl Authority {
    /// Its list of the certificates that are good no more, for as long as `time` says.
    pub(crate) fn revoked(&self, pairs: &[&Pair], time: Time) -> String {
        let revoked = pairs.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.into(),
            revocation_time: rcgen::date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2021, 1, 1),
            next_update: match time {
                Time::Valid => rcgen::date_time_ymd(2100, 1, 1),
                Time::Past => rcgen::date_time_ymd(2021, 1, 2),
                Time::Until(until) => until.into(),
            },
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A folder with the files of a front door, the certificates of its callers signed by `clients`.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    clients: Option<ClientCertificate>,
}

impl Files {
    pub(crate) fn new(pair: &Pair, clients: Option<(&Authority, ClientCertificate)>) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            clients: clients.map(|(_, certificate)| certificate),
        };
        files.put("c.pem", &pair.certificate);
        files.put("k.pem", &pair.key);
        if let Some((authority, _)) = clients {
            files.put("ca.pem", &String::from_utf8(authority.pem()).unwrap());
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn settings(&self) -> Settings {
        let clients = self.clients.map(|certificate| Clients {
            ca: self.path("ca.pem"),
            crl: Some(self.path("crl.pem")).filter(|path| path.exists()),
            overdue: OverdueList::Refused,
            certificate,
        });
        Settings::new(self.path("c.pem"), self.path("k.pem"), clients)
    }
}

/// A caller that trusts this authority and shows this pair.
#[derive(Clone)]
pub(crate) struct Caller {
    connector: tls::Connector,
    dialled: Arc<AtomicUsize>,
}

impl Caller {
    pub(crate) fn new(trusted: &Authority, shown: Option<&Pair>) -> Self {
        let bytes = |text: &String| text.clone().into_bytes();
        let settings = tls::Settings {
            ca: Some(trusted.pem()),
            identity: shown.map(|pair| (bytes(&pair.certificate), bytes(&pair.key))),
            ..tls::Settings::default()
        };
        Self {
            connector: tls::connector(&settings, DOOR, tls::Offer::Http2).unwrap(),
            dialled: Arc::default(),
        }
    }

    /// The handshake alone; with TLS 1.3 the server may still refuse what was shown.
    pub(crate) async fn shake(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect(address).await?;
        let tls::Connector {
            connector, name, ..
        } = self.connector.clone();
        connector.connect(name, stream).await
    }

    /// How often it, or a clone of it, has made a connection: a channel that has lost its own makes another one silently.
    pub(crate) fn dialled(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }

    /// A channel over a connection of its own.
    pub(crate) async fn channel(
        &self,
        address: SocketAddr,
    ) -> Result<Channel, tonic::transport::Error> {
        let caller = self.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let caller = caller.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(caller.shake(address).await?)) }
        });
        let endpoint = Endpoint::from_static("https://door.internal");
        endpoint.connect_with_connector(dial).await
    }
}

/// Points a link somewhere else at once, as Kubernetes does.
pub(crate) fn relink(link: &Path, target: &Path) {
    let early = link.with_file_name(".early");
    std::os::unix::fs::symlink(target, &early).unwrap();
    std::fs::rename(&early, link).unwrap();
}
