//! Where an instance listens: read from text, resolved, connected to.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time;

use super::Pending;
#[cfg(target_os = "linux")]
use crate::domain::limit::LINK_TCP_UNACKNOWLEDGED_MAX;
use crate::domain::limit::{
    ADDRESSES_PER_NAME_MAX, CONNECT_NEXT_AFTER, HTTP_PATH_BYTES_MAX, LINK_TCP_KEEPALIVE_AFTER,
    LINK_TCP_KEEPALIVE_INTERVAL,
};

/// Opens a connection to an address.
pub type Dial = Arc<dyn Fn(SocketAddr) -> Pending<io::Result<Box<dyn Connected>>> + Send + Sync>;

/// An open connection, whatever it runs over.
pub trait Connected: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connected for S {}

/// Connections as the system makes them.
#[must_use]
pub fn dial_tcp() -> Dial {
    Arc::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            notice_black_holes(&stream)?;
            Ok(Box::new(stream) as Box<dyn Connected>)
        })
    })
}

/// A host that vanishes says nothing: the system finds out, also on a connection whose streams are silent for hours.
fn notice_black_holes(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(LINK_TCP_KEEPALIVE_AFTER)
        .with_interval(LINK_TCP_KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(LINK_TCP_UNACKNOWLEDGED_MAX))?;
    Ok(())
}

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name or an IP address; the path of a socket in the file system.
    pub host: String,
    /// The port; 0 where there is none.
    pub port: u16,
    /// Plain text or TLS, or plain text by a socket in the file system.
    pub transport: Transport,
    /// What is spoken over it.
    pub protocol: Protocol,
    /// Where it may be found, when that was checked at registration; resolved anew for each connection when empty.
    pub pinned: Vec<SocketAddr>,
}

/// What is spoken below the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain text. gRPC: HTTP/2 with prior knowledge.
    Plain,
    /// TLS, where ALPN tells which HTTP is spoken.
    Tls,
    /// HTTP/2 with prior knowledge, by a socket in the file system.
    Unix,
}

/// How an address of a socket in the file system begins, as gRPC clients write it.
const UNIX: &str = "unix:";

/// The path in `unix:/path` or `unix:///path`; `None` when the text is something else.
#[must_use]
pub fn unix_path(text: &str) -> Option<&Path> {
    let rest = text.strip_prefix(UNIX)?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let is_whole = path.starts_with('/') && !path.ends_with('/');
    is_whole.then(|| Path::new(path))
}

/// What is spoken with an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// openclaw.instance.v1.
    Grpc,
    /// A task is a POST of its payload as JSON.
    Http {
        /// To where; begins with a slash.
        path: String,
    },
}

/// Why a text is not an address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Not of any form; begins with what was written.
    #[error(
        "`{0}` is not an instance address: write host:port, grpc://host:port or grpcs://host:port for gRPC, http://host:port/path or https://host:port/path for JSON over HTTP"
    )]
    Form(String),
    /// A user, and most likely a password, which must not be repeated.
    #[error("an address holds no user and no password: use credential for a token")]
    User,
    /// A query, which often holds a secret, or a fragment.
    #[error("the path of an address holds no query and no fragment")]
    Query,
    /// What no request line can hold.
    #[error(
        "the path of an address has at most {HTTP_PATH_BYTES_MAX} bytes, and what is not printable ASCII stands there percent-encoded"
    )]
    Path,
}

