//! Where a collector of traces is, how it is trusted, and what it is shown. It is no instance, and is reached as one.

use std::time::Duration;

use ::http::{HeaderName, HeaderValue};

use super::endpoint::Endpoint;
use super::tls;

/// A collector as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it listens; it speaks gRPC.
    pub endpoint: Endpoint,
    /// How it is trusted, over TLS.
    pub tls: tls::Settings,
    /// What goes with every batch; secrets among it are marked as such.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it may take for one batch.
    pub timeout: Duration,
}
