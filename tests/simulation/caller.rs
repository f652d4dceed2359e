//! A caller of the simulation: asks as it was planned, and notes what it gets.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Uri;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::answer;
use crate::ask::{Ask, Hedge, Kind, Leaving, TimeoutIn};
use crate::history::{End, History, Stream, Verdict, What};
use crate::lie::Lie;
use crate::request;
use crate::wire::Wire;

/// The key of whoever runs the house: instances that register, and the operator.
pub(crate) const HOUSE_KEY: &str = "simulation-key-51c0";
/// The keys of the callers.
pub(crate) const KEYS: [&str; 2] = ["simulation-key-a-77d2", "simulation-key-b-0e19"];
/// Where the orchestrator listens.
pub(crate) const PORT: u16 = 7070;
/// How much longer than it asked for a caller waits.
pub(crate) const PATIENCE: Duration = Duration::from_millis(400);
/// Pause between two tries to connect.
const RECONNECT: Duration = Duration::from_millis(20);

pub(crate) type Client = OrchestratorServiceClient<Wire>;

/// Pause between two calls that only try whether somebody is well.
const TRIAL_PAUSE: Duration = Duration::from_millis(15);

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Faults,
    /// No more faults; whoever lost its trust is tried until it has it again.
    Recovery,
    Calm,
    Over,
}

/// One caller, who has one connection for most of its calls.
pub(crate) struct Caller {
    pub(crate) orchestrator: IpAddr,
    pub(crate) history: History,
    pub(crate) lie: Option<Lie>,
    pub(crate) shared: Mutex<Option<Wire>>,
}

impl Caller {
    /// Asks all of them, each at its time; ends once the run is over, so that a connection stays open till then.
    pub(crate) async fn run(
        self,
        asks: Vec<Ask>,
        trials: Vec<Ask>,
        last_asks: Vec<Ask>,
        mut phase: watch::Receiver<Phase>,
    ) -> turmoil::Result {
        let this = Rc::new(self);
        let start = Instant::now() - turmoil::sim_elapsed().unwrap_or_default();
        let mut calls = JoinSet::new();
        for ask in asks {
            let this = Rc::clone(&this);
            calls.spawn_local(async move {
                sleep_until(start + ask.at).await;
                this.ask(ask).await;
            });
        }
        phase.wait_for(|phase| Phase::Recovery <= *phase).await?;
        for at in 0.. {
            if Phase::Calm <= *phase.borrow() {
                break;
            }
            if let Some(ask) = trials.get(at % trials.len().max(1)) {
                let call = ask.call + at as u32;
                this.ask(Ask {
                    call,
                    task: call,
                    ..ask.clone()
                })
                .await;
            }
            sleep(TRIAL_PAUSE).await;
        }
        for ask in last_asks {
            let this = Rc::clone(&this);
            calls.spawn_local(async move {
                sleep(ask.at).await;
                this.ask(ask).await;
            });
        }
        phase.wait_for(|phase| Phase::Over <= *phase).await?;
        Ok(())
    }

    async fn ask(&self, ask: Ask) {
        let own = matches!(ask.leaves, Some((_, Leaving::Disconnects)));
        let opened = timeout(ask.timeout, self.connection(own)).await;
        let Ok((wire, driver)) = opened else { return };
        let hides = self.lie == Some(Lie::HidesCalls) && !ask.call.is_multiple_of(10);
        if !hides {
            self.history.note(What::Asked(self.owned_up(&ask)));
        }
        let call = ask.call;
        let end = self.carry_out(&ask, wire).await;
        // Dropping a handle would not end the connection.
        if let Some(driver) = driver {
            driver.abort();
        }
        if self.lie == Some(Lie::HidesEnds) {
            return;
        }
        self.history.note(What::Ended { call, end });
    }

