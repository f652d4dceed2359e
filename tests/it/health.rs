//! Health tells who is well and why; HealthWatch tells when that changes.

use std::sync::Arc;

use orchestrator::domain::health::State;
use orchestrator::proto::health::health_check_response::ServingStatus;
use orchestrator::proto::health::health_client::HealthClient;
use orchestrator::proto::health::{HealthCheckRequest, HealthListRequest};
use orchestrator::proto::orchestrator::{
    DeregisterRequest, DrainRequest, HealthRequest, HealthState, HealthWatchRequest,
    HealthWatchResponse, Instance as Registered, RegisterRequest, RouteRequest,
    SessionSpawnRequest,
};
use orchestrator::store::memory::{Fault, MemoryStore, Settings};
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{
    self, channel, client, config, embedded, planned, reason, settled, start, start_over,
};

#[tokio::test]
async fn a_dead_instance_is_down_with_a_reason_and_the_living_are_healthy() {
    let living = Instance::start(Act::Echo).await;
    let mut dead = Instance::start(Act::Echo).await;
    let instances = vec![planned("A", living.address), planned("B", dead.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let mut watch = client
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    let states: Vec<_> = first
        .instances
        .iter()
        .map(|health| (health.instance.as_str(), health.state()))
        .collect();
    assert_eq!(
        states,
        [("A", HealthState::Healthy), ("B", HealthState::Healthy)]
    );
    dead.kill();
    let change = watch.message().await.unwrap().unwrap();
    let states: Vec<_> = change
        .instances
        .iter()
        .map(|health| (health.instance.as_str(), health.state()))
        .collect();
    assert_eq!(
        states,
        [("B", HealthState::Down)],
        "only what changed is sent"
    );

    let request = HealthRequest {
        instances: vec!["B A".into()],
    };
    let answer = client.health(request).await.unwrap().into_inner();
    let [b, a] = &answer.instances[..] else {
        panic!("in the order of the request: {answer:?}")
    };
    assert_eq!(
        (b.state(), a.state()),
        (HealthState::Down, HealthState::Healthy)
    );
    assert!(b.reason.contains("refused"), "{}", b.reason);
    assert!(a.last_probe_latency.is_some() && a.since.is_some());
    let request = HealthRequest {
        instances: vec!["C".into()],
    };
    let status = client.health(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "TARGET_UNKNOWN")
    );
}

#[tokio::test]
async fn the_orchestrator_s_own_health_is_public_and_knows_its_services() {
    let app = start(embedded()).await;
    let mut health = HealthClient::new(channel(app.address()).await);
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in ["", "openclaw.orchestrator.v1.OrchestratorService"] {
        let answer = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let status = health.check(ask("nobody")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "TARGET_UNKNOWN")
    );
    let list = health
        .list(HealthListRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.statuses.len(), 4);
    let mut watch = health.watch(ask("nobody")).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::ServiceUnknown
    );
}

#[tokio::test]
async fn sessions_have_a_health_of_their_own_which_is_that_of_the_journal() {
    let store = MemoryStore::new(Settings::default());
    let app = start_over(embedded(), Arc::new(store.clone())).await;
    let (mut client, channel) = (client(&app).await, channel(app.address()).await);
    let mut health = HealthClient::new(channel);
    let sessions = HealthCheckRequest {
        service: "openclaw.orchestrator.v1.Sessions".to_owned(),
    };
    let mut watch = health.watch(sessions).await.unwrap().into_inner();
    let mut next = async || watch.message().await.unwrap().map(|told| told.status());
    assert_eq!(next().await, Some(ServingStatus::Serving));
    for (fault, expected) in [
        (Fault::NoSpace, "JOURNAL_FULL"),
        (Fault::SyncFails, "JOURNAL_FAILED"),
    ] {
        store.set_fault(fault);
        let spawn = client.session_spawn(SessionSpawnRequest::default());
        assert_eq!(reason(&spawn.await.unwrap_err()), expected);
        assert_eq!(next().await, Some(ServingStatus::NotServing));
        let whole = health.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(whole.into_inner().status(), ServingStatus::Serving);
        let route = RouteRequest {
            instances: vec!["A".into()],
            ..RouteRequest::default()
        };
        client.route(route).await.unwrap();
        store.set_fault(Fault::None);
        // By itself: nobody sends anything to a session meanwhile.
        assert_eq!(next().await, Some(ServingStatus::Serving));
    }
    let stopping = app.stop();
    let told = async { (next().await, next().await) };
    let (_, told) = tokio::join!(stopping, told);
    assert_eq!(told, (Some(ServingStatus::NotServing), None));
}

