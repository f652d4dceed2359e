//! The operator of the simulation: takes instances out of work and gives them work again.

use std::net::IpAddr;
use std::time::Duration;

use orchestrator::domain::health::Admin;
use orchestrator::proto::orchestrator::cluster_service_client::ClusterServiceClient;
use orchestrator::proto::orchestrator::{
    DrainRequest, HealthRequest, InstanceHealth, UndrainRequest,
};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;

use crate::answer;
use crate::caller::{self, HOUSE_KEY, authorized};
use crate::history::{History, What};
use crate::lie::Lie;
use crate::plan::{Disturbance, Fault, HEAL, Instance, Origin, ms};
use crate::wire::Wire;

/// How long one try may take.
const TRY: Duration = Duration::from_millis(100);
/// Pause between two questions how far a drain has come.
const ASKED_EVERY: Duration = Duration::from_millis(30);
/// The same once it has come to its end.
const LOOKED_AFTER_EVERY: Duration = Duration::from_millis(90);
/// Pause between two questions how everybody is.
const HEALTH_EVERY: Duration = Duration::from_millis(60);

/// What is done with one instance.
#[derive(Debug, Clone)]
pub(crate) struct Upkeep {
    pub(crate) instance: String,
    /// When it is drained; never when it begins out of work and stays there.
    pub(crate) drained: Option<Duration>,
    /// When it gets work again.
    pub(crate) undrained: Duration,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Drain,
    Undrain,
}

/// Whatever is out of work gets it again before the faults are over.
pub(crate) fn draw(
    instances: &[Instance],
    disturbances: &[Disturbance],
    dice: &mut SmallRng,
) -> Vec<Upkeep> {
    let last = HEAL.as_millis() as u64 - 100;
    let mut upkeep = Vec::new();
    for instance in instances.iter().filter(|one| one.admin != Admin::Active) {
        upkeep.push(Upkeep {
            instance: instance.id.clone(),
            drained: dice.random_bool(0.3).then(|| ms(300..500, dice)),
            undrained: ms(500..last, dice),
        });
    }
    // A new start of an instance does not bring it back: only those that register are made anew by it.
    for disturbance in disturbances {
        let Fault::Crash(id) = &disturbance.what else {
            continue;
        };
        let is_its_own = |one: &Instance| one.id == *id && one.origin == Origin::Registered;
        let is_new = !upkeep.iter().any(|one| one.instance == *id);
        if is_new && instances.iter().any(is_its_own) && dice.random_bool(0.7) {
            let after = disturbance.to + ms(200..600, dice);
            upkeep.push(Upkeep {
                instance: id.clone(),
                drained: Some(disturbance.from.saturating_sub(ms(20..100, dice))),
                undrained: after.min(Duration::from_millis(last)),
            });
        }
    }
    let count = [0, 1, 1, 2].choose(dice).copied().unwrap_or_default();
    for instance in instances.sample(dice, count) {
        let is_new = !upkeep.iter().any(|one| one.instance == instance.id);
        if instance.admin == Admin::Active && is_new {
            let drained = ms(350..1600, dice);
            upkeep.push(Upkeep {
                instance: instance.id.clone(),
                drained: Some(drained),
                undrained: (drained + ms(60..700, dice)).min(Duration::from_millis(last)),
            });
        }
    }
    upkeep
}

/// Does all of it, each at its time.
pub(crate) async fn work(
    orchestrator: IpAddr,
    upkeep: Vec<Upkeep>,
    history: History,
    lie: Option<Lie>,
) -> turmoil::Result {
    let start = Instant::now() - turmoil::sim_elapsed().unwrap_or_default();
    let mut all = JoinSet::new();
    let asking = ask_after_health(orchestrator, history.clone());
    spawn_local(asking);
    for one in upkeep {
        let desk = Desk {
            orchestrator,
            history: history.clone(),
            lie,
            instance: one.instance,
        };
        all.spawn_local(async move {
            if let Some(drained) = one.drained {
                sleep_until(start + drained).await;
                desk.drain(start + one.undrained).await;
            }
            sleep_until(start + one.undrained).await;
            desk.undrain().await;
        });
    }
    while all.join_next().await.is_some() {}
    // The network would take it for gone.
    std::future::pending().await
}

