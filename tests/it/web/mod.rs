//! gRPC for browsers, on the same port: over HTTP/1.1 and HTTP/2, in bytes and in base64.

use orchestrator::proto::health::{HealthCheckRequest, HealthCheckResponse};
use orchestrator::proto::orchestrator::fanout_response::Event;
use orchestrator::proto::orchestrator::{
    Completion, FanoutRequest, FanoutResponse, RouteRequest, RouteResponse, SessionPostRequest,
    SessionPostResponse, SessionSendRequest, SessionSpawnRequest,
};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::raw::frame;
use crate::rest::ask::{Ask, WAYS};
use crate::stage::instance::{Act, Instance};
use crate::stage::{KEY, config, embedded, planned, reason, start, text};

pub(crate) mod ask;
mod cors;
mod ends;

use ask::{FORMS, Form, Web, every_way};

const SERVICE: &str = "/openclaw.orchestrator.v1.OrchestratorService";

fn route(instance: &str, payload: Option<bytes::Bytes>) -> RouteRequest {
    RouteRequest {
        instances: vec![instance.to_owned()],
        payload,
        ..Default::default()
    }
}

fn path(method: &str) -> String {
    format!("{SERVICE}/{method}")
}

#[tokio::test]
async fn a_task_and_a_fan_out_are_what_they_are_over_grpc() {
    let app = start(embedded()).await;
    for (way, form) in every_way() {
        for payload in [text("task"), text(&"é".repeat(200_000))] {
            let call = Web::new(form, &path("Route"), &route("A", payload.clone()));
            let call = call.with("x-request-id", "web-1");
            let answer = call.send(way, app.address()).await;
            assert_eq!((answer.http, answer.status.code()), (200, Code::Ok));
            assert_eq!(answer.header("x-request-id"), "web-1");
            let [message] = &answer.messages[..] else {
                panic!("{answer:?}");
            };
            let response = RouteResponse::decode(message.clone()).unwrap();
            assert_eq!(
                (response.instance.as_str(), response.payload),
                ("A", payload)
            );
        }
        let fan_out = FanoutRequest {
            targets: vec!["A-H".to_owned()],
            payload: text("all"),
            ..Default::default()
        };
        let answer = Web::new(form, &path("Fanout"), &fan_out);
        let answer = answer.send(way, app.address()).await;
        assert_eq!(answer.status.code(), Code::Ok);
        let events = answer.messages.iter();
        let events = events.map(|event| FanoutResponse::decode(event.clone()).unwrap().event);
        let events: Vec<_> = events.map(Option::unwrap).collect();
        assert!(matches!(events[0], Event::Started(_)), "{events:?}");
        let is_partial = |event: &&Event| matches!(event, Event::Partial(_));
        assert_eq!(events.iter().filter(is_partial).count(), 8);
        assert!(matches!(events[9], Event::Summary(_)), "{events:?}");
    }
}

#[tokio::test]
async fn the_form_of_an_answer_is_the_one_that_is_accepted() {
    let app = start(embedded()).await;
    for way in WAYS {
        for form in FORMS {
            let check = async |accepted: &str, expected: &str| {
                let Web(ask) = Web::new(form, &path("Route"), &route("A", text("x")));
                let answer = Web(ask.without("accept").with("accept", accepted));
                let answer = answer.send(way, app.address()).await;
                assert_eq!(answer.header("content-type"), expected);
                assert_eq!((answer.status.code(), answer.messages.len()), (Code::Ok, 1));
            };
            let (binary, text) = (
                "application/grpc-web+proto",
                "application/grpc-web-text+proto",
            );
            check("application/grpc-web-text", text).await;
            check("application/grpc-web", binary).await;
            let own = if form == Form::Text { text } else { binary };
            check("*/*", own).await;
        }
    }
}

