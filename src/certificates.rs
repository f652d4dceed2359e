//! Certificates and keys as they stand in files: read from PEM, and asked for their names and dates. It trusts
//! nobody and knows no connection.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::domain::limit::PEM_BYTES_MAX;

/// Why TLS settings cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadTls {
    /// No certificate in the text, or a broken one.
    #[error("{0}: not a PEM certificate")]
    Certificate(&'static str),
    /// No revocation list in the text, or one that cannot be used.
    #[error("{0}: not a PEM revocation list of version 2 (RFC 5280) that is whole")]
    RevocationList(&'static str),
    /// No key in the text, or a broken one.
    #[error("{0}: not a PEM private key")]
    Key(&'static str),
    /// Certificate and key do not belong together.
    #[error("the key is not that of the certificate")]
    Mismatch,
    /// Certificate and key are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Identity(rustls::Error),
    /// Not a name that a certificate can have.
    #[error("`{0}` is not a server name")]
    Name(String),
}

impl BadTls {
    /// What rustls says of a certificate and its key.
    #[must_use]
    pub fn of_identity(error: rustls::Error) -> Self {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            Self::Mismatch
        } else {
            Self::Identity(error)
        }
    }
}

/// The text of a file, or what keeps it from being read.
pub async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let length = tokio::fs::metadata(path).await.map_err(told)?.len();
    if PEM_BYTES_MAX < length {
        return Err(told(io::ErrorKind::FileTooLarge.into()));
    }
    tokio::fs::read(path).await.map_err(told)
}

/// The certificates in a PEM text, at least one; `what` is what they are, for the mistake.
pub fn certificates(
    pem: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(BadTls::Certificate(what)),
    }
}

/// The revocation lists in a PEM text, at least one; `what` is what they are, for the mistake.
pub fn revocation_lists(
    pem: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateRevocationListDer<'static>>, BadTls> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(BadTls::RevocationList(what)),
    }
}

/// The private key in a PEM text.
pub fn key(pem: &[u8], what: &'static str) -> Result<PrivateKeyDer<'static>, BadTls> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| BadTls::Key(what))
}

/// How the time of a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It is valid now.
    Now,
    /// It will be, from then on.
    From(SystemTime),
    /// It was, until then.
    Until(SystemTime),
}

/// How the time of a certificate stands at an instant; who has signed it does not matter.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>, now: SystemTime) -> Validity {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Validity::Now;
    };
    // Dates are looked at before anything else; without an authority nothing else can be in order.
    let judged =
        certificate.verify_for_usage(&[], &[], &[], now, KeyUsage::server_auth(), None, None);
    let system = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match judged.err() {
        Some(Error::CertNotValidYet { not_before, .. }) => Validity::From(system(not_before)),
        Some(Error::CertExpired { not_after, .. }) => Validity::Until(system(not_after)),
        // Every other mistake is about who has signed it.
        Some(_) | None => Validity::Now,
    }
}

/// The names that a certificate gives its holder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Its URIs.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub dns: Vec<String>,
}

/// The names in a certificate that was already found to be trustworthy.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Names {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Names::default();
    };
    Names {
        uris: certificate.valid_uri_names().map(str::to_owned).collect(),
        dns: certificate.valid_dns_names().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn made(params: &CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_dates_of_a_certificate_are_read_whoever_has_signed_it() {
        let mut params = CertificateParams::new(vec!["a.internal".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = made(&params);
        let date = |text: &str| humantime::parse_rfc3339(text).unwrap();
        let check = |now: &str, expected: Validity| {
            assert_eq!(validity(&certificate, date(now)), expected, "{now}");
        };
        let from = Validity::From(date("2020-01-01T00:00:00Z"));
        let until = Validity::Until(date("2030-01-01T00:00:00Z"));
        check("2019-12-31T23:59:59Z", from);
        check("2020-01-01T00:00:00Z", Validity::Now);
        check("2030-01-01T00:00:00Z", Validity::Now);
        check("2030-01-01T00:00:01Z", until);
    }

    #[test]
    fn the_names_of_a_certificate_are_its_uris_and_its_dns_names() {
        let mut params = CertificateParams::new(vec!["a.internal".to_owned()]).unwrap();
        let uri = "spiffe://td/ns/x/sa/y";
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        let expected = Names {
            uris: vec![uri.to_owned()],
            dns: vec!["a.internal".to_owned()],
        };
        assert_eq!(names(&made(&params)), expected);
    }

    #[test]
    fn what_is_no_pem_is_refused_by_its_name() {
        for pem in [&b""[..], b"-----BEGIN CERTIFICATE-----\n", b"\xff"] {
            assert_eq!(certificates(pem, "ca"), Err(BadTls::Certificate("ca")));
            assert_eq!(key(pem, "key").err(), Some(BadTls::Key("key")));
            let bad = BadTls::RevocationList("crl");
            assert_eq!(revocation_lists(pem, "crl").err(), Some(bad));
        }
    }
}
