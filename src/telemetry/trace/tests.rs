//! Spans as a collector would read them, with the official schema, and what becomes of them where none does.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as proto;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::failure::{Failure, Reason, Status};
use crate::domain::limit::{
    SPAN_PATH_BYTES_MAX, TRACE_BATCH_BYTES, TRACE_BATCH_INTERVAL, TRACE_BYTES_QUEUED_MAX,
    TRACE_SENDS_MAX,
};

const ROUTE: Called = Called::Rpc("openclaw.orchestrator.v1.OrchestratorService/Route");
const CALLER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tracer(ratio: f64) -> (Tracer, Export) {
    let settings = Settings {
        ratio: Ratio::of(ratio).unwrap(),
        service: "fleet".to_owned(),
    };
    Tracer::new(&settings, [1, 2, 3])
}

fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

/// What would be sent now.
fn recorded(tracer: &Tracer) -> Vec<proto::Span> {
    let recorder = tracer.0.as_ref().unwrap();
    let batch = recorder.queue.take();
    let spans = spans(&otlp::request(&otlp::origin("fleet"), &batch.spans));
    assert_eq!(spans.len() as u64, batch.count);
    spans
}

fn spans(request: &[u8]) -> Vec<proto::Span> {
    let request = ExportTraceServiceRequest::decode(request).unwrap();
    let [resource] = &request.resource_spans[..] else {
        panic!("{request:?}");
    };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert_eq!(
        told(attributes),
        format!(
            "service.name=fleet service.version={}",
            env!("CARGO_PKG_VERSION")
        )
    );
    let [scope] = &resource.scope_spans[..] else {
        panic!("{resource:?}");
    };
    assert_eq!(scope.scope.as_ref().unwrap().name, env!("CARGO_PKG_NAME"));
    scope.spans.clone()
}

fn told(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> String {
    let one = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.as_ref());
        let value = match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        };
        format!("{}={value}", attribute.key)
    };
    attributes.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Name, kind, attributes and whether it failed.
