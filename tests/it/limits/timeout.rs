//! Time runs out as DEADLINE_EXCEEDED, and a timeout that cannot be read is refused.

use orchestrator::proto::orchestrator::FanoutRequest;
use tonic::Code;

use super::{FANOUT, House, ROUTE, route};
use crate::raw::caller::{self, Answer, Body};
use crate::raw::frame;
use crate::stage::text;

async fn ask(house: &House, path: &str, timeouts: &[&str], bytes: Vec<u8>, body: Body) -> Answer {
    let timeouts: Vec<_> = timeouts
        .iter()
        .map(|value| ("grpc-timeout", *value))
        .collect();
    caller::ask(house.address(), caller::grpc(path, &timeouts), bytes, body).await
}

#[tokio::test]
async fn a_request_that_stays_half_sent_ends_with_the_time_of_its_caller() {
    let house = House::new().await;
    let whole = frame::message(&route("echo", text("task")));
    for path in [
        ROUTE,
        FANOUT,
        "/openclaw.orchestrator.v1.OrchestratorService/Health",
        "/openclaw.orchestrator.v1.OrchestratorService/HealthWatch",
        "/openclaw.orchestrator.v1.ClusterService/ListInstances",
        "/grpc.health.v1.Health/Check",
    ] {
        for sent in [0, 3, 5, 7] {
            let half = whole[..sent].to_vec();
            let answer = ask(&house, path, &["20m"], half, Body::Unfinished).await;
            assert_eq!(
                answer.code(),
                (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()),
                "{path} {sent}"
            );
        }
    }
    assert_eq!(house.echo.counts.borrow().begun, 0);
}

#[tokio::test]
async fn time_that_runs_out_is_never_called_anything_else() {
    let house = House::new().await;
    for timeout in ["0S", "0n", "1n", "1u", "1m", "5m", "6m", "20m", "50m"] {
        let task = frame::message(&route("silent", text("task")));
        let answer = ask(&house, ROUTE, &[timeout], task, Body::Whole).await;
        assert_eq!(
            answer.code(),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()),
            "{timeout}"
        );
    }
}

#[tokio::test]
async fn a_fan_out_that_needs_answers_and_has_no_time_says_so() {
    let house = House::new().await;
    for timeout in ["0S", "1n", "1m", "20m"] {
        let fan_out = FanoutRequest {
            targets: vec!["silent".into()],
            completion: Some(orchestrator::proto::orchestrator::Completion {
                rule: Some(orchestrator::proto::orchestrator::completion::Rule::First(
                    1,
                )),
                failures_max: None,
            }),
            ..Default::default()
        };
        let answer = ask(
            &house,
            FANOUT,
            &[timeout],
            frame::message(&fan_out),
            Body::Whole,
        )
        .await;
        assert_eq!(answer.code().0, Code::DeadlineExceeded, "{timeout}");
    }
}

#[tokio::test]
async fn a_stream_without_an_end_ends_with_the_time_of_its_caller() {
    let house = House::new().await;
    for path in [
        "/openclaw.orchestrator.v1.OrchestratorService/HealthWatch",
        "/grpc.health.v1.Health/Watch",
    ] {
        for timeout in ["1n", "50m"] {
            let empty = frame::prefix(0);
            let answer = ask(&house, path, &[timeout], empty, Body::Whole).await;
            assert_eq!(
                answer.code(),
                (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()),
                "{path} {timeout}"
            );
        }
    }
}

#[tokio::test]
async fn a_timeout_that_cannot_be_read_is_refused() {
    let house = House::new().await;
    let cases = [
        &["soon"][..],
        &[""],
        &["1"],
        &["S"],
        &["-1S"],
        &["1.5S"],
        &["1s"],
        &["123456789m"],
        &["1S", "1S"],
    ];
    for timeouts in cases {
        for path in [
            ROUTE,
            FANOUT,
            "/grpc.health.v1.Health/Check",
            "/no.such/Method",
        ] {
            let answer = ask(&house, path, timeouts, Vec::new(), Body::Whole).await;
            assert_eq!(
                answer.code(),
                (Code::InvalidArgument, "TIMEOUT_INVALID".into()),
                "{path} {timeouts:?}"
            );
        }
    }
}