    /// What the history is told of a call.
    fn owned_up(&self, ask: &Ask) -> Ask {
        let mut ask = ask.clone();
        match self.lie {
            Some(Lie::AsksForMoreTime) => ask.timeout /= 4,
            Some(Lie::AsksForMoreTries) => ask.attempts_max = 1,
            Some(Lie::HedgesEarly) => {
                if let Hedge::After(delay) = &mut ask.hedge {
                    *delay *= 10;
                }
            }
            Some(Lie::HedgesOnTheSly) => ask.idempotent = false,
            Some(Lie::SaysThatItWaits) => ask.waits_for_ready = !ask.is_fan_out(),
            Some(Lie::ChangesItsWord) => {
                ask.word = ask.word.map(|_| "the word of all".to_owned());
            }
            _ => {}
        }
        ask
    }

    /// The shared connection, or one for this call alone.
    async fn connection(&self, own: bool) -> (Wire, Option<JoinHandle<()>>) {
        let mut shared = self.shared.lock().await;
        loop {
            if let Some(wire) = shared.as_ref().filter(|wire| !own && !wire.is_closed()) {
                return (wire.clone(), None);
            }
            match Wire::open(self.orchestrator, PORT).await {
                Ok((wire, driver)) if own => return (wire, Some(driver)),
                Ok((wire, _)) => *shared = Some(wire),
                Err(()) => sleep(RECONNECT).await,
            }
        }
    }

    async fn carry_out(&self, ask: &Ask, wire: Wire) -> End {
        let mut ask = ask.clone();
        if self.lie == Some(Lie::AsksAnew) {
            ask.word = ask.word.map(|word| format!("{word}-{}", ask.call));
        }
        let ask = &ask;
        let mut client = Client::with_origin(wire, origin(self.orchestrator));
        let now = Instant::now();
        let leaves = ask.leaves.map(|(after, _)| now + after);
        let gives_up = now + ask.timeout + PATIENCE + ask.reading_time();
        match &ask.kind {
            Kind::Route { .. } => {
                let calling = client.route(headed(ask, request::route(ask)));
                tokio::select! {
                    biased;
                    answered = calling => answer::route(answered, self.lie),
                    () = at(leaves) => End::LeftEarly,
                    () = sleep_until(gives_up) => End::GaveUp,
                }
            }
            Kind::Fanout { reads_for, .. } => {
                let mut stream = Stream::default();
                let reading = answer::fan_out(
                    client.fanout(headed(ask, request::fan_out(ask))),
                    &mut stream,
                    *reads_for,
                    self.lie,
                );
                let verdict = tokio::select! {
                    biased;
                    verdict = reading => verdict,
                    () = at(leaves) => Verdict::LeftEarly,
                    () = sleep_until(gives_up) => Verdict::GaveUp,
                };
                stream.verdict = verdict;
                End::Streamed(stream)
            }
        }
    }
}

impl Ask {
    /// How long a slow reader may take over all it gets.
    pub(crate) fn reading_time(&self) -> Duration {
        match &self.kind {
            Kind::Route { .. } => Duration::ZERO,
            Kind::Fanout { reads_for, .. } => *reads_for * (self.targets.len() as u32 + 3),
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Where the orchestrator is found.
pub(crate) fn origin(orchestrator: IpAddr) -> Uri {
    format!("http://{orchestrator}:{PORT}").parse().unwrap()
}

/// A request with a key.
pub(crate) fn authorized<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let key = MetadataValue::try_from(format!("Bearer {key}")).unwrap();
    request.metadata_mut().insert("authorization", key);
    request
}

fn headed<T>(ask: &Ask, message: T) -> Request<T> {
    let mut request = authorized(KEYS[ask.caller], message);
    if ask.timeout_in == TimeoutIn::Header {
        let timeout = format!("{}u", ask.timeout.as_micros());
        let timeout = MetadataValue::try_from(timeout).unwrap();
        request.metadata_mut().insert("grpc-timeout", timeout);
    }
    request
}
