"""grpcio with stubs generated from the contract, blocking and asyncio."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import BEARER
from error_info import error_info
from waiting import LONG, until


def value(json_value):
    return json_format.ParseDict(json_value, struct_pb2.Value())


def plain(message):
    return json_format.MessageToDict(message)


SILENT = {"_builtin": {"silent": True}}


def test_the_stubs_keep_the_canonical_file_names(stubs):
    assert stubs.messages.DESCRIPTOR.name == "openclaw/orchestrator/v1/orchestrator.proto"


def test_route(client):
    answer = client.route(["A", "B"], value({"data": "task"}))
    assert answer.instance in ("A", "B")
    assert plain(answer.payload) == {"data": "task"}
    assert len(answer.attempts) == 1 and not answer.attempts[0].HasField("failure")


def test_a_payload_that_is_absent_comes_back_as_null(client):
    assert client.route(["A"]).payload.WhichOneof("kind") == "null_value"


def test_fanout(client):
    events = list(client.fanout(["A-H"], value("task")))
    assert [event.WhichOneof("event") for event in events] == ["started"] + ["partial"] * 8 + ["summary"]
    assert list(events[0].started.roster) == list("ABCDEFGH")
    assert {event.partial.payload.string_value for event in events[1:-1]} == {"task"}
    assert events[-1].summary.counts.answered == 8


def test_health_tells_of_each_instance_in_order(client):
    healthy = lambda states: all(
        entry.state == client.messages.HEALTH_STATE_HEALTHY for entry in states.values()
    )
    states = until(lambda: client.health("C", "A"), healthy)
    assert list(states) == ["C", "A"]
    assert all(entry.reason and entry.since.seconds for entry in states.values())


def test_health_watch_begins_with_everything_and_can_be_cancelled(client):
    request = client.messages.HealthWatchRequest(instances=["A-C"])
    watch = client.api.HealthWatch(request, metadata=BEARER)
    first = next(watch)
    assert [entry.instance for entry in first.instances] == ["A", "B", "C"]
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(watch)
    assert caught.value.code() == grpc.StatusCode.CANCELLED


def test_the_standard_health_service_needs_no_key(client):
    health = health_pb2_grpc.HealthStub(client.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=LONG)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_deadline_is_deadline_exceeded_and_ours_to_tell(client):
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        client.route(["A"], value(SILENT), timeout=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(caught.value).reason == "DEADLINE_EXCEEDED"
    assert 0.5 < time.monotonic() - started < 5


def test_the_timeout_field_is_obeyed_like_the_deadline(client):
    request = client.messages.RouteRequest(instances=["A"], payload=value(SILENT))
    request.timeout.FromMilliseconds(300)
    with pytest.raises(grpc.RpcError) as caught:
        client.api.Route(request, metadata=BEARER)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_fanout_out_of_time_still_ends_with_its_summary(client):
    events = list(client.fanout(["A-B"], value(SILENT), timeout=1))
    assert [event.WhichOneof("event") for event in events] == ["started", "partial", "partial", "summary"]
    assert events[-1].summary.counts.timed_out == 2


def test_a_cancelled_route_is_given_up_at_the_instance_too(client):
    outstanding = lambda: client.health("B")["B"].calls_outstanding
    before = outstanding()
    call = client.route_later(["B"], value(SILENT))
    until(outstanding, lambda calls: calls == before + 1)
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    until(outstanding, lambda calls: calls == before)


def test_a_fanout_can_be_cancelled_in_the_middle(client):
    events = client.fanout(["C-D"], value(SILENT))
    assert list(next(events).started.roster) == ["C", "D"]
    outstanding = lambda: {id: entry.calls_outstanding for id, entry in client.health("C", "D").items()}
    until(outstanding, lambda calls: calls == {"C": 1, "D": 1})
    events.cancel()
    until(outstanding, lambda calls: calls == {"C": 0, "D": 0})


def test_failures_carry_their_error_info(client):
    def check(code, reason, instances, payload=None):
        with pytest.raises(grpc.RpcError) as caught:
            client.route(instances, payload)
        assert caught.value.code() == code
        info = error_info(caught.value)
        assert info.reason == reason
        return info.metadata

    code = grpc.StatusCode
    check(code.NOT_FOUND, "TARGET_UNKNOWN", ["Z"])
    check(code.INVALID_ARGUMENT, "TARGET_INVALID", ["A-"])
    check(code.INVALID_ARGUMENT, "PAYLOAD_INVALID", ["A"], struct_pb2.Value())
    aborted = {"_builtin": {"fail": "ABORTED"}}
    assert check(code.ABORTED, "INSTANCE_FAILED", ["A"], value(aborted))["instance"] == "A"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "KEY_MISSING"),
        ((("authorization", "Bearer wrong"),), "KEY_INVALID"),
        ((*BEARER, *BEARER), "KEY_MISSING"),
    ],
)
def test_without_one_good_key_there_is_no_answer(client, metadata, reason):
    with pytest.raises(grpc.RpcError) as caught:
        client.api.Route(client.messages.RouteRequest(instances=["A"]), metadata=metadata, timeout=LONG)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert error_info(caught.value).reason == reason


def big_and_nested():
    """Some 2 MiB of JSON: deep, wide, and with the values at which encoders differ."""
    deep = "bottom"
    # Five messages a level; a protobuf parser stops at a hundred.
    for level in range(18):
        deep = {"level": level, "list": [deep, None]}
    odd = [0, -0.0, 1.5e-300, 1.7976931348623157e308, 2**53, -(2**53), True, False, None, "", [], {}]
    words = ["plain", "snow ☃", "𝄞 clef", "\u0000 nul", "line\nbreak", '"quoted"', "\u2028"]
    rows = [{"id": at, "words": words, "odd": odd, "": "empty key"} for at in range(8000)]
    return {"deep": deep, "rows": rows, "long": "x" * 500_000}


def test_a_big_nested_payload_comes_back_bit_for_bit(client):
    sent = value(big_and_nested())
    assert 2_000_000 < sent.ByteSize() < 4_000_000
    got = client.route(["A"], sent).payload
    assert got.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)
    assert json.dumps(plain(got), sort_keys=True) == json.dumps(plain(sent), sort_keys=True)


def test_a_payload_beyond_the_limit_is_refused_by_name(client):
    with pytest.raises(grpc.RpcError) as caught:
        client.route(["A"], value("x" * (5 << 20)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(caught.value).reason == "MESSAGE_TOO_LARGE"


def test_concurrent_calls_of_many_threads_each_get_their_own_answer(client):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda at: client.route(["A-H"], value({"at": at})), range(400)))
    assert [plain(answer.payload)["at"] for answer in answers] == list(range(400))
    assert {answer.instance for answer in answers} == set("ABCDEFGH"), "BALANCED leaves nobody out"


def test_asyncio_routes_fanouts_and_watches_at_once(stubs, embedded):
    async def calls():
        async with grpc.aio.insecure_channel(embedded.address) as channel:
            api, messages = stubs.Orchestrator(channel), stubs.messages

            async def route(at):
                request = messages.RouteRequest(instances=["*"], payload=value(at))
                answer = await api.Route(request, metadata=BEARER, timeout=LONG)
                return answer.payload.number_value

            async def fanout():
                request = messages.FanoutRequest(targets=["*"], payload=value("task"))
                stream = api.Fanout(request, metadata=BEARER, timeout=LONG)
                return [event.WhichOneof("event") async for event in stream]

            watch = api.HealthWatch(messages.HealthWatchRequest(), metadata=BEARER)
            seen, *streams = await asyncio.gather(watch.read(), *(fanout() for _ in range(10)))
            answers = await asyncio.gather(*(route(at) for at in range(200)))
            watch.cancel()
            return seen, streams, answers

    seen, streams, answers = asyncio.run(calls())
    assert len(seen.instances) == 8
    assert all(stream == ["started"] + ["partial"] * 8 + ["summary"] for stream in streams)
    assert answers == list(range(200))


def test_asyncio_deadlines_cancels_and_details(stubs, embedded):
    async def calls():
        async with grpc.aio.insecure_channel(embedded.address) as channel:
            api, messages = stubs.Orchestrator(channel), stubs.messages
            silent = messages.RouteRequest(instances=["E"], payload=value(SILENT))
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await api.Route(silent, metadata=BEARER, timeout=0.5)

            running = asyncio.ensure_future(api.Route(silent, metadata=BEARER, timeout=LONG))
            outstanding = messages.HealthRequest(instances=["E"])

            async def settled(wanted):
                async with asyncio.timeout(LONG):
                    while True:
                        answer = await api.Health(outstanding, metadata=BEARER)
                        if answer.instances[0].calls_outstanding == wanted:
                            return

            await settled(1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await settled(0)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await api.Route(messages.RouteRequest(instances=["Z"]), metadata=BEARER)
            return late.value, unknown.value

    late, unknown = asyncio.run(calls())
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert unknown.code() == grpc.StatusCode.NOT_FOUND
    [encoded] = [entry for key, entry in unknown.trailing_metadata() if key == "grpc-status-details-bin"]
    [detail] = status_pb2.Status.FromString(encoded).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info) and info.reason == "TARGET_UNKNOWN"
