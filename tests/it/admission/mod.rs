//! How much work is taken, and how what is too much is refused: before anything of it reaches an instance.

use futures_util::future::join_all;
use orchestrator::app::App;
use orchestrator::config::Planned;
use orchestrator::domain::admission::Quota;
use orchestrator::ingress::caller::Key;
use orchestrator::proto::health::HealthCheckRequest;
use orchestrator::proto::health::health_client::HealthClient;
use orchestrator::proto::orchestrator::explain_request::Call;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{
    Exclusion, ExplainRequest, FanoutRequest, HealthRequest, HealthWatchRequest, Outcome,
    RouteRequest, RouteResponse,
};
use tokio::sync::watch;
use tonic::{Code, Response, Status};

use crate::raw::caller::{self, Body};
use crate::raw::{frame, soon};
use crate::stage::instance::{Act, Instance};
use crate::stage::{
    Bearer, Client, Config, KEY, channel, client, config, planned, reason, start, text,
};

mod ends;
mod memory;
mod waited;

const ROUTE: &str = "/openclaw.orchestrator.v1.OrchestratorService/Route";
const FANOUT: &str = "/openclaw.orchestrator.v1.OrchestratorService/Fanout";

/// An orchestrator with an instance that answers at once, and two that answer once they are let go.
struct House {
    app: App,
    echo: Instance,
    held: [Instance; 2],
    let_go: watch::Sender<bool>,
}

