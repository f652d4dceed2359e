//! Where connections come from: an address of the network, or a socket in the file system.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::instance::endpoint::unix_path;

/// Where an orchestrator listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Why a text is not a place to listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an IP address and a port such as 127.0.0.1:7070, and not a socket such as unix:/run/orchestrator.sock"
)]
pub struct BadAddress;

/// How an address of a socket begins, as gRPC clients write it.
const UNIX: &str = "unix:";

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path.to_owned()));
        }
        text.parse().map(Self::Tcp).map_err(|_| BadAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Address {
    /// The address on the network, if that is where it is.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at an address.
    Address(SocketAddr),
    /// Somebody on this machine, by a socket in the file system.
    Unix,
}

impl Peer {
    /// The address, v4-mapped ones as v4.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Where connections come from.
pub trait Listen: Send + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection; it comes with its peer. Nothing is lost when the future is dropped.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = Self::accept(self).await?;
        // Only latency suffers without it.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Address(peer)))
    }
}

/// A socket in the file system, which is there for as long as this is.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: another program may have put its own there since.
    file: (u64, u64),
}

impl Listen for UnixSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _unnamed) = self.listener.accept().await?;
        Ok((stream, Peer::Unix))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| file(&found) == self.file);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

fn file(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Opens a TCP listener, with a message that says what to do when that fails.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AddrInUse {
            ": another program listens there; choose another address with --listen"
        } else {
            ""
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}{hint}"),
        )
    })
}

/// Opens a socket in the file system with these permissions. One that was left behind is replaced; one on which
/// somebody listens, or what is no socket, is not.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixSocket> {
    let opened = async {
        is_free(path).await?;
        // It gets its name once it has its permissions: nobody comes in before.
        let mut early = path.as_os_str().to_owned();
        early.push(format!(".{}", std::process::id()));
        let early = PathBuf::from(early);
        let _ = fs::remove_file(&early);
        let listener = UnixListener::bind(&early)?;
        let named = fs::set_permissions(&early, Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&early, path));
        if let Err(error) = named {
            let _ = fs::remove_file(&early);
            return Err(error);
        }
        let file = file(&fs::symlink_metadata(path)?);
        Ok(UnixSocket {
            listener,
            path: path.to_owned(),
            file,
        })
    };
    opened.await.map_err(|error: io::Error| {
        let told = format!("cannot listen on {UNIX}{}: {error}", path.display());
        io::Error::new(error.kind(), told)
    })
}

async fn is_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let what = "there is something that is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another program listens there; choose another path with --listen",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_listen_is_read_and_written_alike() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<Address>().ok();
            assert_eq!(
                found.map(|found| found.to_string()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("127.0.0.1:7070", Some("127.0.0.1:7070"));
        check("[::1]:7070", Some("[::1]:7070"));
        check("unix:/run/o.sock", Some("unix:/run/o.sock"));
        check("unix:///run/o.sock", Some("unix:/run/o.sock"));
        for bad in [
            "",
            "localhost:1",
            "unix:",
            "unix:o.sock",
            "unix:///",
            "unix://o.sock",
            "/run/o",
        ] {
            check(bad, None);
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let socket = bind_unix(&path, 0o640).await.unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o640);

        let second = bind_unix(&path, 0o600).await.unwrap_err().to_string();
        assert!(second.contains("another program listens there"), "{second}");
        let (accepted, connected) = tokio::join!(socket.accept(), UnixStream::connect(&path));
        assert_eq!(accepted.unwrap().1, Peer::Unix);
        drop(connected.unwrap());

        drop(socket);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "removed");
        fs::write(&path, "a file").unwrap();
        let refused = bind_unix(&path, 0o600).await.unwrap_err().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[tokio::test]
    async fn what_another_program_has_put_there_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.sock");
        let socket = bind_unix(&path, 0o600).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = bind_unix(&path, 0o600).await.unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
