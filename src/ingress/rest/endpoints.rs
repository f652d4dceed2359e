//! The endpoints of the REST door, as one table: the router finds them in it, and the OpenAPI document is made
//! from it.

use http::Method;

use crate::domain::failure::Reason;

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Route,
    Fanout,
    Explain,
    SessionSpawn,
    SessionSend,
    SessionGet,
    SessionList,
    SessionClose,
    SessionEvents,
    SessionAck,
    Health,
    HealthWatch,
    Register,
    Deregister,
    ListInstances,
    Drain,
    Undrain,
    Check,
    Document,
}

/// One method of one path.
pub(super) struct Endpoint {
    pub(super) verb: Method,
    /// Without the `/api` that may stand in front.
    pub(super) path: &'static str,
    pub(super) operation: Operation,
    /// One line.
    pub(super) summary: &'static str,
    /// The message of the contract that its body is.
    pub(super) body: Option<&'static str>,
    /// Such a body.
    pub(super) example: Option<&'static str>,
    /// What may stand behind the question mark.
    pub(super) query: &'static [Query],
    /// What it fails with.
    pub(super) reasons: &'static [&'static [Reason]],
}

/// What may stand behind the question mark.
pub(super) struct Query {
    /// In camelCase; snake_case is taken, too.
    pub(super) name: &'static str,
    pub(super) holds: Holds,
    pub(super) about: &'static str,
}

/// What a part of the query holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Text; it may be there more than once.
    Texts,
    Text,
    Flag,
    Count,
    /// A word of this enum of the contract.
    Word(&'static str),
}

const INSTANCES: Query = Query {
    name: "instances",
    holds: Holds::Texts,
    about: "Target expressions such as A-H; the whole fleet when absent.",
};
const PAGE_SIZE: Query = Query {
    name: "pageSize",
    holds: Holds::Count,
    about: "How many at most; 1000 when absent, which is also the maximum.",
};
const PAGE_TOKEN: Query = Query {
    name: "pageToken",
    holds: Holds::Text,
    about: "The nextPageToken of the page before.",
};

/// Of every endpoint.
const EVERY: &[Reason] = &[
    Reason::ArgumentInvalid,
    Reason::TimeoutInvalid,
    Reason::NotAcceptable,
    Reason::Internal,
];
/// Of endpoints that need a key.
const KEYED: &[Reason] = &[
    Reason::KeyMissing,
    Reason::KeyInvalid,
    Reason::ScopeMissing,
    Reason::SessionTokenForeign,
];
/// Of endpoints with a body.
const BODY: &[Reason] = &[
    Reason::RequestMalformed,
    Reason::MediaTypeUnsupported,
    Reason::MessageTooLarge,
    Reason::DeadlineExceeded,
    Reason::CallerGone,
    Reason::MemoryFull,
];
/// Of endpoints that select instances.
const TARGETS: &[Reason] = &[Reason::TargetInvalid, Reason::TargetUnknown];
/// Of endpoints that hand work to instances.
const WORK: &[Reason] = &[
    Reason::PayloadInvalid,
    Reason::DeadlineExceeded,
    Reason::Overloaded,
    Reason::CallerLimit,
    Reason::Draining,
];
/// Of a task at one instance; what the instance itself may say comes on top.
const TASK: &[Reason] = &[
    Reason::IdempotencyConflict,
    Reason::InstanceDown,
    Reason::NoInstance,
    Reason::InstanceLost,
    Reason::AnswerMalformed,
    Reason::AnswerTooLarge,
];
/// Of a fan-out as a whole.
const GATHER: &[Reason] = &[
    Reason::CompletionUnmet,
    Reason::CompletionLate,
    Reason::AggregateTooLarge,
    Reason::SlowConsumer,
];
/// Of what asks the keeper of sessions.
const KEPT: &[Reason] = &[
    Reason::JournalFailed,
    Reason::Draining,
    Reason::DeadlineExceeded,
];
const SPAWN: &[Reason] = &[
    Reason::SessionExists,
    Reason::SessionFull,
    Reason::SessionUnsupported,
    Reason::JournalFull,
    Reason::InstanceDown,
    Reason::NoInstance,
    Reason::TooMany,
];
const SEND: &[Reason] = &[
    Reason::PayloadInvalid,
    Reason::SessionUnknown,
    Reason::SessionClosed,
    Reason::SessionStale,
    Reason::SessionFull,
    Reason::JournalFull,
    Reason::AnswerMalformed,
    Reason::TooMany,
];
/// Of what ends with the watch, or before it begins.
const WATCH: &[Reason] = &[Reason::TooMany, Reason::Draining, Reason::DeadlineExceeded];
const LISTEN: &[Reason] = &[
    Reason::SessionUnknown,
    Reason::SessionClosed,
    Reason::SessionTruncated,
    Reason::SessionSuperseded,
    Reason::SessionStale,
    Reason::TooMany,
];
const REGISTER: &[Reason] = &[
    Reason::AddressNotAllowed,
    Reason::InstanceConfigured,
    Reason::IncarnationStale,
    Reason::FleetFull,
];
const DEREGISTER: &[Reason] = &[
    Reason::InstanceConfigured,
    Reason::IncarnationStale,
    Reason::RegistrationUnknown,
];

