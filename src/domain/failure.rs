//! Everything that can go wrong, as one closed list. How it looks on the wire is decided in
//! `ingress::failure_table` and nowhere else.

use std::borrow::Cow;
use std::fmt;

use super::id::InstanceId;
use super::limit::FAILURE_DETAIL_CHARS_MAX;
use super::retry::Pushback;

/// Why something did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub reason: Reason,
    /// What happened and what to do, for people. Holds no payload and no key.
    pub detail: Cow<'static, str>,
    /// The instance concerned.
    pub instance: Option<InstanceId>,
    /// Whether the task may have been executed.
    pub progress: Progress,
    /// What the instance asks of whoever would try again.
    pub pushback: Option<Pushback>,
}

/// How far a task had come when it failed: what decides whether repeating it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing has left this process.
    NeverSent,
    /// Sent, and by its own word not begun by the instance (REFUSED_STREAM, GOAWAY).
    NeverBegan,
    /// Sent; the instance may have begun.
    MayHaveBegun,
    /// The answer had begun.
    Answered,
}

impl Progress {
    /// The one that has come farther.
    #[must_use]
    pub fn farthest(self, other: Self) -> Self {
        let distance = |progress| match progress {
            Self::NeverSent => 0,
            Self::NeverBegan => 1,
            Self::MayHaveBegun => 2,
            Self::Answered => 3,
        };
        if distance(self) < distance(other) {
            other
        } else {
            self
        }
    }
}

/// The kinds of failure. A new one does not compile until `failure_table` gives it a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No `authorization` header, or one that is not `Bearer KEY`.
    KeyMissing,
    /// A key that is not known, or no longer valid.
    KeyInvalid,
    /// A key that may not make this call.
    ScopeMissing,
    /// No such method.
    MethodUnknown,
    /// A path of the REST door that does not have this HTTP method.
    MethodNotAllowed,
    /// A body in a form that the REST door does not read.
    MediaTypeUnsupported,
    /// A caller of the REST door who takes none of the forms that the answer has.
    NotAcceptable,
    /// A field of the request that cannot be meant; the detail names it.
    ArgumentInvalid,
    /// A target expression that cannot be read.
    TargetInvalid,
    /// A target that is not in the fleet.
    TargetUnknown,
    /// A payload that is not a Value.
    PayloadInvalid,
    /// An idempotency key that was given to another request.
    IdempotencyConflict,
    /// A `grpc-timeout` that cannot be read.
    TimeoutInvalid,
    /// A message larger than is taken.
    MessageTooLarge,
    /// The protocol of the request is broken.
    RequestMalformed,
    /// Time ran out.
    DeadlineExceeded,
    /// The caller ended the call.
    CallerGone,
    /// An instance is down, or could not be reached: the task never began there.
    InstanceDown,
    /// An instance that its operator drains, or has disabled: it gets nothing new.
    InstanceDraining,
    /// No candidate is left to try.
    NoInstance,
    /// The connection to an instance broke, or the instance reset the call, after the task was sent.
    InstanceLost,
    /// An instance answered with a status of its own, this one.
    InstanceFailed(Status),
    /// An instance answered with what is not an answer.
    AnswerMalformed,
    /// An instance answered with more than is taken.
    AnswerTooLarge,
    /// The call was complete without this target.
    NotNeeded,
    /// The completion rule of a fan-out was not met.
    CompletionUnmet,
    /// The completion rule of a fan-out was not met in time.
    CompletionLate,
    /// The collected results of a fan-out are larger than an answer may be.
    AggregateTooLarge,
    /// The caller does not read what it asked for.
    SlowConsumer,
    /// More calls of a kind than are held at once.
    TooMany,
    /// The orchestrator has as much work as it takes.
    Overloaded,
    /// The key has as much work as it may have.
    CallerLimit,
    /// An instance has as many calls as it may have.
    InstanceBusy,
    /// The messages that are held fill the memory for them.
    MemoryFull,
    /// The orchestrator is about to stop.
    Draining,
    /// An address that this orchestrator may not call.
    AddressNotAllowed,
    /// An id that is named in the config.
    InstanceConfigured,
    /// An incarnation older than the registered one.
    IncarnationStale,
    /// No such registration.
    RegistrationUnknown,
    /// The fleet has as many instances as it may have.
    FleetFull,
    /// No such session, or none any more.
    SessionUnknown,
    /// The name of a new session is in use.
    SessionExists,
    /// The session has ended.
    SessionClosed,
    /// Another stream has attached to the session.
    SessionSuperseded,
    /// The client of a session asks for what it has acknowledged.
    SessionTruncated,
    /// Somebody else holds the session now.
    SessionStale,
    /// A bound of the session's log is reached.
    SessionFull,
    /// An instance that is reached in a way that has no sessions.
    SessionUnsupported,
    /// The token of a session, shown for something else than its session's own calls.
    SessionTokenForeign,
    /// The disk has no room for what sessions must keep.
    JournalFull,
    /// The disk has failed for what sessions must keep.
    JournalFailed,
    /// A bug of ours.
    Internal,
}

