//! Spans as a collector would read them, with the official schema, and what becomes of them where none does.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as proto;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::SpanData;
use tokio_util::sync::CancellationToken;
use tracing::{Dispatch, Level, dispatcher};

use super::*;
use crate::domain::limit::{SPAN_PATH_BYTES_MAX, TRACE_BATCH_SPANS, TRACE_SPANS_QUEUED_MAX};

const OK: &str = "OK";
const ROUTE: Called = Called::Rpc("openclaw.orchestrator.v1.OrchestratorService/Route");
const CALLER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector that takes everything it is given, as soon as it may.
#[derive(Clone)]
struct Kept {
    spans: Arc<Mutex<Vec<SpanData>>>,
    resource: Arc<Mutex<Resource>>,
    open: CancellationToken,
    /// The next batch finds nobody there, and this is told of it.
    away: Arc<Mutex<Option<Reach>>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if let Some(reach) = self.away.lock().unwrap().take() {
            reach.lose(&"nobody listens");
        }
        self.open.cancelled().await;
        self.spans.lock().unwrap().extend(batch);
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        *self.resource.lock().unwrap() = resource.clone();
    }
}

/// A tracer, and the collector that it is given.
struct Stage {
    tracer: Tracer,
    export: Export,
    kept: Kept,
    reach: Reach,
}

fn closed(ratio: f64) -> Stage {
    let settings = Settings {
        ratio: Ratio::of(ratio).unwrap(),
        service: "fleet".to_owned(),
    };
    let kept = Kept {
        spans: Arc::default(),
        resource: Arc::new(Mutex::new(Resource::builder_empty().build())),
        open: CancellationToken::new(),
        away: Arc::default(),
    };
    let reach = Reach::default();
    let (tracer, export) = Tracer::new(&settings, kept.clone(), reach.clone());
    Stage {
        tracer,
        export,
        kept,
        reach,
    }
}

fn stage(ratio: f64) -> Stage {
    let stage = closed(ratio);
    stage.kept.open.cancel();
    stage
}

impl Stage {
    fn call(&self, parent: Option<TraceContext>, called: Called) -> Span {
        self.tracer.call(parent, || None, called)
    }

    fn goes_away(&self) {
        *self.kept.away.lock().unwrap() = Some(self.reach.clone());
    }

    /// What was sent, as it would travel.
    fn recorded(&self) -> Vec<proto::Span> {
        self.export.provider().force_flush().unwrap();
        let spans = std::mem::take(&mut *self.kept.spans.lock().unwrap());
        if spans.is_empty() {
            return Vec::new();
        }
        let resource = self.kept.resource.lock().unwrap();
        let resources = group_spans_by_resource_and_scope(spans, &(&*resource).into());
        let [resource] = &resources[..] else {
            panic!("{resources:?}");
        };
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        let version = format!("service.version={}", env!("CARGO_PKG_VERSION"));
        assert_eq!(told(attributes), format!("service.name=fleet {version}"));
        let [scope] = &resource.scope_spans[..] else {
            panic!("{resource:?}");
        };
        assert_eq!(scope.scope.as_ref().unwrap().name, env!("CARGO_PKG_NAME"));
        scope.spans.clone()
    }
}

fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

/// In the order of their names: which stands first means nothing.
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
    let mut told: Vec<_> = attributes.iter().map(one).collect();
    told.sort();
    told.join(" ")
}

/// Name, kind, attributes and whether it failed.
fn check(span: &proto::Span, expected: &str) {
    let kind = format!("{:?}", span.kind()).to_lowercase();
    let failed = if has_failed(span) { " !" } else { "" };
    let found = format!("{} ({kind}) {}{failed}", span.name, told(&span.attributes));
    assert_eq!(found, expected);
}

fn has_failed(span: &proto::Span) -> bool {
    let status = span.status.as_ref().map(proto::Status::code);
    status == Some(proto::status::StatusCode::Error)
}

