//! What one span costs: as the orchestrator records it, and by the SDK of OpenTelemetry alone, until it is bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor};
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::trace::{Ratio, TraceContext};
use orchestrator::telemetry::trace::{Called, Last, Reach, Settings, Tracer};
use prost::Message as _;

use crate::process::own_cpu;

const CALLS: usize = 1500;
const ROUNDS: usize = 41;
const CALLER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const METHOD: &str = "openclaw.orchestrator.v1.OrchestratorService/Route";

/// Prints what a call with one try costs.
pub(crate) fn measure() {
    println!(
        "Spans of a Route, which are two, until they are an encoded request, means of {ROUNDS} rounds\n"
    );
    println!("| written by | ns/span |");
    println!("|---|--:|");
    println!("| the orchestrator | {:.0} |", own());
    println!(
        "| opentelemetry_sdk and opentelemetry-proto alone | {:.0} |",
        sdk()
    );
    println!();
}

/// The system counts CPU in steps that are longer than one round.
fn mean(rounds: &[f64]) -> f64 {
    rounds.iter().sum::<f64>() / rounds.len() as f64
}

/// An exporter as far as the bytes.
#[derive(Debug)]
struct Encoded {
    resource: Resource,
    bytes: Arc<AtomicUsize>,
}

impl SpanExporter for Encoded {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(spans, &(&self.resource).into());
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        self.bytes.fetch_add(request.len(), Ordering::Relaxed);
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.clone();
    }
}

fn own() -> f64 {
    let settings = Settings {
        ratio: Ratio::DEFAULT,
        service: "orchestrator".to_owned(),
    };
    let instance = InstanceId::parse("A").unwrap();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let bytes = Arc::new(AtomicUsize::new(0));
        let exporter = Encoded {
            resource: Resource::builder_empty().build(),
            bytes: Arc::clone(&bytes),
        };
        let (tracer, export) = Tracer::new(&settings, exporter, Reach::default());
        let before = own_cpu();
        for _ in 0..CALLS {
            let caller = TraceContext::parse(CALLER);
            let call = tracer.call(caller, || None, Called::Rpc(METHOD));
            let within = call.within();
            within.note_request_id(&Bytes::from_static(b"3c88c2e7b34617ca3cdb2eae4fa205ae"));
            within.attempt(&instance, "first", 1).end("OK", None);
            call.end("OK", None);
        }
        assert_eq!(export.finish(), Last::Sent);
        rounds.push((own_cpu() - before).as_nanos() as f64 / (2 * CALLS) as f64);
        assert!(CALLS * 200 < bytes.load(Ordering::Relaxed));
    }
    mean(&rounds)
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn sdk() -> f64 {
    let kept = Kept::default();
    let resource = Resource::builder_empty()
        .with_service_name("orchestrator")
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(kept.clone())
        .with_resource(resource.clone())
        .build();
    let tracer = provider.tracer("orchestrator");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = own_cpu();
        for _ in 0..CALLS {
            let caller = TraceContext::parse(CALLER).unwrap();
            let caller = SpanContext::new(
                TraceId::from_bytes(caller.trace),
                SpanId::from_bytes(caller.span),
                TraceFlags::SAMPLED,
                true,
                TraceState::NONE,
            );
            let parent = Context::new().with_remote_span_context(caller);
            let call = tracer
                .span_builder(METHOD)
                .with_kind(SpanKind::Server)
                .with_attributes([
                    KeyValue::new("rpc.system.name", "grpc"),
                    KeyValue::new("rpc.method", METHOD),
                ]);
            let mut call = tracer.build_with_context(call, &parent);
            let within = Context::new().with_remote_span_context(call.span_context().clone());
            let attempt = tracer
                .span_builder("attempt")
                .with_kind(SpanKind::Client)
                .with_attributes([
                    KeyValue::new("orchestrator.instance", "A".to_owned()),
                    KeyValue::new("orchestrator.attempt.kind", "first"),
                    KeyValue::new("orchestrator.attempt.number", 1),
                ]);
            let mut attempt = tracer.build_with_context(attempt, &within);
            attempt.set_attribute(KeyValue::new("orchestrator.result", "OK"));
            attempt.end();
            let id = "3c88c2e7b34617ca3cdb2eae4fa205ae".to_owned();
            call.set_attribute(KeyValue::new("orchestrator.request_id", id));
            call.set_attribute(KeyValue::new("rpc.response.status_code", "OK"));
            call.end();
        }
        let spans = std::mem::take(&mut *kept.0.lock().unwrap());
        let resource_spans = group_spans_by_resource_and_scope(spans, &(&resource).into());
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        assert!(CALLS * 200 < request.len());
        rounds.push((own_cpu() - before).as_nanos() as f64 / (2 * CALLS) as f64);
    }
    mean(&rounds)
}
