//! Owns every task that outlives a request; the only place that spawns.
//!
//! Shutdown is a bounded wait: all tasks are told to stop, then waited for until the grace is over.
//! A vital task that ends unasked stops the house: half a program is worse than none.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// A handle to all tasks of one orchestrator. Clones are the same tasks.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    fallen: CancellationToken,
}

/// A task that ends when this is dropped.
pub type Owned = AbortOnDropHandle<()>;

/// Whether all tasks had ended when the grace was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// They had.
    Complete,
    /// This many had not.
    Abandoned(usize),
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            fallen: CancellationToken::new(),
        }
    }

    /// Runs a task until it ends by itself. What loops for ever must watch `stopping`.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Runs a task that ends at the latest when the returned handle is dropped.
    pub fn spawn_owned(&self, task: impl Future<Output = ()> + Send + 'static) -> Owned {
        AbortOnDropHandle::new(self.tracker.spawn(task))
    }

    /// Runs a task without which the program is of no use. When it ends before it was told to, `fallen` fires.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = Vital {
            name,
            stop: self.stop.clone(),
            fallen: self.fallen.clone(),
        };
        self.tracker.spawn(async move {
            // Dropped when the task ends and when it panics.
            let _guard = guard;
            task.await;
        });
    }

    /// Runs work that blocks in a thread of its own, until it ends by itself. When it panics, `fallen` fires. It must
    /// end when whoever gives it work has gone or tells it to: `finish` waits for it as for every task.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let (counted, fallen) = (self.tracker.token(), self.fallen.clone());
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            let _counted = counted;
            let _guard = Panics { name, fallen };
            work();
        })?;
        Ok(())
    }

    /// A task that would go on for ever, made to end when tasks should.
    pub fn until_stop<T>(&self, task: T) -> impl Future<Output = ()> + Send + use<T>
    where
        T: Future<Output = ()> + Send,
    {
        let stop = self.stopping();
        async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        }
    }

    /// Fires when tasks should end.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Fires when a vital task has ended unasked.
    #[must_use]
    pub fn fallen(&self) -> CancellationToken {
        self.fallen.clone()
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tracker.len()
    }

    /// Tells all tasks to end and waits for them, for as long as `grace` at most.
    pub async fn finish(&self, grace: Duration) -> Finish {
        self.stop.cancel();
        self.tracker.close();
        match tokio::time::timeout(grace, self.tracker.wait()).await {
            Ok(()) => Finish::Complete,
            Err(_elapsed) => Finish::Abandoned(self.left()),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

/// hyper spawns one future for each HTTP/2 stream.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.tracker.spawn(task);
    }
}

struct Panics {
    name: &'static str,
    fallen: CancellationToken,
}

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(thread = self.name, "a thread has panicked");
            self.fallen.cancel();
        }
    }
}

struct Vital {
    name: &'static str,
    stop: CancellationToken,
    fallen: CancellationToken,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(task = self.name, "a vital task has ended");
            self.fallen.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dead_vital_task_stops_the_house() {
        let tasks = Tasks::new();
        tasks.spawn_vital("panics", async { panic!("on purpose") });
        tasks.fallen().cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_that_was_told_to_stop_is_no_accident() {
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn_vital("obeys", async move { stop.cancelled().await });
        assert_eq!(tasks.finish(Duration::from_secs(1)).await, Finish::Complete);
        assert!(!tasks.fallen().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_does_not_hold_up_the_end() {
        let tasks = Tasks::new();
        tasks.spawn(pending());
        assert_eq!(
            tasks.finish(Duration::from_secs(30)).await,
            Finish::Abandoned(1)
        );
    }

    #[tokio::test]
    async fn a_thread_that_panics_stops_the_house_and_one_that_runs_is_waited_for() {
        let tasks = Tasks::new();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let work = move || assert!(ended.recv().is_err());
        tasks.spawn_thread("runs", work).unwrap();
        assert_eq!(tasks.finish(Duration::ZERO).await, Finish::Abandoned(1));
        drop(end);
        assert_eq!(tasks.finish(Duration::MAX).await, Finish::Complete);
        assert!(!tasks.fallen().is_cancelled());
        tasks
            .spawn_thread("panics", || panic!("on purpose"))
            .unwrap();
        tasks.fallen().cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_owned_task_ends_with_its_handle() {
        let tasks = Tasks::new();
        drop(tasks.spawn_owned(pending()));
        assert_eq!(tasks.finish(Duration::from_secs(1)).await, Finish::Complete);
    }
}
