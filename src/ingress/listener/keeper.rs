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

use super::outlook::Outlook;
use super::secure::{OverdueList, Settings, Shown, Terms, Texts};
use crate::certificates::{self, BadTls, Term};
use crate::domain::limit::CERTIFICATE_END_LOOK_INTERVAL;

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
#[derive(Clone)]
pub(super) struct Standing {
    chain: Arc<[CertificateDer<'static>]>,
    /// Of each certificate of the chain, the holder's first.
    terms: Arc<[Term]>,
    since: Since,
}

/// An instant before a certificate is judged: what changes afterwards is heard of.
#[derive(Clone)]
pub(super) struct Since {
    at: SystemTime,
    changes: watch::Receiver<()>,
}

impl Standing {
    pub(super) fn new(chain: &[CertificateDer<'static>], since: Since) -> Self {
        Self {
            chain: chain.into(),
            terms: chain.iter().filter_map(certificates::term).collect(),
            since,
        }
    }

    /// The next instant after which it may be good no more, if nothing else changes.
    fn next_end(&self, terms: &Terms, now: SystemTime) -> Option<SystemTime> {
        let own = self.terms.iter().map(Term::ended);
        let lists = match terms.overdue {
            OverdueList::Refused => terms.lists.map(|term| term.ended()),
            OverdueList::Accepted => None,
        };
        own.chain(lists).filter(|end| now < *end).min()
    }
}

impl Keeper {
    /// Reads the files.
    pub async fn open(settings: Settings) -> Result<(Arc<Self>, Kept), Unusable> {
        let texts = settings.read().await.map_err(Unusable::File)?;
        let shown = texts.shown()?;
        Outlook::at(&shown.terms, SystemTime::now()).tell(None);
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
    pub(super) fn now(&self) -> Since {
        Since {
            at: SystemTime::now(),
            changes: self.judged_otherwise.subscribe(),
        }
    }

    /// Ends once other files say that a certificate is good no more; never while they do not. That it has expired
    /// meanwhile is not for them to say.
    pub(super) async fn until_denied(&self, mut standing: Standing) {
        while standing.since.changes.changed().await.is_ok() {
            let now = SystemTime::now();
            let at = standing.terms.first().map_or(now, |own| now.min(own.until));
            if !self.shown.load().accepts(&standing.chain, at) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Ends once time has made a certificate one that is good no more: it has expired, or nobody can tell any more
    /// whether it is revoked. Never where neither has a date.
    pub(super) async fn until_expired(&self, mut standing: Standing) {
        let mut judged = standing.since.at;
        loop {
            let next = standing.next_end(&self.shown.load().terms, judged);
            let now = SystemTime::now();
            let Some(left) = next.map(|next| next.duration_since(now).unwrap_or_default()) else {
                match standing.since.changes.changed().await {
                    Ok(()) => continue,
                    Err(_stopped) => return std::future::pending().await,
                }
            };
            if left.is_zero() {
                if !self.shown.load().accepts(&standing.chain, now) {
                    return;
                }
                judged = now;
                continue;
            }
            tokio::select! {
                biased;
                // A list that was renewed has another date; that nobody looks any more is known soon enough.
                Ok(()) = standing.since.changes.changed() => {}
                // The wall clock may jump meanwhile.
                () = tokio::time::sleep(left.min(CERTIFICATE_END_LOOK_INTERVAL)) => {}
            }
        }
    }

    /// How long what handshakes are made with counts.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.shown.load().terms
    }

    /// For a handshake that begins now.
    #[must_use]
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shown.load().config)
    }

    /// Looks at the files again and again; never ends.
    pub async fn follow(&self, kept: &mut Kept) {
        let mut complaint = Complaint::default();
        let mut told = Outlook::at(&self.terms(), SystemTime::now());
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
            let outlook = Outlook::at(&self.terms(), SystemTime::now());
            outlook.tell(Some(&told));
            told = outlook;
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
        let outlook = |terms: &Terms| Outlook::at(terms, now);
        if let Some(what) = outlook(&self.terms()).complaint(&outlook(&shown.terms)) {
            return Err(what);
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