#[tokio::test]
async fn an_instance_that_comes_back_is_healthy_again() {
    let flapping = orchestrator::instance::builtin::Behaviour {
        flap: Some(std::time::Duration::from_millis(700)),
        ..Default::default()
    };
    let mut config = embedded();
    config.instances.truncate(1);
    if let orchestrator::config::Planned::Builtin(builtin) = &mut config.instances[0] {
        builtin.behaviour = flapping;
    }
    config.probe.interval = std::time::Duration::from_millis(50);
    let app = start(config).await;
    settled(&app, |state| state == State::Down).await;
    settled(&app, |state| state == State::Healthy).await;
}

#[tokio::test]
async fn an_instance_with_a_health_watch_is_noticed_without_being_asked() {
    let flapping = orchestrator::instance::builtin::Behaviour {
        flap: Some(std::time::Duration::from_millis(700)),
        ..Default::default()
    };
    let mut config = embedded();
    config.instances.truncate(1);
    if let orchestrator::config::Planned::Builtin(builtin) = &mut config.instances[0] {
        builtin.behaviour = flapping;
    }
    // It is asked once; the rest it tells by itself.
    config.probe.interval = std::time::Duration::from_secs(3600);
    let app = start(config).await;
    for _ in 0..2 {
        settled(&app, |state| state == State::Down).await;
        settled(&app, |state| state == State::Healthy).await;
    }
}

#[tokio::test]
async fn a_health_watch_of_some_tells_who_comes_goes_and_changes_and_nothing_of_the_others() {
    let instance = Instance::start(Act::Echo).await;
    let planned = ["A", "B", "x"].map(|id| planned(id, instance.address));
    let app = start(stage::Config {
        instances: planned.to_vec(),
        ..config()
    })
    .await;
    let (mut client, mut cluster) = (client(&app).await, stage::cluster(&app).await);
    let request = HealthWatchRequest {
        instances: vec!["A,w1-w9".into(), "B".into()],
    };
    let status = client.health_watch(request).await.unwrap_err();
    assert_eq!(
        reason(&status),
        "TARGET_UNKNOWN",
        "what selects nobody at the start is refused"
    );
    let registration = RegisterRequest {
        instance: Some(Registered {
            id: "w5".into(),
            address: instance.address.to_string(),
            ..Default::default()
        }),
        incarnation: 1,
        lease: None,
    };
    cluster.register(registration.clone()).await.unwrap();
    settled(&app, |state| state == State::Healthy).await;
    let request = HealthWatchRequest {
        instances: vec!["A,w1-w9".into(), "B".into()],
    };
    let mut changes = client.health_watch(request).await.unwrap().into_inner();
    let first = changes.message().await.unwrap().unwrap();
    let names = |change: &HealthWatchResponse| -> Vec<String> {
        let instances = change.instances.iter();
        instances.map(|health| health.instance.clone()).collect()
    };
    assert_eq!(names(&first), ["A", "w5", "B"]);
    let drain = |id: &str| DrainRequest {
        instances: vec![id.to_owned()],
        ..Default::default()
    };
    cluster.drain(drain("x")).await.unwrap();
    cluster.drain(drain("B")).await.unwrap();
    let change = changes.message().await.unwrap().unwrap();
    assert_eq!(
        (names(&change), change.removed),
        (vec!["B".to_owned()], vec![])
    );
    let gone = DeregisterRequest {
        id: "w5".into(),
        incarnation: 1,
    };
    cluster.deregister(gone).await.unwrap();
    let change = changes.message().await.unwrap().unwrap();
    assert_eq!(
        (names(&change), change.removed),
        (vec![], vec!["w5".to_owned()])
    );
    cluster.register(registration).await.unwrap();
    let change = changes.message().await.unwrap().unwrap();
    assert_eq!(names(&change), ["w5"]);
}
