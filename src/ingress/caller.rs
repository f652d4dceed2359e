//! Who is asking: one check of the key for the whole server. What each path needs stands in `access`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Request, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::access::{Access, METHODS, Scope, known, takes_token, without_api};
use super::arrival::Arrival;
use super::identity::{self, Identity};
pub use super::revoked::Revoked;
use super::visitor::Visitor;
use crate::certificates::Names;
use crate::domain::admission::Quota;
use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::limit::KEY_LOOK_INTERVAL;
use crate::domain::session::token;
use crate::fleet::registration::Rank;
use crate::orchestrate::hold_session::TokenHolder;

/// A key that is accepted. The key itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is called in logs.
    pub name: Arc<str>,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it is no longer accepted.
    pub expires: Option<SystemTime>,
    /// What it may have running, and how fast it may call; what all keys may when it says nothing.
    pub quota: Option<Quota>,
    /// Tells whoever is still served by it when it is no longer accepted.
    pub revoked: Revoked,
}

impl Key {
    /// A key with all rights.
    #[must_use]
    pub fn with_all_rights(name: &str, key: &str) -> Self {
        Self {
            name: name.into(),
            hash: hash(key.as_bytes()),
            scopes: vec![Scope::Admin],
            expires: None,
            quota: None,
            revoked: Revoked::default(),
        }
    }

    fn is_over(&self, now: SystemTime) -> bool {
        self.revoked.is_revoked() || self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn grant(&self) -> Grant<'_> {
        Grant {
            what: "key",
            name: &self.name,
            scopes: &self.scopes,
            revoked: &self.revoked,
        }
    }
}

impl Identity {
    pub(super) fn grant(&self) -> Grant<'_> {
        Grant {
            what: "identity",
            name: &self.name,
            scopes: &self.scopes,
            revoked: &self.revoked,
        }
    }
}

/// What whoever has called may do.
pub(super) struct Grant<'a> {
    /// What it comes from.
    what: &'static str,
    name: &'a Arc<str>,
    scopes: &'a [Scope],
    revoked: &'a Revoked,
}

impl Grant<'_> {
    pub(super) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Lets a request pass that needs so much.
    fn pass<B>(&self, request: &mut Request<B>, access: Access) -> Result<(), Failure> {
        if let Access::Scope(scope) = access
            && !self.allows(scope)
        {
            let (what, name, scope) = (self.what, self.name, scope.word());
            let detail = format!("{what} `{name}` lacks the scope {scope} that this call needs");
            return Err(Failure::new(Reason::ScopeMissing, detail));
        }
        if let Some(arrival) = request.extensions_mut().get_mut::<Arrival>() {
            arrival.caller = Caller(Some(Arc::clone(self.name)));
            arrival.exchange.note_key(self.revoked.clone());
            if self.allows(Scope::Admin) {
                arrival.rank = Rank::Operator;
            }
        }
        Ok(())
    }
}

/// SHA-256, as keys are stored.
#[must_use]
pub fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Who may call.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Accepted keys; several at once, so that they can be replaced one by one.
    pub keys: Vec<Key>,
    /// Callers that show a certificate instead; of several that fit, the first counts.
    pub identities: Vec<Identity>,
    /// Whether reflection needs a key.
    pub reflection: Reflection,
}

/// Whether reflection needs a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reflection {
    /// Any valid key.
    #[default]
    WithKey,
    /// None.
    Public,
}

/// Who has called: the name of the key, or nobody where none is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub Option<Arc<str>>);

impl Caller {
    /// The name by which calls are counted; empty where no key is needed.
    #[must_use]
    pub fn counted(&self) -> Arc<str> {
        self.0.clone().unwrap_or_default()
    }

    /// The name, for logs.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.as_deref().unwrap_or("nobody")
    }
}

/// Finds what the token with this hash is good for.
pub type FindToken = Arc<dyn Fn(&token::Hash) -> Option<TokenHolder> + Send + Sync>;

impl Keys {
    /// Lets a request pass, or says why not; notes who has called.
    pub fn authenticate<B>(
        &self,
        request: &mut Request<B>,
        sessions: &FindToken,
    ) -> Result<(), Failure> {
        let access = self.access(request.uri().path());
        if access == Access::Public {
            return Ok(());
        }
        // A key counts alone: one that is wrong is not made good by a certificate.
        if !request.headers().contains_key(header::AUTHORIZATION)
            && let Some((identity, revoked)) = self.identity(request)?
        {
            let grant = Grant {
                revoked: &revoked,
                ..identity.grant()
            };
            return grant.pass(request, access);
        }
        let token = bearer(request.headers())?;
        let Some(key) = self.find(token) else {
            let holder = session_of(token, sessions).ok_or_else(unknown_key)?;
            return let_session_pass(request, holder);
        };
        if key.is_over(SystemTime::now()) {
            return Err(unknown_key());
        }
        key.grant().pass(request, access)
    }

