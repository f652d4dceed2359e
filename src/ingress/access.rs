//! What may be called with which right.
//!
//! Paths that are not listed need the scope admin, so that a method added later is closed until somebody
//! decides who may call it.

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Route.
    Route,
    /// Fanout.
    Fanout,
    /// Sessions.
    Session,
    /// Reading who is well and who is there.
    Health,
    /// Registering instances.
    Register,
    /// Everything else, and everything above.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 6] = [
        Self::Route,
        Self::Fanout,
        Self::Session,
        Self::Health,
        Self::Register,
        Self::Admin,
    ];

    /// The word in the config.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Fanout => "fanout",
            Self::Session => "session",
            Self::Health => "health",
            Self::Register => "register",
            Self::Admin => "admin",
        }
    }
}

/// What a path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A key, whatever it may be used for.
    AnyKey,
    /// A key with this scope.
    Scope(Scope),
}

/// The methods of the contract and what each needs.
pub const METHODS: [(&str, Scope); 16] = [
    (
        "/openclaw.orchestrator.v1.OrchestratorService/Route",
        Scope::Route,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/Fanout",
        Scope::Fanout,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionSpawn",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionSend",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionPost",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionGet",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionList",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/SessionClose",
        Scope::Session,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/Explain",
        Scope::Health,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/Health",
        Scope::Health,
    ),
    (
        "/openclaw.orchestrator.v1.OrchestratorService/HealthWatch",
        Scope::Health,
    ),
    (
        "/openclaw.orchestrator.v1.ClusterService/Register",
        Scope::Register,
    ),
    (
        "/openclaw.orchestrator.v1.ClusterService/Deregister",
        Scope::Register,
    ),
    (
        "/openclaw.orchestrator.v1.ClusterService/ListInstances",
        Scope::Health,
    ),
    (
        "/openclaw.orchestrator.v1.ClusterService/Drain",
        Scope::Admin,
    ),
    (
        "/openclaw.orchestrator.v1.ClusterService/Undrain",
        Scope::Admin,
    ),
];

/// The paths of the REST door and what each needs; the first that fits counts. They are served with `/api` in
/// front, too. `{id}` stands for the name of a session.
pub const PATHS: [(&str, Access); 18] = [
    ("/orchestrator/route", Access::Scope(Scope::Route)),
    ("/orchestrator/fanout", Access::Scope(Scope::Fanout)),
    ("/orchestrator/explain", Access::Scope(Scope::Health)),
    ("/orchestrator/health", Access::Scope(Scope::Health)),
    ("/orchestrator/health/events", Access::Scope(Scope::Health)),
    (
        "/orchestrator/sessions/spawn",
        Access::Scope(Scope::Session),
    ),
    (SEND_PATH, Access::Scope(Scope::Session)),
    ("/orchestrator/sessions", Access::Scope(Scope::Session)),
    (ONE_PATH, Access::Scope(Scope::Session)),
    (EVENTS_PATH, Access::Scope(Scope::Session)),
    (ACK_PATH, Access::Scope(Scope::Session)),
    ("/cluster/register", Access::Scope(Scope::Register)),
    ("/cluster/deregister", Access::Scope(Scope::Register)),
    ("/cluster/instances", Access::Scope(Scope::Health)),
    ("/cluster/drain", Access::Scope(Scope::Admin)),
    ("/cluster/undrain", Access::Scope(Scope::Admin)),
    ("/health/check", Access::Public),
    // It says what anybody may read in the repository.
    ("/openapi.json", Access::Public),
];

/// What stands in a path for the name of a session.
const ID: &str = "{id}";

/// The path by which a session is told something.
const SEND_PATH: &str = "/orchestrator/sessions/send";
/// The path of one session.
const ONE_PATH: &str = "/orchestrator/sessions/{id}";
/// The path by which a session is listened to.
const EVENTS_PATH: &str = "/orchestrator/sessions/{id}/events";
/// The path by which a listener says what it has.
const ACK_PATH: &str = "/orchestrator/sessions/{id}/ack";

