//! One deadline holds for the whole call, travels to the instance, and reads DEADLINE_EXCEEDED.

use std::time::Duration;

use orchestrator::domain::deadline::from_grpc_timeout;
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{FanoutRequest, Outcome, RouteRequest, StopReason};
use tonic::{Code, Request};

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, config, planned, reason, start};

async fn stage_of(act: Act) -> (Instance, orchestrator::app::App) {
    let instance = Instance::start(act).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    (instance, app)
}

/// The `grpc-timeout` of the only call that an instance saw.
fn seen_timeout(instance: &Instance) -> Duration {
    let seen = instance.seen.lock().unwrap();
    let value = seen[0]
        .get("grpc-timeout")
        .expect("a deadline was passed on");
    from_grpc_timeout(value.as_bytes()).unwrap()
}

fn field(millis: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    })
}

#[tokio::test]
async fn a_unary_call_ends_in_time_and_the_instance_saw_less_time_and_the_reset() {
    // By the field, by the header, and by whichever is less.
    for (in_field, in_header) in [
        (Some(300), None),
        (None, Some("300m")),
        (Some(300), Some("20S")),
        (Some(900), Some("300m")),
    ] {
        let (instance, app) = stage_of(Act::Silent).await;
        let mut request = Request::new(RouteRequest {
            instances: vec!["A".into()],
            timeout: in_field.and_then(field),
            ..Default::default()
        });
        if let Some(header) = in_header {
            request
                .metadata_mut()
                .insert("grpc-timeout", header.parse().unwrap());
        }
        let status = client(&app).await.route(request).await.unwrap_err();
        // A client that is told of the time keeps it too, and may be first, with words of its own.
        if in_header.is_none() {
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
            );
        }
        let seen = seen_timeout(&instance);
        assert!(
            seen <= Duration::from_millis(285),
            "5 % is kept for the way back: {seen:?}"
        );
        let counts = instance.until(|counts| counts.reset == 1).await;
        assert_eq!((counts.begun, counts.answered), (1, 0));
    }
}

#[tokio::test]
async fn a_stream_ends_in_time_and_the_instance_saw_less_time_and_the_reset() {
    let (instance, app) = stage_of(Act::Silent).await;
    let request = FanoutRequest {
        targets: vec!["A".into()],
        timeout: field(300),
        ..Default::default()
    };
    let mut events = client(&app)
        .await
        .fanout(request)
        .await
        .unwrap()
        .into_inner();
    let mut outcomes = Vec::new();
    let mut stop = None;
    while let Some(event) = events.message().await.unwrap() {
        match event.event.unwrap() {
            Event::Started(_) => {}
            Event::Partial(partial) => outcomes.push(partial.outcome()),
            Event::Summary(summary) => stop = Some(summary.stop_reason()),
        }
    }
    assert_eq!(outcomes, [Outcome::TimedOut]);
    assert_eq!(stop, Some(StopReason::Deadline));
    assert!(seen_timeout(&instance) <= Duration::from_millis(285));
    instance.until(|counts| counts.reset == 1).await;
}

#[tokio::test]
async fn an_unmet_rule_whose_time_ran_out_ends_the_stream_with_deadline_exceeded() {
    let (_instance, app) = stage_of(Act::Silent).await;
    use orchestrator::proto::orchestrator::{Completion, completion::Rule};
    let completion = Some(Completion {
        rule: Some(Rule::First(1)),
        failures_max: None,
    });
    let request = FanoutRequest {
        targets: vec!["A".into()],
        timeout: field(200),
        completion,
        ..Default::default()
    };
    let mut events = client(&app)
        .await
        .fanout(request)
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "COMPLETION_UNMET")
    );
}

#[tokio::test]
async fn the_server_s_maximum_holds_for_everybody() {
    let instance = Instance::start(Act::Silent).await;
    let mut config = config();
    config.timeouts.max = Duration::from_millis(200);
    config.instances = vec![planned("A", instance.address)];
    let app = start(config).await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        timeout: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        ..Default::default()
    };
    let status = client(&app).await.route(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(seen_timeout(&instance) <= Duration::from_millis(190));
}