fn check(span: &proto::Span, expected: &str) {
    let kind = format!("{:?}", span.kind()).to_lowercase();
    let failed = span.status.as_ref().map_or("", |status| {
        assert_eq!(status.code(), proto::status::StatusCode::Error);
        " !"
    });
    let found = format!("{} ({kind}) {}{failed}", span.name, told(&span.attributes));
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_its_legs_and_tries_is_one_tree_within_the_trace_of_its_caller() {
    let (tracer, _export) = tracer(0.0);
    let caller = TraceContext::parse(CALLER).unwrap();
    let call = tracer.call(Some(caller), ROUTE);
    call.within()
        .note_request_id(&Bytes::from_static(b"request-1"));
    let leg = call.within().leg(&id("A"));
    let first = leg.within().attempt(&id("A"), "first", 1);
    let told_to_instance = first.context().unwrap();
    tokio::time::advance(Duration::from_millis(250)).await;
    first.end("INSTANCE_FAILED", Some("UNAVAILABLE"));
    leg.within().attempt(&id("A"), "retry", 2).end(OK, None);
    leg.end("answered", None);
    call.end(OK, None);

    let [first, retry, leg, call] = &recorded(&tracer)[..] else {
        panic!("four spans");
    };
    check(
        call,
        "openclaw.orchestrator.v1.OrchestratorService/Route (server) rpc.system.name=grpc \
         rpc.method=openclaw.orchestrator.v1.OrchestratorService/Route rpc.response.status_code=OK \
         orchestrator.request_id=request-1",
    );
    check(
        leg,
        "leg (internal) orchestrator.instance=A orchestrator.outcome=answered",
    );
    check(
        first,
        "attempt (client) orchestrator.instance=A orchestrator.attempt.kind=first \
         orchestrator.attempt.number=1 orchestrator.result=INSTANCE_FAILED \
         orchestrator.instance.status=UNAVAILABLE error.type=INSTANCE_FAILED !",
    );
    check(
        retry,
        "attempt (client) orchestrator.instance=A orchestrator.attempt.kind=retry \
         orchestrator.attempt.number=2 orchestrator.result=OK",
    );
    assert_eq!(call.parent_span_id, caller.span);
    assert_eq!(leg.parent_span_id, call.span_id);
    assert_eq!(
        [&first.parent_span_id, &retry.parent_span_id],
        [&leg.span_id; 2]
    );
    assert_eq!(first.span_id, told_to_instance.span);
    for span in [first, retry, leg, call] {
        assert_eq!(span.trace_id, caller.trace);
        assert_eq!(span.flags & 0xff, 1);
    }
    // Whether a parent is another process's is said: only that of the call is.
    assert_eq!([call.flags >> 8, leg.flags >> 8], [3, 1]);
    assert_eq!(
        first.end_time_unix_nano - first.start_time_unix_nano,
        250_000_000
    );
    assert!(call.start_time_unix_nano <= first.start_time_unix_nano);
}

#[tokio::test(start_paused = true)]
async fn every_span_of_a_call_has_the_state_of_its_trace_and_the_call_its_url() {
    let (tracer, _export) = tracer(1.0);
    let called = Called::Http {
        method: "GET",
        route: None,
    };
    let call = tracer.call(TraceContext::parse(CALLER), called);
    let within = call.within();
    within.note_state("vendor=opaque,other=2");
    let long = format!("/{}", "x".repeat(SPAN_PATH_BYTES_MAX));
    within.note_url("https", &long);
    let leg = within.leg(&id("A"));
    leg.within().attempt(&id("A"), "first", 1).end(OK, None);
    leg.end("answered", None);
    call.end("404", None);
    let spans = recorded(&tracer);
    assert_eq!(spans.len(), 3);
    for span in &spans {
        assert_eq!(span.trace_state, "vendor=opaque,other=2");
    }
    let cut = &long[..SPAN_PATH_BYTES_MAX];
    check(
        &spans[2],
        &format!(
            "GET (server) url.scheme=https url.path={cut} http.request.method=GET \
             http.response.status_code=404"
        ),
    );
    assert!(!told(&spans[0].attributes).contains("url."));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waited_for_any_longer_ends_as_cancelled_and_is_no_error() {
    let (tracer, _export) = tracer(1.0);
    let called = Called::Http {
        method: "POST",
        route: Some("/orchestrator/route"),
    };
    let call = tracer.call(None, called);
    drop(call.within().attempt(&id("A"), "first", 1));
    drop(call);
    let spans = recorded(&tracer);
    check(
        &spans[0],
        "attempt (client) orchestrator.instance=A orchestrator.attempt.kind=first \
         orchestrator.attempt.number=1 orchestrator.result=CANCELLED",
    );
    check(
        &spans[1],
        "POST /orchestrator/route (server) http.request.method=POST http.route=/orchestrator/route",
    );
    // It begins a trace of its own.
    assert!(spans[1].parent_span_id.is_empty());
}

#[test]
fn a_server_is_blamed_for_what_it_can_help() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    drop(runtime);
    let (tracer, _export) = tracer(1.0);
    let failed = |called: Called, result: &'static str| {
        tracer.call(None, called).end(result, None);
        recorded(&tracer)[0].status.is_some()
    };
    for (code, expected) in [
        ("OK", false),
        ("CANCELLED", false),
        ("INVALID_ARGUMENT", false),
        ("UNAUTHENTICATED", false),
        ("RESOURCE_EXHAUSTED", false),
        ("DEADLINE_EXCEEDED", true),
        ("UNAVAILABLE", true),
        ("INTERNAL", true),
    ] {
        assert_eq!(failed(ROUTE, code), expected, "{code}");
    }
    let http = |code| {
        let route = Some("/health");
        failed(
            Called::Http {
                method: "GET",
                route,
            },
            code,
        )
    };
    assert_eq!(
        [http("200"), http("404"), http("503")],
        [false, false, true]
    );
}

#[test]
fn the_caller_decides_and_where_there_is_none_the_ratio_does() {
    let check = |parent: Option<&[u8]>, ratio: f64, expected: bool| {
        let parent = parent.map(|parent| TraceContext::parse(parent).unwrap());
        let (tracer, _export) = tracer(ratio);
        let call = tracer.call(parent, ROUTE);
        assert_eq!(call.context().is_some(), expected);
        let within = call.within();
        drop((within.attempt(&id("A"), "first", 1), within.leg(&id("A"))));
        drop(call);
        assert_eq!(!recorded(&tracer).is_empty(), expected);
    };
    let unsampled = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    check(Some(CALLER), 0.0, true);
    check(Some(unsampled), 1.0, false);
    check(None, 1.0, true);
    check(None, 0.0, false);
    let off = Tracer::off().call(TraceContext::parse(CALLER), ROUTE);
    assert!(off.context().is_none() && off.within().context().is_none());
}

#[test]
fn no_two_spans_have_one_name() {
    let (tracer, _export) = tracer(1.0);
    let mut names = std::collections::HashSet::new();
    let mut traces = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let call = tracer.call(None, ROUTE);
        let context = call.context().unwrap();
        assert!(traces.insert(context.trace));
        assert!(names.insert(context.span));
        let attempt = call.within().attempt(&id("A"), "first", 1);
        assert!(names.insert(attempt.context().unwrap().span));
        drop(recorded(&tracer));
    }
}

