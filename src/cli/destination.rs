//! Which server is called, how it is trusted, and by which way it is reached.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::exit::Error;
use super::failure_text::innermost;
use crate::instance::endpoint::unix_path;
use crate::instance::tls::{self, Connector};

/// The server, exactly as typed.
#[derive(Debug, Clone, Args)]
pub(super) struct Destination {
    /// Address of the orchestrator: http://HOST:PORT, https://HOST:PORT or unix:/PATH.
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

/// How a server is reached.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Plain(String),
    Tls { host: String, port: u16 },
    Unix(String),
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

    /// Connects; `prepare` sets what every connection has.
    pub(super) async fn connect(
        &self,
        prepare: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Error> {
        let way = way(&self.server)?;
        let address = match &way {
            Way::Plain(url) => url.clone(),
            Way::Unix(path) => format!("unix:{path}"),
            Way::Tls { .. } => self.server.replacen("grpcs://", "https://", 1),
        };
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| bad_server(&self.server, &error.to_string()))?;
        let endpoint = prepare(endpoint);
        let connected = match way {
            Way::Plain(_) | Way::Unix(_) => endpoint.connect().await,
            Way::Tls { host, port } => {
                let connector = self.connector(&host)?;
                let dial = tower::service_fn(move |_: Uri| {
                    let (connector, host) = (connector.clone(), host.clone());
                    async move {
                        let stream = TcpStream::connect((host.as_str(), port)).await?;
                        stream.set_nodelay(true)?;
                        let stream = connector.connector.connect(connector.name, stream).await?;
                        Ok::<_, std::io::Error>(TokioIo::new(stream))
                    }
                });
                endpoint.connect_with_connector(dial).await
            }
        };
        connected.map_err(|error| Error::Connect {
            server: address,
            what: innermost(&error),
        })
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

fn way(server: &str) -> Result<Way, Error> {
    if let Some(path) = unix_path(server) {
        let path = path.to_str().map(str::to_owned);
        return path
            .map(Way::Unix)
            .ok_or_else(|| bad_server(server, "not a path"));
    }
    if server.starts_with("unix:") {
        return Err(bad_server(server, "the path of a socket begins with /"));
    }
    match server.split_once("://") {
        None => Ok(Way::Plain(format!("http://{server}"))),
        Some(("http", _)) => Ok(Way::Plain(server.to_owned())),
        Some(("grpc", rest)) => Ok(Way::Plain(format!("http://{rest}"))),
        Some(("https" | "grpcs", rest)) => secure(server, rest),
        Some((scheme, _)) => Err(bad_server(server, &format!("`{scheme}` is not http"))),
    }
}

fn secure(server: &str, rest: &str) -> Result<Way, Error> {
    let uri: Uri = format!("https://{rest}")
        .parse()
        .map_err(|_| bad_server(server, "not an address"))?;
    let host = uri.host().unwrap_or_default();
    // IPv6 addresses stand in brackets.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = match bare.parse::<Ipv6Addr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_owned(),
    };
    let port = uri.port_u16().unwrap_or(443);
    Ok(Way::Tls { host, port })
}

fn bad_server(server: &str, what: &str) -> Error {
    Error::usage(
        format!("--server {server}: {what}"),
        "write http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:/PATH",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reached_as_it_is_written() {
        let plain = |url: &str| Some(Way::Plain(url.to_owned()));
        let secure = |host: &str, port: u16| {
            let host = host.to_owned();
            Some(Way::Tls { host, port })
        };
        let socket = |path: &str| Some(Way::Unix(path.to_owned()));
        let check = |server: &str, expected: Option<Way>| {
            assert_eq!(way(server).ok(), expected, "{server}");
        };
        check("localhost:7070", plain("http://localhost:7070"));
        check("http://h:1", plain("http://h:1"));
        check("grpc://h:1", plain("http://h:1"));
        check("https://h:1", secure("h", 1));
        check("grpcs://h", secure("h", 443));
        check("https://[::1]:7443", secure("::1", 7443));
        check("unix:/run/o.sock", socket("/run/o.sock"));
        check("unix:///run/o.sock", socket("/run/o.sock"));
        check("unix:o.sock", None);
        check("ftp://h:1", None);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable() {
        let nobody = Destination::plain("127.0.0.1:1");
        let found = nobody.connect(|endpoint| endpoint).await;
        let Err(Error::Connect { server, what }) = found else {
            panic!("{found:?}");
        };
        assert!(what.contains("refused"), "{what}");
        assert_eq!(server, "http://127.0.0.1:1");
    }
}
