//! What a failure is called on standard error, what to do about it, and how the command then exits.

use std::error::Error as _;
use std::io::Write;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::exit::{Error, Exit};
use super::plain;

/// The lines for standard error; nothing for what needs no words.
pub(super) fn lines(error: &Error) -> String {
    let (what, hint) = match error {
        Error::ReaderGone => return String::new(),
        Error::Interrupted => (
            "interrupted, the call is cancelled".to_owned(),
            String::new(),
        ),
        Error::Usage { what, hint } => (what.clone(), hint.clone()),
        Error::Config(mistakes) => {
            let what = "the config cannot be used, and nothing was started";
            return config_lines(what, mistakes);
        }
        Error::BadConfig(mistakes) => return config_lines("the config cannot be used", mistakes),
        Error::Start(what) | Error::Journal(what) | Error::ServerKey(what) => {
            (what.clone(), String::new())
        }
        Error::Key(what) => (what.clone(), KEY_HINT.to_owned()),
        Error::Connect { server, what } => (
            format!("cannot reach the orchestrator at {server}: {what}"),
            SERVER_HINT.to_owned(),
        ),
        Error::Call(status) => (what(status), hint(status)),
        Error::Overdue => (
            "the server did not answer in time, nor say that time ran out".to_owned(),
            SERVER_HINT.to_owned(),
        ),
        Error::Answer(what) => (
            what.clone(),
            "is the server of the same version as this program? see `orchestrator --version`"
                .to_owned(),
        ),
        Error::System(error) => (error.to_string(), String::new()),
    };
    let mut lines = format!("error: {}\n", plain::text(&what));
    if !hint.is_empty() {
        lines += &format!("hint: {}\n", plain::text(&hint));
    }
    lines
}

fn config_lines(what: &str, mistakes: &str) -> String {
    let lines: String = mistakes
        .lines()
        .map(|line| format!("  {}\n", plain::text(line)))
        .collect();
    format!("error: {what}:\n{lines}")
}

/// Says on standard error what ended the command before it had its answer.
pub(super) fn report(error: &Error) {
    say(&lines(error));
}

/// Says on standard error what a reader of the answer should know.
pub(super) fn warn(what: &str) {
    say(&format!("warning: {}\n", plain::text(what)));
}

