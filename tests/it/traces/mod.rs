//! What a collector of traces is sent, by the real exporter over a real connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use orchestrator::domain::trace::{Ratio, TraceContext};
use orchestrator::proto::orchestrator::{
    CallPolicy, FanoutRequest, RouteRequest, Selection, SessionHello, SessionSendRequest,
    SessionSpawnRequest, session_send_request::Frame,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::rest::ask::{Ask, WAYS};
use crate::stage::instance::{Act, Instance};
use crate::stage::{self, App, client, config, planned, start, text};

mod delivery;
mod tries;

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    metadata: Arc<Mutex<Vec<MetadataMap>>>,
    /// Of each batch it does not want so many.
    rejects: i64,
    /// It answers no more.
    hangs: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.metadata
            .lock()
            .unwrap()
            .push(request.metadata().clone());
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.spans.lock().unwrap().extend(spans);
        let partial_success = (self.rejects != 0).then(|| ExportTracePartialSuccess {
            rejected_spans: self.rejects,
            error_message: "these may be repeated by nobody".to_owned(),
        });
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success,
        }))
    }
}

impl Collector {
    /// One that listens, and where.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let address = collector.listen().await;
        (collector, address)
    }

    async fn listen(&self) -> String {
        let collector = self.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                collector.serve(stream);
            }
        });
        format!("http://{address}")
    }

    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(TraceServiceServer::new(self.clone()));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { connection.await.ok() });
    }

    /// Everything, once the orchestrator has stopped and with it has said everything.
    async fn told(&self, app: App) -> Vec<Span> {
        app.stop().await;
        self.spans.lock().unwrap().clone()
    }
}

fn traced(endpoint: &str, ratio: f64) -> stage::Config {
    let text = format!(r#"{{"instances": [], "traces": {{"endpoint": "{endpoint}"}}}}"#);
    let read = orchestrator::config::read_bytes("c.json".as_ref(), text.as_bytes(), &|_| None);
    let mut traces = read.unwrap().traces.unwrap();
    traces.settings.ratio = Ratio::of(ratio).unwrap();
    stage::Config {
        traces: Some(traces),
        ..config()
    }
}

fn attribute(span: &Span, name: &str) -> String {
    let mut found = span.attributes.iter().filter(|given| given.key == name);
    let value = found.next().and_then(|given| given.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _other => String::new(),
    }
}

fn with_trace<T>(message: T, trace: &str) -> Request<T> {
    let mut request = Request::new(message);
    let trace = trace.parse().unwrap();
    request.metadata_mut().insert("traceparent", trace);
    request
}

/// The place in a trace that an instance was told with its only call.
fn seen_at(instance: &Instance) -> TraceContext {
    let seen = instance.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    TraceContext::parse(seen[0].get("traceparent").unwrap().as_bytes()).unwrap()
}

/// Each span under its parent, by their names and instances, two spaces a level.
fn tree(spans: &[Span], root: &[u8]) -> String {
    let mut below: HashMap<&[u8], Vec<&Span>> = HashMap::new();
    for span in spans {
        below.entry(&span.parent_span_id).or_default().push(span);
    }
    let mut lines = String::new();
    let mut open: Vec<(&Span, usize)> = Vec::new();
    let push = |open: &mut Vec<_>, parent: &[u8], depth| {
        let mut children = below.get(parent).cloned().unwrap_or_default();
        // Legs run at once: the order of their targets is the order here.
        children.sort_by_key(|span| {
            let number = attribute(span, "orchestrator.attempt.number");
            (attribute(span, "orchestrator.instance"), number)
        });
        open.extend(children.into_iter().rev().map(|span| (span, depth)));
    };
    push(&mut open, root, 0);
    while let Some((span, depth)) = open.pop() {
        let name = span.name.rsplit('/').next().unwrap();
        let words = [
            "orchestrator.instance",
            "orchestrator.attempt.kind",
            "orchestrator.outcome",
            "orchestrator.result",
            "rpc.response.status_code",
        ];
        let words = words.map(|word| attribute(span, word));
        let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).collect();
        let words: Vec<_> = words.iter().map(|word| word.as_str()).collect();
        lines += &format!("{}{name} {}\n", "  ".repeat(depth), words.join(" "));
        push(&mut open, &span.span_id, depth + 1);
    }
    lines
}

