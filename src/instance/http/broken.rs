//! What it says about a task that the connection which carried it has broken.

use std::error::Error as _;

use crate::domain::failure::{Failure, Progress, Reason};
use crate::domain::id::InstanceId;
use crate::instance::reset;

/// The connection broke after the request had begun to leave, and before an answer.
pub(super) fn before_answer(id: &InstanceId, error: &hyper::Error) -> Failure {
    if let Some(error) = of_http2(error) {
        return reset::before_answer(id, error);
    }
    if error.is_parse() {
        let detail = format!(
            "the answer is not HTTP/1.1: {error} (an instance that speaks gRPC is written grpc://host:port)"
        );
        return Failure::at(id, Reason::AnswerMalformed, Progress::Answered, detail);
    }
    lost(id, error, Progress::MayHaveBegun)
}

/// The connection broke after the answer had begun.
pub(super) fn within_answer(id: &InstanceId, error: &hyper::Error) -> Failure {
    match of_http2(error) {
        Some(error) => reset::within_answer(id, error),
        None => lost(id, error, Progress::Answered),
    }
}

fn lost(id: &InstanceId, error: &hyper::Error, progress: Progress) -> Failure {
    let detail = if error.is_incomplete_message() && progress == Progress::MayHaveBegun {
        "the instance closed the connection before it answered"
    } else if progress == Progress::MayHaveBegun {
        "the connection to the instance broke before it answered"
    } else {
        "the connection to the instance broke within its answer"
    };
    Failure::at(id, Reason::InstanceLost, progress, detail)
}

fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}