    /// Whom the certificate means that the caller, or a forwarder for it, has shown, and until when; `None` where there
    /// was none.
    fn identity<B>(&self, request: &Request<B>) -> Result<Option<(&Identity, Revoked)>, Failure> {
        let Some(visitor) = request.extensions().get::<Arc<Visitor>>() else {
            return Ok(None);
        };
        let names = visitor.names(request.headers());
        if *names == Names::default() {
            return Ok(None);
        }
        let unknown = "no key, and no name of the certificate that was shown stands in the server's identities: send \
                       `authorization: Bearer KEY`, or have the name added";
        let found = identity::find(&self.identities, &names);
        let known = found.ok_or_else(|| Failure::new(Reason::KeyMissing, unknown))?;
        Ok(Some((known, visitor.until(&known.revoked))))
    }

    /// Revokes each key whose time has come; says when to look again. The wall clock may jump: it is looked at again
    /// and again.
    pub(super) fn revoke_expired(&self, now: SystemTime) -> Duration {
        for key in self.keys.iter().filter(|key| key.is_over(now)) {
            key.revoked.revoke();
        }
        let to_come = self.keys.iter().filter_map(|key| key.expires);
        let to_come = to_come.filter_map(|expires| expires.duration_since(now).ok());
        to_come
            .min()
            .map_or(KEY_LOOK_INTERVAL, |wait| wait.min(KEY_LOOK_INTERVAL))
    }

    fn access(&self, path: &str) -> Access {
        if let Some((_, scope)) = METHODS.iter().find(|(method, _)| *method == path) {
            return Access::Scope(*scope);
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return Access::Public;
        }
        let plain = without_api(path);
        if let Some(known) = known(plain) {
            return known.access;
        }
        let is_ours = ["/openclaw.", "/orchestrator/", "/cluster/"];
        if is_ours.iter().any(|start| plain.starts_with(start)) {
            return Access::Scope(Scope::Admin);
        }
        match self.reflection {
            Reflection::Public if path.starts_with("/grpc.reflection.") => Access::Public,
            Reflection::Public | Reflection::WithKey => Access::AnyKey,
        }
    }

    /// Compares with every key, and each in constant time: how long it takes says nothing about the keys.
    fn find(&self, token: &[u8]) -> Option<&Key> {
        let hash = hash(token);
        let mut found = None;
        for key in &self.keys {
            let same: Choice = key.hash.ct_eq(&hash);
            if bool::from(same) {
                found = Some(key);
            }
        }
        found
    }
}

fn bearer(headers: &HeaderMap) -> Result<&[u8], Failure> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let missing = |detail: &'static str| Failure::new(Reason::KeyMissing, detail);
    match (values.next(), values.next()) {
        (None, _) => Err(missing(
            "no key: send `authorization: Bearer KEY` (over gRPC as metadata), then repeat the call",
        )),
        (Some(_), Some(_)) => Err(missing("more than one authorization value: send one")),
        (Some(value), None) => {
            token(value).ok_or_else(|| missing("authorization is not `Bearer KEY`"))
        }
    }
}

