//! Which pages may call from a browser (Fetch, "CORS protocol"). It decides only what a browser is told: who may call
//! at all, keys decide, and a key never comes by itself.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

/// The pages that may call, and what they may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    /// Headers that a page may send.
    allowed: HeaderValue,
    max_age: HeaderValue,
}

/// Where pages may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// From anywhere.
    Any,
    /// From there.
    Listed(Vec<Origin>),
}

/// Where a page comes from, as browsers write it (RFC 6454, 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an origin as browsers send it, such as \"https://console.example.com\" or \"http://localhost:5173\": in \
     lower case, without a path, and without the port where it is the usual one"
)]
pub struct BadOrigin;

/// What a page may send without being asked for in the config: all that this server reads, and what its clients for
/// browsers add.
const ALLOWED: &str = "authorization,content-type,grpc-timeout,request-timeout,x-grpc-web,x-user-agent,x-request-id,\
                       traceparent,tracestate,baggage,last-event-id";
/// What a page may read of an answer besides what it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "grpc-status,grpc-message,grpc-status-details-bin,grpc-retry-pushback-ms,retry-after,x-request-id,www-authenticate,\
     allow",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE");

impl Origin {
    /// Reads an origin.
    pub fn parse(text: &str) -> Result<Self, BadOrigin> {
        let (scheme, host) = text.split_once("://").ok_or(BadOrigin)?;
        let mut letters = scheme.bytes();
        let is_scheme = letters
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'+' | b'-' | b'.')
            });
        let (name, port) = match host.rsplit_once(':') {
            // What stands in brackets is an address.
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            Some(_) | None => (host, None),
        };
        let of_name = |c: u8| {
            c.is_ascii_lowercase()
                || c.is_ascii_digit()
                || matches!(c, b'.' | b'-' | b'_' | b'[' | b']' | b':')
        };
        let is_name = !name.is_empty() && name.bytes().all(of_name);
        let is_port = port.is_none_or(|port| {
            let usual = [("http", "80"), ("https", "443")];
            let number = port.parse::<u16>().map(|number| number.to_string());
            number.is_ok_and(|number| number == port) && !usual.contains(&(scheme, port))
        });
        if !is_scheme || !is_name || !is_port {
            return Err(BadOrigin);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| BadOrigin)
    }
}

impl Cors {
    /// Pages from `origins` may send `more` headers besides the usual. A browser may remember that for `max_age`.
    #[must_use]
    pub fn new(origins: Origins, more: &[HeaderName], max_age: Duration) -> Self {
        let more = more.iter().map(HeaderName::as_str);
        let allowed: Vec<_> = std::iter::once(ALLOWED).chain(more).collect();
        let allowed = HeaderValue::from_str(&allowed.join(","));
        Self {
            origins,
            // Names of headers make a header.
            allowed: allowed.unwrap_or(HeaderValue::from_static(ALLOWED)),
            max_age: max_age.as_secs().into(),
        }
    }

    /// What a request is granted, by where its page comes from.
    pub(super) fn grant(&self, headers: &HeaderMap) -> Grant {
        let mut values = headers.get_all(header::ORIGIN).iter();
        let origin = match (values.next(), values.next()) {
            (Some(origin), None) => Some(origin),
            (Some(_), Some(_)) | (None, _) => None,
        };
        match &self.origins {
            Origins::Any => Grant {
                origin: origin.map(|_| HeaderValue::from_static("*")),
                differs: false,
            },
            Origins::Listed(listed) => Grant {
                origin: origin
                    .filter(|origin| listed.iter().any(|one| one.0 == *origin))
                    .cloned(),
                differs: true,
            },
        }
    }

    /// The answer to a browser that asks before it sends. Whoever is not granted anything gets no answer here.
    pub(super) fn preflight<B, A: Default>(&self, request: &Request<B>) -> Option<Response<A>> {
        let asks = request.method() == Method::OPTIONS
            && (request.headers()).contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let grant = self.grant(request.headers());
        if !asks || grant.origin.is_none() {
            return None;
        }
        let mut response = Response::new(A::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.allowed.clone());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        grant.write(headers);
        Some(response)
    }
}

