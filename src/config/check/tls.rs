//! TLS at the front door, and where it may be done without.

use std::path::PathBuf;

use super::place::{Fields, Place};
use super::surroundings::Surroundings;
use crate::certificates::BadTls;
use crate::ingress::listener::Address;
use crate::ingress::listener::secure::{
    ClientCertificate, ClientTexts, Clients, OverdueList, Settings, Texts,
};

pub(super) fn listen(place: &Place<'_>) -> Option<Address> {
    let form = "an IP address and a port such as \"127.0.0.1:7070\", or a socket such as \"unix:/run/orchestrator.sock\"";
    match place.text(form)?.parse() {
        Ok(address) => Some(address),
        Err(_) => place.expected(form),
    }
}

/// Permissions as `chmod` takes them.
pub(super) fn socket_mode(place: &Place<'_>) -> Option<u32> {
    let form = "permissions in octal digits such as \"0660\"";
    let text = place.text(form)?;
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal && mode <= 0o777 => Some(mode),
        Ok(_) | Err(_) => place.expected(form),
    }
}

/// Makes what handshakes need and throws it away, so that what cannot work is told at the start.
pub(super) fn tls(place: &Place<'_>, surroundings: Surroundings<'_>) -> Option<Settings> {
    let place = place.clone().hidden();
    let fields = place.fields(&[
        "certificate_file",
        "key_file",
        "client_ca_file",
        "client_crl_file",
        "client_crl_overdue",
        "client_certificate",
    ])?;
    let (client_certificate, overdue) = of_callers(&fields);
    let file = |name: &'static str| {
        let place = fields.get(name)?;
        Some((surroundings.pem(&place), surroundings.path(&place)))
    };
    let needed = |name: &'static str| {
        let file = file(name);
        if file.is_none() {
            fields.note_absent(
                &[name],
                &format!("has no {name}: write the name of a PEM file"),
            );
        }
        file.and_then(|(pem, path)| pem.zip(path))
    };
    let (certificate, key) = (needed("certificate_file"), needed("key_file"));
    let (ca, crl) = (file("client_ca_file"), file("client_crl_file"));
    let ((certificate, certificate_path), (key, key_path)) = (certificate?, key?);
    let read = |file: Option<(Option<Vec<u8>>, Option<PathBuf>)>| match file {
        None => Some((None, None)),
        // Both, or what is wrong is told already.
        Some((pem, path)) => Some((Some(pem?), Some(path?))),
    };
    let ((ca, ca_path), (crl, crl_path)) = (read(ca)?, read(crl)?);
    let texts = Texts {
        certificate,
        key,
        clients: ca.map(|ca| ClientTexts {
            ca,
            crl,
            overdue,
            certificate: client_certificate,
        }),
    };
    if let Err(bad) = texts.shown() {
        note(&fields, &bad);
    }
    let clients = ca_path.map(|ca| Clients {
        ca,
        crl: crl_path,
        overdue,
        certificate: client_certificate,
    });
    Some(Settings::new(certificate_path, key_path, clients))
}

/// What callers must show, and by which lists they are judged; what needs a file that is not named is told.
fn of_callers(fields: &Fields<'_>) -> (ClientCertificate, OverdueList) {
    let words = [
        ("required", ClientCertificate::Required),
        ("optional", ClientCertificate::Optional),
    ];
    let mut client_certificate = ClientCertificate::default();
    fields.set("client_certificate", &mut client_certificate, |place| {
        place.clone().open().word(&words)
    });
    let words = [
        ("refused", OverdueList::Refused),
        ("accepted", OverdueList::Accepted),
    ];
    let mut overdue = OverdueList::default();
    fields.set("client_crl_overdue", &mut overdue, |place| {
        place.clone().open().word(&words)
    });
    if fields.get("client_crl_file").is_none()
        && let Some(place) = fields.get("client_crl_overdue")
    {
        place.note("needs client_crl_file, which holds the lists that may be overdue: add it");
    }
    for name in ["client_certificate", "client_crl_file"] {
        if fields.get("client_ca_file").is_none()
            && let Some(place) = fields.get(name)
        {
            place.note(
                "needs client_ca_file, which says who may sign the certificates of callers: add it",
            );
        }
    }
    (client_certificate, overdue)
}

fn note(fields: &Fields<'_>, bad: &BadTls) {
    let place = match bad {
        BadTls::Certificate(what) | BadTls::RevocationList(what) | BadTls::Key(what) => {
            fields.get_or_self(&format!("{what}_file"))
        }
        BadTls::Mismatch | BadTls::Identity(_) => fields.get_or_self("key_file"),
        BadTls::Name(_) => fields.place.clone(),
    };
    place.note(bad.to_string());
}
