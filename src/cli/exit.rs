//! How a command ends: the one list of exit codes, and everything that can end a command early.

use std::io;
use std::process::ExitCode;

use tonic::Status;

use super::failure_text;

/// What `--help` says about exit codes.
pub(super) const EXIT_CODES_HELP: &str = "\
Exit codes:
    0  the answer is on standard output
    1  any other failure
    2  the command line, the config file or the payload cannot be meant
    3  the key is missing, not known, or may not make this call
    4  the server or the instance is unavailable
    5  the fan-out, or the conversation, has ended and not every answer that was wanted is there
    6  time ran out
  130  interrupted";

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The answer is on standard output, or whoever read it has enough.
    Done,
    /// Any failure without a number of its own.
    Failed,
    /// What was asked cannot be meant.
    Usage,
    /// Authentication or permission.
    Denied,
    /// The server, or the instance, is unavailable.
    Unavailable,
    /// A fan-out, or a conversation, without some of the answers that were wanted.
    Partial,
    /// Time ran out.
    Deadline,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Unavailable => 4,
            Self::Partial => 5,
            Self::Deadline => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// What ends a command before it has its answer.
#[derive(Debug)]
pub(super) enum Error {
    /// Found before anything was sent.
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The config file of a server, with its mistakes line by line.
    Config(String),
    /// A config file that was to be checked, with its mistakes line by line.
    BadConfig(String),
    /// The server did not start, or has fallen.
    Start(String),
    /// The journal cannot be read or copied.
    Journal(String),
    /// No key in the environment, or one that cannot be sent.
    Key(String),
    /// A server would start without a key that is good.
    ServerKey(String),
    /// The server cannot be reached.
    Connect {
        /// The address as it was understood.
        server: String,
        /// What the system says.
        what: String,
    },
    /// The call failed. Boxed, since a status is large.
    Call(Box<Status>),
    /// The server should have given up by itself and did not.
    Overdue,
    /// The server's answer makes no sense.
    Answer(String),
    /// Standard output or the runtime fails.
    System(io::Error),
    /// Whoever read our output has enough.
    ReaderGone,
    /// Ctrl-C.
    Interrupted,
}

impl Error {
    pub(super) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// The exit code for this error.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::Config(_) | Self::BadConfig(_) => Exit::Usage,
            Self::Key(_) | Self::ServerKey(_) => Exit::Denied,
            Self::Connect { .. } => Exit::Unavailable,
            Self::Call(status) => failure_text::exit(status),
            Self::Overdue => Exit::Deadline,
            Self::Answer(_) | Self::System(_) | Self::Start(_) | Self::Journal(_) => Exit::Failed,
            Self::ReaderGone => Exit::Done,
            Self::Interrupted => Exit::Interrupted,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::System(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Denied,
            Exit::Unavailable,
            Exit::Partial,
            Exit::Deadline,
            Exit::Interrupted,
        ] {
            let line = format!("\n{:>5}  ", exit.number());
            assert!(EXIT_CODES_HELP.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.exit(), Exit::Done);
        let error = Error::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.exit(), Exit::Failed);
    }
}
