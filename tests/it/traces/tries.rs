//! Where several tries of one call stand in its trace: side by side, each with its own end.

use h2::Reason;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use orchestrator::config::Planned;
use orchestrator::domain::trace::TraceContext;
use orchestrator::proto::orchestrator::{CallPolicy, Hedge, RouteRequest, Selection};

use super::{CALLER, Collector, attribute, traced, tree, with_trace};
use crate::retry_wire::serve;
use crate::stage::instance::{Act, Instance};
use crate::stage::peer::Peer;
use crate::stage::{self, client, planned, start, text};

/// The spans of a call that names A first and then B.
async fn recorded(instances: Vec<Planned>, policy: CallPolicy) -> Vec<Span> {
    let (collector, endpoint) = Collector::start().await;
    let app = start(stage::Config {
        instances,
        ..traced(&endpoint, 0.0)
    })
    .await;
    let mut client = client(&app).await;
    let route = RouteRequest {
        instances: vec!["A B".into()],
        payload: text("task"),
        policy: Some(CallPolicy {
            selection: Selection::Ordered.into(),
            ..policy
        }),
        ..Default::default()
    };
    client.route(with_trace(route, CALLER)).await.unwrap();
    drop(client);
    let spans = collector.told(app).await;
    assert!(spans.iter().all(|span| 0 < span.end_time_unix_nano));
    spans
}

fn check(spans: &[Span], expected: &str) {
    let caller = TraceContext::parse(CALLER.as_bytes()).unwrap();
    assert_eq!(tree(spans, &caller.span), expected);
}

/// The try of an instance, and whether it is an error.
fn attempt<'a>(spans: &'a [Span], instance: &str) -> (&'a Span, bool) {
    let is_it = |span: &&Span| {
        span.name == "attempt" && attribute(span, "orchestrator.instance") == instance
    };
    let span = spans.iter().find(is_it).unwrap();
    let failed = span.status.as_ref().map(|status| status.code());
    (span, failed == Some(StatusCode::Error))
}

#[tokio::test]
async fn a_hedge_stands_beside_the_try_that_it_has_made_needless_which_is_no_error() {
    let (silent, echo) = (
        Instance::start(Act::Silent).await,
        Instance::start(Act::Echo).await,
    );
    let delay = prost_types::Duration {
        seconds: 0,
        nanos: 20_000_000,
    };
    let policy = CallPolicy {
        idempotent: true,
        hedge: Some(Hedge { delay: Some(delay) }),
        ..Default::default()
    };
    let instances = vec![planned("A", silent.address), planned("B", echo.address)];
    let spans = recorded(instances, policy).await;
    check(
        &spans,
        "Route OK\n  \
           attempt A first NOT_NEEDED\n  \
           attempt B hedge OK\n",
    );
    let ((first, first_failed), (hedge, hedge_failed)) =
        (attempt(&spans, "A"), attempt(&spans, "B"));
    assert!(!first_failed && !hedge_failed);
    // They ran side by side, and the first one ends when nobody needs it any more.
    assert!(first.start_time_unix_nano <= hedge.start_time_unix_nano);
    assert!(hedge.start_time_unix_nano < first.end_time_unix_nano);
}

#[tokio::test]
async fn a_try_that_never_began_is_an_error_before_the_one_that_takes_its_place() {
    let peer = Peer::start(65_535).await;
    let echo = Instance::start(Act::Echo).await;
    let instances = vec![planned("A", peer.address), planned("B", echo.address)];
    let refusing = serve(peer, |stream| {
        stream.respond.send_reset(Reason::REFUSED_STREAM)
    });
    // Nobody has said that the task may be repeated.
    let spans = recorded(instances, CallPolicy::default()).await;
    refusing.abort();
    check(
        &spans,
        "Route OK\n  \
           attempt A first INSTANCE_DOWN\n  \
           attempt B transparent_retry OK\n",
    );
    let ((refused, refused_failed), (retry, retry_failed)) =
        (attempt(&spans, "A"), attempt(&spans, "B"));
    assert!(refused_failed && !retry_failed);
    assert!(refused.end_time_unix_nano <= retry.start_time_unix_nano);
    assert_eq!(attribute(refused, "orchestrator.attempt.number"), "1");
    assert_eq!(attribute(retry, "orchestrator.attempt.number"), "2");
}
