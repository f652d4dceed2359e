//! Fanout gives every target exactly one outcome, in order of arrival, whatever the targets do.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator::proto::orchestrator::completion::Rule;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    Completion, DeregisterRequest, FanoutRequest, FanoutResponse, Instance as Registered, Outcome,
    Partial, RegisterRequest, StopReason, Summary,
};
use tonic::{Code, Status, Streaming};

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, cluster, config, embedded, planned, reason, start, text};

struct Read {
    roster: Vec<String>,
    partials: Vec<Partial>,
    summary: Summary,
    status: Option<Status>,
}

/// Reads a fan-out to its end and checks the order of its events.
async fn read(mut events: Streaming<FanoutResponse>) -> Read {
    let mut read = Vec::new();
    let status = loop {
        match events.message().await {
            Ok(Some(event)) => read.push(event.event.unwrap()),
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    let mut read = read.into_iter();
    let Some(Event::Started(started)) = read.next() else {
        panic!("started comes first")
    };
    let Some(Event::Summary(summary)) = read.next_back() else {
        panic!("the summary comes last: {status:?}")
    };
    let partials = read.map(|event| match event {
        Event::Partial(partial) => partial,
        Event::Started(_) | Event::Summary(_) => panic!("only partials come in between"),
    });
    Read {
        roster: started.roster,
        partials: partials.collect(),
        summary,
        status,
    }
}

/// Exactly one partial for each target, and counts that agree.
fn check_outcomes(read: &Read) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for partial in &read.partials {
        let twice = outcomes.insert(partial.instance.clone(), partial.outcome());
        assert_eq!(twice, None, "{} has one outcome", partial.instance);
    }
    let mut roster = read.roster.clone();
    roster.sort();
    assert_eq!(roster, outcomes.keys().cloned().collect::<Vec<_>>());
    let count = |wanted: Outcome| {
        outcomes
            .values()
            .filter(|outcome| **outcome == wanted)
            .count() as u32
    };
    let counts = read.summary.counts.unwrap();
    assert_eq!(counts.answered, count(Outcome::Answered));
    assert_eq!(counts.failed, count(Outcome::Failed));
    assert_eq!(counts.timed_out, count(Outcome::TimedOut));
    assert_eq!(counts.cancelled, count(Outcome::Cancelled));
    assert_eq!(counts.skipped, count(Outcome::Skipped));
    outcomes
}

#[tokio::test]
async fn partials_of_the_built_in_fleet_arrive_and_sum_up() {
    let app = start(embedded()).await;
    let request = FanoutRequest {
        targets: vec!["A-H".into()],
        payload: text("task"),
        ..Default::default()
    };
    let read = read(
        client(&app)
            .await
            .fanout(request)
            .await
            .unwrap()
            .into_inner(),
    )
    .await;
    assert_eq!(read.roster, ["A", "B", "C", "D", "E", "F", "G", "H"]);
    check_outcomes(&read);
    assert!(
        read.partials
            .iter()
            .all(|partial| partial.payload == text("task"))
    );
    assert_eq!(read.summary.stop_reason(), StopReason::AllTerminal);
    assert!(read.status.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_legs_of_every_kind_have_one_outcome_each() {
    // Both ends of a thousand connections live in this process.
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let fast = Instance::start(Act::Echo).await;
    let slow = Instance::start(Act::EchoAfter(Duration::from_millis(300))).await;
    let failing = Instance::start(Act::Fail(Code::ResourceExhausted)).await;
    let silent = Instance::start(Act::Silent).await;
    let mut dead = Instance::start(Act::Echo).await;
    let mut config = config();
    // Probed once: the dead are found out by their legs.
    config.probe.interval = Duration::from_secs(3600);
    config.probe.timeout = Duration::from_secs(30);
    for at in 0..1000 {
        let instance = [&fast, &slow, &failing, &silent, &dead][at % 5];
        config
            .instances
            .push(planned(&format!("w{at:03}"), instance.address));
    }
    let app = start(config).await;
    dead.kill();
    let mut client = client(&app).await;
    let expected = [
        Outcome::Answered,
        Outcome::Answered,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Failed,
    ];
    // On a machine that is busy a thousand connections may take longer than the call has: then it gets more time.
    // What every call promises is checked each time.
    let mut calls = 0;
    for seconds in [5, 20, 80] {
        let request = FanoutRequest {
            targets: vec!["w000-w999".into()],
            payload: text("task"),
            timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let read = read(client.fanout(request).await.unwrap().into_inner()).await;
        calls += 1;
        let outcomes = check_outcomes(&read);
        assert_eq!(read.summary.stop_reason(), StopReason::Deadline);
        assert!(read.status.is_none(), "ALL ends OK: {:?}", read.status);
        let was_late = |(at, outcome): (usize, &Outcome)| {
            let late = matches!(outcome, Outcome::TimedOut | Outcome::Skipped);
            late && expected[at % 5] != Outcome::TimedOut
        };
        if seconds < 80 && outcomes.values().enumerate().any(was_late) {
            continue;
        }
        for (at, outcome) in outcomes.values().enumerate() {
            assert_eq!(*outcome, expected[at % 5], "w{at:03} within {seconds} s");
        }
        assert_eq!(read.summary.missing.len(), 600);
        break;
    }
    silent.until(|counts| 200 <= counts.reset).await;
    assert!(silent.counts.borrow().begun <= 200 * calls);
    assert!(200 <= fast.counts.borrow().answered);
}

#[tokio::test]
async fn an_aggregate_comes_in_roster_order_at_the_end() {
    let slow = Instance::start(Act::EchoAfter(Duration::from_millis(50))).await;
    let (fast, failing) = (
        Instance::start(Act::Echo).await,
        Instance::start(Act::Fail(Code::Internal)).await,
    );
    let instances = vec![
        planned("A", slow.address),
        planned("B", fast.address),
        planned("C", failing.address),
    ];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let request = FanoutRequest {
        targets: vec!["A-C".into()],
        payload: text("task"),
        aggregate: true,
        ..Default::default()
    };
    let read = read(
        client(&app)
            .await
            .fanout(request)
            .await
            .unwrap()
            .into_inner(),
    )
    .await;
    check_outcomes(&read);
    assert!(
        read.partials
            .iter()
            .all(|partial| partial.payload.is_none())
    );
    let aggregate: Vec<_> = read
        .summary
        .aggregate
        .iter()
        .map(|partial| {
            (
                partial.instance.as_str(),
                partial.outcome(),
                partial.payload.clone(),
            )
        })
        .collect();
    assert_eq!(
        aggregate,
        [
            ("A", Outcome::Answered, text("task")),
            ("B", Outcome::Answered, text("task")),
            ("C", Outcome::Failed, None)
        ]
    );
}

#[tokio::test]
async fn a_quorum_cancels_the_rest_at_the_instances_and_an_unmet_one_is_unavailable() {
    let (fast, silent) = (
        Instance::start(Act::Echo).await,
        Instance::start(Act::Silent).await,
    );
    let failing = Instance::start(Act::Fail(Code::Internal)).await;
    let instances = vec![
        planned("A", fast.address),
        planned("B", fast.address),
        planned("C", silent.address),
        planned("D", failing.address),
        planned("E", failing.address),
    ];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let completion = |rule| {
        Some(Completion {
            rule: Some(rule),
            failures_max: None,
        })
    };

    let request = FanoutRequest {
        targets: vec!["A-C".into()],
        completion: completion(Rule::Majority(true)),
        ..Default::default()
    };
    let met = read(client.fanout(request).await.unwrap().into_inner()).await;
    assert_eq!(check_outcomes(&met)["C"], Outcome::Cancelled);
    assert_eq!(met.summary.stop_reason(), StopReason::CompletionMet);
    assert!(met.status.is_none());
    silent.until(|counts| counts.reset == 1).await;

    let request = FanoutRequest {
        targets: vec!["C-E".into()],
        completion: completion(Rule::Quorum(2)),
        ..Default::default()
    };
    let unmet = read(client.fanout(request).await.unwrap().into_inner()).await;
    check_outcomes(&unmet);
    assert_eq!(
        unmet.summary.stop_reason(),
        StopReason::CompletionImpossible
    );
    let status = unmet.status.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "COMPLETION_UNMET")
    );

    let request = FanoutRequest {
        targets: vec!["A-C".into()],
        completion: completion(Rule::Quorum(4)),
        ..Default::default()
    };
    let status = client.fanout(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "ARGUMENT_INVALID")
    );
}

#[tokio::test]
async fn as_many_targets_as_allowed_have_one_outcome_each_and_more_are_refused() {
    // One of them listens; nobody else does.
    let instance = Instance::start(Act::Echo).await;
    let mut dead = Instance::start(Act::Echo).await;
    let mut config = config();
    // They are found out by their legs.
    config.probe.interval = Duration::from_secs(3600);
    config.probe.thresholds.failures_down = 1000;
    config.instances = (0..4097)
        .map(|at| {
            let instance = if at == 4095 { &instance } else { &dead };
            planned(&format!("w{at:04}"), instance.address)
        })
        .collect();
    dead.kill();
    let app = orchestrator::app::App::start(config).await.unwrap();
    let mut client = client(&app).await;
    let of = |targets: &str| FanoutRequest {
        targets: vec![targets.to_owned()],
        payload: text("task"),
        ..Default::default()
    };
    let status = client.fanout(of("*")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "TARGET_INVALID")
    );
    let all = client.fanout(of("w0000-w4095")).await.unwrap();
    let read = read(all.into_inner()).await;
    let outcomes = check_outcomes(&read);
    assert_eq!((read.roster.len(), outcomes.len()), (4096, 4096));
    assert_eq!(outcomes["w4095"], Outcome::Answered);
    assert_eq!(read.summary.missing.len(), 4095);
}