impl Endpoint {
    /// Reads `host:port`, `grpc://host:port`, `grpcs://host:port`, `unix:/path`, `http://host:port/path` or
    /// `https://host:port/path`. IPv6 addresses stand in brackets. Without a port HTTP means 80, and 443 over TLS.
    pub fn parse(text: &str) -> Result<Self, BadEndpoint> {
        if let Some(path) = unix_path(text).and_then(Path::to_str) {
            return Ok(Self {
                host: path.to_owned(),
                port: 0,
                transport: Transport::Unix,
                protocol: Protocol::Grpc,
                pinned: Vec::new(),
            });
        }
        if text.contains('@') {
            return Err(BadEndpoint::User);
        }
        let bad = || BadEndpoint::Form(text.chars().take(120).collect());
        let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
        let (transport, port_default) = match scheme {
            "grpc" => (Transport::Plain, None),
            "grpcs" => (Transport::Tls, None),
            "http" => (Transport::Plain, Some(80)),
            "https" => (Transport::Tls, Some(443)),
            _ => return Err(bad()),
        };
        let (authority, protocol) = match port_default {
            None => (rest, Protocol::Grpc),
            Some(_) => {
                let (authority, path) =
                    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                (
                    authority,
                    Protocol::Http {
                        path: read_path(path)?,
                    },
                )
            }
        };
        let (host, port) = read_authority(authority, port_default).ok_or_else(bad)?;
        Ok(Self {
            host,
            port,
            transport,
            protocol,
            pinned: Vec::new(),
        })
    }

    /// `host:port`, as it stands in a URI.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.transport == Transport::Unix {
            // What gRPC clients say where there is no host.
            "localhost".to_owned()
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The addresses behind the name.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if self.transport == Transport::Unix {
            let what = "a socket in the file system has no address";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let found = lookup_host((self.host.as_str(), self.port)).await?;
        let found: Vec<_> = found.take(ADDRESSES_PER_NAME_MAX).collect();
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        Ok(found)
    }

    /// A connection to the first address that takes one.
    pub async fn connect(&self, dial: &Dial) -> io::Result<Box<dyn Connected>> {
        if self.transport == Transport::Unix {
            let stream = UnixStream::connect(&self.host).await?;
            return Ok(Box::new(stream));
        }
        let resolved;
        let addresses = if self.pinned.is_empty() {
            resolved = self.resolve().await?;
            &resolved
        } else {
            &self.pinned
        };
        first(addresses, |address| dial(*address)).await
    }
}

/// The first connection there is. The next address is begun once the one before has failed, or has kept us
/// waiting for a moment, and nothing that was begun is given up for it (RFC 8305, 5).
async fn first<'a, T, C>(
    addresses: &'a [SocketAddr],
    mut connect: impl FnMut(&'a SocketAddr) -> C,
) -> io::Result<T>
where
    C: Future<Output = io::Result<T>>,
{
    let mut begun = FuturesUnordered::new();
    let mut left = addresses.iter();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        let next = left.next();
        let is_last = next.is_none();
        begun.extend(next.map(&mut connect));
        let ended = async {
            if is_last {
                return begun.next().await;
            }
            let waited = time::timeout(CONNECT_NEXT_AFTER, begun.next()).await;
            waited.unwrap_or(None)
        };
        match ended.await {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => last = error,
            None if is_last => return Err(last),
            // A moment has passed.
            None => {}
        }
    }
}

fn read_path(path: &str) -> Result<String, BadEndpoint> {
    if path.contains(['?', '#']) {
        return Err(BadEndpoint::Query);
    }
    let path = if path.is_empty() { "/" } else { path };
    let travels = path.bytes().all(|c| c.is_ascii_graphic()) && path.len() <= HTTP_PATH_BYTES_MAX;
    if !travels || ::http::uri::PathAndQuery::try_from(path).is_err() {
        return Err(BadEndpoint::Path);
    }
    Ok(path.to_owned())
}