fn say(lines: &str) {
    // Where standard error is closed too, the exit code still tells.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

/// The exit code for a failed call.
pub(super) fn exit(status: &Status) -> Exit {
    if is_local_timeout(status) {
        return Exit::Deadline;
    }
    // Only a status that this side made up, because the connection broke, has a cause.
    if status.source().is_some() {
        return Exit::Unavailable;
    }
    let reason = reason(status);
    match reason.as_str() {
        "COMPLETION_UNMET" | "AGGREGATE_TOO_LARGE" => return Exit::Partial,
        // An instance may refuse a task for reasons of its own: our key and our words were fine.
        "INSTANCE_FAILED" => return exit_of_instance(status.code()),
        _ => {}
    }
    match status.code() {
        Code::InvalidArgument => Exit::Usage,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::Unavailable => Exit::Unavailable,
        Code::DeadlineExceeded => Exit::Deadline,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

const KEY_HINT: &str = "export ORCHESTRATOR_API_KEY=... with a key that the server's config knows";
const SERVER_HINT: &str = "is the server running? start it with `orchestrator serve`, or name \
     another with --server or ORCHESTRATOR_SERVER";
const BROKEN_HINT: &str = "what was asked may have begun: once `orchestrator health` answers, repeat it where twice does \
     no harm";
const TIME_HINT: &str =
    "allow more time with --timeout, or see with `orchestrator health` who is slow or down";
const TARGET_HINT: &str = "`orchestrator instances` lists the fleet";
const HEALTH_HINT: &str = "`orchestrator health` tells who is down, and why";

fn exit_of_instance(code: Code) -> Exit {
    if code == Code::Unavailable {
        Exit::Unavailable
    } else if code == Code::DeadlineExceeded {
        Exit::Deadline
    } else {
        Exit::Failed
    }
}

pub(super) fn what(status: &Status) -> String {
    if is_local_timeout(status) {
        return "time ran out before the server answered".to_owned();
    }
    if let Some(source) = status.source() {
        return format!("the connection to the server broke: {}", innermost(source));
    }
    let reason = reason(status);
    let mut what = if reason.is_empty() {
        code_name(status.code()).to_owned()
    } else {
        reason
    };
    let info = status.get_details_error_info();
    if let Some(instance) = info.and_then(|info| info.metadata.get("instance").cloned())
        && !status.message().contains(&instance)
    {
        what += &format!(" at {instance}");
    }
    if !status.message().is_empty() {
        what += &format!(": {}", status.message());
    }
    what
}

fn hint(status: &Status) -> String {
    if is_local_timeout(status) {
        return TIME_HINT.to_owned();
    }
    if status.source().is_some() {
        return BROKEN_HINT.to_owned();
    }
    let hint = match reason(status).as_str() {
        "KEY_MISSING" | "KEY_INVALID" => KEY_HINT,
        "SCOPE_MISSING" => {
            "use another key, or have an operator widen `scopes` of this one in the server's config"
        }
        "METHOD_UNKNOWN" => "the server is older than this program, or is something else",
        "TARGET_INVALID" => "write an id (A), a range (A-H, w01-w64), a list (A,C) or '*'",
        "TARGET_UNKNOWN" => TARGET_HINT,
        "SESSION_UNKNOWN" => {
            "`orchestrator sessions list` tells which there are; one that has ended is forgotten after its idle TTL"
        }
        "SESSION_EXISTS" => "give it another --id, or go on with the one that is there",
        "SESSION_CLOSED" => "begin another one: `orchestrator sessions_spawn`",
        "SESSION_TOKEN_FOREIGN" => {
            "the token of a session is good for that session only: use its own, or a key"
        }
        "SESSION_UNSUPPORTED" => {
            "name others with --instances: `orchestrator instances` lists the fleet"
        }
        "IDEMPOTENCY_CONFLICT" => "give each request an --idempotency-key of its own",
        "PAYLOAD_INVALID" => "check --payload: any JSON, with integers up to 2^53",
        "TIMEOUT_INVALID" => "write --timeout as 10s, 1m30s or a number of seconds",
        "MESSAGE_TOO_LARGE" => "send less: put the data elsewhere and its address in the payload",
        "DEADLINE_EXCEEDED" => TIME_HINT,
        "INSTANCE_DOWN" | "INSTANCE_DRAINING" | "NO_INSTANCE" => HEALTH_HINT,
        "INSTANCE_LOST" => {
            "the instance may have executed the task: repeat it only where twice does no harm"
        }
        "INSTANCE_FAILED" | "ANSWER_MALFORMED" | "ANSWER_TOO_LARGE" => {
            "this came from the instance itself: see its log"
        }
        "COMPLETION_UNMET" => {
            "the summary names who is missing; ask for fewer answers, allow more failures or time"
        }
        "AGGREGATE_TOO_LARGE" => "leave out --aggregate: results are then streamed one by one",
        "SLOW_CONSUMER" => "read the output faster, for example into a file",
        "DRAINING" => "the server is about to stop: repeat this in a moment",
        "INTERNAL" => "this is a bug of the orchestrator: its log has more",
        _ => hint_for_code(status),
    };
    let delay = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    match delay {
        Some(delay) if hint.is_empty() => format!("repeat this in {}", plain::duration(delay)),
        Some(_) | None => hint.to_owned(),
    }
}

fn hint_for_code(status: &Status) -> &'static str {
    match status.code() {
        Code::Unauthenticated => KEY_HINT,
        Code::PermissionDenied => "this key may not make this call",
        Code::DeadlineExceeded => TIME_HINT,
        Code::Unavailable => SERVER_HINT,
        Code::Unimplemented => "the server is older than this program, or is something else",
        Code::InvalidArgument => "see --help of this command",
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss => "",
    }
}

/// The error at the bottom of a chain, which says what really happened.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// tonic obeys the `grpc-timeout` that it sends, and calls its expiry CANCELLED.
pub(super) fn is_local_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled
        && status.details().is_empty()
        && status.message() == TimeoutExpired(()).to_string()
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// The standard's name of a code.
pub(super) fn code_name(code: Code) -> &'static str {
    crate::domain::failure::Status::from_number(u64::from(i32::from(code).unsigned_abs()))
        .map_or("OK", crate::domain::failure::Status::name)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let metadata = [("instance".to_owned(), "C".to_owned())];
        let info = ErrorDetails::with_error_info(reason, "orchestrator.openclaw", metadata);
        Status::with_error_details(code, "what happened", info)
    }

    #[test]
    fn every_failure_has_its_exit_code() {
        let check =
            |status: Status, expected: Exit| assert_eq!(exit(&status), expected, "{status}");
        check(status(Code::Unauthenticated, "KEY_INVALID"), Exit::Denied);
        check(
            status(Code::PermissionDenied, "SCOPE_MISSING"),
            Exit::Denied,
        );
        check(status(Code::InvalidArgument, "TARGET_INVALID"), Exit::Usage);
        check(status(Code::NotFound, "TARGET_UNKNOWN"), Exit::Failed);
        check(status(Code::Unavailable, "NO_INSTANCE"), Exit::Unavailable);
        check(
            status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Exit::Deadline,
        );
        check(
            status(Code::DeadlineExceeded, "COMPLETION_UNMET"),
            Exit::Partial,
        );
        check(status(Code::Unavailable, "COMPLETION_UNMET"), Exit::Partial);
        check(
            status(Code::ResourceExhausted, "AGGREGATE_TOO_LARGE"),
            Exit::Partial,
        );
        check(
            status(Code::PermissionDenied, "INSTANCE_FAILED"),
            Exit::Failed,
        );
        check(
            status(Code::Unavailable, "INSTANCE_FAILED"),
            Exit::Unavailable,
        );
        check(Status::cancelled("Timeout expired"), Exit::Deadline);
        check(Status::cancelled("by somebody"), Exit::Failed);
        check(
            Status::from_error("connection reset".into()),
            Exit::Unavailable,
        );
    }

    #[test]
    fn a_failure_says_what_happened_and_what_to_do() {
        let check = |error: Error, expected: &str| assert_eq!(lines(&error), expected);
        check(
            status(Code::NotFound, "TARGET_UNKNOWN").into(),
            "error: TARGET_UNKNOWN at C: what happened\nhint: `orchestrator instances` lists the fleet\n",
        );
        check(
            status(Code::NotFound, "SESSION_UNKNOWN").into(),
            "error: SESSION_UNKNOWN at C: what happened\nhint: `orchestrator sessions list` tells which there are; one that has ended is forgotten after its idle TTL\n",
        );
        check(
            status(Code::NotFound, "REGISTRATION_UNKNOWN").into(),
            "error: REGISTRATION_UNKNOWN at C: what happened\n",
        );
        check(
            Status::unauthenticated("no key").into(),
            "error: UNAUTHENTICATED: no key\nhint: export ORCHESTRATOR_API_KEY=... with a key that the server's config knows\n",
        );
        check(
            Error::Connect {
                server: "http://h:1".into(),
                what: "connection refused".into(),
            },
            "error: cannot reach the orchestrator at http://h:1: connection refused\nhint: is the server running? start it with `orchestrator serve`, or name another with --server or ORCHESTRATOR_SERVER\n",
        );
        check(
            Status::from_error("connection reset".into()).into(),
            "error: the connection to the server broke: connection reset\nhint: what was asked may have begun: once `orchestrator health` answers, repeat it where twice does no harm\n",
        );
        check(Error::ReaderGone, "");
    }

    #[test]
    fn every_reason_that_a_caller_can_mend_has_a_hint() {
        for reason in [
            "KEY_MISSING",
            "SCOPE_MISSING",
            "TARGET_INVALID",
            "INSTANCE_DOWN",
            "INSTANCE_LOST",
        ] {
            assert!(
                !hint(&status(Code::Internal, reason)).is_empty(),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_message_from_an_instance_cannot_steer_the_terminal() {
        let lines = lines(&Status::internal("\u{1b}[2Jgone\nhint: rm").into());
        assert!(
            !lines.contains('\u{1b}') && lines.lines().count() == 1,
            "{lines}"
        );
    }
}