impl Reason {
    /// Every kind, for tables; an instance's status stands there with one for all.
    pub const ALL: [Self; 52] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::ScopeMissing,
        Self::MethodUnknown,
        Self::MethodNotAllowed,
        Self::MediaTypeUnsupported,
        Self::NotAcceptable,
        Self::ArgumentInvalid,
        Self::TargetInvalid,
        Self::TargetUnknown,
        Self::PayloadInvalid,
        Self::IdempotencyConflict,
        Self::TimeoutInvalid,
        Self::MessageTooLarge,
        Self::RequestMalformed,
        Self::DeadlineExceeded,
        Self::CallerGone,
        Self::InstanceDown,
        Self::InstanceDraining,
        Self::NoInstance,
        Self::InstanceLost,
        Self::InstanceFailed(Status::Unknown),
        Self::AnswerMalformed,
        Self::AnswerTooLarge,
        Self::NotNeeded,
        Self::CompletionUnmet,
        Self::CompletionLate,
        Self::AggregateTooLarge,
        Self::SlowConsumer,
        Self::TooMany,
        Self::Overloaded,
        Self::CallerLimit,
        Self::InstanceBusy,
        Self::MemoryFull,
        Self::Draining,
        Self::AddressNotAllowed,
        Self::InstanceConfigured,
        Self::IncarnationStale,
        Self::RegistrationUnknown,
        Self::FleetFull,
        Self::SessionUnknown,
        Self::SessionExists,
        Self::SessionClosed,
        Self::SessionSuperseded,
        Self::SessionTruncated,
        Self::SessionStale,
        Self::SessionFull,
        Self::SessionUnsupported,
        Self::SessionTokenForeign,
        Self::JournalFull,
        Self::JournalFailed,
        Self::Internal,
    ];

    /// The name on the wire: `ErrorInfo.reason`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyMissing => "KEY_MISSING",
            Self::KeyInvalid => "KEY_INVALID",
            Self::ScopeMissing => "SCOPE_MISSING",
            Self::MethodUnknown => "METHOD_UNKNOWN",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::MediaTypeUnsupported => "MEDIA_TYPE_UNSUPPORTED",
            Self::NotAcceptable => "NOT_ACCEPTABLE",
            Self::ArgumentInvalid => "ARGUMENT_INVALID",
            Self::TargetInvalid => "TARGET_INVALID",
            Self::TargetUnknown => "TARGET_UNKNOWN",
            Self::PayloadInvalid => "PAYLOAD_INVALID",
            Self::IdempotencyConflict => "IDEMPOTENCY_CONFLICT",
            Self::TimeoutInvalid => "TIMEOUT_INVALID",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::RequestMalformed => "REQUEST_MALFORMED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::CallerGone => "CALLER_GONE",
            Self::InstanceDown => "INSTANCE_DOWN",
            Self::InstanceDraining => "INSTANCE_DRAINING",
            Self::NoInstance => "NO_INSTANCE",
            Self::InstanceLost => "INSTANCE_LOST",
            Self::InstanceFailed(_) => "INSTANCE_FAILED",
            Self::AnswerMalformed => "ANSWER_MALFORMED",
            Self::AnswerTooLarge => "ANSWER_TOO_LARGE",
            Self::NotNeeded => "NOT_NEEDED",
            Self::CompletionUnmet | Self::CompletionLate => "COMPLETION_UNMET",
            Self::AggregateTooLarge => "AGGREGATE_TOO_LARGE",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::TooMany => "TOO_MANY",
            Self::Overloaded => "OVERLOADED",
            Self::CallerLimit => "CALLER_LIMIT",
            Self::InstanceBusy => "INSTANCE_BUSY",
            Self::MemoryFull => "MEMORY_FULL",
            Self::Draining => "DRAINING",
            Self::AddressNotAllowed => "ADDRESS_NOT_ALLOWED",
            Self::InstanceConfigured => "INSTANCE_CONFIGURED",
            Self::IncarnationStale => "INCARNATION_STALE",
            Self::RegistrationUnknown => "REGISTRATION_UNKNOWN",
            Self::FleetFull => "FLEET_FULL",
            Self::SessionUnknown => "SESSION_UNKNOWN",
            Self::SessionExists => "SESSION_EXISTS",
            Self::SessionClosed => "SESSION_CLOSED",
            Self::SessionSuperseded => "SESSION_SUPERSEDED",
            Self::SessionTruncated => "SESSION_TRUNCATED",
            Self::SessionStale => "SESSION_STALE",
            Self::SessionFull => "SESSION_FULL",
            Self::SessionUnsupported => "SESSION_UNSUPPORTED",
            Self::SessionTokenForeign => "SESSION_TOKEN_FOREIGN",
            Self::JournalFull => "JOURNAL_FULL",
            Self::JournalFailed => "JOURNAL_FAILED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// The status that an instance answered with; never OK.
/// The codes are those of gRPC (statuscodes.md of the gRPC core documentation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Status {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