#[tokio::test]
async fn a_call_and_its_tries_and_legs_are_one_tree_that_goes_on_at_the_instance() {
    let (collector, endpoint) = Collector::start().await;
    let (bad, good) = (
        Instance::start(Act::Fail(tonic::Code::Unavailable)).await,
        Instance::start(Act::Echo).await,
    );
    let app = start(stage::Config {
        instances: vec![planned("A", bad.address), planned("B", good.address)],
        ..traced(&endpoint, 0.0)
    })
    .await;
    let mut client = client(&app).await;
    let route = RouteRequest {
        instances: vec!["A".into(), "B".into()],
        payload: text("a payload that is nobody's business"),
        policy: Some(CallPolicy {
            idempotent: true,
            selection: Selection::Ordered.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    client.route(with_trace(route, CALLER)).await.unwrap();
    let (at_bad, at_good) = (seen_at(&bad), seen_at(&good));
    let fan_out = FanoutRequest {
        targets: vec!["B".into()],
        ..Default::default()
    };
    let other = CALLER.replace("b7ad6b7169203331", "00f067aa0ba902b7");
    let events = client.fanout(with_trace(fan_out, &other)).await.unwrap();
    events.into_inner().collect::<Vec<_>>().await;
    drop(client);

    let spans = collector.told(app).await;
    let caller = TraceContext::parse(CALLER.as_bytes()).unwrap();
    assert!(spans.iter().all(|span| span.trace_id == caller.trace));
    assert_eq!(
        tree(&spans, &caller.span),
        "Route OK\n  \
           attempt A first INSTANCE_FAILED\n  \
           attempt B retry OK\n"
    );
    assert_eq!(
        tree(&spans, &TraceContext::parse(other.as_bytes()).unwrap().span),
        "Fanout OK\n  \
           leg B answered\n    \
             attempt B first OK\n"
    );
    // Each instance was told the very span that stands for its try.
    for (told, instance) in [(at_bad, "A"), (at_good, "B")] {
        let attempt = spans.iter().find(|span| span.span_id == told.span).unwrap();
        assert_eq!(attempt.name, "attempt");
        assert_eq!(attribute(attempt, "orchestrator.instance"), instance);
        assert_eq!((told.trace, told.flags), (caller.trace, 1));
    }
    // Neither the payload nor the key stands anywhere.
    let all = format!("{spans:?}{:?}", collector.metadata.lock().unwrap());
    assert!(!all.contains("nobody's business") && !all.contains(stage::KEY));
    assert!(!spans.is_empty());
}

#[tokio::test]
async fn a_call_by_rest_is_named_by_its_template_and_says_nothing_of_its_query() {
    let (collector, endpoint) = Collector::start().await;
    let app = start(stage::Config {
        instances: stage::embedded().instances,
        ..traced(&endpoint, 0.0)
    })
    .await;
    let path = "/api/orchestrator/sessions/nobody?canary=1";
    for (way, at) in WAYS.into_iter().zip(1..) {
        let answer = Ask::get(path)
            .with("traceparent", CALLER)
            .with("tracestate", "vendor=opaque,other=2")
            .with("x-request-id", &format!("req-{at}"))
            .send(way, app.address())
            .await;
        assert_eq!(answer.status, 400, "there is no such parameter");
    }
    let spans = collector.told(app).await;
    assert_eq!(spans.len(), WAYS.len());
    for span in &spans {
        assert_eq!(span.name, "GET /orchestrator/sessions/{id}");
        assert_eq!(attribute(span, "http.route"), "/orchestrator/sessions/{id}");
        assert_eq!(attribute(span, "http.response.status_code"), "400");
        assert_eq!(
            attribute(span, "url.path"),
            "/api/orchestrator/sessions/nobody"
        );
        assert_eq!(attribute(span, "url.scheme"), "http");
        assert_eq!(span.trace_state, "vendor=opaque,other=2");
        assert!(attribute(span, "orchestrator.request_id").starts_with("req-"));
        // What its caller is to blame for.
        assert!(span.status.as_ref().is_none_or(|status| status.code == 0));
    }
    assert!(!format!("{spans:?}").contains("canary"));
}

#[tokio::test]
async fn what_is_not_sampled_is_not_recorded_and_passed_on_as_it_came() {
    let (collector, endpoint) = Collector::start().await;
    let instance = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..traced(&endpoint, 1.0)
    })
    .await;
    let unsampled = CALLER.replace("-01", "-00");
    let route = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    let mut client = client(&app).await;
    client.route(with_trace(route, &unsampled)).await.unwrap();
    drop(client);
    assert_eq!(seen_at(&instance).to_header(), unsampled.as_bytes());
    assert_eq!(collector.told(app).await, []);
    assert_eq!(collector.metadata.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_traceparent_that_is_none_begins_a_trace() {
    let (collector, endpoint) = Collector::start().await;
    let instance = Instance::start(Act::Echo).await;
    let app = start(stage::Config {
        instances: vec![planned("A", instance.address)],
        ..traced(&endpoint, 1.0)
    })
    .await;
    let bad = CALLER.replace("b7ad6b7169203331", "0000000000000000");
    let route = RouteRequest {
        instances: vec!["A".into()],
        ..Default::default()
    };
    let mut client = client(&app).await;
    let mut request = with_trace(route, &bad);
    let state = "vendor=1".parse().unwrap();
    request.metadata_mut().insert("tracestate", state);
    client.route(request).await.unwrap();
    drop(client);
    let told = seen_at(&instance);
    assert!(!instance.seen.lock().unwrap()[0].contains_key("tracestate"));
    let spans = collector.told(app).await;
    assert_eq!(tree(&spans, &[]), "Route OK\n  attempt A first OK\n");
    assert_eq!(spans[0].trace_id, told.trace);
    assert_ne!(
        told.trace,
        TraceContext::parse(CALLER.as_bytes()).unwrap().trace
    );
}

#[tokio::test]
async fn a_session_is_recorded_as_it_is_spawned_and_attached() {
    let (collector, endpoint) = Collector::start().await;
    let app = start(stage::Config {
        instances: stage::embedded().instances,
        ..traced(&endpoint, 1.0)
    })
    .await;
    let mut client = client(&app).await;
    let spawn = SessionSpawnRequest {
        session_id: "s-1".into(),
        ..Default::default()
    };
    client.session_spawn(spawn).await.unwrap();
    let hello = SessionSendRequest {
        frame: Some(Frame::Hello(SessionHello {
            session_id: "s-1".into(),
            ..Default::default()
        })),
    };
    let sending = tokio_stream::once(hello).chain(tokio_stream::pending());
    let mut frames = client.session_send(sending).await.unwrap().into_inner();
    frames.next().await.unwrap().unwrap();
    drop((frames, client));
    let spans = collector.told(app).await;
    let names: BTreeMap<_, _> = spans
        .iter()
        .map(|span| (span.name.rsplit('/').next().unwrap(), span))
        .collect();
    let (stream, attach) = (names["SessionSend"], names["attach"]);
    assert!(names.contains_key("SessionSpawn"));
    assert_eq!(attach.parent_span_id, stream.span_id);
    assert_eq!(attribute(attach, "orchestrator.session"), "s-1");
    assert_eq!(attribute(attach, "orchestrator.result"), "OK");
}

#[tokio::test]
async fn a_call_that_a_stop_has_cut_is_in_its_trace() {
    let (collector, endpoint) = Collector::start().await;
    let silent = Instance::start(Act::Silent).await;
    let mut config = traced(&endpoint, 1.0);
    config.instances = vec![planned("A", silent.address)];
    config.shutdown.grace = Duration::from_millis(100);
    let app = start(config).await;
    let mut client = client(&app).await;
    let request = RouteRequest {
        instances: vec!["A".into()],
        payload: text("task"),
        ..Default::default()
    };
    let call = tokio::spawn(async move { client.route(request).await });
    silent.until(|counts| counts.begun == 1).await;
    let spans = collector.told(app).await;
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "attempt",
            "openclaw.orchestrator.v1.OrchestratorService/Route"
        ]
    );
    assert!(call.await.unwrap().is_err());
}
