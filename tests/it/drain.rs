//! A drained instance keeps what it has and gets nothing new, over every door that work goes through.

use orchestrator::config::Planned;
use orchestrator::domain::health::State;
use orchestrator::domain::id::InstanceId;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    AdminState, CallPolicy, DrainRequest, Fallback, FanoutRequest, HealthRequest, HealthState,
    HealthWatchRequest, ListInstancesRequest, Outcome, RouteRequest, UndrainRequest,
};
use tokio::sync::watch;
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, Client, client, cluster, config, embedded, planned, reason, start, text};

fn route(instances: &[&str]) -> RouteRequest {
    RouteRequest {
        instances: instances.iter().map(|id| (*id).to_owned()).collect(),
        payload: text("task"),
        ..Default::default()
    }
}

fn names(instances: &[&str]) -> DrainRequest {
    DrainRequest {
        instances: instances.iter().map(|id| (*id).to_owned()).collect(),
        ..Default::default()
    }
}

async fn outcomes(client: &mut Client, targets: &str) -> Vec<(String, Outcome, String)> {
    let request = FanoutRequest {
        targets: vec![targets.to_owned()],
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(Event::Partial(partial)) = event.event {
            let reason = partial
                .failure
                .as_ref()
                .map(|failure| failure.reason.clone());
            found.push((
                partial.instance.clone(),
                partial.outcome(),
                reason.unwrap_or_default(),
            ));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_draining_instance_finishes_what_it_has_gets_nothing_new_and_says_when_it_is_empty() {
    let (open, gate) = watch::channel(false);
    let drained = Instance::start(Act::EchoOnce(gate)).await;
    let other = Instance::start(Act::Echo).await;
    let instances = vec![planned("A", drained.address), planned("B", other.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let (mut client, mut cluster) = (client(&app).await, cluster(&app).await);
    let mut first = client.clone();
    let running = tokio::spawn(async move { first.route(route(&["A"])).await });
    drained.until(|counts| counts.begun == 1).await;

    let answer = cluster.drain(names(&["A"])).await.unwrap().into_inner();
    let [a] = &answer.instances[..] else {
        panic!("one entry: {answer:?}")
    };
    assert_eq!(
        (a.state(), a.admin()),
        (HealthState::Draining, AdminState::Draining)
    );
    assert_eq!((a.calls_outstanding, a.drained), (1, false));

    let status = client.route(route(&["A"])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "INSTANCE_DRAINING")
    );
    for _ in 0..20 {
        let answer = client.route(route(&["A", "B"])).await.unwrap().into_inner();
        assert_eq!(answer.instance, "B");
    }
    let fallback = RouteRequest {
        policy: Some(CallPolicy {
            fallback: Fallback::AnyHealthy.into(),
            ..Default::default()
        }),
        ..route(&["A"])
    };
    assert_eq!(
        client.route(fallback).await.unwrap().into_inner().instance,
        "B"
    );
    let expected = [
        (
            "A".to_owned(),
            Outcome::Failed,
            "INSTANCE_DRAINING".to_owned(),
        ),
        ("B".to_owned(), Outcome::Answered, String::new()),
    ];
    assert_eq!(outcomes(&mut client, "A-B").await, expected);

    let mut watch = client
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    open.send_replace(true);
    assert_eq!(running.await.unwrap().unwrap().into_inner().instance, "A");
    let change = watch.message().await.unwrap().unwrap();
    let [a] = &change.instances[..] else {
        panic!("only what changed: {change:?}")
    };
    assert!(a.instance == "A" && a.drained && a.calls_outstanding == 0);
    let listed = cluster
        .list_instances(ListInstancesRequest::default())
        .await;
    let listed = listed.unwrap().into_inner();
    assert!(listed.instances[0].health.as_ref().unwrap().drained);
    assert_eq!(drained.counts.borrow().begun, 1, "nothing new has come");

    let undrain = UndrainRequest {
        instances: vec!["*".to_owned()],
    };
    cluster.undrain(undrain).await.unwrap();
    assert_eq!(
        client
            .route(route(&["A"]))
            .await
            .unwrap()
            .into_inner()
            .instance,
        "A"
    );
}

#[tokio::test]
async fn a_task_whose_instance_is_drained_while_it_waits_goes_elsewhere() {
    let refusing = Instance::start(Act::Fail(Code::Unavailable)).await;
    let other = Instance::start(Act::Echo).await;
    let instances = vec![planned("A", refusing.address), planned("B", other.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    cluster(&app).await.drain(names(&["B"])).await.unwrap();
    let request = RouteRequest {
        policy: Some(CallPolicy {
            idempotent: true,
            ..Default::default()
        }),
        ..route(&["A", "B"])
    };
    let status = client(&app).await.route(request).await.unwrap_err();
    assert_eq!(
        reason(&status),
        "INSTANCE_FAILED",
        "A alone was tried, again and again"
    );
    assert_eq!(refusing.counts.borrow().begun, 4);
    assert_eq!(other.counts.borrow().begun, 0);
}

#[tokio::test]
async fn what_the_config_disables_gets_nothing_until_it_is_taken_back_into_use() {
    let mut config = embedded();
    config.instances.truncate(2);
    let disabled = orchestrator::domain::health::Admin::Disabled;
    config.admin = [(InstanceId::parse("A").unwrap(), disabled)].into();
    assert!(matches!(config.instances[0], Planned::Builtin(_)));
    let app = start(config).await;
    let mut client = client(&app).await;
    let health = client.health(HealthRequest::default()).await.unwrap();
    let health = &health.into_inner().instances[0];
    assert_eq!(
        (health.state(), health.admin()),
        (HealthState::Down, AdminState::Disabled)
    );
    let status = client.route(route(&["A"])).await.unwrap_err();
    assert_eq!(reason(&status), "INSTANCE_DRAINING");
    let undrain = UndrainRequest {
        instances: vec!["A".to_owned()],
    };
    cluster(&app).await.undrain(undrain).await.unwrap();
    stage::settled(&app, |state| state == State::Healthy).await;
    assert!(client.route(route(&["A"])).await.is_ok());
}

#[tokio::test]
async fn only_operators_drain_and_only_what_is_there() {
    let app = start(embedded()).await;
    let mut cluster = cluster(&app).await;
    let status = cluster.drain(names(&["Z"])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "TARGET_UNKNOWN")
    );
    let status = cluster.drain(names(&[])).await.unwrap_err();
    assert_eq!(reason(&status), "TARGET_INVALID");
    let scopes = orchestrator::ingress::access::METHODS;
    let drains = scopes.iter().filter(|(method, _)| method.ends_with("rain"));
    let admin = orchestrator::ingress::access::Scope::Admin;
    assert_eq!(drains.filter(|(_, scope)| *scope == admin).count(), 2);
}
