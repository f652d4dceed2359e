//! Where an instance listens: read from text, resolved, connected to.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time;

use super::Pending;
use crate::domain::limit::{ADDRESSES_PER_NAME_MAX, CONNECT_NEXT_AFTER};

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
            Ok(Box::new(stream) as Box<dyn Connected>)
        })
    })
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
    /// Where it may be found, when that was checked at registration; resolved anew for each connection when empty.
    pub pinned: Vec<SocketAddr>,
}

/// What is spoken below gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/2 with prior knowledge.
    Plain,
    /// HTTP/2 over TLS, by ALPN.
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

/// Why a text is not an address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instance address: write host:port, grpc://host:port or grpcs://host:port")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// Reads `host:port`, `grpc://host:port`, `grpcs://host:port` or `unix:/path`. IPv6 addresses stand in brackets.
    pub fn parse(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.chars().take(120).collect());
        if let Some(path) = unix_path(text).and_then(Path::to_str) {
            return Ok(Self {
                host: path.to_owned(),
                port: 0,
                transport: Transport::Unix,
                pinned: Vec::new(),
            });
        }
        let (transport, rest) = match text.split_once("://") {
            Some(("grpc", rest)) => (Transport::Plain, rest),
            Some(("grpcs", rest)) => (Transport::Tls, rest),
            Some(_) => return Err(bad()),
            None => (Transport::Plain, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(bad)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| bad())?
                .to_string(),
            None => host.to_owned(),
        };
        let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(named);
        if bracketed.is_none() && !is_name {
            return Err(bad());
        }
        Ok(Self {
            host,
            port,
            transport,
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Plain => "grpc",
            Transport::Tls => "grpcs",
            Transport::Unix => return write!(f, "{UNIX}{}", self.host),
        };
        write!(f, "{scheme}://{}", self.authority())
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
            "http://host:80",
            "a b:1",
            "u@host:1",
            "host:1/path",
            "unix:a.sock",
            "unix:",
            "unix:///",
        ] {
            check(bad, None);
        }
    }
}
