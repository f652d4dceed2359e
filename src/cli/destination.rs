//! Which server is called, and how it is trusted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::dial::{Dial, Way};
use super::exit::Error;
use super::failure_text::innermost;
use super::server_address::{self, Server};
use crate::instance::tls::{self, Connector};

/// The server, exactly as typed.
#[derive(Debug, Clone, Args)]
pub(super) struct Destination {
    /// Address of the orchestrator: HOST, HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH.
    ///
    /// Without a port: 7070 for a bare HOST, 80 for http:// and 443 for https://.
    #[arg(
        long,
        env = "ORCHESTRATOR_SERVER",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    server: String,
    /// PEM file of the authority that has signed the server's certificate, instead of the public ones.
    #[arg(long, env = "ORCHESTRATOR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of a certificate to show to the server.
    #[arg(
        long,
        env = "ORCHESTRATOR_CERTIFICATE",
        value_name = "FILE",
        requires = "certificate_key"
    )]
    certificate: Option<PathBuf>,
    /// PEM file of the private key of that certificate.
    #[arg(
        long,
        env = "ORCHESTRATOR_CERTIFICATE_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    certificate_key: Option<PathBuf>,
}

impl Destination {
    /// A server in plain text.
    pub(super) fn plain(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            ca: None,
            certificate: None,
            certificate_key: None,
        }
    }

    /// Whether a certificate is shown, which may stand for a key.
    pub(super) fn shows_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Connects, and hears the server's first words, within this time; `prepare` sets what every connection has.
    pub(super) async fn connect(
        &self,
        within: Duration,
        prepare: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Error> {
        let server = server_address::read(&self.server)?;
        let unreachable = |what| Error::Connect {
            server: server.to_string(),
            what,
        };
        let way = match &server {
            Server::Plain { .. } => Way::Tcp,
            Server::Tls { host, .. } => Way::Tls(self.connector(host)?),
            Server::Unix(path) => Way::Unix(path.into()),
        };
        // The scheme and the authority that calls name; how they travel is up to the way.
        let named = match &server {
            Server::Plain { .. } | Server::Tls { .. } => server.to_string(),
            Server::Unix(_) => "http://localhost".to_owned(),
        };
        let endpoint = Endpoint::from_shared(named).map_err(|bad| unreachable(bad.to_string()))?;
        let dial = Dial::new(way);
        let heard = dial.heard();
        let until = Instant::now() + within;
        let endpoint = prepare(endpoint).connect_timeout(within);
        let channel = endpoint.connect_with_connector(dial).await;
        let channel = channel.map_err(|error| unreachable(innermost(&error)))?;
        // Every server of HTTP/2 begins with its settings (RFC 9113, section 3.4). One that accepts connections and
        // then says nothing would be waited for as long as a call may take.
        match tokio::time::timeout_at(until, heard.notified()).await {
            Ok(()) => Ok(channel),
            Err(_elapsed) => Err(unreachable(
                "it accepts the connection and says nothing".to_owned(),
            )),
        }
    }

    fn connector(&self, host: &str) -> Result<Connector, Error> {
        let identity = match (&self.certificate, &self.certificate_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (Some(_) | None, Some(_) | None) => None,
        };
        let settings = tls::Settings {
            ca: self.ca.as_deref().map(read).transpose()?,
            identity,
            ..tls::Settings::default()
        };
        tls::connector(&settings, host, tls::Offer::Http2).map_err(|bad| {
            Error::usage(
                bad.to_string(),
                "see --ca, --certificate, --certificate-key",
            )
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| Error::usage(format!("{}: {error}", path.display()), "name a PEM file"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    async fn refused(server: &str) -> (String, String) {
        let found = Destination::plain(server).connect(WITHIN, |it| it).await;
        let Err(Error::Connect { server, what }) = found else {
            panic!("{found:?}");
        };
        (server, what)
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable() {
        let (server, what) = refused("127.0.0.1:1").await;
        assert!(what.contains("refused"), "{what}");
        assert_eq!(server, "http://127.0.0.1:1");
        let (server, what) = refused("unix:/nowhere/at/all").await;
        assert!(what.contains("No such file"), "{what}");
        assert_eq!(server, "unix:/nowhere/at/all");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_unavailable() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let accepts = async { silent.accept().await.unwrap() };
        // The clock stands still until there is nothing left to do but to wait.
        tokio::time::pause();
        let address = address.to_string();
        let ((_, what), _accepted) = tokio::join!(refused(&address), accepts);
        assert_eq!(what, "it accepts the connection and says nothing");
    }

    #[tokio::test]
    async fn https_to_a_port_in_plain_text_names_the_likely_cause() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = plain.local_addr().unwrap();
        let answers = async {
            let (mut stream, _) = plain.accept().await.unwrap();
            let mut hello = [0; 64];
            stream.read_exact(&mut hello).await.unwrap();
            let refusal = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            stream.write_all(refusal).await.unwrap();
            stream
        };
        let server = format!("https://{address}");
        let ((_, what), _answered) = tokio::join!(refused(&server), answers);
        assert!(what.contains("no TLS"), "{what}");
    }
}