/// What a browser is told of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// Who may read it.
    origin: Option<HeaderValue>,
    /// Whether others would be told something else.
    differs: bool,
}

impl Grant {
    /// Writes it into the headers of an answer. Credentials are never allowed: a key is sent by the page, not by the
    /// browser.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        if self.differs {
            // A cache may not show it to another page.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends_and_nothing_else() {
        for good in [
            "https://console.example.com",
            "http://localhost:5173",
            "https://console.example.com:8443",
            "http://127.0.0.1:80800".trim_end_matches("00"),
            "http://[::1]",
            "http://[::1]:3000",
            "https://x.com:80",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "console.example.com",
            "https://",
            "://x",
            "https://console.example.com/",
            "https://console.example.com/path",
            "https://Console.example.com",
            "HTTPS://console.example.com",
            "https://*.example.com",
            "https://a@b.c",
            "https://x:443",
            "http://x:80",
            "https://x:",
            "https://x:0443",
            "https://x:99999",
            "https://x y",
            "https://x?y",
            "9p://x",
        ] {
            assert_eq!(Origin::parse(bad), Err(BadOrigin), "{bad}");
        }
    }

    fn listed(origins: &[&str]) -> Cors {
        let origins = origins.iter().map(|text| Origin::parse(text).unwrap());
        let origins = Origins::Listed(origins.collect());
        Cors::new(origins, &[], Duration::from_secs(60))
    }

    /// Who may read the answer to a page from there, and whether a cache is warned.
    fn check(cors: &Cors, origins: &[&str], allowed: Option<&str>, varies: bool) {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().unwrap());
        }
        let mut told = HeaderMap::new();
        cors.grant(&headers).write(&mut told);
        let found = told.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let found = found.map(|value| value.to_str().unwrap());
        assert_eq!(found, allowed, "{origins:?}");
        assert_eq!(told.contains_key(header::VARY), varies, "{origins:?}");
        let exposed = told.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        assert_eq!(exposed, allowed.is_some());
        assert!(!told.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn a_page_may_read_answers_when_its_origin_is_listed_letter_for_letter() {
        let (a, b) = ("https://a.example", "http://localhost:5173");
        let cors = listed(&[a, b]);
        check(&cors, &[a], Some(a), true);
        check(&cors, &[b], Some(b), true);
        for other in [
            "https://a.example.evil",
            "https://evil-a.example",
            "http://a.example",
            "https://a.example:8443",
            "null",
            "*",
        ] {
            check(&cors, &[other], None, true);
        }
        check(&cors, &[a, b], None, true);
        check(&cors, &[], None, true);
        let any = Cors::new(Origins::Any, &[], Duration::ZERO);
        check(&any, &["https://any.example"], Some("*"), false);
        check(&any, &["null"], Some("*"), false);
        check(&any, &[], None, false);
    }

    #[test]
    fn a_browser_that_asks_is_answered_and_nobody_else() {
        let more = [HeaderName::from_static("x-own")];
        let origins = Origins::Listed(vec![Origin::parse("https://a.example").unwrap()]);
        let cors = Cors::new(origins, &more, Duration::from_secs(60));
        let asked = |method: Method, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri("/x");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            cors.preflight::<(), ()>(&request.body(()).unwrap())
        };
        let (from, wants) = (
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
        );
        let answer = asked(Method::OPTIONS, &[from, wants]).unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("access-control-allow-origin"), "https://a.example");
        assert_eq!(header("access-control-max-age"), "60");
        let allowed = header("access-control-allow-headers");
        for name in ["authorization", "x-grpc-web", "grpc-timeout", "x-own"] {
            assert!(allowed.split(',').any(|one| one == name), "{allowed}");
        }
        let foreign = ("origin", "https://b.example");
        for (method, headers) in [
            (Method::OPTIONS, &[from][..]),
            (Method::OPTIONS, &[wants]),
            (Method::OPTIONS, &[foreign, wants]),
            (Method::OPTIONS, &[from, from, wants]),
            (Method::POST, &[from, wants]),
        ] {
            assert!(asked(method, headers).is_none(), "{headers:?}");
        }
    }
}
