//! The config file while the orchestrator runs: it is read again when it changes, or when somebody asks for it, and
//! taken over when all of it is right.
//!
//! One thread looks at the file and reads it, since that blocks, and in a large config for long. It decides nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self as of_threads, RecvTimeoutError};

use tokio::sync::{mpsc, oneshot};

use super::live::{Reload, Taken};
use super::{App, StartError};
use crate::config::{Changes, Config, Look, Watch};
use crate::domain::limit::{CONFIG_BYTES_MAX, CONFIG_LOOK_INTERVAL};
use crate::ingress::caller;
use crate::ingress::listener::secure::Keeper;

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

/// What the thread has read.
struct Read {
    cause: Cause,
    reading: Reading,
    /// The hash of a file that cannot be used.
    content: Option<[u8; 32]>,
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
        self.house.tasks.spawn_thread("config", move || {
            look(&path, read, &asked, &readings);
        })?;
        let (asks, mut questions) = mpsc::channel(READINGS_QUEUED_MAX);
        let mut teller = Teller {
            reload: self.reload(),
            certificates: self.secure.clone(),
            told: Told::default(),
        };
        let following = async move {
            // The thread ends with this future: nobody asks it any more.
            let mut waiting: Option<oneshot::Sender<Outcome>> = None;
            loop {
                tokio::select! {
                    biased;
                    Some(read) = coming.recv() => {
                        let cause = read.cause;
                        let outcome = teller.take(read).await;
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
        self.house
            .tasks
            .spawn_vital("config file", self.house.tasks.until_stop(following));
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
    readings: &mpsc::Sender<Read>,
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
        let content = match reading.config {
            Ok(_) => None,
            // A file that cannot be read has no content, which is one too.
            Err(_) => Some(content(path).unwrap_or_default()),
        };
        let read = Read {
            cause,
            reading,
            content,
        };
        if readings.blocking_send(read).is_err() {
            return;
        }
    }
}

fn content(path: &Path) -> io::Result<[u8; 32]> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(caller::hash(&bytes))
}

/// Takes what was read, and logs what comes of it.
struct Teller {
    reload: Reload,
    certificates: Option<Arc<Keeper>>,
    told: Told,
}

/// The mistakes that were logged last, and the file that had them.
#[derive(Default)]
struct Told(Option<(String, [u8; 32])>);

impl Teller {
    async fn take(&mut self, read: Read) -> Outcome {
        let cause = read.cause;
        // They have files of their own, and whoever asks means those too.
        if let Some(certificates) = &self.certificates {
            certificates.look_now().await;
        }
        let config = match read.reading.config {
            Ok(config) => config,
            Err(mistakes) => {
                let content = read.content.unwrap_or_default();
                if self.told.is_news(cause, &mistakes, content) {
                    refuse(&mistakes);
                }
                return Outcome::Refused;
            }
        };
        self.told = Told::default();
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
}

impl Told {
    /// Mistakes are logged once for each content of the file, and whenever somebody asks.
    fn is_news(&mut self, cause: Cause, mistakes: &str, content: [u8; 32]) -> bool {
        let now = Some((mistakes.to_owned(), content));
        let is_news = self.0 != now || cause == Cause::Asked;
        self.0 = now;
        is_news
    }
}

fn refuse(mistakes: &str) {
    for mistake in mistakes.lines() {
        tracing::error!(mistake, "the config cannot be used");
    }
    let mistakes = mistakes.lines().count();
    tracing::error!(mistakes, "config refused: the one before goes on");
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
        tracing::info!(generation, keys = %changes.keys, identities = %changes.identities, instances = %changes.instances, settings, "config taken");
    } else if cause == Cause::Asked {
        tracing::info!(generation, "config read again: nothing has changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_once_for_each_content_and_whenever_somebody_asks() {
        let mut told = Told::default();
        let mut check = |cause, mistakes, content, expected| {
            let is_news = told.is_news(cause, mistakes, [content; 32]);
            assert_eq!(is_news, expected, "{cause:?} {mistakes} {content}");
        };
        check(Cause::Changed, "a", 1, true);
        check(Cause::Changed, "a", 1, false);
        check(Cause::Asked, "a", 1, true);
        check(Cause::Changed, "a", 1, false);
        // Somebody has edited it in vain, and should know.
        check(Cause::Changed, "a", 2, true);
        // The same file, which points to another one that is wrong otherwise.
        check(Cause::Changed, "b", 2, true);
        check(Cause::Changed, "a", 1, true);
    }
}
