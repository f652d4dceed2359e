//! A config that is exchanged while calls run: they go on, and the next ones see what it says.

use std::time::Duration;

use orchestrator::app::{App, Taken};
use orchestrator::config::{Config, Planned};
use orchestrator::domain::admission::Quota;
use orchestrator::domain::budget::Share;
use orchestrator::domain::health::State;
use orchestrator::ingress::access::Scope;
use orchestrator::ingress::caller::Key;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use orchestrator::proto::orchestrator::{
    CallPolicy, FanoutRequest, HealthWatchRequest, Hedge, Outcome, RouteRequest,
    SessionSpawnRequest,
};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::raw::soon;
use crate::session::Attached;
use crate::stage::instance::{Act, Instance};
use crate::stage::{
    Bearer, Client, KEY, channel, client, config, embedded, planned, reason, settled, start, text,
};

mod certificates;
mod edits;
mod process;
mod restart;

async fn take(app: &App, config: Config) -> Taken {
    app.reload().take(config).await.unwrap().unwrap()
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

fn with_key(config: &Config, key: Key) -> Config {
    let mut config = config.clone();
    config.keys.keys.push(key);
    config
}

fn is_revoked(status: &Status) {
    let found = (status.code(), reason(status));
    assert_eq!(found, (Code::Unauthenticated, "KEY_INVALID".to_owned()));
}

#[tokio::test]
async fn a_key_that_is_taken_out_ends_at_once_and_what_others_have_open_goes_on() {
    let (let_go, gate) = watch::channel(false);
    let held = Instance::start(Act::EchoOnce(gate)).await;
    let mut staying = embedded();
    staying.instances.push(planned("held", held.address));
    let passing = with_key(&staying, Key::with_all_rights("passing", "passing-key"));
    let app = start(passing.clone()).await;
    let (mut of_passing, mut of_staying) =
        (client_of(&app, "passing-key").await, client(&app).await);
    let mut others = of_staying
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut watch = of_passing
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let fan_out = FanoutRequest {
        targets: vec!["held".into()],
        ..Default::default()
    };
    let mut events = of_passing.fanout(fan_out).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    others.message().await.unwrap().unwrap();
    events.message().await.unwrap().unwrap();
    let spawn = SessionSpawnRequest {
        session_id: "s1".into(),
        // The one that is held has no sessions.
        instances: vec!["A".into()],
        ..Default::default()
    };
    of_passing.session_spawn(spawn).await.unwrap();
    let mut session = Attached::try_new(&mut of_passing, "s1", None)
        .await
        .unwrap();
    let mut unary = of_passing.clone();
    let unary = tokio::spawn(async move { unary.route(route(&["held"])).await });
    held.until(|counts| counts.begun == 2).await;

    // Whatever else changes, a key that stays keeps what it has open.
    let mut slower = passing;
    slower.timeouts.route = Duration::from_secs(20);
    assert_eq!(take(&app, slower).await.changes.settings, ["timeouts"]);
    let taken = take(&app, staying).await;
    assert_eq!(taken.changes.keys.removed, ["passing"]);
    assert_eq!(taken.generation, 3);
    // What it was told before its end may still come.
    let ended = loop {
        if let Err(status) = soon(watch.message()).await {
            break status;
        }
    };
    is_revoked(&ended);
    is_revoked(&soon(events.message()).await.unwrap_err());
    let ended = loop {
        if let Err(status) = session.next().await {
            break status;
        }
    };
    is_revoked(&ended);
    is_revoked(&of_passing.route(route(&["A"])).await.unwrap_err());
    let_go.send_replace(true);
    assert_eq!(
        unary.await.unwrap().unwrap().into_inner().instance,
        "held",
        "it runs to its end"
    );
    of_staying.route(route(&["A"])).await.unwrap();
    let stopping = tokio::spawn(app.stop());
    let ended = loop {
        match soon(others.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(reason(&status)),
        }
    };
    assert_ne!(
        ended.as_deref(),
        Some("KEY_INVALID"),
        "it was open until the end"
    );
    soon(stopping).await.unwrap();
}

#[tokio::test]
async fn a_key_that_may_do_less_ends_what_it_has_open_and_one_that_may_do_more_does_not() {
    let key = |scopes: &[Scope]| Key {
        scopes: scopes.to_vec(),
        ..Key::with_all_rights("ci", "ci-key")
    };
    let both = with_key(&embedded(), key(&[Scope::Health, Scope::Route]));
    let app = start(both).await;
    let mut ci = client_of(&app, "ci-key").await;
    let mut watch = ci
        .health_watch(HealthWatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    let more = key(&[Scope::Health, Scope::Route, Scope::Fanout]);
    take(&app, with_key(&embedded(), more)).await;
    let fan_out = FanoutRequest {
        targets: vec!["A-C".into()],
        ..Default::default()
    };
    let mut events = ci.fanout(fan_out.clone()).await.unwrap().into_inner();
    while soon(events.message()).await.unwrap().is_some() {}
    let mut other = embedded();
    other.instances.truncate(3);
    take(&app, with_key(&other, key(&[Scope::Health]))).await;
    // What it was told before its end may still come.
    let ended = loop {
        if let Err(status) = soon(watch.message()).await {
            break status;
        }
    };
    is_revoked(&ended);
    let refused = ci.fanout(fan_out).await.unwrap_err();
    assert_eq!(reason(&refused), "SCOPE_MISSING");
    ci.health_watch(HealthWatchRequest::default())
        .await
        .expect("this it still may");
}

#[tokio::test]
async fn calls_that_run_finish_where_they_are_and_the_next_go_where_the_config_says() {
    let (let_go, gate) = watch::channel(false);
    let before = Instance::start(Act::EchoOnce(gate.clone())).await;
    let gone = Instance::start(Act::EchoOnce(gate)).await;
    let after = Instance::start(Act::Echo).await;
    let with = |instances: Vec<Planned>| Config {
        instances,
        ..config()
    };
    let app = start(with(vec![
        planned("A", before.address),
        planned("B", gone.address),
    ]))
    .await;
    let mut asking = Vec::new();
    for instance in ["A", "B"] {
        let mut client = client(&app).await;
        asking.push(tokio::spawn(async move {
            client.route(route(&[instance])).await
        }));
    }
    let fan_out = FanoutRequest {
        targets: vec!["A-B".into()],
        ..Default::default()
    };
    let mut client = client(&app).await;
    let mut events = client.fanout(fan_out).await.unwrap().into_inner();
    before.until(|counts| counts.begun == 2).await;
    gone.until(|counts| counts.begun == 2).await;

    let taken = take(
        &app,
        with(vec![
            planned("A", after.address),
            planned("C", after.address),
        ]),
    )
    .await;
    let names = taken.changes.instances.to_string();
    assert_eq!(names, "+C -B ~A");
    for instance in ["A", "C"] {
        let answer = client.route(route(&[instance])).await.unwrap().into_inner();
        assert_eq!(answer.instance, instance);
    }
    assert_eq!(after.counts.borrow().answered, 2, "both live there now");
    let unknown = client.route(route(&["B"])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let_go.send_replace(true);
    for call in asking {
        call.await.unwrap().expect("it was running before");
    }
    let mut outcomes = Vec::new();
    while let Some(event) = soon(events.message()).await.unwrap() {
        if let Some(Event::Partial(partial)) = event.event {
            outcomes.push(partial.outcome());
        }
    }
    assert_eq!(outcomes, [Outcome::Answered; 2]);
    assert_eq!(
        (
            before.counts.borrow().answered,
            gone.counts.borrow().answered
        ),
        (2, 2)
    );
}

#[tokio::test]
async fn limits_and_times_hold_from_the_next_call_on_and_let_those_in_who_wait() {
    let (let_go, gate) = watch::channel(false);
    let held = Instance::start(Act::EchoOnce(gate)).await;
    let mut narrow = config();
    narrow.instances = vec![planned("held", held.address)];
    narrow.admission.calls.all.in_flight_max = 1;
    narrow.admission.calls.each.in_flight_max = 1;
    narrow.admission.buffered_bytes = Some(64 << 20);
    let app = start(narrow.clone()).await;
    assert_eq!(app.memory().limit(), 64 << 20);
    #[allow(
        clippy::async_yields_async,
        reason = "it runs on, and is waited for later"
    )]
    let call = || async {
        let mut client = client(&app).await;
        tokio::spawn(async move { client.route(route(&["held"])).await })
    };
    let (first, second) = (call().await, call().await);
    soon(async {
        while app.gate().load() != (1, 1, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let quota = Quota {
        in_flight_max: 2,
        rate: None,
    };
    let mut wide = narrow.clone();
    (wide.admission.calls.all, wide.admission.calls.each) = (quota, quota);
    wide.admission.calls.waiting_max = 0;
    wide.admission.buffered_bytes = Some(33 << 20);
    wide.timeouts.route = Duration::from_millis(50);
    take(&app, wide).await;
    held.until(|counts| counts.begun == 2).await;
    assert_eq!(app.memory().limit(), 33 << 20);
    let third = call().await.await.unwrap().unwrap_err();
    assert_eq!(reason(&third), "CALLER_LIMIT");
    let_go.send_replace(true);
    first.await.unwrap().unwrap();
    second
        .await
        .unwrap()
        .expect("it came with the time of before");

    let silent = Instance::start(Act::Silent).await;
    let mut slow = narrow;
    slow.instances.push(planned("silent", silent.address));
    slow.timeouts.route = Duration::from_millis(50);
    take(&app, slow).await;
    let late = client(&app)
        .await
        .route(route(&["silent"]))
        .await
        .unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn how_often_tasks_are_tried_again_follows_the_config_and_no_call_may_ask_for_more() {
    let failing = Instance::start(Act::Fail(Code::Unavailable)).await;
    let mut usual = config();
    usual.instances = vec![planned("A", failing.address)];
    // It fails all the time, and is to be asked all the same.
    usual.health.ejected_percent_max = 0;
    let app = start(usual.clone()).await;
    let mut client = client(&app).await;
    // How many tries a call has had that fails every time, or why it was refused.
    let mut tries = async |attempts_max, hedge: Option<Hedge>| {
        let before = failing.counts.borrow().begun;
        let policy = CallPolicy {
            attempts_max,
            idempotent: true,
            hedge,
            ..Default::default()
        };
        let call = RouteRequest {
            policy: Some(policy),
            ..route(&["A"])
        };
        let status = client.route(call).await.unwrap_err();
        (failing.counts.borrow().begun - before, reason(&status))
    };
    let failed = |count| (count, "INSTANCE_FAILED".to_owned());
    let refused = (0, "ARGUMENT_INVALID".to_owned());
    assert_eq!(tries(0, None).await, failed(4));
    assert_eq!(tries(5, None).await, failed(5));

    let mut fewer = usual.clone();
    (fewer.retry.attempts_default, fewer.retry.attempts_max) = (2, 3);
    assert_eq!(take(&app, fewer).await.changes.settings, ["retry"]);
    assert_eq!(tries(0, None).await, failed(2));
    assert_eq!(tries(4, None).await, refused);

    let mut once = usual.clone();
    once.retry.attempts_default = 1;
    take(&app, once).await;
    let hedge = Some(Hedge::default());
    assert_eq!(tries(0, hedge).await, refused, "a hedge is a second try");

    let nothing = Share {
        per_call: 0.0,
        floor: 0.0,
        per_second: 0.0,
        kept_max: 0.0,
    };
    let mut strict = usual.clone();
    strict.retry.budget = nothing;
    take(&app, strict).await;
    assert_eq!(tries(0, None).await, failed(1), "nobody has any left");
    let mut strict = usual;
    strict.retry.instance_budget = nothing;
    strict.retry.budget.floor = 1000.0;
    strict.retry.budget.kept_max = 1000.0;
    take(&app, strict).await;
    assert_eq!(
        tries(0, None).await,
        failed(1),
        "the instance has none left"
    );
}

#[tokio::test]
async fn instances_of_this_process_come_and_go_and_leave_nothing_behind() {
    let app = start(embedded()).await;
    let left = app.tasks_left();
    let mut client = client(&app).await;
    for round in 0..30_u64 {
        let mut other = embedded();
        for planned in &mut other.instances {
            if let Planned::Builtin(builtin) = planned
                && builtin.id.as_str() == "A"
            {
                // One port for each of them.
                builtin.behaviour.delay = Duration::from_micros(round + 1);
            }
        }
        take(&app, other).await;
        let answer = client.route(route(&["A"])).await.unwrap().into_inner();
        assert_eq!(answer.instance, "A");
    }
    take(&app, config()).await;
    assert!(app.fleet().view().members().is_empty());
    // Each was a listener, its connections and a probe; what calls have is not counted.
    soon(async {
        while 20 < left() {
            assert!(client.route(route(&["A"])).await.is_err());
        }
    })
    .await;
    take(&app, embedded()).await;
    settled(&app, |state| state == State::Healthy).await;
    client.route(route(&["A-H"])).await.unwrap();
}

#[tokio::test]
async fn a_stop_goes_by_the_config_of_its_moment() {
    let silent = Instance::start(Act::Silent).await;
    let mut patient = config();
    patient.instances = vec![planned("silent", silent.address)];
    patient.shutdown.grace = Duration::from_secs(3600);
    let app = start(patient.clone()).await;
    let reload = app.reload();
    let mut client = client_of(&app, KEY).await;
    let call = tokio::spawn(async move { client.route(route(&["silent"])).await });
    silent.until(|counts| counts.begun == 1).await;
    patient.shutdown.grace = Duration::ZERO;
    take(&app, patient.clone()).await;
    soon(app.stop()).await;
    assert!(call.await.unwrap().is_err());
    assert!(
        reload.take(patient).await.is_none(),
        "there is nobody to take it"
    );
}
