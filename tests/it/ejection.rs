//! Instances are judged by their calls too; and Explain shows what that means for the next one.

use orchestrator::domain::health::Panic;
use orchestrator::domain::health::observed::Said;
use orchestrator::domain::id::InstanceId;
use orchestrator::proto::orchestrator::explain_request::Call;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    CallPolicy, DrainRequest, Exclusion, ExplainRequest, ExplainResponse, FanoutRequest,
    HealthRequest, HealthState, ObservedState, ProbedState, RouteRequest, Selection,
};
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{
    self, Client, client, cluster, config, planned, reason, settled_but, start, text,
};

fn route(instances: &[&str]) -> RouteRequest {
    RouteRequest {
        instances: instances.iter().map(|id| (*id).to_owned()).collect(),
        payload: text("task"),
        ..Default::default()
    }
}

async fn fail(client: &mut Client, id: &str, times: usize) {
    for _ in 0..times {
        client.route(route(&[id])).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_instance_that_answers_its_probes_and_fails_its_calls_is_left_alone() {
    let failing = Instance::start(Act::Fail(Code::Internal)).await;
    let other = Instance::start(Act::Echo).await;
    let instances = ["B", "C", "D"].map(|id| planned(id, other.address));
    let app = start(stage::Config {
        instances: [&[planned("A", failing.address)], &instances[..]].concat(),
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    fail(&mut client, "A", 5).await;
    let health = client.health(HealthRequest::default()).await.unwrap();
    let a = &health.into_inner().instances[0];
    assert_eq!(
        (a.state(), a.probed()),
        (HealthState::Down, ProbedState::Healthy)
    );
    assert_eq!(a.observed(), ObservedState::Ejected);
    assert!(a.ejected_until.is_some());
    assert!(
        a.reason.starts_with("ejected until ") && a.reason.contains("5 calls in a row failed"),
        "{}",
        a.reason
    );
    for _ in 0..40 {
        let answer = client.route(route(&["A-D"])).await.unwrap().into_inner();
        assert!(answer.instance != "A" && !answer.panic_mode);
    }
    assert_eq!(failing.counts.borrow().begun, 5);

    // Whoever names nobody else is served all the same, and told.
    let request = FanoutRequest {
        targets: vec!["A".into()],
        ..Default::default()
    };
    let mut events = client.fanout(request).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Started(started)) if started.panic_mode));
    while let Ok(Some(_)) = events.message().await {}
    assert_eq!(failing.counts.borrow().begun, 6);
}

#[tokio::test]
async fn a_fault_of_the_caller_is_never_held_against_an_instance() {
    let refusing = Instance::start(Act::Fail(Code::InvalidArgument)).await;
    let app = start(stage::Config {
        instances: vec![planned("A", refusing.address)],
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    fail(&mut client, "A", 30).await;
    let health = client.health(HealthRequest::default()).await.unwrap();
    assert_eq!(
        health.into_inner().instances[0].state(),
        HealthState::Healthy
    );
}

/// A drains, B is ejected, C is not probed yet, D is down, E to J are well and equally loaded.
struct Mixed {
    app: orchestrator::app::App,
    asked: Vec<Instance>,
}

async fn mixed() -> Mixed {
    let unprobed = Instance::start_unprobed(Act::Echo).await;
    let well = Instance::start(Act::Echo).await;
    let mut dead = Instance::start(Act::Echo).await;
    dead.kill();
    let mut instances = vec![planned("C", unprobed.address), planned("D", dead.address)];
    let others = ["A", "B", "E", "F", "G", "H", "I", "J"];
    instances.extend(others.map(|id| planned(id, well.address)));
    let mut config = stage::Config {
        instances,
        ..config()
    };
    // The first probe of C is not over as long as the test lasts.
    config.probe.timeout = std::time::Duration::from_secs(600);
    let app = orchestrator::app::App::start(config).await.unwrap();
    settled_but(&app, "C").await;
    let drain = DrainRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    cluster(&app).await.drain(drain).await.unwrap();
    let view = app.fleet().view();
    let b = view.find(&InstanceId::parse("B").unwrap()).unwrap();
    for _ in 0..5 {
        let now = tokio::time::Instant::now();
        b.load
            .admit(Panic::Off, now)
            .unwrap()
            .report(Said::Failure, now);
    }
    Mixed {
        app,
        asked: vec![unprobed, well],
    }
}

fn told(explained: &ExplainResponse) -> Vec<(&str, Exclusion)> {
    let instances = explained.instances.iter();
    instances
        .map(|instance| (instance.instance.as_str(), instance.exclusion()))
        .collect()
}

#[tokio::test]
async fn explain_shows_order_exclusions_and_reasons_and_asks_nobody() {
    let mixed = mixed().await;
    let mut client = client(&mixed.app).await;
    let ordered = RouteRequest {
        policy: Some(CallPolicy {
            selection: Selection::Ordered.into(),
            attempts_max: 2,
            ..Default::default()
        }),
        timeout: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        ..route(&["D", "C", "B", "A", "H", "E-G", "Z"])
    };
    let request = ExplainRequest {
        call: Some(Call::Route(ordered)),
    };
    let explained = client.explain(request).await.unwrap().into_inner();
    let expected = [
        ("H", Exclusion::None),
        ("E", Exclusion::None),
        ("F", Exclusion::None),
        ("G", Exclusion::None),
        ("C", Exclusion::None),
        ("D", Exclusion::Down),
        ("B", Exclusion::Ejected),
        ("A", Exclusion::Draining),
        ("Z", Exclusion::NotInFleet),
    ];
    assert_eq!(told(&explained), expected);
    assert!(!explained.panic_mode);
    let reason_of = |id: &str| {
        let mut instances = explained.instances.iter();
        let instance = instances.find(|instance| instance.instance == id).unwrap();
        instance.reason.clone()
    };
    assert!(reason_of("D").contains("refused"), "{}", reason_of("D"));
    assert!(
        reason_of("B").contains("5 calls in a row failed"),
        "{}",
        reason_of("B")
    );
    assert_eq!(reason_of("A"), "draining: it gets nothing new");
    assert_eq!(reason_of("C"), "not probed yet");
    let c = explained
        .instances
        .iter()
        .find(|c| c.instance == "C")
        .unwrap();
    assert_eq!(c.health.as_ref().unwrap().state(), HealthState::Unknown);
    let policy = explained.policy.unwrap();
    assert_eq!(
        (policy.attempts_max, policy.selection()),
        (2, Selection::Ordered)
    );
    let millis = |time: Option<prost_types::Duration>| {
        std::time::Duration::try_from(time.unwrap())
            .unwrap()
            .as_millis()
    };
    assert_eq!(
        (millis(policy.timeout), millis(policy.work_time)),
        (2000, 1900)
    );

    let request = ExplainRequest {
        call: Some(Call::Fanout(FanoutRequest {
            targets: vec!["A-E".into()],
            ..Default::default()
        })),
    };
    let explained = client.explain(request).await.unwrap().into_inner();
    let expected = [
        ("A", Exclusion::Draining),
        // One of four that take work is well: what calls said is ignored.
        ("B", Exclusion::None),
        ("C", Exclusion::None),
        ("D", Exclusion::Down),
        ("E", Exclusion::None),
    ];
    assert_eq!(told(&explained), expected);
    assert!(explained.panic_mode);
    for instance in &mixed.asked {
        assert_eq!(instance.counts.borrow().begun, 0, "nobody was asked");
    }
}

#[tokio::test]
async fn explain_refuses_what_the_call_itself_would_refuse() {
    let mixed = mixed().await;
    let mut client = client(&mixed.app).await;
    let status = client.explain(ExplainRequest::default()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "ARGUMENT_INVALID")
    );
    let backwards = ExplainRequest {
        call: Some(Call::Route(route(&["H-A"]))),
    };
    let status = client.explain(backwards).await.unwrap_err();
    assert_eq!(reason(&status), "TARGET_INVALID");
}
