//! What a failed call says about its instance: the one place where that is decided.

use std::time::Duration;

use crate::domain::failure::{Failure, Progress, Reason, Status};

/// A shorter time than this was the caller's choice: that an instance did not keep it says nothing about it.
const BLAMED_TIME_MIN: Duration = Duration::from_secs(1);

/// What one call says about its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It did its work.
    Success,
    /// It failed, and that is its own fault.
    Failure,
    /// Nothing: the fault is the caller's, or ours.
    Nothing,
}

/// What a failed call says about its instance, which had so much time.
#[must_use]
pub fn said(failure: &Failure, given: Duration) -> Said {
    let late = if BLAMED_TIME_MIN <= given {
        Said::Failure
    } else {
        Said::Nothing
    };
    match failure.reason {
        Reason::InstanceFailed(status) => said_by(status, late),
        Reason::DeadlineExceeded if failure.progress != Progress::NeverSent => late,
        Reason::InstanceDown | Reason::InstanceLost | Reason::AnswerMalformed => Said::Failure,
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
        | Reason::DeadlineExceeded
        | Reason::CallerGone
        | Reason::InstanceDraining
        | Reason::NoInstance
        | Reason::AnswerTooLarge
        | Reason::NotNeeded
        | Reason::CompletionUnmet
        | Reason::CompletionLate
        | Reason::AggregateTooLarge
        | Reason::SlowConsumer
        | Reason::TooMany
        | Reason::Overloaded
        | Reason::CallerLimit
        | Reason::InstanceBusy
        | Reason::MemoryFull
        | Reason::Draining
        | Reason::AddressNotAllowed
        | Reason::InstanceConfigured
        | Reason::IncarnationStale
        | Reason::RegistrationUnknown
        | Reason::FleetFull
        | Reason::SessionUnknown
        | Reason::SessionExists
        | Reason::SessionClosed
        | Reason::SessionSuperseded
        | Reason::SessionTruncated
        | Reason::SessionStale
        | Reason::SessionFull
        | Reason::SessionUnsupported
        | Reason::SessionTokenForeign
        | Reason::JournalFull
        | Reason::JournalFailed
        | Reason::Internal => Said::Nothing,
    }
}

/// What an instance's own status says of it.
fn said_by(status: Status, late: Said) -> Said {
    match status {
        // The caller's faults, what the task itself led to, and a load that others may share.
        Status::Cancelled
        | Status::InvalidArgument
        | Status::NotFound
        | Status::AlreadyExists
        | Status::PermissionDenied
        | Status::ResourceExhausted
        | Status::FailedPrecondition
        | Status::Aborted
        | Status::OutOfRange => Said::Nothing,
        Status::DeadlineExceeded => late,
        // It shows our credential to nobody else, and every instance has the method that is called.
        Status::Unauthenticated
        | Status::Unimplemented
        | Status::Unknown
        | Status::Internal
        | Status::Unavailable
        | Status::DataLoss => Said::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::InstanceId;

    #[test]
    fn only_what_an_instance_can_help_is_held_against_it() {
        let id = InstanceId::parse("A").unwrap();
        let check = |reason, progress, given, expected| {
            let failure = Failure::at(&id, reason, progress, "");
            let given = Duration::from_millis(given);
            assert_eq!(said(&failure, given), expected, "{reason:?} {given:?}");
        };
        use Progress::{Answered, MayHaveBegun, NeverSent};
        check(Reason::InstanceDown, NeverSent, 1, Said::Failure);
        check(Reason::InstanceLost, MayHaveBegun, 1, Said::Failure);
        check(Reason::AnswerMalformed, Answered, 1, Said::Failure);
        check(Reason::DeadlineExceeded, MayHaveBegun, 1000, Said::Failure);
        check(Reason::DeadlineExceeded, MayHaveBegun, 999, Said::Nothing);
        check(Reason::DeadlineExceeded, NeverSent, 1000, Said::Nothing);
        check(Reason::TooMany, NeverSent, 1000, Said::Nothing);
        check(Reason::InstanceDraining, NeverSent, 1000, Said::Nothing);
        let faults = [
            Status::Unknown,
            Status::Internal,
            Status::Unavailable,
            Status::DataLoss,
            Status::Unimplemented,
            Status::Unauthenticated,
        ];
        for status in (1..=16).filter_map(Status::from_number) {
            let fault = faults.contains(&status);
            let expected = if fault { Said::Failure } else { Said::Nothing };
            check(Reason::InstanceFailed(status), MayHaveBegun, 1, expected);
        }
    }
}
