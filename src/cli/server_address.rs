//! What `--server` means. It is read strictly: the key goes to whoever listens there.

use std::fmt;
use std::net::Ipv6Addr;

use super::exit::Error;
use crate::instance::endpoint::unix_path;

/// The port of an orchestrator, where a host stands alone.
const PORT: u16 = 7070;
const PORT_HTTP: u16 = 80;
const PORT_HTTPS: u16 = 443;

const HINT: &str = "write HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH";

/// Where a server listens, and what it speaks. Hosts are without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    Plain { host: String, port: u16 },
    Tls { host: String, port: u16 },
    Unix(String),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Plain { host, port } => ("http", host, port),
            Self::Tls { host, port } => ("https", host, port),
            Self::Unix(path) => return write!(f, "unix:{path}"),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// Reads it as typed.
pub(super) fn read(typed: &str) -> Result<Server, Error> {
    if typed.is_empty() {
        return Err(Error::usage(
            "the address of the server is empty",
            format!("{HINT}; or leave out --server and unset ORCHESTRATOR_SERVER"),
        ));
    }
    understand(typed).map_err(|what| {
        let shown = without_credentials(typed);
        Error::usage(format!("the server `{shown}`: {what}"), HINT)
    })
}

fn understand(typed: &str) -> Result<Server, String> {
    if let Some(path) = unix_path(typed) {
        let path = path.to_str().ok_or("it is not a path")?;
        return Ok(Server::Unix(path.to_owned()));
    }
    if typed.starts_with("unix:") {
        return Err("the path of a socket begins with /".to_owned());
    }
    let (scheme, rest) = match typed.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, typed),
    };
    match scheme.as_deref() {
        None => plain(rest, PORT),
        Some("http" | "grpc") => plain(rest, PORT_HTTP),
        Some("https" | "grpcs") => {
            let (host, port) = authority(rest)?;
            let port = port.unwrap_or(PORT_HTTPS);
            Ok(Server::Tls { host, port })
        }
        Some(other) => Err(format!("`{other}` is neither http, https nor unix")),
    }
}

fn plain(rest: &str, port_default: u16) -> Result<Server, String> {
    let (host, port) = authority(rest)?;
    let port = port.unwrap_or(port_default);
    Ok(Server::Plain { host, port })
}

/// RFC 3986, section 3.2, of which a path without anything in it and no user may be left.
fn authority(rest: &str) -> Result<(String, Option<u16>), String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !matches!(path, "" | "/") {
        return Err(format!(
            "there is no place for `{path}`: calls have paths of their own"
        ));
    }
    if authority.contains('@') {
        return Err(
            "there is no place for a user: the key is read from ORCHESTRATOR_API_KEY".to_owned(),
        );
    }
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (inside, after) = bracketed
            .split_once(']')
            .ok_or("a bracket is not closed: write [::1]:7070")?;
        let host: Ipv6Addr = inside
            .parse()
            .map_err(|_| format!("`{inside}` is no IPv6 address"))?;
        let port = match after.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if after.is_empty() => None,
            None => return Err(format!("`{after}` is no port: write [::1]:7070")),
        };
        return Ok((host.to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((_, digits)) if digits.contains(':') => {
            return Err("an IPv6 address stands in brackets: write [::1]:7070".to_owned());
        }
        Some((host, digits)) => (host, Some(port(digits)?)),
        None => (authority, None),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    if !host.chars().all(named) {
        return Err(format!("`{host}` is no name of a host"));
    }
    Ok((host.to_owned(), port))
}

fn port(digits: &str) -> Result<u16, String> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or_else(|| format!("the port `{digits}` is not a number from 1 to 65535"))
}

/// Somebody's password may stand there, and what is shown may be kept.
fn without_credentials(typed: &str) -> String {
    match typed.rsplit_once('@') {
        Some((before, after)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{after}"),
            None => format!("…@{after}"),
        },
        None => typed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;
    use crate::cli::failure_text;

    #[test]
    fn a_server_is_reached_as_it_is_written() {
        let check = |typed: &str, expected: &str| {
            let found = read(typed).map(|server| server.to_string());
            let found = found.map_err(|error| failure_text::lines(&error));
            assert_eq!(found.as_deref(), Ok(expected), "{typed}");
        };
        check("localhost:7070", "http://localhost:7070");
        check("127.0.0.1", "http://127.0.0.1:7070");
        check("[::1]", "http://[::1]:7070");
        check("http://h:1", "http://h:1");
        check("http://h:1/", "http://h:1");
        check("HTTP://h", "http://h:80");
        check("grpc://h:1", "http://h:1");
        check("https://h:1", "https://h:1");
        check("Grpcs://h", "https://h:443");
        check("https://[::1]:7443", "https://[::1]:7443");
        check("unix:/run/o.sock", "unix:/run/o.sock");
        check("unix:///run/o.sock", "unix:/run/o.sock");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_before_the_key_goes_anywhere() {
        let check = |typed: &str, expected: &str| {
            let error = read(typed).expect_err(typed);
            assert_eq!(error.exit(), Exit::Usage, "{typed}");
            let lines = failure_text::lines(&error);
            assert!(lines.contains(expected), "{typed}: {lines}");
            assert!(lines.contains("hint: write HOST:PORT"), "{lines}");
        };
        check("127.0.0.1:99999", "`99999` is not a number from 1 to 65535");
        check("https://h:99999", "`99999` is not a number from 1 to 65535");
        check("http://[::1]:70700", "`70700` is not a number");
        check("h:", "the port `` is not a number");
        check("h:0", "the port `0` is not a number");
        check("h:+80", "the port `+80` is not a number");
        check("", "is empty");
        check("http://", "names no host");
        check("http://:7070", "names no host");
        check("http://h:1/api", "no place for `/api`");
        check("http://h?key=1", "no place for `?key=1`");
        check("http://[::1", "not closed");
        check("[::g]:1", "`::g` is no IPv6 address");
        check("[::1]7070", "`7070` is no port");
        check("::1:7070", "stands in brackets");
        check("two words", "`two words` is no name of a host");
        check("unix:o.sock", "begins with /");
        check("ftp://h:1", "`ftp` is neither");
    }

    #[test]
    fn a_password_is_not_repeated() {
        let error = read("http://ann:hunter2@h:1").unwrap_err();
        let lines = failure_text::lines(&error);
        assert!(lines.contains("no place for a user"), "{lines}");
        assert!(!lines.contains("hunter2"), "{lines}");
    }
}
