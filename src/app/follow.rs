//! The config file while the orchestrator runs: it is read again when it changes, or when somebody asks for it, and
//! taken over when all of it is right.
//!
//! One thread looks at the file and reads it, since that blocks, and in a large config for long. It decides nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self as of_threads, RecvTimeoutError};

use tokio::sync::{mpsc, oneshot};

use super::live::{Reload, Taken};
use super::{App, StartError};
use crate::config::{Changes, Config, Look, Watch};
use crate::domain::limit::CONFIG_LOOK_INTERVAL;
use crate::ingress::caller;

/// What a config file says now.
#[derive(Debug)]
pub struct Reading {
    /// The config, or what is wrong with it, one mistake a line.
    pub config: Result<Config, String>,
    /// Every other file that was looked into.
    pub files: Vec<PathBuf>,
}

/// The way to have the config file read now. Clones are the same.
#[derive(Debug, Clone)]
pub struct Follow(mpsc::Sender<oneshot::Sender<Outcome>>);

/// What has come of reading a config file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is what runs now.
    Taken,
    /// It cannot be used, and the one before goes on.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Asked,
    Changed,
}

/// One reading at a time: the next one sees all that has happened until then.
const READINGS_QUEUED_MAX: usize = 1;

impl App {
    /// Reads the config file again when it, or what it points to, changes; `read` is what reads it.
    pub fn follow(
        &self,
        path: &Path,
        read: impl FnMut() -> Reading + Send + 'static,
    ) -> io::Result<Follow> {
        let (ask, asked) = of_threads::sync_channel(READINGS_QUEUED_MAX);
        let (readings, mut coming) = mpsc::channel(READINGS_QUEUED_MAX);
        let path = path.to_owned();
        let looked_at = path.clone();
        self.tasks.spawn_thread("config", move || {
            look(&looked_at, read, &asked, &readings);
        })?;
        let (asks, mut questions) = mpsc::channel(READINGS_QUEUED_MAX);
        let mut teller = Teller::new(path, self.reload());
        let following = async move {
            // The thread ends with this future: nobody asks it any more.
            let mut waiting: Option<oneshot::Sender<Outcome>> = None;
            loop {
                tokio::select! {
                    biased;
                    Some((cause, reading)) = coming.recv() => {
                        let outcome = teller.take(cause, reading).await;
                        if cause == Cause::Asked && let Some(told) = waiting.take() {
                            // Whoever has asked may have gone.
                            let _ = told.send(outcome);
                        }
                    }
                    Some(told) = questions.recv(), if waiting.is_none() => {
                        // It waits for nothing else, so that there is room.
                        let _ = ask.try_send(());
                        waiting = Some(told);
                    }
                }
            }
        };
        self.tasks
            .spawn_vital("config file", self.tasks.until_stop(following));
        Ok(Follow(asks))
    }
}

impl Follow {
    /// Has the file read now, changed or not; `None` when the orchestrator is about to stop.
    pub async fn read_again(&self) -> Option<Outcome> {
        let (told, outcome) = oneshot::channel();
        self.0.send(told).await.ok()?;
        outcome.await.ok()
    }
}

/// Looks at the file until nobody is there to ask any more.
fn look(
    path: &Path,
    mut read: impl FnMut() -> Reading,
    asked: &of_threads::Receiver<()>,
    readings: &mpsc::Sender<(Cause, Reading)>,
) {
    let mut watch = Watch::new(path);
    loop {
        let cause = match asked.recv_timeout(CONFIG_LOOK_INTERVAL) {
            Ok(()) => {
                watch.begin();
                Cause::Asked
            }
            Err(RecvTimeoutError::Timeout) => match watch.look() {
                Look::Same | Look::Changing => continue,
                Look::Changed => Cause::Changed,
            },
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let reading = read();
        watch.follow(reading.files.iter().cloned());
        if readings.blocking_send((cause, reading)).is_err() {
            return;
        }
    }
}

/// Takes what was read, and logs what comes of it.
struct Teller {
    path: PathBuf,
    reload: Reload,
    /// The mistakes that were logged last, and the file that had them.
    told: Option<(String, [u8; 32])>,
}

impl Teller {
    fn new(path: PathBuf, reload: Reload) -> Self {
        Self {
            path,
            reload,
            told: None,
        }
    }

    async fn take(&mut self, cause: Cause, reading: Reading) -> Outcome {
        let config = match reading.config {
            Ok(config) => config,
            Err(mistakes) => {
                self.refuse(cause, mistakes);
                return Outcome::Refused;
            }
        };
        self.told = None;
        match self.reload.take(config).await {
            Some(Ok(taken)) => {
                tell(cause, &taken);
                Outcome::Taken
            }
            Some(Err(error)) => {
                refused(&error);
                Outcome::Refused
            }
            None => Outcome::Refused,
        }
    }

    /// Mistakes are logged once for each content of the file, and whenever somebody asks.
    fn refuse(&mut self, cause: Cause, mistakes: String) {
        let content = std::fs::read(&self.path).unwrap_or_default();
        let told = Some((mistakes, caller::hash(&content)));
        if self.told == told && cause == Cause::Changed {
            return;
        }
        self.told = told;
        let mistakes = self.told.iter().flat_map(|(mistakes, _)| mistakes.lines());
        let count = mistakes.clone().count();
        for mistake in mistakes {
            tracing::error!(mistake, "the config cannot be used");
        }
        tracing::error!(mistakes = count, "config refused: the one before goes on");
    }
}

fn refused(error: &StartError) {
    tracing::error!(%error, "config refused: the one before goes on");
}

fn tell(cause: Cause, taken: &Taken) {
    let Taken {
        generation,
        changes,
    } = taken;
    if !changes.after_restart.is_empty() {
        let settings = changes.after_restart.join(", ");
        tracing::warn!(settings, "these settings change with the next start only");
    }
    let now = Changes {
        after_restart: Vec::new(),
        ..changes.clone()
    };
    if !now.is_empty() {
        let settings = changes.settings.join(", ");
        tracing::info!(generation, keys = %changes.keys, instances = %changes.instances, settings, "config taken");
    } else if cause == Cause::Asked {
        tracing::info!(generation, "config read again: nothing has changed");
    }
}