/// A struct with a non-minimal length, a NaN with a payload of its own and a field of tomorrow.
const ODD: [u8; 22] = [
    0x2a, 0x90, 0x80, 0x00, 0x0a, 0x0e, 0x0a, 0x01, b'n', 0x12, 0x09, 0x11, 0x01, 0, 0, 0, 0, 0,
    0xf8, 0x7f, 0x78, 0x2a,
];

#[tokio::test]
async fn a_payload_goes_to_every_target_and_comes_back_bit_for_bit_also_in_an_aggregate() {
    let (a, b) = (
        Instance::start(Act::Echo).await,
        Instance::start(Act::Echo).await,
    );
    let instances = vec![planned("A", a.address), planned("B", b.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let odd = Some(bytes::Bytes::from_static(&ODD));
    for aggregate in [false, true] {
        let request = FanoutRequest {
            targets: vec!["A B".into()],
            payload: odd.clone(),
            aggregate,
            ..Default::default()
        };
        let read = read(client.fanout(request).await.unwrap().into_inner()).await;
        let told = if aggregate {
            read.summary.aggregate
        } else {
            read.partials
        };
        let payloads: Vec<_> = told.into_iter().map(|partial| partial.payload).collect();
        assert_eq!(payloads, [odd.clone(), odd.clone()]);
    }
    for instance in [a, b] {
        assert_eq!(
            *instance.payloads.lock().unwrap(),
            [odd.clone(), odd.clone()]
        );
    }
}

#[tokio::test]
async fn the_roster_stays_what_it_was_whoever_comes_and_goes_meanwhile() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let held = Instance::start(Act::EchoOnce(gate.clone())).await;
    let leaves = Instance::start(Act::EchoOnce(gate)).await;
    let comes = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", held.address)],
        ..config()
    })
    .await;
    let register = |id: &str, instance: &Instance| RegisterRequest {
        instance: Some(Registered {
            id: id.to_owned(),
            address: instance.address.to_string(),
            ..Default::default()
        }),
        incarnation: 1,
        lease: None,
    };
    let mut cluster = cluster(&app).await;
    cluster.register(register("R", &leaves)).await.unwrap();
    let request = FanoutRequest {
        targets: vec!["*".into()],
        payload: text("task"),
        ..Default::default()
    };
    let events = client(&app).await.fanout(request).await.unwrap();
    for instance in [&held, &leaves] {
        instance.until(|counts| counts.begun == 1).await;
    }
    let leaving = DeregisterRequest {
        id: "R".to_owned(),
        incarnation: 1,
    };
    cluster.deregister(leaving).await.unwrap();
    cluster.register(register("S", &comes)).await.unwrap();
    open.send_replace(true);
    let read = read(events.into_inner()).await;
    assert_eq!(read.roster, ["A", "R"]);
    let outcomes = check_outcomes(&read);
    assert_eq!(outcomes["A"], Outcome::Answered);
    assert_eq!(comes.counts.borrow().begun, 0);
}