/// Asks how everybody is, all the time.
async fn ask_after_health(orchestrator: IpAddr, history: History) {
    let Ok((wire, _driver)) = Wire::open(orchestrator, caller::PORT).await else {
        return;
    };
    let mut client = caller::Client::with_origin(wire, caller::origin(orchestrator));
    loop {
        let asking = client.health(authorized(HOUSE_KEY, HealthRequest::default()));
        if desk(&history, "health", asking).await.is_none() {
            return;
        }
        sleep(HEALTH_EVERY).await;
    }
}

/// What comes of a question that is not work. Nothing disturbs the way between the operator and the orchestrator.
async fn desk<T>(
    history: &History,
    what: &'static str,
    asking: impl Future<Output = Result<T, Status>>,
) -> Option<T> {
    let began = Instant::now();
    let told = timeout(TRY, asking).await;
    // Whoever stops may close the door.
    if history.is_stopping() {
        return told.ok()?.ok();
    }
    let refused = match &told {
        Ok(Ok(_)) => None,
        Ok(Err(status)) => Some(answer::reason(status).unwrap_or_else(|| format!("{status:?}"))),
        Err(_elapsed) => Some("no answer".to_owned()),
    };
    let took = began.elapsed();
    history.note(What::Desk {
        what,
        took,
        refused,
    });
    told.ok()?.ok()
}

struct Desk {
    orchestrator: IpAddr,
    history: History,
    lie: Option<Lie>,
    instance: String,
}

impl Desk {
    /// Drains it, and asks how far that has come for as long as it is to stay so.
    async fn drain(&self, until: Instant) {
        let Ok((wire, driver)) = Wire::open(self.orchestrator, caller::PORT).await else {
            return;
        };
        let mut client = ClusterServiceClient::with_origin(wire, caller::origin(self.orchestrator));
        self.order(Order::Drain);
        while Instant::now() < until {
            let request = DrainRequest {
                instances: vec![self.instance.clone()],
                move_sessions: false,
            };
            let mut pause = ASKED_EVERY;
            if self.lie == Some(Lie::DrainsNobody) {
                self.heard(Order::Drain, "ADMIN_STATE_DRAINING", false, 1);
            } else if let Some(told) = desk(
                &self.history,
                "drain",
                client.drain(authorized(HOUSE_KEY, request)),
            )
            .await
                && let Some(health) = told.into_inner().instances.first()
            {
                self.tell(Order::Drain, health);
                if health.drained {
                    pause = LOOKED_AFTER_EVERY;
                }
            }
            sleep_until(until.min(Instant::now() + pause)).await;
        }
        driver.abort();
    }

    /// Gives it work again; asks until that is done, for it may have left the fleet for a while.
    async fn undrain(&self) {
        let Ok((wire, driver)) = Wire::open(self.orchestrator, caller::PORT).await else {
            return;
        };
        let mut client = ClusterServiceClient::with_origin(wire, caller::origin(self.orchestrator));
        self.order(Order::Undrain);
        loop {
            let request = UndrainRequest {
                instances: vec![self.instance.clone()],
            };
            let told = timeout(TRY, client.undrain(authorized(HOUSE_KEY, request))).await;
            if let Ok(Ok(told)) = told
                && let Some(health) = told.into_inner().instances.first()
            {
                self.tell(Order::Undrain, health);
                break;
            }
            sleep(ASKED_EVERY).await;
        }
        driver.abort();
    }

    fn order(&self, order: Order) {
        self.history.note(What::Ordered {
            instance: self.instance.clone(),
            order,
        });
    }

    fn tell(&self, order: Order, health: &InstanceHealth) {
        let drained = health.drained && self.lie != Some(Lie::NeverSaysDrained)
            || self.lie == Some(Lie::SaysDrainedAtOnce) && order == Order::Drain;
        let admin = health.admin().as_str_name();
        self.heard(order, admin, drained, health.calls_outstanding);
    }

    fn heard(&self, order: Order, admin: &str, drained: bool, outstanding: u32) {
        self.history.note(What::Heard {
            instance: self.instance.clone(),
            order,
            admin: admin.to_owned(),
            drained,
            outstanding,
        });
    }
}
