//! Whether what somebody came by is no longer accepted.

use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Whether a key, or what stands for one, is no longer accepted, for those who came by it before.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    own: Arc<CancellationToken>,
    /// The same of whoever has vouched for it.
    word: Option<Arc<CancellationToken>>,
}

/// Ends once something is no longer accepted.
pub type Revocation = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Revoked {
    /// Revoked with this token.
    #[must_use]
    pub fn by(token: CancellationToken) -> Self {
        let own = Arc::new(token);
        Self { own, word: None }
    }

    /// The same, and revoked too once `other` is.
    #[must_use]
    pub fn with_word_of(&self, other: &Self) -> Self {
        Self {
            own: Arc::clone(&self.own),
            word: Some(Arc::clone(&other.own)),
        }
    }

    /// From now on it is not accepted, and what was opened with it ends.
    pub fn revoke(&self) {
        self.own.cancel();
    }

    /// Ends once it is no longer accepted.
    #[must_use]
    pub fn wait(&self) -> Revocation {
        let own = CancellationToken::clone(&self.own).cancelled_owned();
        let Some(word) = &self.word else {
            return Box::pin(own);
        };
        let word = CancellationToken::clone(word).cancelled_owned();
        Box::pin(async move {
            tokio::select! {
                biased;
                () = own => {}
                () = word => {}
            }
        })
    }

    pub(super) fn is_revoked(&self) -> bool {
        let word = self.word.as_ref();
        self.own.is_cancelled() || word.is_some_and(|word| word.is_cancelled())
    }

    /// Whether it tells the same.
    pub(super) fn is_that_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own)
    }
}

/// Two keys that are written alike are the same, whatever has become of them.
impl PartialEq for Revoked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Revoked {}
