//! How large messages may be, at both doors.

use bytes::Bytes;
use orchestrator::domain::limit::{
    ANSWER_BYTES_MAX, ANSWER_PASSED_ON_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use orchestrator::proto::orchestrator::{RouteRequest, RouteResponse};
use prost::Message as _;
use tonic::Code;

use super::{House, ROUTE, route};
use crate::raw::caller::{self, Answer, Body};
use crate::raw::frame;
use crate::stage::instance::{Act, Instance};
use crate::stage::{Config, client, config, planned, reason, start};

/// An encoded text of exactly this many bytes.
fn value(bytes: usize) -> Bytes {
    let text = |length| prost_types::Value::from("x".repeat(length)).encode_to_vec();
    let value = text(bytes - (text(bytes).len() - bytes));
    assert_eq!(value.len(), bytes);
    value.into()
}

/// A Route of exactly this many bytes.
fn request(bytes: usize) -> RouteRequest {
    let envelope = route("echo", Some(value(bytes))).encoded_len() - bytes;
    let request = route("echo", Some(value(bytes - envelope)));
    assert_eq!(request.encoded_len(), bytes);
    request
}

async fn send(house: &House, bytes: Vec<u8>, body: Body) -> Answer {
    caller::ask(house.address(), caller::grpc(ROUTE, &[]), bytes, body).await
}

#[tokio::test]
async fn a_message_of_four_mebibytes_comes_in_and_one_byte_more_does_not() {
    let house = House::new().await;
    let largest = frame::message(&request(MESSAGE_BYTES_MAX));
    let answer = send(&house, largest, Body::Whole).await;
    // It did come in. What comes back would not fit with its envelope.
    assert_eq!(
        answer.code(),
        (Code::ResourceExhausted, "ANSWER_TOO_LARGE".into())
    );
    assert_eq!(house.echo.counts.borrow().begun, 1);

    let too_large = frame::message(&request(MESSAGE_BYTES_MAX + 1));
    let answer = send(&house, too_large, Body::Whole).await;
    assert_eq!(
        answer.code(),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into())
    );
    assert_eq!(house.echo.counts.borrow().begun, 1);
}

#[tokio::test]
async fn a_message_that_is_announced_as_too_large_is_not_waited_for() {
    let house = House::new().await;
    for length in [MESSAGE_BYTES_MAX + 1, u32::MAX as usize] {
        let answer = send(&house, frame::prefix(length), Body::Unfinished).await;
        assert_eq!(
            answer.code(),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into())
        );
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_passed_on_is_refused_by_name() {
    let house = House::new().await;
    let largest = value(ANSWER_PASSED_ON_BYTES_MAX);
    let answer = send(
        &house,
        frame::message(&route("echo", Some(largest.clone()))),
        Body::Whole,
    );
    let answer = answer.await;
    assert_eq!(answer.code().0, Code::Ok);
    let message = RouteResponse::decode(&answer.body[frame::prefix(0).len()..]).unwrap();
    assert_eq!(message.payload, Some(largest));

    let too_large = value(ANSWER_PASSED_ON_BYTES_MAX + 1);
    let answer = send(
        &house,
        frame::message(&route("echo", Some(too_large))),
        Body::Whole,
    )
    .await;
    assert_eq!(
        answer.code(),
        (Code::ResourceExhausted, "ANSWER_TOO_LARGE".into())
    );
}

#[tokio::test]
async fn an_answer_that_is_not_even_taken_from_the_instance_is_refused_by_the_same_name() {
    let lavish = Instance::start(Act::Answer(value(ANSWER_BYTES_MAX + 1))).await;
    let app = start(Config {
        instances: vec![planned("lavish", lavish.address)],
        ..config()
    })
    .await;
    let status = client(&app)
        .await
        .route(route("lavish", None))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "ANSWER_TOO_LARGE")
    );
}
