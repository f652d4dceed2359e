//! The certificates of the front door at a SIGHUP.

use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use super::process::Server;
use crate::stage::authority::{Authority, Caller, DOOR, Files, Time};

#[tokio::test]
async fn a_hang_up_reads_the_certificates_of_the_front_door_at_once() {
    let authority = Authority::new();
    let files = Files::new(&authority.pair(DOOR, Time::Valid), None);
    let config = json!({
        "instances": [],
        "tls": {"certificate_file": "c.pem", "key_file": "k.pem"},
    });
    files.put("c.json", &config.to_string());
    let server = Server::start(&files.path("c.json"), Some("one"));
    let address = server.address.parse().unwrap();
    let caller = Caller::new(&authority, None);
    for _ in 0..3 {
        let next = authority.pair(DOOR, Time::Valid);
        files.put("c.pem", &next.certificate);
        files.put("k.pem", &next.key);
        assert!(server.hang_up());
        let stream = caller.shake(address).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let expected =
            rustls::pki_types::CertificateDer::from_pem_slice(next.certificate.as_bytes());
        assert_eq!(shown, expected.unwrap().to_vec());
    }
    // The key of another: told, and the one before stays.
    files.put("k.pem", &authority.pair(DOOR, Time::Valid).key);
    assert!(!server.hang_up());
    server.logged("certificates cannot be read again: the old ones stay");
    assert!(caller.shake(address).await.is_ok());
}