#[tokio::test]
async fn a_failure_says_as_much_as_over_grpc() {
    let failing = Instance::start(Act::Fail(Code::Internal)).await;
    let app = start(crate::stage::Config {
        instances: vec![planned("A", failing.address)],
        ..config()
    })
    .await;
    for (way, form) in every_way() {
        let call = async |method: &str, request: &RouteRequest| {
            let call = Web::new(form, &path(method), request);
            call.send(way, app.address()).await.status
        };
        let failed = call("Route", &route("A", None)).await;
        let found = (failed.code(), reason(&failed));
        assert_eq!(found, (Code::Internal, "INSTANCE_FAILED".to_owned()));
        let details = failed.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.metadata["instance"], "A");
        let pushback = failed.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert_eq!(pushback, "-1");
        let unknown = call("Route", &route("Z", None)).await;
        assert_eq!(reason(&unknown), "TARGET_UNKNOWN");
        let nothing = call("Nothing", &route("A", None)).await;
        assert_eq!(reason(&nothing), "METHOD_UNKNOWN");
        // An unmet completion comes after its events.
        let fan_out = FanoutRequest {
            targets: vec!["A".to_owned()],
            completion: Some(Completion {
                failures_max: Some(0),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = Web::new(form, &path("Fanout"), &fan_out);
        let answer = answer.send(way, app.address()).await;
        assert_eq!(answer.messages.len(), 3, "{answer:?}");
        assert_eq!(reason(&answer.status), "COMPLETION_UNMET");
    }
}

#[tokio::test]
async fn health_is_asked_without_a_key() {
    let app = start(embedded()).await;
    for (way, form) in every_way() {
        let check = Web::new(
            form,
            "/grpc.health.v1.Health/Check",
            &HealthCheckRequest::default(),
        );
        let answer = check.without_key().send(way, app.address()).await;
        let serving = HealthCheckResponse::decode(answer.messages[0].clone()).unwrap();
        assert_eq!((answer.status.code(), serving.status), (Code::Ok, 1));
    }
}

#[tokio::test]
async fn a_session_is_posted_to_and_its_stream_says_what_to_use_instead() {
    let app = start(embedded()).await;
    for (at, (way, form)) in every_way().into_iter().enumerate() {
        let session_id = format!("s{at}");
        let spawn = SessionSpawnRequest {
            session_id: session_id.clone(),
            ..Default::default()
        };
        let spawned = Web::new(form, &path("SessionSpawn"), &spawn);
        let spawned = spawned.send(way, app.address()).await;
        assert_eq!(spawned.status.code(), Code::Ok, "{spawned:?}");
        let post = SessionPostRequest {
            session_id,
            payload: text("hello"),
            ..Default::default()
        };
        let posted = Web::new(form, &path("SessionPost"), &post);
        let posted = posted.send(way, app.address()).await;
        assert_eq!(posted.status.code(), Code::Ok, "{posted:?}");
        let response = SessionPostResponse::decode(posted.messages[0].clone()).unwrap();
        assert_eq!((response.position, response.payload), (1, text("hello")));
        let stream = Web::new(form, &path("SessionSend"), &SessionSendRequest::default());
        let status = stream.send(way, app.address()).await.status;
        assert_eq!(status.code(), Code::Unimplemented);
        for word in ["SessionPost", "/api/orchestrator/sessions/ID/events"] {
            assert!(status.message().contains(word), "{status:?}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_call_are_refused_and_harm_nobody() {
    let app = start(embedded()).await;
    let good = frame::message(&route("A", None));
    for way in WAYS {
        let check = async |form: Form, body: &[u8], expected: &str| {
            let Web(ask) = Web::of_bytes(form, &path("Route"), &[]);
            let body = body.to_vec();
            let status = Web(Ask { body, ..ask })
                .send(way, app.address())
                .await
                .status;
            assert_eq!(reason(&status), expected, "{way:?} {form:?} {status:?}");
        };
        check(Form::Text, b"AAA", "REQUEST_MALFORMED").await;
        check(Form::Text, b"\0\0\0\0", "REQUEST_MALFORMED").await;
        check(Form::Text, b"AA=AAAAA", "REQUEST_MALFORMED").await;
        // The form that it says it has is another one.
        check(Form::Text, &good, "REQUEST_MALFORMED").await;
        // Trailers have no place in a request.
        check(Form::Binary, b"\x80\0\0\0\0", "REQUEST_MALFORMED").await;
        check(Form::Binary, b"\xff\xff\xff\xff\xff", "REQUEST_MALFORMED").await;
        check(Form::Binary, &good[..3], "REQUEST_MALFORMED").await;
        check(Form::Binary, b"\0\xff\xff\xff\xff", "MESSAGE_TOO_LARGE").await;
        check(Form::Text, b"AP////8=", "MESSAGE_TOO_LARGE").await;
    }
    let answer = Web::new(Form::Text, &path("Route"), &route("A", None));
    let answer = answer.send(WAYS[0], app.address()).await;
    assert_eq!(answer.status.code(), Code::Ok);
    assert!(!format!("{answer:?}").contains(KEY));
}
