"""A trace from a client through the real Envoy and the orchestrator to an instance, as a real collector receives it.

Four programs record, each by itself: the client and the instance with OpenTelemetry's SDK for Python, Envoy with its
own tracer, and the orchestrator. The collector is the OTLP receiver of the OpenTelemetry Collector (collector/main.go),
which `.ci/run` builds.
"""

import collections

import grpc
import pytest
import requests
from google.protobuf import json_format, struct_pb2
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel

import tracing
from conftest import BEARER, Client
from processes import Collector, Orchestrator, PythonInstance
from real_envoy import Envoy, endpoint, manager, recipe
from waiting import LONG, until

PAYLOAD = "canary-payload-61c0"


def value(json_value):
    return json_format.ParseDict(json_value, struct_pb2.Value())


@pytest.fixture
def collector(tmp_path):
    collector = Collector(tmp_path)
    yield collector
    collector.end()


@pytest.fixture
def orchestrator(tmp_path, collector):
    """With an instance that fails, and a collector."""
    config = {
        "instances": [{"id": "bad", "builtin": {"fail": "UNAVAILABLE"}}],
        "health": {"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1},
        "traces": {"endpoint": f"http://{collector.address}", "ratio": 0, "service_name": "control"},
    }
    orchestrator = Orchestrator(tmp_path, config, instances=1)
    yield orchestrator
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@pytest.fixture
def instance(tmp_path, generated, stubs, orchestrator, collector):
    instance = PythonInstance(
        tmp_path, generated, orchestrator.address, "py-1", 1, lease=60, collector=collector.address
    )
    instance.lines.wait_for(event="registered")
    direct = Client(stubs, orchestrator.address)
    until(lambda: direct.state("py-1"), lambda state: state == "HEALTH_STATE_HEALTHY")
    direct.channel.close()
    yield instance
    instance.end()


@pytest.fixture
def front(tmp_path, orchestrator, collector):
    """The Envoy of docs/mesh.md in front, with a tracer of its own."""
    config = recipe("front")
    manager(config)["tracing"] = {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "5s"},
                "service_name": "envoy",
            },
        }
    }
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    config["static_resources"]["clusters"].append(
        {
            "name": "collector",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "collector",
                "endpoints": [{"lb_endpoints": [endpoint(collector.address)]}],
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": options, **http2}
            },
        }
    )
    soon = {"tracing.opentelemetry.flush_interval_ms": 100, "tracing.opentelemetry.min_flush_spans": 1}
    config["layered_runtime"] = {"layers": [{"name": "static", "static_layer": soon}]}
    running = Envoy(tmp_path, config, [orchestrator.address])
    until(lambda: running.stat("cluster.orchestrator.membership_healthy"), lambda healthy: healthy == 1)
    yield running
    running.end()


def told(span: dict) -> str:
    """A span in words: whose, its name, and what is ours to say about it."""
    said = [text for name, text in sorted(span["attributes"].items()) if name.startswith("orchestrator.")]
    said = [str(text) for text in said if text != span["attributes"].get("orchestrator.request_id")]
    failed = ["!"] if span["status"] == "Error" else []
    return " ".join([span["resource"]["service.name"], span["name"].rsplit("/", 1)[-1], *said, *failed])


def tree(spans: list[dict]) -> list:
    """What has no parent here, and under each span its children."""
    known = {span["span"] for span in spans}
    below = collections.defaultdict(list)
    for span in spans:
        below[span["parent"] if span["parent"] in known else None].append(span)
    grown = lambda parent: [[told(span), *grown(span["span"])] for span in below[parent]]
    return sorted(grown(None))


def test_a_call_is_one_tree_over_four_programs(front, instance, collector, stubs):
    provider = tracing.provider("client", collector.address)
    channel = intercept_channel(grpc.insecure_channel(front.address), client_interceptor(provider))
    api, messages = stubs.Orchestrator(channel), stubs.messages
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("work") as work:
        policy = messages.CallPolicy(selection="SELECTION_ORDERED", idempotent=True)
        route = messages.RouteRequest(instances=["bad", "py-1"], payload=value({"task": PAYLOAD}), policy=policy)
        answer = api.Route(route, metadata=BEARER, timeout=LONG)
        fanout = messages.FanoutRequest(targets=["py-1"], payload=value({"task": PAYLOAD}))
        events = list(api.Fanout(fanout, metadata=BEARER, timeout=LONG))
    trace = format(work.get_span_context().trace_id, "032x")
    assert [attempt.instance for attempt in answer.attempts] == ["bad", "py-1"]
    assert [event.WhichOneof("event") for event in events] == ["started", "partial", "summary"]

    expected = [
        "client work",
        [
            "client Route",
            [
                "envoy ingress",
                [
                    "control Route",
                    ["control attempt first 1 bad UNAVAILABLE INSTANCE_FAILED !"],
                    ["control attempt retry 2 py-1 OK", ["instance Execute"]],
                ],
            ],
        ],
        [
            "client Fanout",
            [
                "envoy ingress",
                ["control Fanout", ["control leg py-1 answered", ["control attempt first 1 py-1 OK", ["instance Execute"]]]],
            ],
        ],
    ]
    count = 13
    until(lambda: collector.spans(trace), lambda spans: len(spans) >= count)
    spans = collector.spans(trace)
    assert tree(spans) == [expected]
    # What an instance is told is the span of its try, and what stands in spans is nobody's payload or key.
    tries = {span["span"] for span in spans if span["name"] == "attempt"}
    seen = {line["metadata"]["traceparent"].split("-")[2] for line in instance.lines.matching(event="begun")}
    assert seen < tries
    assert PAYLOAD not in str(spans) and dict(BEARER)["authorization"] not in str(spans)


def test_a_call_by_rest_tells_its_path_and_every_span_the_state_of_its_trace(orchestrator, collector):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "congo=t61rcWkgMzE,rojo=2", **dict(BEARER)}
    url = f"http://{orchestrator.address}/api/orchestrator/route?query=canary"
    answer = requests.post(url, json={"instances": ["bad"]}, headers=headers, timeout=LONG)
    assert answer.status_code == 400, "there is no such parameter"
    url = url.partition("?")[0]
    answer = requests.post(url, json={"instances": ["bad"]}, headers=headers, timeout=LONG)
    assert answer.status_code == 503, answer.text
    until(lambda: collector.spans(trace), lambda spans: len(spans) >= 3)
    calls = [span for span in collector.spans(trace) if span["name"] == "POST /orchestrator/route"]
    assert len(calls) == 2
    assert {span["state"] for span in collector.spans(trace)} == {headers["tracestate"]}
    for call, code in zip(calls, [400, 503]):
        said = {name: text for name, text in call["attributes"].items() if name.split(".")[0] in ("http", "url")}
        assert said == {
            "http.request.method": "POST",
            "http.response.status_code": code,
            "http.route": "/orchestrator/route",
            "url.path": "/api/orchestrator/route",
            "url.scheme": "http",
        }
    assert "canary" not in str(calls)
