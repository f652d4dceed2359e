//! The token of a session, shown where a key is expected: for which methods it is good, and how it is looked up.

use std::sync::Arc;

use http::Request;

use super::arrival::Arrival;
use super::caller::Caller;
use crate::domain::failure::{Failure, Reason};
use crate::domain::session::{SessionId, token};

/// The method whose stream lasts as long as both sides like.
pub(super) const SESSION_SEND: &str = "/openclaw.orchestrator.v1.OrchestratorService/SessionSend";

/// The methods for which the token of a session is as good as a key, for its own session.
pub const TOKEN_METHODS: [&str; 4] = [
    SESSION_SEND,
    "/openclaw.orchestrator.v1.OrchestratorService/SessionPost",
    "/openclaw.orchestrator.v1.OrchestratorService/SessionGet",
    "/openclaw.orchestrator.v1.OrchestratorService/SessionClose",
];

/// Finds the session that the token with this hash is good for, and the name of the key that has spawned it.
pub type FindToken = Arc<dyn Fn(&token::Hash) -> Option<(SessionId, String)> + Send + Sync>;

/// The session that is shown, if it is one.
pub(super) fn session_of(shown: &[u8], sessions: &FindToken) -> Option<(SessionId, String)> {
    if !shown.starts_with(token::PREFIX.as_bytes()) {
        return None;
    }
    sessions(&token::hash(shown))
}

/// Lets a request of a session's own pass. The method compares the session with the one that is asked for.
pub(super) fn let_session_pass<B>(
    request: &mut Request<B>,
    session: SessionId,
    caller: String,
) -> Result<(), Failure> {
    if !TOKEN_METHODS.contains(&request.uri().path()) {
        let detail = "the token of a session is good for SessionSend, SessionPost, SessionGet and SessionClose";
        return Err(Failure::new(Reason::SessionTokenForeign, detail));
    }
    if let Some(arrival) = request.extensions_mut().get_mut::<Arrival>() {
        arrival.caller = Caller(Some(caller.into()));
        arrival.session = Some(session);
    }
    Ok(())
}
