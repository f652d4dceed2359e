//! What it says about a task that the connection which carried it has broken.

use std::error::Error;

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
    let detail = format!(
        "the instance closed the connection before it answered{}",
        cause(error)
    );
    Failure::at(id, Reason::InstanceLost, Progress::MayHaveBegun, detail)
}

/// The connection broke after the answer had begun.
pub(super) fn within_answer(id: &InstanceId, error: &hyper::Error) -> Failure {
    if let Some(error) = of_http2(error) {
        return reset::within_answer(id, error);
    }
    let detail = "the connection to the instance broke within its answer";
    Failure::at(id, Reason::InstanceLost, Progress::Answered, detail)
}

/// What the system, or TLS, had to say.
pub(super) fn cause(error: &hyper::Error) -> String {
    let said = chain(error).filter_map(|error| error.downcast_ref::<std::io::Error>());
    said.last()
        .map_or(String::new(), |error| format!(": {error}"))
}

/// A reset, or the end of a connection in order; a socket that broke is no word of HTTP/2.
fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    let mut found = chain(error).filter_map(|error| error.downcast_ref::<h2::Error>());
    found.find(|error| !error.is_io())
}

fn chain(error: &hyper::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| (*error).source())
}