const STATUSES: [(u8, &str, Status); 16] = [
    (1, "CANCELLED", Status::Cancelled),
    (2, "UNKNOWN", Status::Unknown),
    (3, "INVALID_ARGUMENT", Status::InvalidArgument),
    (4, "DEADLINE_EXCEEDED", Status::DeadlineExceeded),
    (5, "NOT_FOUND", Status::NotFound),
    (6, "ALREADY_EXISTS", Status::AlreadyExists),
    (7, "PERMISSION_DENIED", Status::PermissionDenied),
    (8, "RESOURCE_EXHAUSTED", Status::ResourceExhausted),
    (9, "FAILED_PRECONDITION", Status::FailedPrecondition),
    (10, "ABORTED", Status::Aborted),
    (11, "OUT_OF_RANGE", Status::OutOfRange),
    (12, "UNIMPLEMENTED", Status::Unimplemented),
    (13, "INTERNAL", Status::Internal),
    (14, "UNAVAILABLE", Status::Unavailable),
    (15, "DATA_LOSS", Status::DataLoss),
    (16, "UNAUTHENTICATED", Status::Unauthenticated),
];

impl Status {
    /// By number; UNKNOWN for a number that is no status, as gRPC clients do. OK is not a failure: `None`.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let known = STATUSES
            .iter()
            .find(|(code, ..)| u64::from(*code) == number);
        Some(known.map_or(Self::Unknown, |(.., status)| *status))
    }

    /// By name, as in `UNAVAILABLE`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        STATUSES
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(.., status)| *status)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        STATUSES
            .iter()
            .find(|(.., status)| *status == self)
            .map_or(2, |(code, ..)| *code)
    }

    /// The name, as in `UNAVAILABLE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        STATUSES
            .iter()
            .find(|(.., status)| *status == self)
            .map_or("UNKNOWN", |(_, name, _)| *name)
    }
}

impl Failure {
    /// A failure before anything was sent to an instance.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: shortened(detail.into()),
            instance: None,
            progress: Progress::NeverSent,
            pushback: None,
        }
    }

    /// A failure of one instance.
    #[must_use]
    pub fn at(
        instance: &InstanceId,
        reason: Reason,
        progress: Progress,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            instance: Some(instance.clone()),
            progress,
            ..Self::new(reason, detail)
        }
    }

    /// True when repeating the same task cannot execute it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let fault_of_the_request = matches!(
            self.reason,
            Reason::KeyMissing
                | Reason::KeyInvalid
                | Reason::ScopeMissing
                | Reason::MethodUnknown
                | Reason::MethodNotAllowed
                | Reason::MediaTypeUnsupported
                | Reason::NotAcceptable
                | Reason::ArgumentInvalid
                | Reason::TargetInvalid
                | Reason::TargetUnknown
                | Reason::PayloadInvalid
                | Reason::IdempotencyConflict
                | Reason::TimeoutInvalid
                | Reason::MessageTooLarge
                | Reason::RequestMalformed
                | Reason::AddressNotAllowed
                | Reason::InstanceConfigured
                | Reason::IncarnationStale
                | Reason::RegistrationUnknown
                | Reason::SessionUnknown
                | Reason::SessionExists
                | Reason::SessionClosed
                | Reason::SessionSuperseded
                | Reason::SessionTruncated
                | Reason::SessionUnsupported
                | Reason::SessionTokenForeign
        );
        let began = matches!(self.progress, Progress::MayHaveBegun | Progress::Answered);
        !began && !fault_of_the_request
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{} at {instance}: {}", self.reason.name(), self.detail),
            None => write!(f, "{}: {}", self.reason.name(), self.detail),
        }
    }
}

impl std::error::Error for Failure {}

fn shortened(detail: Cow<'static, str>) -> Cow<'static, str> {
    match detail.char_indices().nth(FAILURE_DETAIL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &detail[..end]).into(),
        None => detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_clients_read_it() {
        assert_eq!(Status::from_number(0), None);
        assert_eq!(Status::from_number(14), Some(Status::Unavailable));
        assert_eq!(Status::from_number(99), Some(Status::Unknown));
        for number in 1..=16 {
            let status = Status::from_number(number).unwrap();
            assert_eq!(u64::from(status.number()), number);
            assert_eq!(Status::from_name(status.name()), Some(status));
        }
    }

    #[test]
    fn a_detail_from_outside_is_cut_to_its_limit() {
        let failure = Failure::new(Reason::Internal, "ä".repeat(10_000));
        assert_eq!(failure.detail.chars().count(), FAILURE_DETAIL_CHARS_MAX + 1);
    }

    #[test]
    fn only_what_never_began_and_may_succeed_is_retryable() {
        let id = InstanceId::parse("A").unwrap();
        let check = |reason, progress, expected| {
            assert_eq!(
                Failure::at(&id, reason, progress, "").is_retryable(),
                expected,
                "{reason:?} {progress:?}"
            );
        };
        check(Reason::InstanceDown, Progress::NeverBegan, true);
        check(Reason::InstanceLost, Progress::MayHaveBegun, false);
        check(
            Reason::InstanceFailed(Status::Unavailable),
            Progress::Answered,
            false,
        );
        check(Reason::TargetInvalid, Progress::NeverBegan, false);
    }
}
