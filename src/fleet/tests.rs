//! What the fleet decides, with scripted instances and a clock of the test's own.

use std::collections::BTreeMap;

use tokio::time;

use super::*;
use crate::domain::health::observed::{Said, Standing};
use crate::domain::health::{Exclusion, Panic, State};
use crate::instance::endpoint::Endpoint;
use crate::instance::scripted::{Probe, Scripted};
use crate::instance::tls;

/// A fleet of `count` instances w00, w01 and so on, whose probes do as the scripts say.
pub(super) struct Stage {
    fleet: Arc<Fleet>,
    pub(super) instances: BTreeMap<String, Arc<Scripted>>,
}

impl Stage {
    pub(super) async fn new(count: usize) -> Self {
        let names: Vec<_> = (0..count).map(|at| format!("w{at:02}")).collect();
        let stage = Self::empty(&names);
        let specs = names.iter().map(|name| (spec(name), Origin::Config));
        stage.fleet.add(specs.collect()).unwrap();
        stage
            .until(|member| member.health.state == State::Healthy)
            .await;
        stage
    }

    /// Instances that are not in the fleet yet.
    fn empty(names: &[String]) -> Self {
        let instances: BTreeMap<_, _> = names
            .iter()
            .map(|name| (name.clone(), Scripted::new(name, [])))
            .collect();
        let known = instances.clone();
        let settings = registration::Settings {
            networks: network::loopback(),
            ourselves: Vec::new(),
            calls_in_flight_max: 1000,
            rate: None,
            retries: Default::default(),
            take_over: registration::TakeOver::AnyKey,
        };
        let fleet = Fleet::new(
            Arc::new(move |spec: &Spec| Ok(known[spec.id.as_str()].clone() as _)),
            ProbeSettings::default(),
            health::Settings::default(),
            settings,
            Tasks::new(),
            Chance::default(),
        );
        Self { fleet, instances }
    }

    pub(super) fn member(&self, name: &str) -> Arc<Member> {
        let id = InstanceId::parse(name).unwrap();
        Arc::clone(self.fleet.view().find(&id).unwrap())
    }

    /// Waits until all members are as wanted; the clock moves on meanwhile.
    async fn until(&self, wanted: impl Fn(&Member) -> bool) {
        let mut changes = self.fleet.changes();
        let all = async {
            while !self
                .fleet
                .view()
                .members()
                .iter()
                .all(|member| wanted(member))
            {
                changes.changed().await.unwrap();
            }
        };
        time::timeout(Duration::from_secs(600), all).await.unwrap();
    }

    fn call(&self, name: &str, said: Said) {
        let pass = self.member(name).load.admit(Panic::Off, Instant::now());
        pass.unwrap().report(said, Instant::now());
    }

    fn fail(&self, name: &str) {
        for _ in 0..5 {
            self.call(name, Said::Failure);
        }
    }

    fn ejected(&self) -> usize {
        let view = self.fleet.view();
        let members = view.members().iter();
        members
            .filter(|member| member.health.observed != Standing::Trusted)
            .count()
    }
}

fn spec(name: &str) -> Spec {
    Spec {
        id: InstanceId::parse(name).unwrap(),
        endpoint: Endpoint::parse("127.0.0.1:1").unwrap(),
        labels: BTreeMap::new(),
        weight: 1,
        calls_in_flight_max: None,
        credential: None,
        tls: tls::Settings::default(),
    }
}

fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_fails_its_calls_is_ejected_and_one_call_brings_it_back() {
    let stage = Stage::new(8).await;
    let before = stage.member("w03");
    stage.fail("w03");
    let member = stage.member("w03");
    assert_eq!(member.health.state, State::Down);
    let reason = &member.health.reason;
    assert!(
        reason.starts_with("ejected until 20") && reason.ends_with(": 5 calls in a row failed"),
        "{reason}"
    );
    let now = Instant::now();
    let refused = before.load.admit(Panic::Off, now).unwrap_err();
    assert!(
        matches!(refused, Exclusion::Ejected { .. }),
        "also by whoever holds an older view"
    );
    assert_eq!(before.load.outstanding(), 0);
    assert!(
        before.load.admit(Panic::On, now).is_ok(),
        "panic ignores it"
    );

    time::advance(Duration::from_secs(31)).await;
    let now = Instant::now();
    assert_eq!(member.exclusion(Panic::Off, now), None);
    let trial = member.load.admit(Panic::Off, now).unwrap();
    assert_eq!(
        member.load.admit(Panic::Off, now).unwrap_err(),
        Exclusion::OnTrial
    );
    assert_eq!(member.exclusion(Panic::Off, now), Some(Exclusion::OnTrial));
    drop(trial);
    let trial = member
        .load
        .admit(Panic::Off, now)
        .expect("a call that was dropped has decided nothing");
    trial.report(Said::Failure, now);
    assert!(
        member
            .load
            .admit(Panic::Off, now + Duration::from_secs(50))
            .is_err(),
        "longer than before"
    );
    time::advance(Duration::from_secs(61)).await;
    stage.call("w03", Said::Success);
    let member = stage.member("w03");
    assert_eq!(member.health.state, State::Healthy);
    assert!(member.compared(Instant::now()).warmth < 0.2, "slowly");
    assert!(member.load.admit(Panic::Off, Instant::now()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_ejection_is_over_is_shown_on_trial_also_when_nobody_calls() {
    let stage = Stage::new(8).await;
    let fleet = Arc::downgrade(&stage.fleet);
    stage.fleet.tasks.spawn(Fleet::keep_time(fleet));
    stage.fail("w03");
    let mut changes = stage.fleet.changes();
    let shown = |state| {
        let member = stage.member("w03");
        (member.health.state == state).then_some(member)
    };
    let ejected = shown(State::Down).expect("it is ejected");
    let until = |standing| match standing {
        Standing::Ejected { until, .. } => Instant::from_std(until),
        Standing::Trusted => panic!("it is trusted"),
    };
    let until = until(ejected.health.observed);
    let on_trial = async {
        loop {
            changes.changed().await.unwrap();
            if let Some(member) = shown(State::Starting) {
                break member;
            }
        }
    };
    let member = time::timeout(Duration::from_secs(600), on_trial).await;
    let member = member.expect("its ejection is over, and nobody has called");
    let late = Instant::now().saturating_duration_since(until);
    assert!(until <= Instant::now() && late < Duration::from_secs(1));
    assert_eq!(
        &*member.health.reason,
        "its ejection is over: the next call decides"
    );
    assert_eq!(stage.ejected(), 1, "it still counts as ejected");
    stage.call("w03", Said::Failure);
    assert!(shown(State::Down).is_some(), "for longer");
    time::advance(Duration::from_secs(61)).await;
    stage.call("w03", Said::Success);
    assert!(shown(State::Healthy).is_some());
}

#[tokio::test(start_paused = true)]
async fn no_more_than_three_in_ten_are_ejected_whoever_fails() {
    let stage = Stage::new(10).await;
    for round in 0..3 {
        for at in 0..10 {
            let name = format!("w{at:02}");
            let member = stage.member(&name);
            if member.health.observed == Standing::Trusted {
                stage.fail(&name);
            }
            assert!(stage.ejected() <= 3, "round {round}");
        }
    }
    assert_eq!(stage.ejected(), 3);
    let alone = Stage::new(1).await;
    alone.fail("w00");
    assert_eq!(alone.ejected(), 1, "but always one");
}

#[tokio::test(start_paused = true)]
async fn in_a_smaller_fleet_fewer_are_ejected() {
    let names: Vec<_> = (0..10).map(|at| format!("w{at:02}")).collect();
    let stage = Stage::empty(&names);
    let asker = registration::Asker {
        key: "test".into(),
        rank: registration::Rank::Ordinary,
    };
    for name in &names {
        let registration = registration::Registration {
            id: id(name),
            endpoint: Endpoint::parse("127.0.0.1:1").unwrap(),
            labels: BTreeMap::new(),
            weight: 1,
            incarnation: 1,
            lease: Duration::from_secs(600),
        };
        stage.fleet.register(registration, &asker).await.unwrap();
    }
    for name in ["w00", "w01", "w02"] {
        stage.fail(name);
        time::advance(Duration::from_secs(5)).await;
    }
    assert_eq!(stage.ejected(), 3);
    for name in ["w09", "w08", "w07", "w06"] {
        let gone = stage.fleet.deregister(&id(name), 1, &asker).await;
        gone.unwrap();
    }
    assert_eq!(stage.ejected(), 1, "of six");
    assert_ne!(
        stage.member("w02").health.observed,
        Standing::Trusted,
        "whose time was over last"
    );
    assert!(
        stage
            .member("w00")
            .load
            .admit(Panic::Off, Instant::now())
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_draining_instance_keeps_what_it_has_and_gets_nothing_new() {
    let stage = Stage::new(2).await;
    let before = stage.member("w00");
    let running = before.load.admit(Panic::Off, Instant::now()).unwrap();
    stage.fleet.set_admin([&id("w00")], Admin::Draining, "test");
    assert_eq!(
        before.load.admit(Panic::On, Instant::now()).unwrap_err(),
        Exclusion::Draining
    );
    let member = stage.member("w00");
    assert_eq!(
        (member.health.state, member.is_drained()),
        (State::Draining, false)
    );
    let mut changes = stage.fleet.changes();
    changes.borrow_and_update();
    drop(running);
    assert!(
        changes.has_changed().unwrap(),
        "whoever watches sees that it is drained"
    );
    assert!(stage.member("w00").is_drained());
    assert!(!Arc::ptr_eq(&member, &stage.member("w00")));
    stage.fleet.set_admin([&id("w00")], Admin::Active, "test");
    assert_eq!(stage.member("w00").health.state, State::Healthy);
    assert!(before.load.admit(Panic::Off, Instant::now()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_wants_outlives_a_restart_of_the_instance() {
    let stage = Stage::new(2).await;
    stage
        .fleet
        .set_admin([&id("w00")], Admin::Disabled, "config");
    stage.fleet.set_admin([&id("w00")], Admin::Draining, "test");
    assert_eq!(
        stage.member("w00").health.admin,
        Admin::Disabled,
        "a drain brings nothing back"
    );
    {
        let mut roll = stage.fleet.roll();
        roll.remove(&id("w00"));
        let entered = stage
            .fleet
            .enter(&mut roll, spec("w00"), Origin::Config, None);
        entered.unwrap();
        stage.fleet.publish(&roll);
    }
    let member = stage.member("w00");
    assert_eq!(
        (member.health.admin, member.health.state),
        (Admin::Disabled, State::Down)
    );
    assert_eq!(
        member.load.admit(Panic::On, Instant::now()).unwrap_err(),
        Exclusion::Disabled
    );
}

#[tokio::test(start_paused = true)]
async fn few_that_are_well_are_a_reason_not_to_believe_their_calls() {
    let stage = Stage::new(10).await;
    for name in ["w00", "w01", "w02"] {
        stage.fail(name);
    }
    let view = stage.fleet.view();
    let panic = |expression: &str| {
        let chosen = view.resolve(&[expression], 100).unwrap();
        view.panic_among(&chosen)
    };
    assert_eq!(panic("*"), Panic::Off);
    assert_eq!(panic("w00-w05"), Panic::Off, "half of them");
    assert_eq!(panic("w00-w04"), Panic::On);
    assert_eq!(panic("w05-w09"), Panic::Off);
    stage.fleet.set_admin([&id("w04")], Admin::Draining, "test");
    assert_eq!(panic("w01-w04"), Panic::Off, "an older view is as it was");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stalls_while_it_works_is_busy_and_then_down() {
    let stage = Stage::new(1).await;
    let working = stage.member("w00").load.admit(Panic::Off, Instant::now());
    stage.instances["w00"].set_probe(Probe::Silent);
    let mut seen = Vec::new();
    let mut changes = stage.fleet.changes();
    let watched = async {
        while seen.last() != Some(&State::Down) {
            changes.changed().await.unwrap();
            seen.push(stage.member("w00").health.state);
        }
    };
    // The clock is the test's own: this is an end, and no wait.
    let ended = time::timeout(Duration::from_secs(600), watched).await;
    assert!(ended.is_ok(), "it is busy for ever");
    assert_eq!(seen, [State::Busy, State::Down]);
    drop(working);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_an_instance_tells_by_itself_holds_at_once() {
    let stage = Stage::new(1).await;
    let instance = &stage.instances["w00"];
    let asked = Instant::now();
    instance.tell(crate::instance::Serving::No);
    stage
        .until(|member| member.health.state == State::Down)
        .await;
    assert!(
        asked.elapsed() < Duration::from_millis(10),
        "the clock is the test's own"
    );
    instance.tell(crate::instance::Serving::Yes);
    stage
        .until(|member| member.health.state == State::Healthy)
        .await;
    assert!(asked.elapsed() < Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_tells_while_a_probe_waits_for_it_holds_at_once() {
    let stage = Stage::new(1).await;
    let instance = &stage.instances["w00"];
    instance.set_probe(Probe::Silent);
    instance.until_probed().await;
    let asked = Instant::now();
    instance.tell(crate::instance::Serving::No);
    let is_down = |member: &Member| member.health.state == State::Down;
    stage.until(is_down).await;
    // The probe would last for two seconds.
    assert!(asked.elapsed() < Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_is_a_failed_probe_and_the_instance_is_asked_at_once() {
    let stage = Stage::new(1).await;
    let instance = &stage.instances["w00"];
    let started = Instant::now();
    instance.set_probe(Probe::Refused);
    instance.break_watch();
    stage
        .until(|member| member.health.state == State::Down)
        .await;
    // Broken, asked at once, asked after the interval: three failures.
    assert!(
        started.elapsed() < Duration::from_secs(7),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_silent_instances_do_not_hold_up_the_others() {
    let stage = Stage::new(99).await;
    let silent = 98;
    for at in 0..silent {
        stage.instances[&format!("w{at:02}")].set_probe(Probe::Silent);
    }
    // Far fewer permits than silent instances: each is given back before its probe times out.
    let taken = PROBES_AT_ONCE_MAX - 2;
    let _taken = stage.fleet.probes.acquire_many(taken as u32).await.unwrap();
    let started = Instant::now();
    stage.instances["w98"].set_probe(Probe::Refused);
    stage
        .until(|member| member.id().as_str() != "w98" || member.health.state == State::Down)
        .await;
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
}

fn probed_down(stage: &Stage, name: &str) {
    let member = stage.member(name);
    let down = probed::State::Down;
    stage
        .fleet
        .note_probe(member.id(), member.serial, down, "as the test wants it");
}

#[tokio::test(start_paused = true)]
async fn what_the_probes_of_a_large_fleet_change_at_once_is_shown_in_few_looks() {
    let names: Vec<_> = (0..1000).map(|at| format!("w{at:04}")).collect();
    let stage = Stage::empty(&names);
    let specs = names.iter().map(|name| (spec(name), Origin::Config));
    stage.fleet.add(specs.collect()).unwrap();
    let changes = stage.fleet.changes();
    stage
        .until(|member| member.health.state == State::Healthy)
        .await;
    let looks = *changes.borrow();
    assert!(looks < 50, "{looks}");

    names.iter().for_each(|name| probed_down(&stage, name));
    assert_eq!(*changes.borrow(), looks, "a moment later");
    time::sleep(VIEW_BEHIND_MAX).await;
    tokio::task::yield_now().await;
    assert_eq!(*changes.borrow(), looks + 1);
    let view = stage.fleet.view();
    let is_down = |member: &Arc<Member>| member.health.state == State::Down;
    assert!(view.members().iter().all(is_down));
}

#[tokio::test(start_paused = true)]
async fn a_small_fleet_and_what_an_operator_wants_are_shown_at_once() {
    let stage = Stage::new(10).await;
    probed_down(&stage, "w03");
    assert_eq!(stage.member("w03").health.state, State::Down);

    let names: Vec<_> = (0..1000).map(|at| format!("w{at:04}")).collect();
    let stage = Stage::empty(&names);
    let specs = names.iter().map(|name| (spec(name), Origin::Config));
    stage.fleet.add(specs.collect()).unwrap();
    probed_down(&stage, "w0003");
    assert_ne!(stage.member("w0003").health.state, State::Down);
    stage
        .fleet
        .set_admin([&id("w0005")], Admin::Draining, "test");
    assert_eq!(stage.member("w0005").health.state, State::Draining);
    let looks = *stage.fleet.changes().borrow();
    // What was to be shown later has come with it.
    assert_eq!(stage.member("w0003").health.state, State::Down);
    time::sleep(VIEW_BEHIND_MAX / 2).await;
    assert_eq!(*stage.fleet.changes().borrow(), looks);
}