#[tokio::test(start_paused = true)]
async fn a_call_with_its_legs_and_tries_is_one_tree_within_the_trace_of_its_caller() {
    let stage = stage(0.0);
    let caller = TraceContext::parse(CALLER).unwrap();
    let call = stage.call(Some(caller), ROUTE);
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

    let [first, retry, leg, call] = &stage.recorded()[..] else {
        panic!("four spans");
    };
    check(
        call,
        "openclaw.orchestrator.v1.OrchestratorService/Route (server) \
         orchestrator.request_id=request-1 \
         rpc.method=openclaw.orchestrator.v1.OrchestratorService/Route \
         rpc.response.status_code=OK rpc.system.name=grpc",
    );
    check(
        leg,
        "leg (internal) orchestrator.instance=A orchestrator.outcome=answered",
    );
    check(
        first,
        "attempt (client) error.type=INSTANCE_FAILED orchestrator.attempt.kind=first \
         orchestrator.attempt.number=1 orchestrator.instance.status=UNAVAILABLE \
         orchestrator.instance=A orchestrator.result=INSTANCE_FAILED !",
    );
    check(
        retry,
        "attempt (client) orchestrator.attempt.kind=retry orchestrator.attempt.number=2 \
         orchestrator.instance=A orchestrator.result=OK",
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
    let took = first.end_time_unix_nano - first.start_time_unix_nano;
    assert!((250_000_000..).contains(&took), "{took}");
    assert!(call.start_time_unix_nano <= first.start_time_unix_nano);
}

#[tokio::test(start_paused = true)]
async fn the_path_in_a_span_is_cut_between_its_letters_also_where_they_take_several_bytes() {
    let stage = stage(1.0);
    let call = stage.tracer.call(None, || None, ROUTE);
    // One byte and then two for each: the bound is in the middle of a letter.
    let path = format!("/{}", "é".repeat(SPAN_PATH_BYTES_MAX));
    call.within().note_url("https", &path);
    call.end(OK, None);
    let [span] = &stage.recorded()[..] else {
        panic!("one span")
    };
    let told = told(&span.attributes);
    let letters = told.matches('é').count();
    assert_eq!(letters, (SPAN_PATH_BYTES_MAX - 1) / 2, "{told}");
}

#[tokio::test(start_paused = true)]
async fn every_span_of_a_call_has_the_state_of_its_trace_and_the_call_its_url() {
    let stage = stage(1.0);
    let called = Called::Http {
        method: "GET",
        route: None,
    };
    let state = || Some("vendor=opaque,other=2".to_owned());
    let caller = TraceContext::parse(CALLER);
    let call = stage.tracer.call(caller, state, called);
    let within = call.within();
    let long = format!("/{}", "x".repeat(SPAN_PATH_BYTES_MAX));
    within.note_url("https", &long);
    let leg = within.leg(&id("A"));
    leg.within().attempt(&id("A"), "first", 1).end(OK, None);
    leg.end("answered", None);
    call.end("404", None);
    let spans = stage.recorded();
    assert_eq!(spans.len(), 3);
    for span in &spans {
        assert_eq!(span.trace_state, "vendor=opaque,other=2");
    }
    let cut = &long[..SPAN_PATH_BYTES_MAX];
    check(
        &spans[2],
        &format!(
            "GET (server) http.request.method=GET http.response.status_code=404 url.path={cut} \
             url.scheme=https"
        ),
    );
    assert!(!told(&spans[0].attributes).contains("url."));
    // What is no `tracestate` is as good as absent.
    let bad = stage.tracer.call(caller, || Some("?".to_owned()), called);
    bad.end("200", None);
    assert_eq!(stage.recorded()[0].trace_state, "");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waited_for_any_longer_ends_as_cancelled_and_is_no_error() {
    let stage = stage(1.0);
    let called = Called::Http {
        method: "POST",
        route: Some("/orchestrator/route"),
    };
    let call = stage.call(None, called);
    drop(call.within().attempt(&id("A"), "first", 1));
    drop(call);
    let spans = stage.recorded();
    check(
        &spans[0],
        "attempt (client) orchestrator.attempt.kind=first orchestrator.attempt.number=1 \
         orchestrator.instance=A orchestrator.result=CANCELLED",
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
    let stage = stage(1.0);
    let failed = |called: Called, result: &'static str| {
        stage.call(None, called).end(result, None);
        has_failed(&stage.recorded()[0])
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
        let stage = stage(ratio);
        let call = stage.call(parent, ROUTE);
        assert_eq!(call.context().is_some(), expected);
        let within = call.within();
        drop((within.attempt(&id("A"), "first", 1), within.leg(&id("A"))));
        drop(call);
        assert_eq!(!stage.recorded().is_empty(), expected);
    };
    let unsampled = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    check(Some(CALLER), 0.0, true);
    check(Some(unsampled), 1.0, false);
    check(None, 1.0, true);
    check(None, 0.0, false);
    let off = Tracer::off().call(TraceContext::parse(CALLER), || None, ROUTE);
    assert!(off.context().is_none() && off.within().context().is_none());
}

#[test]
fn a_trace_that_begins_here_is_recorded_by_its_id_as_others_would() {
    let stage = stage(0.5);
    let half = Ratio::of(0.5).unwrap();
    let calls = (0..1000).filter_map(|_| stage.call(None, ROUTE).context());
    let traces: Vec<_> = calls.map(|context| context.trace).collect();
    assert!((300..700).contains(&traces.len()), "{}", traces.len());
    for trace in traces {
        assert_eq!(half.sampled(trace), Sampled::Yes);
    }
}

#[test]
fn no_two_spans_have_one_name() {
    let stage = stage(1.0);
    let mut names = std::collections::HashSet::new();
    let mut traces = std::collections::HashSet::new();
    for at in 0..10_000 {
        let call = stage.call(None, ROUTE);
        let context = call.context().unwrap();
        assert!(traces.insert(context.trace));
        assert!(names.insert(context.span));
        let attempt = call.within().attempt(&id("A"), "first", 1);
        assert!(names.insert(attempt.context().unwrap().span));
        if at % 1000 == 0 {
            drop(stage.recorded());
        }
    }
}

#[test]
fn what_waits_for_a_collector_has_a_bound() {
    let stage = closed(1.0);
    for _ in 0..TRACE_SPANS_QUEUED_MAX + 100 {
        stage.call(None, ROUTE).end(OK, None);
    }
    stage.kept.open.cancel();
    assert_eq!(stage.recorded().len(), TRACE_SPANS_QUEUED_MAX);
    // There is room again.
    stage.call(None, ROUTE).end(OK, None);
    assert_eq!(stage.recorded().len(), 1);
}

#[test]
fn a_stop_sends_what_is_left_and_records_nothing_more() {
    let stage = stage(1.0);
    let running = stage.call(None, ROUTE);
    stage.call(None, ROUTE).end(OK, None);
    assert_eq!(stage.export.finish(), Last::Sent);
    assert_eq!(stage.kept.spans.lock().unwrap().len(), 1);
    running.end(OK, None);
    let late = stage.call(TraceContext::parse(CALLER), ROUTE);
    assert!(late.context().is_none() && late.within().context().is_none());
    drop(late);
    assert_eq!(stage.kept.spans.lock().unwrap().len(), 1);
}

#[test]
fn a_stop_waits_for_no_collector_that_is_away() {
    // It would wait for ever: nothing is taken. Whether that is known before or shows only then.
    for is_known in [true, false] {
        let stage = closed(1.0);
        stage.goes_away();
        stage.call(None, ROUTE).end(OK, None);
        if is_known {
            stage.reach.lose(&OTelSdkError::AlreadyShutdown);
        }
        assert_eq!(stage.export.finish(), Last::Sent);
        assert_eq!(stage.kept.spans.lock().unwrap().len(), 0);
    }
}

#[test]
fn a_stop_gives_what_is_left_its_chance_though_the_collector_was_away() {
    // Nothing has been sent since.
    let quiet = stage(1.0);
    quiet.reach.lose(&OTelSdkError::AlreadyShutdown);
    quiet.call(None, ROUTE).end(OK, None);
    assert_eq!(quiet.export.finish(), Last::Sent);
    assert_eq!(quiet.kept.spans.lock().unwrap().len(), 1);
    // What was sent and has failed waits for its next time, and the rest for it.
    let busy = closed(1.0);
    busy.goes_away();
    for _ in 0..TRACE_BATCH_SPANS {
        busy.call(None, ROUTE).end(OK, None);
    }
    while busy.kept.away.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    busy.call(None, ROUTE).end(OK, None);
    busy.reach.end();
    busy.kept.open.cancel();
    assert_eq!(busy.export.finish(), Last::Sent);
    assert_eq!(busy.kept.spans.lock().unwrap().len(), 1);
}

#[test]
fn no_line_of_anybody_else_is_looked_at_for_it() {
    let stage = stage(1.0);
    let recorder = stage.tracer.0.as_ref().unwrap();
    dispatcher::with_default(recorder.dispatch(), || {
        assert!(!tracing::enabled!(target: "h2", Level::TRACE));
        assert!(!tracing::enabled!(Level::ERROR));
        assert!(tracing::enabled!(target: recorder::TARGET, Level::INFO));
    });
}

#[test]
fn what_a_collector_rejects_is_read_from_the_log_of_the_exporter() {
    let rejected = rejected::Rejected::default();
    let warn = |log: &Dispatch, count: i64| {
        dispatcher::with_default(log, || {
            tracing::warn!(target: "opentelemetry-otlp", rejected_spans = count, error_message = "x");
            tracing::warn!(target: "opentelemetry-otlp", retries = 7);
            tracing::warn!(rejected_spans = 100);
        });
    };
    warn(&rejected.listening(), 2);
    warn(&rejected.listening(), 3);
    assert_eq!([rejected.take(), rejected.take()], [5, 0]);
    warn(&rejected.listening(), -1);
    assert_eq!(rejected.take(), 0);
}