fn fill(tracer: &Tracer, bytes: usize) -> u64 {
    let mut count = 0;
    let recorder = tracer.0.as_ref().unwrap();
    let waiting = || {
        let batch = recorder.queue.waiting();
        batch.spans.len()
    };
    while waiting() < bytes {
        tracer.call(None, ROUTE).end(OK, None);
        count += 1;
    }
    count
}

#[test]
fn what_waits_for_a_collector_has_a_bound() {
    let (tracer, _export) = tracer(1.0);
    for _ in 0..TRACE_BYTES_QUEUED_MAX / 100 {
        tracer.call(None, ROUTE).end(OK, None);
    }
    let recorder = tracer.0.as_ref().unwrap();
    let batch = recorder.queue.take();
    assert!(batch.spans.len() <= TRACE_BYTES_QUEUED_MAX + 8);
    assert!(TRACE_BYTES_QUEUED_MAX - 1024 < batch.spans.len());
    let all = TRACE_BYTES_QUEUED_MAX as u64 / 100;
    assert!(batch.count < all, "some had to be dropped");
}

/// A collector that does as it is told, then takes everything, and when it was sent what.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Failure>>,
    seen: Mutex<Vec<(Duration, usize)>>,
}

impl Scripted {
    async fn take(&self, began: Instant, request: Bytes) -> Result<Taken, Failure> {
        let count = spans(&request).len();
        self.seen.lock().unwrap().push((began.elapsed(), count));
        match self.script.lock().unwrap().pop_front() {
            Some(failure) => Err(failure),
            None => Ok(Taken { rejected: 0 }),
        }
    }
}

/// What arrives when: spans are recorded as `record` says, while the collector fails as in `script`.
async fn exported<F: Future<Output = ()>>(
    script: impl IntoIterator<Item = Failure>,
    record: impl FnOnce(Tracer, CancellationToken) -> F,
) -> Vec<(u128, usize)> {
    let (tracer, export) = tracer(1.0);
    let collector = Scripted {
        script: Mutex::new(script.into_iter().collect()),
        ..Scripted::default()
    };
    let (began, closing) = (Instant::now(), CancellationToken::new());
    let send = |request| collector.take(began, request);
    tokio::join!(export.run(send, closing.clone()), record(tracer, closing));
    let seen = collector.seen.lock().unwrap();
    let millis = |(at, count): &(Duration, usize)| (at.as_millis(), *count);
    seen.iter().map(millis).collect()
}

#[tokio::test(start_paused = true)]
async fn spans_leave_together_or_when_there_are_many_and_the_last_ones_at_the_end() {
    let seen = exported([], async |tracer, closing| {
        tracer.call(None, ROUTE).end(OK, None);
        tokio::time::sleep(Duration::from_millis(600)).await;
        tracer.call(None, ROUTE).end(OK, None);
        tokio::time::sleep(Duration::from_secs(2)).await;
        fill(&tracer, TRACE_BATCH_BYTES);
        tokio::time::sleep(Duration::from_millis(100)).await;
        tracer.call(None, ROUTE).end(OK, None);
        closing.cancel();
    });
    let seen = seen.await;
    let interval = TRACE_BATCH_INTERVAL.as_millis();
    assert_eq!([seen[0], seen[2]], [(interval, 2), (2700, 1)], "{seen:?}");
    // It did not wait for more.
    assert_eq!(seen[1].0, 2600, "{seen:?}");
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_again_while_that_may_help_and_then_dropped() {
    let failed = |reason| Failure::new(reason, "on purpose");
    let record = async |tracer: Tracer, closing: CancellationToken| {
        tracer.call(None, ROUTE).end(OK, None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        tracer.call(None, ROUTE).end(OK, None);
        tracer.call(None, ROUTE).end(OK, None);
        closing.cancel();
    };
    let dead = (0..TRACE_SENDS_MAX).map(|_| failed(Reason::InstanceDown));
    let seen = exported(dead, record).await;
    // After 1, 2, 4 and 8 seconds, then no more; the next ones are sent anew.
    let at = [1000, 2000, 4000, 8000, 16_000].map(|at| (at, 1));
    assert_eq!(seen, [&at[..], &[(60_000, 2)]].concat());
    let refused = failed(Reason::InstanceFailed(Status::InvalidArgument));
    let seen = exported([refused], record).await;
    assert_eq!(seen, [(1000, 1), (60_000, 2)]);
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_no_collector_that_is_away() {
    let down = || Failure::new(Reason::InstanceDown, "on purpose");
    let seen = exported([down(), down(), down()], async |tracer, closing| {
        tracer.call(None, ROUTE).end(OK, None);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        tracer.call(None, ROUTE).end(OK, None);
        closing.cancel();
    });
    // The batch that waits for its second chance is over, and so is the last one.
    assert_eq!(seen.await, [(1000, 1)]);
}