fn read_authority(authority: &str, port_default: Option<u16>) -> Option<(String, u16)> {
    let has_port = !authority.ends_with(']') && authority.contains(':');
    let (host, port) = match port_default {
        Some(port) if !has_port => (authority, port),
        Some(_) | None => {
            let (host, port) = authority.rsplit_once(':')?;
            (host, port.parse().ok().filter(|port| *port != 0)?)
        }
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(address) = bracketed {
        return Some((address.parse::<Ipv6Addr>().ok()?.to_string(), port));
    }
    let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(named);
    is_name.then(|| (host.to_owned(), port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match (&self.protocol, self.transport) {
            (_, Transport::Unix) => return write!(f, "{UNIX}{}", self.host),
            (Protocol::Grpc, Transport::Plain) => ("grpc", ""),
            (Protocol::Grpc, Transport::Tls) => ("grpcs", ""),
            (Protocol::Http { path }, Transport::Plain) => ("http", path.as_str()),
            (Protocol::Http { path }, Transport::Tls) => ("https", path.as_str()),
        };
        let path = if path == "/" { "" } else { path };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each address does, in order: answers or fails after so many milliseconds, or is silent. Which one
    /// is connected to in the end, and when.
    async fn check_first(acts: &[(Option<u64>, bool)], expected: Result<usize, ()>, after_ms: u64) {
        let address = |at: usize| SocketAddr::from(([10, 0, 0, 1], at as u16));
        let addresses: Vec<_> = (0..acts.len()).map(address).collect();
        let start = time::Instant::now();
        let found = first(&addresses, |address| {
            let at = usize::from(address.port());
            let (millis, is_there) = acts[at];
            async move {
                match millis {
                    Some(millis) => time::sleep(std::time::Duration::from_millis(millis)).await,
                    None => std::future::pending().await,
                }
                is_there
                    .then_some(at)
                    .ok_or(io::ErrorKind::ConnectionRefused.into())
            }
        });
        assert_eq!(found.await.map_err(|_: io::Error| ()), expected, "{acts:?}");
        assert_eq!(
            start.elapsed().as_millis(),
            u128::from(after_ms),
            "{acts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_keeps_nobody_from_the_next() {
        let (silent, refuses) = ((None, false), (Some(0), false));
        check_first(&[(Some(5), true), (Some(0), true)], Ok(0), 5).await;
        check_first(&[refuses, (Some(1), true)], Ok(1), 1).await;
        check_first(&[silent, silent, (Some(1), true)], Ok(2), 501).await;
        // What was begun first may still be first.
        check_first(&[(Some(300), true), (Some(100), true)], Ok(0), 300).await;
        check_first(&[(Some(700), true), refuses, silent], Ok(0), 700).await;
        check_first(&[refuses, (Some(10), false)], Err(()), 10).await;
        check_first(&[], Err(()), 0).await;
    }

    #[test]
    fn an_address_is_read_and_written_alike() {
        let check = |text: &str, expected: Option<&str>| {
            let found = Endpoint::parse(text)
                .ok()
                .map(|endpoint| endpoint.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("127.0.0.1:7101", Some("grpc://127.0.0.1:7101"));
        check(
            "grpc://gpu-a.internal:50051",
            Some("grpc://gpu-a.internal:50051"),
        );
        check("grpcs://gpu-a:443", Some("grpcs://gpu-a:443"));
        check("[::1]:7101", Some("grpc://[::1]:7101"));
        check("http://host:80", Some("http://host:80"));
        check("http://10.0.0.5", Some("http://10.0.0.5:80"));
        check("https://gpu-a/v1/run", Some("https://gpu-a:443/v1/run"));
        check("https://gpu-a:8443/", Some("https://gpu-a:8443"));
        check("http://[::1]/x:1", Some("http://[::1]:80/x:1"));
        check("http://[::1]:81", Some("http://[::1]:81"));
        check("unix:/run/a.sock", Some("unix:/run/a.sock"));
        check("unix:///run/a.sock", Some("unix:/run/a.sock"));
        for bad in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:70000",
            "::1:80",
            "http://",
            "http:///run",
            "http://host:",
            "http://::1",
            "http://host:1/a b",
            "http://host:1/ä",
            "http://host:1/run?key=1",
            "http://host:1#run",
            "http://u:p@host:1",
            "HTTP://host:1",
            "ftp://host:1",
            "grpc://host:1/path",
            "grpc://host",
            "a b:1",
            "u@host:1",
            "host:1/path",
            "unix:a.sock",
            "unix:",
            "unix:///",
        ] {
            check(bad, None);
        }
        let long = format!("http://host:1/{}", "x".repeat(HTTP_PATH_BYTES_MAX));
        check(&long, None);
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        for text in ["http://u:CANARY@host:1", "http://host:1/run?key=CANARY"] {
            let told = Endpoint::parse(text).unwrap_err().to_string();
            assert!(!told.contains("CANARY"), "{told}");
        }
    }
}