impl House {
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (let_go, gate) = watch::channel(false);
        let echo = Instance::start(Act::Echo).await;
        let held = [
            Instance::start(Act::EchoOnce(gate.clone())).await,
            Instance::start(Act::EchoOnce(gate)).await,
        ];
        let mut config = config();
        config.instances = vec![
            planned("echo", echo.address),
            planned("held1", held[0].address),
            planned("held2", held[1].address),
        ];
        change(&mut config);
        Self {
            app: start(config).await,
            echo,
            held,
            let_go,
        }
    }

    /// Nothing runs, nothing waits, and no byte is held.
    async fn is_empty(&self) {
        let empty = (0, 0, 0, 0);
        let now = || {
            let (running, waiting, legs) = self.app.gate().load();
            (running, waiting, legs, self.app.memory().held())
        };
        // What was counted last, when the count never ends.
        for _ in 0..1_000_000 {
            if now() == empty {
                return;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(now(), empty, "calls, waiting calls, legs, bytes");
    }

    /// Waits until so many calls run, and so many wait.
    async fn until_load(&self, running: u32, waiting: u32) {
        soon(async {
            while self.app.gate().load().0 != running || self.app.gate().load().1 != waiting {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn begun(&self) -> usize {
        let held = self.held.iter().map(|held| held.counts.borrow().begun);
        held.sum::<usize>() + self.echo.counts.borrow().begun
    }
}

async fn client_of(app: &App, key: &str) -> Client {
    OrchestratorServiceClient::with_interceptor(channel(app.address()).await, Bearer(key.into()))
}

fn route(instances: &[&str]) -> RouteRequest {
    RouteRequest {
        instances: instances.iter().map(ToString::to_string).collect(),
        payload: text("task"),
        ..Default::default()
    }
}

/// Sends calls that nobody answers yet, and waits until they are in.
async fn fill(
    house: &House,
    key: &str,
    calls: usize,
) -> Vec<tokio::task::JoinHandle<Result<Response<RouteResponse>, Status>>> {
    let client = client_of(&house.app, key).await;
    let mut sent = Vec::new();
    for _ in 0..calls {
        let mut client = client.clone();
        sent.push(tokio::spawn(async move {
            client.route(route(&["held1"])).await
        }));
    }
    sent
}

fn quota(in_flight_max: u32) -> Quota {
    Quota {
        in_flight_max,
        rate: None,
    }
}

#[tokio::test]
async fn a_full_server_refuses_before_dispatch_and_its_health_still_answers() {
    let house = House::with(|config| {
        config.admission.calls.all.in_flight_max = 3;
        config.admission.calls.waiting_max = 0;
    })
    .await;
    let sent = fill(&house, KEY, 3).await;
    house.held[0].until(|counts| counts.begun == 3).await;
    let begun = house.begun();
    for (path, message) in [
        (ROUTE, frame::message(&route(&["echo"]))),
        (
            FANOUT,
            frame::message(&FanoutRequest {
                targets: vec!["*".into()],
                ..Default::default()
            }),
        ),
    ] {
        let request = caller::grpc(path, &[]);
        let answer = caller::ask(house.app.address(), request, message, Body::Whole).await;
        let (code, reason) = answer.code();
        assert_eq!(
            (code, reason.as_str()),
            (Code::ResourceExhausted, "OVERLOADED")
        );
        assert!(
            answer.is_trailers_only(),
            "clients may try again: {answer:?}"
        );
    }
    assert_eq!(house.begun(), begun, "nothing has reached an instance");

    let mut health = HealthClient::new(channel(house.app.address()).await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let mut other = client(&house.app).await;
    other.health(HealthRequest::default()).await.unwrap();
    let mut watch = other
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    drop(watch);

    house.let_go.send_replace(true);
    for sent in join_all(sent).await {
        assert_eq!(sent.unwrap().unwrap().into_inner().payload, text("task"));
    }
    other.route(route(&["echo"])).await.unwrap();
    house.is_empty().await;
}

#[tokio::test]
async fn a_call_that_waits_is_carried_out_in_its_turn() {
    let house = House::with(|config| config.admission.calls.all.in_flight_max = 2).await;
    let sent = fill(&house, KEY, 8).await;
    house.until_load(2, 6).await;
    house.held[0].until(|counts| counts.begun == 2).await;
    house.let_go.send_replace(true);
    for sent in join_all(sent).await {
        sent.unwrap().unwrap();
    }
    assert_eq!(house.held[0].counts.borrow().answered, 8);
    house.is_empty().await;
}

#[tokio::test]
async fn a_caller_who_leaves_the_queue_leaves_nothing_behind() {
    let house = House::with(|config| config.admission.calls.all.in_flight_max = 1).await;
    let sent = fill(&house, KEY, 5).await;
    house.until_load(1, 4).await;
    house.held[0].until(|counts| counts.begun == 1).await;
    for sent in sent {
        sent.abort();
    }
    house.is_empty().await;
    assert_eq!(house.begun(), 1, "who waited never reached an instance");
}

#[tokio::test]
async fn a_greedy_key_does_not_starve_another() {
    let house = House::with(|config| {
        config.admission.calls.all.in_flight_max = 2;
        config.admission.calls.waiting_max = 64;
        config
            .keys
            .keys
            .push(Key::with_all_rights("modest", "modest-key"));
    })
    .await;
    let greedy = fill(&house, KEY, 40).await;
    // It has half of the queue, and the rest of its calls are refused.
    let mut refused = 0;
    house.until_load(2, 32).await;
    let modest = fill(&house, "modest-key", 1).await;
    house.until_load(2, 33).await;
    house.let_go.send_replace(true);
    for sent in modest {
        sent.await.unwrap().unwrap();
    }
    for sent in greedy {
        if let Err(status) = sent.await.unwrap() {
            assert_eq!(reason(&status), "OVERLOADED");
            refused += 1;
        }
    }
    assert_eq!(refused, 40 - 2 - 32);
    house.is_empty().await;
}

#[tokio::test]
async fn a_key_has_its_quota_and_the_others_theirs() {
    let house = House::with(|config| {
        config.admission.calls.waiting_max = 0;
        config.keys.keys.push(Key {
            quota: Some(quota(1)),
            ..Key::with_all_rights("small", "small-key")
        });
    })
    .await;
    let sent = fill(&house, "small-key", 1).await;
    house.held[0].until(|counts| counts.begun == 1).await;
    let mut small = client_of(&house.app, "small-key").await;
    let status = small.route(route(&["echo"])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "CALLER_LIMIT")
    );
    client(&house.app)
        .await
        .route(route(&["echo"]))
        .await
        .unwrap();
    house.let_go.send_replace(true);
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    small.route(route(&["echo"])).await.unwrap();
    house.is_empty().await;
}

/// Of the instances of the config, the first held one may have so many calls.
fn limited(config: &mut Config, calls_max: u32) {
    for planned in &mut config.instances {
        if let Planned::Remote(spec) = planned
            && spec.id.as_str() == "held1"
        {
            spec.calls_in_flight_max = Some(calls_max);
        }
    }
}

#[tokio::test]
async fn an_instance_that_is_full_is_passed_over_and_named_when_there_is_no_other() {
    let house = House::with(|config| limited(config, 2)).await;
    let sent = fill(&house, KEY, 2).await;
    house.held[0].until(|counts| counts.begun == 2).await;
    let mut other = client(&house.app).await;
    for _ in 0..20 {
        let answer = other.route(route(&["held1", "echo"])).await.unwrap();
        assert_eq!(answer.into_inner().instance, "echo");
    }
    let alone = RouteRequest {
        timeout: Some(prost_types::Duration {
            seconds: 5,
            nanos: 0,
        }),
        ..route(&["held1"])
    };
    let status = other.route(alone).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "INSTANCE_BUSY")
    );
    // A fan-out: the others have their outcomes all the same.
    let fan_out = FanoutRequest {
        targets: vec!["echo".into(), "held1".into()],
        ..Default::default()
    };
    let mut events = other.fanout(fan_out).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(Event::Partial(partial)) = event.event {
            let why = partial
                .failure
                .as_ref()
                .map(|failure| failure.reason.clone());
            outcomes.push((partial.instance.clone(), partial.outcome(), why));
        }
    }
    outcomes.sort();
    let expected = [
        ("echo".into(), Outcome::Answered, None),
        (
            "held1".into(),
            Outcome::Failed,
            Some("INSTANCE_BUSY".to_owned()),
        ),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(house.held[0].counts.borrow().begun, 2);
    for (call, expected) in [
        // Nobody is sent to it: it comes last.
        (
            Call::Route(route(&["held1", "echo"])),
            [("echo", Exclusion::None), ("held1", Exclusion::AtLimit)],
        ),
        (
            Call::Fanout(FanoutRequest {
                targets: vec!["held1".into(), "echo".into()],
                ..Default::default()
            }),
            [("held1", Exclusion::AtLimit), ("echo", Exclusion::None)],
        ),
    ] {
        let request = ExplainRequest { call: Some(call) };
        let explained = other.explain(request).await.unwrap().into_inner();
        let told: Vec<_> = explained.instances.iter().collect();
        let order: Vec<_> = told
            .iter()
            .map(|told| (told.instance.as_str(), told.exclusion()))
            .collect();
        assert_eq!(order, expected);
        let full = told.iter().find(|told| told.instance == "held1").unwrap();
        assert_eq!(
            full.reason,
            "at its limit: it has 2 calls, which is the most it may have"
        );
    }
    house.let_go.send_replace(true);
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    house.is_empty().await;
}

#[tokio::test]
async fn fan_outs_with_too_many_legs_between_them_are_refused_and_routes_are_not() {
    let house = House::with(|config| config.admission.calls.legs_max = 4).await;
    let mut client = client(&house.app).await;
    let fan_out = |targets: &str| FanoutRequest {
        targets: vec![targets.into()],
        ..Default::default()
    };
    let mut first = client.fanout(fan_out("*")).await.unwrap().into_inner();
    let status = client.fanout(fan_out("held1,held2")).await.unwrap_err();
    assert_eq!(reason(&status), "OVERLOADED");
    client.fanout(fan_out("echo")).await.unwrap();
    client.route(route(&["echo"])).await.unwrap();
    house.let_go.send_replace(true);
    while first.message().await.unwrap().is_some() {}
    drop(first);
    house.is_empty().await;
}