/// Every endpoint.
pub(super) static ENDPOINTS: [Endpoint; 19] = [
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/route",
        operation: Operation::Route,
        summary: "Hands one task to one of the instances named and brings back its answer",
        body: Some("RouteRequest"),
        example: Some(r#"{"instances": ["A", "B"], "payload": {"data": "task"}, "timeout": 5}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS, WORK, TASK],
    },
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/fanout",
        operation: Operation::Fanout,
        summary: "Hands one task to every target: as an array in roster order with aggregate, otherwise as a stream \
                  of one JSON event a line",
        body: Some("FanoutRequest"),
        example: Some(r#"{"targets": ["A", "C"], "payload": {"data": "task"}, "aggregate": true}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS, WORK, GATHER],
    },
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/explain",
        operation: Operation::Explain,
        summary: "Tells what a Route or a Fanout would do, and why, without doing it",
        body: Some("ExplainRequest"),
        example: Some(
            r#"{"route": {"instances": ["A", "B"], "policy": {"selection": "ordered"}}}"#,
        ),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS, &[Reason::PayloadInvalid]],
    },
    Endpoint {
        verb: Method::GET,
        path: "/orchestrator/health",
        operation: Operation::Health,
        summary: "Tells who is well",
        body: None,
        example: None,
        query: &[
            INSTANCES,
            Query {
                name: "verbose",
                holds: Holds::Flag,
                about: "Why, since when, and how fast, instead of one word for each.",
            },
        ],
        reasons: &[EVERY, KEYED, TARGETS],
    },
    Endpoint {
        verb: Method::GET,
        path: "/orchestrator/health/events",
        operation: Operation::HealthWatch,
        summary: "Tells who is well, and then each change, as server-sent events",
        body: None,
        example: None,
        query: &[INSTANCES],
        reasons: &[EVERY, KEYED, TARGETS, WATCH],
    },
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/sessions/spawn",
        operation: Operation::SessionSpawn,
        summary: "Begins a session with one of the instances named and brings back its token",
        body: Some("SessionSpawnRequest"),
        example: Some(r#"{"sessionId": "session1", "instances": ["A-C"]}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS, KEPT, SPAWN],
    },
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/sessions/send",
        operation: Operation::SessionSend,
        summary: "Sends one message of a session, and waits for the reply unless told not to",
        body: Some("SessionPostRequest"),
        example: Some(r#"{"sessionId": "session1", "payload": {"key": "value"}, "noWait": true}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, KEPT, SEND],
    },
    Endpoint {
        verb: Method::GET,
        path: "/orchestrator/sessions",
        operation: Operation::SessionList,
        summary: "Lists sessions, a page at a time, in order of id",
        body: None,
        example: None,
        query: &[
            PAGE_SIZE,
            PAGE_TOKEN,
            Query {
                name: "state",
                holds: Holds::Word("SessionState"),
                about: "Only those in this state.",
            },
            Query {
                name: "instance",
                holds: Holds::Text,
                about: "Only those that this instance holds.",
            },
            Query {
                name: "labels",
                holds: Holds::Texts,
                about: "NAME=VALUE: only those that have this label.",
            },
        ],
        reasons: &[EVERY, KEYED, KEPT],
    },
    Endpoint {
        verb: Method::GET,
        path: "/orchestrator/sessions/{id}",
        operation: Operation::SessionGet,
        summary: "Tells how a session is",
        body: None,
        example: None,
        query: &[],
        reasons: &[EVERY, KEYED, KEPT, &[Reason::SessionUnknown]],
    },
    Endpoint {
        verb: Method::DELETE,
        path: "/orchestrator/sessions/{id}",
        operation: Operation::SessionClose,
        summary: "Ends a session for both sides",
        body: None,
        example: None,
        query: &[],
        reasons: &[
            EVERY,
            KEYED,
            KEPT,
            &[
                Reason::SessionUnknown,
                Reason::SessionStale,
                Reason::JournalFull,
                Reason::TooMany,
            ],
        ],
    },
    Endpoint {
        verb: Method::GET,
        path: "/orchestrator/sessions/{id}/events",
        operation: Operation::SessionEvents,
        summary: "Attaches to a session: what its instance says, as server-sent events",
        body: None,
        example: None,
        query: &[],
        reasons: &[EVERY, KEYED, KEPT, LISTEN],
    },
    Endpoint {
        verb: Method::POST,
        path: "/orchestrator/sessions/{id}/ack",
        operation: Operation::SessionAck,
        summary: "Says what has arrived of what the instance says, so that it is not sent again",
        body: Some("SessionAck"),
        example: Some(r#"{"seq": 0}"#),
        query: &[],
        reasons: &[
            EVERY,
            KEYED,
            BODY,
            KEPT,
            &[
                Reason::SessionUnknown,
                Reason::SessionStale,
                Reason::TooMany,
            ],
        ],
    },
    Endpoint {
        verb: Method::POST,
        path: "/cluster/register",
        operation: Operation::Register,
        summary: "Adds an instance to the fleet or renews its lease; with a skillId alone it tells what the skill \
                  offers",
        body: Some("RegisterRequest"),
        example: Some(r#"{"skillId": "orchestrator"}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, REGISTER],
    },
    Endpoint {
        verb: Method::POST,
        path: "/cluster/deregister",
        operation: Operation::Deregister,
        summary: "Removes a registered instance",
        body: Some("DeregisterRequest"),
        example: Some(r#"{"id": "w1", "incarnation": 1}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, DEREGISTER],
    },
    Endpoint {
        verb: Method::GET,
        path: "/cluster/instances",
        operation: Operation::ListInstances,
        summary: "Lists the fleet, a page at a time, in order of id",
        body: None,
        example: None,
        query: &[PAGE_SIZE, PAGE_TOKEN],
        reasons: &[EVERY, KEYED],
    },
    Endpoint {
        verb: Method::POST,
        path: "/cluster/drain",
        operation: Operation::Drain,
        summary: "Sends no new work to instances, and lets them finish what they have",
        body: Some("DrainRequest"),
        example: Some(r#"{"instances": ["H"]}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS],
    },
    Endpoint {
        verb: Method::POST,
        path: "/cluster/undrain",
        operation: Operation::Undrain,
        summary: "Gives instances work again",
        body: Some("UndrainRequest"),
        example: Some(r#"{"instances": ["H"]}"#),
        query: &[],
        reasons: &[EVERY, KEYED, BODY, TARGETS],
    },
    Endpoint {
        verb: Method::GET,
        path: "/health/check",
        operation: Operation::Check,
        summary: "Tells whether the orchestrator itself takes calls",
        body: None,
        example: None,
        query: &[],
        reasons: &[EVERY],
    },
    Endpoint {
        verb: Method::GET,
        path: "/openapi.json",
        operation: Operation::Document,
        summary: "This document",
        body: None,
        example: None,
        query: &[],
        reasons: &[EVERY],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::access::PATHS;

    #[test]
    fn every_path_has_its_access_and_every_access_its_path() {
        let served = ENDPOINTS.iter().map(|endpoint| endpoint.path);
        let mut served: Vec<_> = served.collect();
        served.sort_unstable();
        served.dedup();
        let mut known: Vec<_> = PATHS.iter().map(|(path, _)| *path).collect();
        known.sort_unstable();
        assert_eq!(served, known);
    }
}
