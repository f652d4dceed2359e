//! What the framework says of a stream that a client has broken.

use tonic::{Code, Status};

use crate::domain::failure::{Failure, Reason};

/// Why no more frames come.
pub(super) fn gone(status: &Status) -> Failure {
    let code = status.code();
    // The framework's own refusals: a message that is too large, or is none.
    let reason = match code {
        Code::OutOfRange | Code::ResourceExhausted => Reason::MessageTooLarge,
        Code::Internal | Code::InvalidArgument => Reason::RequestMalformed,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Reason::CallerGone,
    };
    Failure::new(
        reason,
        format!("the stream was cut off: {}", status.message()),
    )
}
