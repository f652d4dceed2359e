//! How the program tells what it does: log lines for people on a terminal, JSON for everything else.
//!
//! A log line is a constant text with its values in fields; it holds no key and no payload.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

pub mod lines;
pub mod metric;
pub mod trace;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Whether log lines for people are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// Where a terminal shows them.
    OnTerminals,
    /// Nowhere.
    Never,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A filter that cannot be read.
    #[error("`{0}` is not a log filter: write a level such as info, or target=level pairs: {1}")]
    Filter(String, ParseError),
    /// Started already.
    #[error("logging has been started already")]
    Twice(#[from] TryInitError),
}

impl Format {
    /// For people when they are there to read it.
    #[must_use]
    pub fn detect() -> Self {
        if io::stderr().is_terminal() {
            Self::Human
        } else {
            Self::Json
        }
    }
}

/// Sends log lines that pass the filter to standard error, timestamps included.
pub fn start(filter: &str, format: Format, colours: Colours) -> Result<(), LogError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|error| LogError::Filter(filter.to_owned(), error))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        // It would be told on standard error, which is what has just failed, and by a panic.
        .log_internal_errors(false);
    match format {
        Format::Human => lines
            .with_target(false)
            .with_ansi(colours == Colours::OnTerminals && io::stderr().is_terminal())
            .finish()
            .try_init()?,
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .finish()
            .try_init()?,
    }
    Ok(())
}
