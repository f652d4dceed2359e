//! Keeps what handshakes are made with as the files have it, while calls run.
//!
//! Files are looked at again and again, by their content: whoever replaces them may rename, link or rewrite. Whoever is
//! asked to look looks at once.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot, watch};

use super::secure::{Settings, Shown, Texts};
use crate::certificates::{BadTls, Validity, validity};

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
    /// Tells that other certificates of callers may be good than before.
    judged_otherwise: watch::Sender<()>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

/// What was read last, and whoever wants it read again.
pub struct Kept {
    texts: Texts,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Whoever asks waits for the answer.
const ASKS_QUEUED_MAX: usize = 1;

/// A certificate that was good when its connection began.
pub(super) struct Standing {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) changes: watch::Receiver<()>,
}

impl Keeper {
    /// Reads the files.
    pub async fn open(settings: Settings) -> Result<(Arc<Self>, Kept), Unusable> {
        let texts = settings.read().await.map_err(Unusable::File)?;
        let shown = texts.shown()?;
        warn_of_time(validity(&shown.certificate, SystemTime::now()));
        let (asks, asked) = mpsc::channel(ASKS_QUEUED_MAX);
        let keeper = Self {
            settings,
            shown: ArcSwap::from_pointee(shown),
            judged_otherwise: watch::Sender::new(()),
            asks,
        };
        Ok((Arc::new(keeper), Kept { texts, asked }))
    }

    /// Has the files read now; what they hold is in force, or was refused in the log, when this returns.
    pub async fn look_now(&self) {
        let (told, looked) = oneshot::channel();
        if self.asks.send(told).await.is_ok() {
            // Nobody looks any more once it stops.
            let _ = looked.await;
        }
    }

    /// From now on: whether other certificates of callers may be good than before.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.judged_otherwise.subscribe()
    }

    /// Ends once a certificate is good no more; never while it is.
    pub(super) async fn until_denied(&self, mut standing: Standing) {
        while standing.changes.changed().await.is_ok() {
            if !self.shown.load().accepts(&standing.chain) {
                return;
            }
        }
        std::future::pending().await
    }

    /// For a handshake that begins now.
    #[must_use]
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shown.load().config)
    }

    /// Looks at the files again and again; never ends.
    pub async fn follow(&self, kept: &mut Kept) {
        let mut complaint = Complaint::default();
        let mut time = validity(&self.shown.load().certificate, SystemTime::now());
        loop {
            let asked = tokio::select! {
                biased;
                Some(asked) = kept.asked.recv() => Some(asked),
                () = tokio::time::sleep(self.settings.look_interval) => None,
            };
            let found = self.settings.read().await;
            match found.and_then(|found| self.take(&mut kept.texts, found)) {
                Ok(()) => complaint = Complaint::default(),
                Err(what) if complaint.is_due(&what) || asked.is_some() => {
                    tracing::warn!(%what, "certificates cannot be read again: the old ones stay");
                }
                Err(_told) => {}
            }
            let now = validity(&self.shown.load().certificate, SystemTime::now());
            if now != time {
                warn_of_time(now);
                time = now;
            }
            if let Some(asked) = asked {
                // Whoever has asked may have gone.
                let _ = asked.send(());
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
        if texts.clients != found.clients {
            self.judged_otherwise.send_replace(());
        }
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
    use crate::domain::limit::CERTIFICATES_LOOK_INTERVAL;

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
        let (keeper, mut kept) = Keeper::open(settings).await.unwrap();
        let mut check = async |certificate: &str, key: &str, is_taken: bool, told: &str| {
            let before = keeper.config();
            put(&folder, certificate, key);
            let many = CERTIFICATES_LOOK_INTERVAL * 10;
            let _endless = tokio::time::timeout(many, keeper.follow(&mut kept)).await;
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
