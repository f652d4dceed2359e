//! What it says about a task that the HTTP/2 stream which carried it has broken.

use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;

/// The stream broke before an answer began.
pub(super) fn before_answer(id: &InstanceId, error: &h2::Error) -> Failure {
    let refused =
        error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 hands a remote GOAWAY only to streams above the last one that the peer will process.
    let above_goaway = error.is_remote() && error.is_go_away();
    if refused || above_goaway {
        let detail = if refused {
            "the instance refused the call"
        } else {
            "the instance is going away"
        };
        return Failure::at(id, Reason::InstanceDown, Progress::NeverBegan, detail);
    }
    lost(id, error)
}

/// The stream broke after its answer had begun.
pub(super) fn within_answer(id: &InstanceId, error: &h2::Error) -> Failure {
    Failure {
        progress: Progress::Answered,
        ..lost(id, error)
    }
}

fn lost(id: &InstanceId, error: &h2::Error) -> Failure {
    let detail = match error.reason() {
        Some(reason) if error.is_reset() => {
            format!("the instance reset the call: {}", reason.description())
        }
        Some(reason) => format!("the connection broke: {}", reason.description()),
        None => "the connection to the instance broke".to_owned(),
    };
    Failure::at(id, Reason::InstanceLost, Progress::MayHaveBegun, detail)
}
