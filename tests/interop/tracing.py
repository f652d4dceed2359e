"""Tracing as Python programs usually have it: OpenTelemetry's SDK, which sends each span when it ends."""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


def provider(service: str, collector: str) -> TracerProvider:
    """Records everything; `collector` is a host and a port."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=f"http://{collector}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider
