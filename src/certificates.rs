//! Certificates and keys as they stand in files: read from PEM, and asked for their names and dates. It trusts
//! nobody and knows no connection.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::EndEntityCert;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;

use crate::domain::limit::{PEM_BYTES_MAX, TERM_WARNING};

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

/// From when until when something counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The first second.
    pub from: SystemTime,
    /// The last second.
    pub until: SystemTime,
}

/// How a term stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It is valid now.
    Now,
    /// It will be, from then on.
    From(SystemTime),
    /// It was, until then.
    Until(SystemTime),
}

impl Term {
    /// How it stands at an instant. The last second belongs to it whole.
    #[must_use]
    pub fn at(&self, now: SystemTime) -> Validity {
        if now < self.from {
            Validity::From(self.from)
        } else if self.ended() <= now {
            Validity::Until(self.until)
        } else {
            Validity::Now
        }
    }

    /// The first instant after it.
    #[must_use]
    pub fn ended(&self) -> SystemTime {
        self.until + Duration::from_secs(1)
    }

    /// When its holder should have the next one: a day before its end, and where it is short, when a quarter is left.
    #[must_use]
    pub fn renewal_is_due(&self) -> SystemTime {
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        let early = TERM_WARNING.min(whole / 4);
        self.until.checked_sub(early).unwrap_or(self.from)
    }
}

/// The term of a certificate (RFC 5280, section 4.1.2.5); who has signed it does not matter. `None` when it cannot
/// be read.
#[must_use]
pub fn term(certificate: &CertificateDer<'_>) -> Option<Term> {
    let validity = Certificate::from_der(certificate)
        .ok()?
        .tbs_certificate
        .validity;
    Some(Term {
        from: validity.not_before.to_system_time(),
        until: validity.not_after.to_system_time(),
    })
}

/// The term of a revocation list: until another one was promised (RFC 5280, section 5.1.2.5). At that second it is
/// overdue.
#[must_use]
pub fn term_of_list(list: &CertificateRevocationListDer<'_>) -> Option<Term> {
    let list = CertificateList::from_der(list).ok()?.tbs_cert_list;
    let next = list.next_update?.to_system_time();
    Some(Term {
        from: list.this_update.to_system_time(),
        until: next.checked_sub(Duration::from_secs(1))?,
    })
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
            let found = term(&certificate).unwrap().at(date(now));
            assert_eq!(found, expected, "{now}");
        };
        let from = Validity::From(date("2020-01-01T00:00:00Z"));
        let until = Validity::Until(date("2030-01-01T00:00:00Z"));
        assert_eq!(term(&b"no certificate"[..].into()), None);
        check("2019-12-31T23:59:59Z", from);
        check("2020-01-01T00:00:00Z", Validity::Now);
        check("2030-01-01T00:00:00Z", Validity::Now);
        check("2030-01-01T00:00:01Z", until);
    }

    #[test]
    fn a_list_is_overdue_from_the_second_on_for_which_the_next_one_was_promised() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2030, 1, 1),
            next_update: rcgen::date_time_ymd(2030, 1, 8),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&authority).unwrap();
        let term = term_of_list(list.der()).unwrap();
        let date = |text: &str| humantime::parse_rfc3339(text).unwrap();
        assert_eq!(term.at(date("2030-01-07T23:59:59.9Z")), Validity::Now);
        let overdue = term.at(date("2030-01-08T00:00:00Z"));
        assert_eq!(overdue, Validity::Until(term.until));
        assert_eq!(term.renewal_is_due(), date("2030-01-06T23:59:59Z"));
        assert_eq!(term_of_list(&b"no list"[..].into()), None);
    }

    #[test]
    fn a_short_term_is_renewed_when_a_quarter_of_it_is_left() {
        let from = SystemTime::UNIX_EPOCH;
        let due = |seconds: u64| {
            let until = from + Duration::from_secs(seconds);
            let due = Term { from, until }.renewal_is_due();
            due.duration_since(from).unwrap().as_secs()
        };
        assert_eq!(due(3600), 2700);
        assert_eq!(due(90 * 86400), 89 * 86400);
        assert_eq!(due(0), 0);
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
