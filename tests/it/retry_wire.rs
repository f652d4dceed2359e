//! Whether a task is tried again hangs on what its instance does in HTTP/2, and never on the words of a status.

use std::time::Duration;

use h2::Reason as Http2;
use http::HeaderMap;
use orchestrator::proto::instance::ExecuteResponse;
use orchestrator::proto::orchestrator::{
    Attempt, AttemptKind, CallPolicy, FailedAttempts, RouteRequest, Selection,
};
use prost::Message as _;

use crate::raw::frame::message;
use crate::stage::instance::{Act, Instance};
use crate::stage::peer::{Peer, Stream};
use crate::stage::{self, Client, client, config, planned, start, text};

/// What an instance does with a call.
pub(crate) type Does = fn(&mut Stream);

fn trailers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
    let entry = |(name, value): &(&'static str, &'static str)| {
        (http::HeaderName::from_static(name), value.parse().unwrap())
    };
    entries.iter().map(entry).collect()
}

/// Ends the call with a status in headers: nothing else comes.
fn only(stream: &mut Stream, entries: &[(&'static str, &'static str)]) {
    let mut response = http::Response::new(());
    *response.headers_mut() = trailers(entries);
    let grpc = "application/grpc".parse().unwrap();
    response.headers_mut().insert("content-type", grpc);
    stream.respond.send_response(response, true).unwrap();
}

/// An instance that is well and does this with every call.
pub(crate) fn serve(mut peer: Peer, does: Does) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let mut stream = peer.stream().await;
            if stream.request.uri().path().ends_with("/Execute") {
                does(&mut stream);
                held.push(stream);
            } else {
                // It has no health service, and answers: that is healthy.
                only(&mut stream, &[("grpc-status", "12")]);
            }
        }
    })
}

struct House {
    _app: orchestrator::app::App,
    client: Client,
    instance: tokio::task::JoinHandle<()>,
    _other: Instance,
}

impl Drop for House {
    fn drop(&mut self) {
        self.instance.abort();
    }
}

impl House {
    /// A does this; B echoes.
    async fn with(does: Does) -> Self {
        let peer = Peer::start(65_535).await;
        let other = Instance::start(Act::Echo).await;
        let instances = vec![planned("A", peer.address), planned("B", other.address)];
        let instance = serve(peer, does);
        let app = start(stage::Config {
            instances,
            ..config()
        })
        .await;
        Self {
            client: client(&app).await,
            _app: app,
            instance,
            _other: other,
        }
    }

    /// The tries of a call that names A first.
    async fn tries(&mut self, idempotent: bool) -> Vec<Attempt> {
        let request = RouteRequest {
            instances: vec!["A B".into()],
            payload: text("task"),
            policy: Some(CallPolicy {
                selection: Selection::Ordered.into(),
                idempotent,
                ..Default::default()
            }),
            ..Default::default()
        };
        match self.client.route(request).await {
            Ok(answer) => answer.into_inner().attempts,
            Err(status) => {
                let detail = crate::retry::attempts_detail(&status);
                FailedAttempts::decode(&detail[..]).unwrap().attempts
            }
        }
    }
}

/// `A FIRST REASON, B RETRY ok`.
fn told(tries: &[Attempt]) -> String {
    let told = tries.iter().map(|attempt| {
        let failure = attempt.failure.as_ref();
        let said = failure.map_or("ok", |failure| failure.reason.as_str());
        let kind = match attempt.kind() {
            AttemptKind::First => "first",
            AttemptKind::TransparentRetry => "transparent",
            AttemptKind::Retry => "retry",
            AttemptKind::Unspecified | AttemptKind::Fallback | AttemptKind::Hedge => "other",
        };
        format!("{} {kind} {said}", attempt.instance)
    });
    told.collect::<Vec<_>>().join(", ")
}

async fn check(does: Does, unsafe_: &str, idempotent: &str) {
    let mut house = House::with(does).await;
    assert_eq!(told(&house.tries(false).await), unsafe_, "not idempotent");
    assert_eq!(told(&house.tries(true).await), idempotent, "idempotent");
}

#[tokio::test]
async fn what_an_instance_does_in_http2_decides_whether_its_task_is_repeated() {
    let never = "A first INSTANCE_DOWN, B transparent ok";
    check(
        |stream| {
            stream.respond.send_reset(Http2::REFUSED_STREAM);
        },
        never,
        never,
    )
    .await;
    let (failed, repeated) = (
        "A first INSTANCE_FAILED",
        "A first INSTANCE_FAILED, B retry ok",
    );
    // Words are no proof.
    check(
        |stream| {
            let words = "REFUSED_STREAM: connection refused";
            only(stream, &[("grpc-status", "14"), ("grpc-message", words)]);
        },
        failed,
        repeated,
    )
    .await;
    // A status in trailers is the same as one in headers.
    check(
        |stream| {
            let mut sending = stream.headers();
            let status = trailers(&[("grpc-status", "14")]);
            sending.send_trailers(status).unwrap();
        },
        failed,
        repeated,
    )
    .await;
    check(
        |stream| {
            stream.respond.send_reset(Http2::INTERNAL_ERROR);
        },
        "A first INSTANCE_LOST",
        "A first INSTANCE_LOST, B retry ok",
    )
    .await;
    // Once the answer has begun the work is done.
    check(
        |stream| {
            let mut sending = stream.headers();
            let answer = message(&ExecuteResponse { payload: None });
            sending.send_data(answer.into(), false).unwrap();
            let status = trailers(&[("grpc-status", "14")]);
            sending.send_trailers(status).unwrap();
        },
        failed,
        failed,
    )
    .await;
    let malformed = "A first ANSWER_MALFORMED";
    check(
        |stream| {
            let half = message(&ExecuteResponse { payload: None })[..3].to_vec();
            stream.headers().send_data(half.into(), true).unwrap();
        },
        malformed,
        malformed,
    )
    .await;
}

#[tokio::test]
async fn pushback_in_trailers_is_obeyed_too() {
    let mut house = House::with(|stream| {
        let stop = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
        stream.headers().send_trailers(trailers(&stop)).unwrap();
    })
    .await;
    assert_eq!(told(&house.tries(true).await), "A first INSTANCE_FAILED");
    let mut house = House::with(|stream| {
        let later = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "150")];
        stream.headers().send_trailers(trailers(&later)).unwrap();
    })
    .await;
    let tries = house.tries(true).await;
    assert_eq!(told(&tries), "A first INSTANCE_FAILED, B retry ok");
    let time = |time: Option<prost_types::Duration>| Duration::try_from(time.unwrap()).unwrap();
    let asked = time(tries[0].offset) + time(tries[0].elapsed);
    assert!(asked + Duration::from_millis(149) <= time(tries[1].offset));
}
