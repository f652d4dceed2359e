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

/// The paths of the REST door and what each needs. They are served with `/api` in front, too.
pub const PATHS: [(&str, Access); 11] = [
    ("/orchestrator/route", Access::Scope(Scope::Route)),
    ("/orchestrator/fanout", Access::Scope(Scope::Fanout)),
    ("/orchestrator/explain", Access::Scope(Scope::Health)),
    ("/orchestrator/health", Access::Scope(Scope::Health)),
    ("/cluster/register", Access::Scope(Scope::Register)),
    ("/cluster/deregister", Access::Scope(Scope::Register)),
    ("/cluster/instances", Access::Scope(Scope::Health)),
    ("/cluster/drain", Access::Scope(Scope::Admin)),
    ("/cluster/undrain", Access::Scope(Scope::Admin)),
    ("/health/check", Access::Public),
    // It says what anybody may read in the repository.
    ("/openapi.json", Access::Public),
];

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
