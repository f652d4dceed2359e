//! How far a fan-out has come: a bar on standard error, for people only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::arguments::Format;
use crate::proto::orchestrator::Outcome;

const TEMPLATE: &str = "[{bar:30}] {pos}/{len} arrived, {msg}";

/// Counts what arrives; invisible unless a person can see it.
pub(super) struct Progress {
    bar: ProgressBar,
    failed: u64,
}

impl Progress {
    pub(super) fn new(format: Format) -> Self {
        let stdout_is_busy = format == Format::Jsonl && std::io::stdout().is_terminal();
        let target = if std::io::stderr().is_terminal() && !stdout_is_busy {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::on(target)
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, failed: 0 }
    }

    /// The roster is known.
    pub(super) fn started(&mut self, roster: usize) {
        self.bar.set_length(roster as u64);
        self.say(0);
    }

    /// One target has its outcome.
    pub(super) fn arrived(&mut self, outcome: i32) {
        // Those that the call did not need any more have not failed.
        let failures = [Outcome::Failed, Outcome::TimedOut].map(i32::from);
        if failures.contains(&outcome) {
            self.failed += 1;
        }
        self.say(self.bar.position() + 1);
        self.bar.inc(1);
    }

    fn say(&self, arrived: u64) {
        let waiting = self.bar.length().unwrap_or(0).saturating_sub(arrived);
        let message = format!("{} failed, {waiting} waiting", self.failed);
        self.bar.set_message(message);
    }
}

/// However the command ends, its last words come on a clean line.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrived_failed_and_waiting_are_told_apart() {
        let mut progress = Progress::on(ProgressDrawTarget::hidden());
        progress.started(4);
        progress.arrived(Outcome::Answered.into());
        progress.arrived(Outcome::TimedOut.into());
        progress.arrived(Outcome::Cancelled.into());
        assert_eq!(progress.bar.message(), "1 failed, 1 waiting");
        assert_eq!(progress.bar.position(), 3);
    }
}