fn token(value: &HeaderValue) -> Option<&[u8]> {
    // The scheme is case-insensitive (RFC 9110, 11.1).
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn session_of(shown: &[u8], sessions: &FindToken) -> Option<TokenHolder> {
    if !shown.starts_with(token::PREFIX.as_bytes()) {
        return None;
    }
    sessions(&token::hash(shown))
}

/// The method compares the session with the one that is asked for.
fn let_session_pass<B>(request: &mut Request<B>, holder: TokenHolder) -> Result<(), Failure> {
    if !takes_token(request.uri().path()) {
        let detail = "the token of a session is good for SessionSend, SessionPost, SessionGet and SessionClose, and \
                      over REST for sessions/send and for the paths of its session";
        return Err(Failure::new(Reason::SessionTokenForeign, detail));
    }
    if let Some(arrival) = request.extensions_mut().get_mut::<Arrival>() {
        arrival.caller = Caller(Some(holder.caller.into()));
        arrival.session = Some(holder.session);
        // A token that is void ends what it has open, as a key does.
        arrival.exchange.note_key(Revoked::by(holder.void));
    }
    Ok(())
}

/// What is told to whoever is still served by a key that is no longer accepted.
pub(super) fn revoked_key() -> Failure {
    Failure {
        progress: Progress::MayHaveBegun,
        ..Failure::new(
            Reason::KeyInvalid,
            "the key is no longer valid: what was still open with it ends",
        )
    }
}

fn unknown_key() -> Failure {
    Failure::new(
        Reason::KeyInvalid,
        "the key is not known or no longer valid: repeating the call with it will not help",
    )
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::session::SessionId;
    use crate::ingress::access::{PATHS, TOKEN_METHODS};

    fn keys() -> Keys {
        let key = |name: &str, scopes: &[Scope], expires: Option<SystemTime>| Key {
            name: name.into(),
            hash: hash(format!("{name}-secret").as_bytes()),
            scopes: scopes.to_vec(),
            expires,
            quota: None,
            revoked: Revoked::default(),
        };
        let past = SystemTime::now() - Duration::from_secs(1);
        let future = SystemTime::now() + Duration::from_secs(60);
        Keys {
            keys: vec![
                key("router", &[Scope::Route], None),
                key("all", &[Scope::Admin], Some(future)),
                key("old", &[Scope::Admin], Some(past)),
            ],
            identities: Vec::new(),
            reflection: Reflection::WithKey,
        }
    }

    /// One session, whose token is `ost_good`.
    fn sessions() -> FindToken {
        Arc::new(|hash| {
            let id = SessionId::parse("s1").ok()?;
            (*hash == token::hash(b"ost_good")).then(|| TokenHolder {
                session: id,
                caller: "router".to_owned(),
                void: CancellationToken::new(),
            })
        })
    }

    #[test]
    fn the_token_of_a_session_is_good_for_its_calls_and_for_nothing_else() {
        for (path, _) in METHODS {
            let expected = if TOKEN_METHODS.contains(&path) {
                Ok(())
            } else {
                Err(Reason::SessionTokenForeign)
            };
            check(path, &["Bearer ost_good"], expected);
            check(path, &["Bearer ost_wrong"], Err(Reason::KeyInvalid));
            check(path, &["Bearer ost_"], Err(Reason::KeyInvalid));
            let twice = ["Bearer ost_good", "Bearer ost_good"];
            check(path, &twice, Err(Reason::KeyMissing));
        }
        let good = [
            "/orchestrator/sessions/send",
            "/orchestrator/sessions/{id}",
            "/orchestrator/sessions/{id}/events",
            "/orchestrator/sessions/{id}/ack",
        ];
        for (path, access) in PATHS {
            let is_good = good.contains(&path) || access == Access::Public;
            let expected = if is_good {
                Ok(())
            } else {
                Err(Reason::SessionTokenForeign)
            };
            check(path, &["Bearer ost_good"], expected);
            check(&format!("/api{path}"), &["Bearer ost_good"], expected);
        }
        // Whose session it is, the method sees.
        for path in good {
            let path = &path.replace("{id}", "other");
            check(path, &["Bearer ost_good"], Ok(()));
            check(path, &["Bearer ost_wrong"], Err(Reason::KeyInvalid));
        }
        let later = "/orchestrator/sessions/s1/later";
        for path in [
            later,
            "/openclaw.later.v1.S/M",
            "/grpc.reflection.v1.R/I",
            "/",
        ] {
            let foreign = Err(Reason::SessionTokenForeign);
            check(path, &["Bearer ost_good"], foreign);
        }
    }

    fn check(path: &str, authorization: &[&str], expected: Result<(), Reason>) {
        let mut request = Request::builder().uri(path).body(()).unwrap();
        for value in authorization {
            request
                .headers_mut()
                .append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let found = keys()
            .authenticate(&mut request, &sessions())
            .map_err(|failure| failure.reason);
        assert_eq!(found, expected, "{path} {authorization:?}");
    }

    #[test]
    fn a_call_needs_a_key_with_its_scope() {
        let (route, fanout) = (METHODS[0].0, METHODS[1].0);
        check(route, &["Bearer router-secret"], Ok(()));
        check(route, &["bearer router-secret"], Ok(()));
        check(fanout, &["Bearer router-secret"], Err(Reason::ScopeMissing));
        check(fanout, &["Bearer all-secret"], Ok(()));
        check(route, &[], Err(Reason::KeyMissing));
        check(route, &["Bearer "], Err(Reason::KeyMissing));
        check(route, &["Basic router-secret"], Err(Reason::KeyMissing));
        check(route, &["Bearer wrong"], Err(Reason::KeyInvalid));
        check(route, &["Bearer old-secret"], Err(Reason::KeyInvalid));
        check(
            route,
            &["Bearer router-secret", "Bearer router-secret"],
            Err(Reason::KeyMissing),
        );
    }

    #[test]
    fn only_health_is_public_and_what_is_not_listed_is_closed() {
        check("/grpc.health.v1.Health/Check", &[], Ok(()));
        check(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            &[],
            Err(Reason::KeyMissing),
        );
        check(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            &["Bearer router-secret"],
            Ok(()),
        );
        check(
            "/openclaw.orchestrator.v1.OrchestratorService/Future",
            &["Bearer router-secret"],
            Err(Reason::ScopeMissing),
        );
        check("/", &[], Err(Reason::KeyMissing));
        check("/api/health/check", &[], Ok(()));
        check("/health/check", &[], Ok(()));
        check("/api/api/health/check", &[], Err(Reason::KeyMissing));
        let (route, fanout) = ("/api/orchestrator/route", "/orchestrator/fanout");
        check(route, &["Bearer router-secret"], Ok(()));
        check(fanout, &["Bearer router-secret"], Err(Reason::ScopeMissing));
        check(
            "/api/orchestrator/future",
            &["Bearer router-secret"],
            Err(Reason::ScopeMissing),
        );
    }
}
