//! Instances that do as a test tells them; time is the test's own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::session::{Open, Opened};
use super::{Call, InstanceClient, Pending, Serving, Told};
use crate::domain::failure::{Failure, Progress, Reason, Status};
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::retry::Pushback;

mod session;
#[cfg(test)]
mod tests;

pub(crate) use session::{SessionAct, Sessions};

/// What an instance does with one call.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Echoes after a while.
    Echo(Duration),
    /// Refuses the connection: the task never begins.
    Refuse,
    /// Answers with a status.
    Fail(Status),
    /// Answers with a status after a while.
    FailAfter(Duration, Status),
    /// Answers that it may be asked again after a while.
    PushBack(Duration),
    /// Answers UNAVAILABLE after a while, and says when it may be asked again.
    PushBackAfter(Duration, Pushback),
    /// Breaks the connection after the task was sent.
    Break,
    /// Never answers.
    Silent,
    /// Never gets a connection.
    Unconnected,
    /// Never gets room on one.
    NoRoom,
}

/// How an instance answers its probes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    /// It serves.
    Serving,
    /// Nobody listens.
    Refused,
    /// Never.
    Silent,
}

/// An instance with a script; the last act repeats.
pub(crate) struct Scripted {
    id: InstanceId,
    script: Mutex<VecDeque<Act>>,
    /// What it was sent: the number of the try, and when it must have answered.
    pub(crate) calls: Mutex<Vec<(u32, Instant)>>,
    running: Arc<AtomicUsize>,
    /// The sessions that were opened with it.
    pub(crate) sessions: Sessions,
    probe: Mutex<Probe>,
    /// Probes that have begun.
    probes: watch::Sender<usize>,
    /// What it tells by itself; `None` breaks whatever watches it.
    told: watch::Sender<Option<Serving>>,
}

impl Scripted {
    pub(crate) fn new(id: &str, script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self {
            id: InstanceId::parse(id).unwrap(),
            script: Mutex::new(script.into_iter().collect()),
            calls: Mutex::default(),
            running: Arc::default(),
            sessions: Sessions::default(),
            probe: Mutex::new(Probe::Serving),
            probes: watch::Sender::new(0),
            told: watch::Sender::new(Some(Serving::Yes)),
        })
    }

    pub(crate) fn set_probe(&self, probe: Probe) {
        *self.probe.lock().unwrap() = probe;
    }

    /// Waits until it is probed the next time.
    pub(crate) async fn until_probed(&self) {
        // There is a sender as long as there is this.
        let _ = self.probes.subscribe().changed().await;
    }

    /// Tells whoever watches.
    pub(crate) fn tell(&self, serving: Serving) {
        self.told.send_replace(Some(serving));
    }

    /// Breaks whatever watches now.
    pub(crate) fn break_watch(&self) {
        self.told.send_replace(None);
    }

    /// Calls that are with the instance now.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn next(&self) -> Act {
        let mut script = self.script.lock().unwrap();
        match script.len() {
            0 => Act::Echo(Duration::ZERO),
            1 => script[0].clone(),
            _ => script.pop_front().unwrap(),
        }
    }
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn failed(id: &InstanceId, status: Status) -> Failure {
    let (reason, progress) = (Reason::InstanceFailed(status), Progress::MayHaveBegun);
    Failure::at(id, reason, progress, status.name())
}

impl InstanceClient for Scripted {
    fn execute(&self, call: Call) -> Pending<Result<Payload, Failure>> {
        let (act, id) = (self.next(), self.id.clone());
        self.calls.lock().unwrap().push((call.attempt, call.ends));
        self.running.fetch_add(1, Ordering::SeqCst);
        if !matches!(act, Act::Unconnected | Act::NoRoom) {
            call.sent.set();
        }
        let running = Running(Arc::clone(&self.running));
        Box::pin(async move {
            let _running = running;
            match act {
                Act::Echo(delay) => {
                    sleep(delay).await;
                    Ok(call.task.payload.clone())
                }
                Act::Refuse => Err(Failure::at(
                    &id,
                    Reason::InstanceDown,
                    Progress::NeverSent,
                    "connection refused",
                )),
                Act::Fail(status) => Err(failed(&id, status)),
                Act::PushBack(wait) => Err(Failure {
                    pushback: Some(Pushback::Wait(wait)),
                    ..failed(&id, Status::Unavailable)
                }),
                Act::PushBackAfter(delay, pushback) => {
                    sleep(delay).await;
                    Err(Failure {
                        pushback: Some(pushback),
                        ..failed(&id, Status::Unavailable)
                    })
                }
                Act::FailAfter(delay, status) => {
                    sleep(delay).await;
                    Err(failed(&id, status))
                }
                Act::Break => Err(Failure::at(
                    &id,
                    Reason::InstanceLost,
                    Progress::MayHaveBegun,
                    "broken",
                )),
                Act::NoRoom => call.sent.while_full(std::future::pending()).await,
                Act::Silent | Act::Unconnected => std::future::pending().await,
            }
        })
    }

    fn probe(&self) -> Pending<Result<Serving, Failure>> {
        self.probes.send_modify(|count| *count += 1);
        match *self.probe.lock().unwrap() {
            Probe::Serving => Box::pin(std::future::ready(Ok(Serving::Yes))),
            Probe::Refused => Box::pin(std::future::ready(Err(Failure::at(
                &self.id,
                Reason::InstanceDown,
                Progress::NeverSent,
                "connection refused",
            )))),
            Probe::Silent => Box::pin(std::future::pending()),
        }
    }

    fn watch(&self, mut told: Told) -> Pending<Failure> {
        let (mut said, id) = (self.told.subscribe(), self.id.clone());
        said.mark_changed();
        Box::pin(async move {
            while said.changed().await.is_ok() {
                let Some(serving) = *said.borrow_and_update() else {
                    break;
                };
                told(serving);
            }
            Failure::at(&id, Reason::InstanceLost, Progress::Answered, "broken")
        })
    }

    fn open_session(&self, open: Open) -> Pending<Result<Opened, Failure>> {
        match self.sessions.open(&self.id, open) {
            Some(opened) => Box::pin(std::future::ready(opened)),
            None => Box::pin(std::future::pending()),
        }
    }
}
