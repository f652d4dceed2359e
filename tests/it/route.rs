//! Route brings one task to one instance and its answer back.

use orchestrator::proto::orchestrator::{
    AttemptKind, CallPolicy, FanoutRequest, RouteRequest, Selection,
};
use prost::Message as _;
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::{self, client, config, embedded, planned, reason, start, text};

#[tokio::test]
async fn a_task_is_answered_by_one_of_the_instances_named() {
    let app = start(embedded()).await;
    let request = RouteRequest {
        instances: vec!["A".into(), "B".into()],
        payload: text("task"),
        ..Default::default()
    };
    let answer = client(&app)
        .await
        .route(request)
        .await
        .unwrap()
        .into_inner();
    assert!(["A", "B"].contains(&answer.instance.as_str()), "{answer:?}");
    assert_eq!(answer.payload, text("task"));
    assert_eq!(answer.attempts.len(), 1);
}

#[tokio::test]
async fn a_payload_arrives_bit_for_bit_however_it_was_encoded() {
    let instance = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    // A struct with a non-minimal length, a NaN with a payload of its own and a field of tomorrow.
    let odd = [
        &[0x2a, 0x90, 0x80, 0x00][..],
        &[
            0x0a, 0x0e, 0x0a, 0x01, b'n', 0x12, 0x09, 0x11, 0x01, 0, 0, 0, 0, 0, 0xf8, 0x7f,
        ],
        &[0x78, 0x2a],
    ]
    .concat();
    let odd = bytes::Bytes::from(odd);
    let request = RouteRequest {
        instances: vec!["A".into()],
        payload: Some(odd.clone()),
        ..Default::default()
    };
    let answer = client(&app)
        .await
        .route(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.payload, Some(odd.clone()));
    assert_eq!(*instance.payloads.lock().unwrap(), [Some(odd)]);
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_left_for_another_at_once() {
    // Neither is known to be well or not, so ORDERED takes the first: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let b = Instance::start_unprobed(Act::Echo).await;
    let mut config = config();
    config.probe.thresholds.failures_down = 1000;
    config.probe.timeout = std::time::Duration::from_secs(3600);
    config.instances = vec![planned("A", gone), planned("B", b.address)];
    let app = orchestrator::app::App::start(config).await.unwrap();
    let request = RouteRequest {
        instances: vec!["A B".into()],
        policy: Some(CallPolicy {
            selection: Selection::Ordered.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = client(&app).await;
    let answer = client.route(request).await.unwrap().into_inner();
    let tries: Vec<_> = answer
        .attempts
        .iter()
        .map(|attempt| {
            (
                attempt.instance.as_str(),
                attempt.kind(),
                attempt
                    .failure
                    .as_ref()
                    .map(|failure| failure.reason.as_str()),
            )
        })
        .collect();
    assert_eq!(
        tries,
        [
            ("A", AttemptKind::First, Some("INSTANCE_DOWN")),
            ("B", AttemptKind::TransparentRetry, None)
        ]
    );
    let only = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    let status = client.route(only).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "INSTANCE_DOWN")
    );
}

#[tokio::test]
async fn a_task_that_may_have_begun_is_not_tried_elsewhere() {
    let (mut a, b) = (
        Instance::start(Act::Silent).await,
        Instance::start(Act::Echo).await,
    );
    let instances = vec![planned("A", a.address), planned("B", b.address)];
    let app = start(stage::Config {
        instances,
        ..config()
    })
    .await;
    let request = RouteRequest {
        instances: vec!["A B".into()],
        policy: Some(CallPolicy {
            selection: Selection::Ordered.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = client(&app).await;
    let call = tokio::task::spawn(async move { client.route(request).await });
    a.until(|counts| counts.begun == 1).await;
    a.kill();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "INSTANCE_LOST")
    );
    assert_eq!(b.counts.borrow().begun, 0);
}

#[tokio::test]
async fn an_instance_s_own_status_is_passed_on_by_name() {
    let mut config = config();
    let (mut cases, mut instances) = (Vec::new(), Vec::new());
    for (id, code) in [
        ("A", Code::NotFound),
        ("B", Code::Unauthenticated),
        ("C", Code::Cancelled),
    ] {
        let instance = Instance::start(Act::Fail(code)).await;
        config.instances.push(planned(id, instance.address));
        cases.push((id, code));
        instances.push(instance);
    }
    let app = start(config).await;
    let mut client = client(&app).await;
    // The caller's key was fine and the caller cancelled nothing, so these two may not look as if.
    let expected = [Code::NotFound, Code::Internal, Code::Unavailable];
    for ((id, _), expected) in cases.into_iter().zip(expected) {
        let request = RouteRequest {
            instances: vec![id.into()],
            ..Default::default()
        };
        let status = client.route(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (expected, "INSTANCE_FAILED"),
            "{id}"
        );
    }
}

#[tokio::test]
async fn bad_requests_are_refused_by_the_name_of_what_is_wrong() {
    let app = start(embedded()).await;
    let mut client = client(&app).await;
    let route = |instances: &[&str]| RouteRequest {
        instances: instances.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    };
    let cases = [
        (route(&[]), Code::InvalidArgument, "TARGET_INVALID"),
        (route(&["H-A"]), Code::InvalidArgument, "TARGET_INVALID"),
        (route(&["Z"]), Code::NotFound, "TARGET_UNKNOWN"),
        (
            RouteRequest {
                payload: Some(bytes::Bytes::from_static(&[0x1a, 9])),
                ..route(&["A"])
            },
            Code::InvalidArgument,
            "PAYLOAD_INVALID",
        ),
        (
            RouteRequest {
                payload: Some(bytes::Bytes::new()),
                ..route(&["A"])
            },
            Code::InvalidArgument,
            "PAYLOAD_INVALID",
        ),
        (
            RouteRequest {
                timeout: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..route(&["A"])
            },
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            RouteRequest {
                policy: Some(CallPolicy {
                    selection: 99,
                    ..Default::default()
                }),
                ..route(&["A"])
            },
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            RouteRequest {
                metadata: [("authorization".to_owned(), "x".to_owned())].into(),
                ..route(&["A"])
            },
            Code::InvalidArgument,
            "ARGUMENT_INVALID",
        ),
        (
            RouteRequest {
                payload: text(&"x".repeat(5 << 20)),
                ..route(&["A"])
            },
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        ),
    ];
    for (request, code, expected) in cases {
        let status = client.route(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (code, expected),
            "{status:?}"
        );
    }
}

/// A list in a list, and so on, so many levels deep.
fn nested(levels: usize) -> bytes::Bytes {
    use prost_types::value::Kind;
    let null = Kind::NullValue(0);
    let kind = (0..levels).fold(null, |inner, _| {
        let values = vec![prost_types::Value { kind: Some(inner) }];
        Kind::ListValue(prost_types::ListValue { values })
    });
    prost_types::Value { kind: Some(kind) }
        .encode_to_vec()
        .into()
}

#[tokio::test]
async fn a_payload_that_others_could_not_read_for_its_depth_is_refused_at_the_door() {
    let instance = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    let mut client = client(&app).await;
    let route = |payload| RouteRequest {
        instances: vec!["A".into()],
        payload: Some(payload),
        ..Default::default()
    };
    let fanout = |payload| FanoutRequest {
        targets: vec!["A".into()],
        payload: Some(payload),
        ..Default::default()
    };
    for levels in [47, 1000] {
        let by_route = client.route(route(nested(levels))).await.unwrap_err();
        let by_fanout = client.fanout(fanout(nested(levels))).await.unwrap_err();
        for status in [by_route, by_fanout] {
            let told = (status.code(), reason(&status));
            let expected = (Code::InvalidArgument, "PAYLOAD_INVALID".to_owned());
            assert_eq!(told, expected, "{levels}: {status:?}");
        }
    }
    assert_eq!(instance.counts.borrow().begun, 0);
    let deepest = client.route(route(nested(46))).await.unwrap().into_inner();
    assert_eq!(deepest.payload, Some(nested(46)));
}

/// What is handed on as it came.
const CARRIED: [(&str, &str); 6] = [
    ("tracestate", "vendor=1"),
    ("tracestate", "other=2"),
    ("baggage", "tenant=blue;p=1"),
    ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
    ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
    ("x-b3-sampled", "1"),
];

#[tokio::test]
async fn metadata_and_names_reach_the_instance_and_the_key_does_not() {
    let instance = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..config()
    })
    .await;
    let mut request = tonic::Request::new(RouteRequest {
        instances: vec!["A".into()],
        metadata: [("tenant".to_owned(), "blue".to_owned())].into(),
        ..Default::default()
    });
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request
        .metadata_mut()
        .insert("x-request-id", "it-1".parse().unwrap());
    request
        .metadata_mut()
        .insert("traceparent", trace.parse().unwrap());
    // Two lines of one name stay two.
    for (name, value) in CARRIED {
        request.metadata_mut().append(name, value.parse().unwrap());
    }
    let answer = client(&app).await.route(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "it-1");
    let seen = instance.seen.lock().unwrap()[0].clone();
    let value = |name: &str| {
        seen.get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(value("tenant").as_deref(), Some("blue"));
    assert_eq!(value("x-request-id").as_deref(), Some("it-1"));
    assert_eq!(value("traceparent").as_deref(), Some(trace));
    let carried = |name: &str| seen.get_all(name).iter().cloned().collect::<Vec<_>>();
    for (name, _) in CARRIED {
        let sent = CARRIED.iter().filter(|(other, _)| *other == name);
        let sent: Vec<_> = sent.map(|(_, value)| *value).collect();
        assert_eq!(carried(name), sent, "{name}");
    }
    assert_eq!(value("x-orchestrator-attempt").as_deref(), Some("1"));
    assert_eq!(value("authorization"), None);
    assert!(!format!("{seen:?}").contains(stage::KEY));
}