/// Names that no session may have: where the name of a session stands in a path, these are words of their own.
pub const SESSION_NAMES_TAKEN: [&str; 2] = ["spawn", "send"];

/// A path of the REST door that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'p> {
    /// As `PATHS` has it.
    pub form: &'static str,
    /// What it needs.
    pub access: Access,
    /// What stands in it for `{id}`, as it was written; empty where the form has none.
    pub id: &'p str,
}

/// Finds a path, without the `/api` that it may begin with, among those of the REST door.
#[must_use]
pub fn known(path: &str) -> Option<Known<'_>> {
    PATHS.iter().find_map(|(form, access)| {
        let id = fit(form, path)?;
        Some(Known {
            form,
            access: *access,
            id,
        })
    })
}

/// What stands for `{id}` in a path of this form.
fn fit<'p>(form: &str, path: &'p str) -> Option<&'p str> {
    let Some((start, end)) = form.split_once(ID) else {
        return (form == path).then_some("");
    };
    let id = path.strip_prefix(start)?.strip_suffix(end)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// A path of the REST door without the `/api` that it may begin with.
#[must_use]
pub fn without_api(path: &str) -> &str {
    let rest = path.strip_prefix("/api");
    rest.filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

/// The method whose stream lasts as long as both sides like.
pub(super) const SESSION_SEND: &str = "/openclaw.orchestrator.v1.OrchestratorService/SessionSend";

/// The methods for which the token of a session is as good as a key, for its own session.
pub const TOKEN_METHODS: [&str; 4] = [
    SESSION_SEND,
    "/openclaw.orchestrator.v1.OrchestratorService/SessionPost",
    "/openclaw.orchestrator.v1.OrchestratorService/SessionGet",
    "/openclaw.orchestrator.v1.OrchestratorService/SessionClose",
];

/// The paths of the REST door for which it is, too.
pub const TOKEN_PATHS: [&str; 4] = [SEND_PATH, ONE_PATH, EVENTS_PATH, ACK_PATH];

/// Whether the token of a session is as good as a key for a path, for its own session.
#[must_use]
pub fn takes_token(path: &str) -> bool {
    let known = known(without_api(path));
    TOKEN_METHODS.contains(&path) || known.is_some_and(|known| TOKEN_PATHS.contains(&known.form))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<(&str, &str)>) {
        let found = known(path).map(|known| (known.form, known.id));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn a_name_in_a_path_is_one_part_of_it_and_no_path_of_its_own() {
        check(
            "/orchestrator/sessions",
            Some(("/orchestrator/sessions", "")),
        );
        check("/orchestrator/sessions/s.1", Some((ONE_PATH, "s.1")));
        check("/orchestrator/sessions/%73", Some((ONE_PATH, "%73")));
        check("/orchestrator/sessions/{id}", Some((ONE_PATH, "{id}")));
        check("/orchestrator/sessions/send", Some((SEND_PATH, "")));
        check("/orchestrator/sessions/sender", Some((ONE_PATH, "sender")));
        check("/orchestrator/sessions/", None);
        check("/orchestrator/sessions/s/", None);
        let events = "/orchestrator/sessions/s.1/events";
        check(events, Some((EVENTS_PATH, "s.1")));
        check("/orchestrator/sessions/events", Some((ONE_PATH, "events")));
        check("/orchestrator/sessions//events", None);
        check("/orchestrator/sessions/s/t/events", None);
        check("/orchestrator/sessions/s/events/", None);
        check("/orchestrator/sessions//s", None);
        check("/api/orchestrator/sessions/s", None);
        check("/orchestrator/session", None);
    }

    #[test]
    fn a_word_that_hides_the_path_of_a_session_is_no_name_of_one() {
        let start = ONE_PATH.strip_suffix(ID).unwrap();
        let words = PATHS
            .iter()
            .filter_map(|(form, _)| form.strip_prefix(start));
        let words: Vec<_> = words.filter(|word| !word.starts_with(ID)).collect();
        assert_eq!(words, SESSION_NAMES_TAKEN);
    }
}
