//! A fleet of scripted instances for the tests of the rooms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::fan_out::FanOut;
use super::run_task::Route;
use crate::chance::Chance;
use crate::domain::admission::Rate;
use crate::domain::deadline::{Deadline, Timeouts};
use crate::domain::gather::Completion;
use crate::domain::health::probed::State;
use crate::domain::health::{Admin, Panic};
use crate::domain::hedge;
use crate::domain::id::InstanceId;
use crate::domain::payload::Payload;
use crate::domain::retry;
use crate::domain::selection::Policy;
use crate::domain::task::{Form, Metadata, Names, Task};
use crate::domain::trace::Carried;
use crate::fleet::load::Load;
use crate::fleet::view::{FleetNow, Health, Member, Origin, View};
use crate::instance::endpoint::Endpoint;
use crate::instance::scripted::{Act, Scripted};
use crate::instance::{Spec, tls};
use crate::telemetry::trace::Within;

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) struct Stage {
    instances: BTreeMap<String, Arc<Scripted>>,
    members: Vec<Arc<Member>>,
}

impl Stage {
    /// Healthy instances, each with one act that it repeats.
    pub(super) fn new<'a>(acts: impl IntoIterator<Item = (&'a str, Act)>) -> Self {
        Self::with_scripts(acts.into_iter().map(|(id, act)| (id, vec![act])))
    }

    /// Healthy instances, each with acts one after the other; the last is repeated.
    pub(super) fn with_scripts<'a>(scripts: impl IntoIterator<Item = (&'a str, Vec<Act>)>) -> Self {
        let mut stage = Self {
            instances: BTreeMap::new(),
            members: Vec::new(),
        };
        for (id, acts) in scripts {
            let instance = Scripted::new(id, acts);
            let spec = Spec {
                id: InstanceId::parse(id).unwrap(),
                endpoint: Endpoint::parse("127.0.0.1:1").unwrap(),
                labels: BTreeMap::new(),
                weight: 1,
                calls_in_flight_max: None,
                credential: None,
                tls: tls::Settings::default(),
            };
            stage.members.push(Arc::new(Member {
                serial: 0,
                spec,
                origin: Origin::Config,
                client: instance.clone(),
                load: Arc::new(Load::new(1)),
                health: Health::probed(State::Healthy, ""),
            }));
            stage.instances.insert(id.to_owned(), instance);
        }
        stage
    }

    pub(super) fn set_healthy(&mut self, id: &str) {
        self.set_state(id, State::Healthy, "");
    }

    pub(super) fn set_down(&mut self, id: &str, reason: &str) {
        self.set_state(id, State::Down, reason);
    }

    pub(super) fn set_admin(&mut self, id: &str, admin: Admin) {
        for member in &mut self.members {
            if member.id().as_str() == id {
                let mut changed = Member::clone(member);
                changed.health.admin = admin;
                *member = Arc::new(changed);
            }
        }
    }

    fn set_state(&mut self, id: &str, state: State, reason: &str) {
        for member in &mut self.members {
            if member.id().as_str() == id {
                let health = Health::probed(state, reason);
                *member = Arc::new(Member {
                    health,
                    ..Member::clone(member)
                });
            }
        }
    }

    /// From now on calls may come to the instance only so fast.
    pub(super) fn slow(&mut self, id: &str, rate: Rate) {
        for member in &mut self.members {
            if member.id().as_str() == id {
                let load = Arc::new(Load::at_a_rate(rate));
                *member = Arc::new(Member {
                    load,
                    ..Member::clone(member)
                });
            }
        }
    }

    /// From now on so many calls may be with the instance at once.
    pub(super) fn limit(&mut self, id: &str, calls_max: u32) {
        for member in &mut self.members {
            if member.id().as_str() == id {
                let load = Arc::new(Load::limited(1, calls_max));
                *member = Arc::new(Member {
                    load,
                    ..Member::clone(member)
                });
            }
        }
    }

    /// The instance is one of the fleet no more.
    pub(super) fn take_out(&mut self, id: &str) {
        self.members.retain(|member| member.id().as_str() != id);
    }

    pub(super) fn instance(&self, id: &str) -> &Scripted {
        &self.instances[id]
    }

    /// The longest latency that was observed of any instance.
    pub(super) fn latency_max(&self) -> Duration {
        self.latencies().max().unwrap_or_default()
    }

    /// The latency that was observed of each instance.
    pub(super) fn latencies(&self) -> impl Iterator<Item = Duration> {
        self.members.iter().map(|member| {
            let nanos = member.load.compared(Instant::now()).latency_ns;
            Duration::from_nanos(nanos as u64)
        })
    }

    /// Calls that are with any instance now.
    pub(super) fn running(&self) -> usize {
        self.instances
            .values()
            .map(|instance| instance.running())
            .sum()
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::new(View::new(self.members.iter().cloned()))
    }

    fn fleet_now(&self) -> FleetNow {
        let view = self.view();
        Arc::new(move || Arc::clone(&view))
    }

    pub(super) fn route(&self, selection: Policy, timeout: Duration) -> Route {
        Route {
            task: task(Payload::null()),
            candidates: self.members.clone().into(),
            weight_max: self.view().weight_max(),
            panic: Panic::Off,
            selection,
            retry: retry::Policy::default(),
            hedge: hedge::Policy::Off,
            readiness: None,
            fleet_now: self.fleet_now(),
            retries: Arc::default(),
            within: Within::default(),
            hedges: Some(Arc::default()),
            lag: None,
            chance: Chance::default(),
            arrived: Instant::now(),
            deadline: deadline(timeout),
        }
    }

    pub(super) fn fan_out(&self, completion: Completion, timeout: Duration) -> FanOut {
        FanOut {
            task: task(Payload::null()),
            roster: self.members.clone().into(),
            panic: Panic::Off,
            completion,
            aggregate: false,
            retry: retry::Policy::default(),
            fleet_now: self.fleet_now(),
            retries: Arc::default(),
            within: Within::default(),
            chance: Chance::default(),
            arrived: Instant::now(),
            deadline: deadline(timeout),
        }
    }
}

pub(super) fn task(payload: Payload) -> Arc<Task> {
    let names = Names {
        request_id: Bytes::from_static(b"test"),
        traceparent: Bytes::new(),
        carried: Carried::default(),
    };
    Arc::new(Task {
        payload,
        metadata: Metadata::default(),
        names,
        form: Form::default(),
    })
}

fn deadline(timeout: Duration) -> Deadline {
    let timeouts = Timeouts {
        header: Some(timeout),
        field: None,
        default: timeout,
        max: ms(600_000),
    };
    Deadline::of(Instant::now().into_std(), timeouts)
}
