"""Each thing that happens moves its metric, of each word that a label can say, and whatever is called adds no more series
than are stated.
"""

import re
import threading
from concurrent import futures
from functools import partial

import grpc
import pytest
import requests

from conftest import BEARER, Client
from ill import Ill
from operators import PAGE, PROCESS_SERIES_MAX, ROUTE, SEND, SERIES_MAX, Operators, labels_of_the_page, refused, value
from processes import KEY, Orchestrator
from waiting import LONG, until


def routes_well(client):
    client.route(["A"], value("task"))


def routes_without_a_key(client):
    refused(lambda: client.api.Route(client.messages.RouteRequest(instances=["A"]), timeout=LONG))


def tries_again(client):
    policy = client.messages.CallPolicy(idempotent=True)
    refused(lambda: client.route(["H", "H"], value({"_builtin": {"fail": "UNAVAILABLE"}}), policy=policy))


def fans_out(client):
    list(client.fanout(["A", "H"], value("task")))


def runs_out_of_time(client):
    list_all = lambda: list(client.fanout(["B"], value({"_builtin": {"silent": True}}), timeout=0.5))
    try:
        list_all()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def spawns_a_session(client):
    client.api.SessionSpawn(client.messages.SessionSpawnRequest(), metadata=BEARER, timeout=LONG)


def drains(client):
    request = client.messages.DrainRequest(instances=["G"])
    client.cluster.Drain(request, metadata=BEARER, timeout=LONG)


def hedges(client):
    """The first one that is asked takes its time."""
    policy = client.messages.CallPolicy(idempotent=True, selection=client.messages.SELECTION_ORDERED)
    policy.hedge.delay.FromMilliseconds(5)
    assert client.route(["slow", "A"], value("task"), policy=policy).instance == "A"


def falls_back(client):
    """The only one that is named fails; one of the others may be slow."""
    policy = client.messages.CallPolicy(idempotent=True, fallback=client.messages.FALLBACK_ANY_HEALTHY, attempts_max=5)
    policy.per_try_timeout.FromMilliseconds(500)
    client.route(["H"], value("task"), policy=policy)


def fans_out_to_the_first(client):
    completion = client.messages.Completion(first=1)
    list(client.fanout(["A", "slow"], value("task"), completion=completion))


def talks_in_a_session(client):
    spawn = client.messages.SessionSpawnRequest(session_id="talks", instances=["A"])
    client.api.SessionSpawn(spawn, metadata=BEARER, timeout=LONG)
    hello = client.messages.SessionSendRequest(hello=client.messages.SessionHello(session_id="talks"))
    left = threading.Event()

    def says():
        # Whoever says no more has ended the call, and cancels nothing.
        yield hello
        left.wait(LONG)

    frames = client.api.SessionSend(says(), metadata=BEARER, timeout=LONG)
    assert next(frames).WhichOneof("frame") == "ready"
    frames.cancel()
    left.set()


def routes_over_rest(client):
    body = {"instances": ["A"], "payload": "task"}
    bearer = {"authorization": f"Bearer {KEY}"}
    answer = requests.post(f"http://{client.address}/api/orchestrator/route", json=body, headers=bearer, timeout=LONG)
    assert answer.status_code == 200, answer.text


def routes_over_grpc_web(client):
    message = client.messages.RouteRequest(instances=["A"], payload=value("task")).SerializeToString()
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/grpc-web+proto"}
    answer = requests.post(f"http://{client.address}{ROUTE}", data=body, headers=headers, timeout=LONG)
    assert answer.status_code == 200 and b"grpc-status:0" in answer.content.replace(b" ", b""), answer.content


def waits(client):
    """What is counted happens by itself."""


def takes_back(client):
    drains(client)
    request = client.messages.UndrainRequest(instances=["G"])
    client.cluster.Undrain(request, metadata=BEARER, timeout=LONG)


MOVES = [
    (routes_well, "orchestrator_calls_total", {"path": ROUTE, "code": "OK"}),
    (routes_well, "orchestrator_call_seconds_count", {"path": ROUTE}),
    (routes_well, "orchestrator_attempts_total", {"kind": "first", "result": "OK"}),
    (routes_well, "orchestrator_attempt_seconds_count", {}),
    (routes_well, "orchestrator_spans_total", {"result": "delivered"}),
    (routes_without_a_key, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAUTHENTICATED"}),
    (tries_again, "orchestrator_attempts_total", {"kind": "retry", "result": "INSTANCE_FAILED"}),
    (tries_again, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAVAILABLE"}),
    (hedges, "orchestrator_attempts_total", {"kind": "hedge", "result": "OK"}),
    (hedges, "orchestrator_attempts_total", {"kind": "first", "result": "NOT_NEEDED"}),
    (falls_back, "orchestrator_attempts_total", {"kind": "fallback", "result": "OK"}),
    (routes_over_rest, "orchestrator_calls_total", {"path": "/orchestrator/route", "code": "200"}),
    (routes_over_rest, "orchestrator_call_seconds_count", {"path": "/orchestrator/route"}),
    (routes_over_grpc_web, "orchestrator_calls_total", {"path": ROUTE, "code": "OK"}),
    (talks_in_a_session, "orchestrator_calls_total", {"path": SEND, "code": "CANCELLED"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "answered"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "failed"}),
    (fans_out_to_the_first, "orchestrator_legs_total", {"outcome": "cancelled"}),
    (runs_out_of_time, "orchestrator_legs_total", {"outcome": "timed_out"}),
    (spawns_a_session, "orchestrator_journal_commits_total", {"result": "ok"}),
    (spawns_a_session, "orchestrator_journal_commit_seconds_count", {}),
    (spawns_a_session, "orchestrator_sessions", {}),
    (drains, "orchestrator_health_changes_total", {"to": "draining"}),
    (takes_back, "orchestrator_health_changes_total", {"from": "draining", "to": "healthy"}),
    (waits, "orchestrator_health_changes_total", {"from": "healthy", "to": "down"}),
    (waits, "orchestrator_health_changes_total", {"from": "down", "to": "healthy"}),
]


def is_refused(ill):
    """The instance resets the stream as one that never began: the task goes elsewhere, though nobody has allowed it."""
    policy = ill.client.messages.CallPolicy(selection=ill.client.messages.SELECTION_ORDERED)
    assert ill.client.route(["odd", "w1"], value("refuse"), policy=policy).instance == "w1"


def fans_out_and_gives_up(ill):
    """The first target gets no work, and none may fail."""
    completion = ill.client.messages.Completion(failures_max=0)
    refused(lambda: list(ill.client.fanout(["out", "w1"], value("task"), completion=completion)))


def nobody_is_there(ill):
    ill.registers("nobody", "127.0.0.1:1")


def comes_late(ill):
    """It was asked already when it begins to listen."""
    ill.is_seen_as("late", "STARTING")
    ill.late.listen()


def works_hard(ill):
    with ill.working():
        pass


def has_no_room(ill):
    with ill.without_room():
        refused(lambda: spawns_a_session(ill.client))
        until(lambda: ill.operators.sum("orchestrator_journal_ready"), lambda ready: ready == 0)
        assert ill.operators.get("/readyz/sessions")[0] == 503
    spawns_a_session(ill.client)


def collects(does):
    """A call is recorded, and the collector does this with its spans."""

    def records(ill):
        ill.collector.does = does
        ill.client.route(["w1"], value("task"))

    records.__name__ = f"{does}_spans"
    return records


def hangs(ill):
    """No call waits for it; the spans do, until there are too many of them."""
    ill.collector.does = "hangs"

    def spans_dropped():
        for _ in range(10):
            list(ill.client.fanout(["w1-w32"], value("task")))
        return ill.operators.sum("orchestrator_spans_total", result="queue_full")

    before = spans_dropped()
    until(spans_dropped, lambda now: now > before)
    ill.collector.does = "takes"
    ill.collector.goes_on.set()


MOVES_OF_THE_ILL = [
    (is_refused, "orchestrator_attempts_total", {"kind": "transparent_retry", "result": "OK"}),
    (fans_out_and_gives_up, "orchestrator_legs_total", {"outcome": "skipped"}),
    (nobody_is_there, "orchestrator_health_changes_total", {"from": "unknown", "to": "starting"}),
    (comes_late, "orchestrator_health_changes_total", {"from": "starting", "to": "healthy"}),
    (works_hard, "orchestrator_health_changes_total", {"from": "healthy", "to": "busy"}),
    (works_hard, "orchestrator_health_changes_total", {"from": "busy", "to": "healthy"}),
    (has_no_room, "orchestrator_journal_commits_total", {"result": "failed"}),
    (collects("rejects"), "orchestrator_spans_total", {"result": "rejected"}),
    (collects("refuses"), "orchestrator_spans_total", {"result": "not_delivered"}),
    (hangs, "orchestrator_spans_total", {"result": "queue_full"}),
]
LEVELS = [
    "orchestrator_instances",
    "orchestrator_calls_in_flight",
    "orchestrator_calls_waiting",
    "orchestrator_legs_in_flight",
    "orchestrator_instance_calls_in_flight",
    "orchestrator_connections",
    "orchestrator_message_bytes",
    "orchestrator_message_bytes_limit",
    "orchestrator_retry_tokens",
    "orchestrator_hedge_tokens",
    "orchestrator_draining",
    "orchestrator_journal_ready",
    "orchestrator_runtime_tasks",
]
"""What is read when somebody asks; each stands in a test below."""
STATES = ["unknown", "starting", "healthy", "busy", "draining", "down"]
"""Of instances; each stands in a test below."""
ELSEWHERE = {
    "orchestrator_tls_end_seconds": "it takes TLS: test_tls.py compares it with what openssl says of the files",
    "orchestrator_runtime_queue_depth": "it is the queue of one moment, which is empty whenever a thread is free to answer",
}
"""Metrics that no test of this file moves, and why."""
WORDS_ELSEWHERE = {
    ("orchestrator_calls_total", "code"): "the table of failures is a snapshot, and each door tells its codes to callers",
    ("orchestrator_attempts_total", "result"): "each reason of a failure has its tests, where the failure is made",
}
"""Labels of which not every word is moved, and why."""
NEVER = {("orchestrator_health_changes_total", "to", "unknown"): "an instance that registers anew is another one"}
"""Words that are not said, and why."""


@pytest.fixture(scope="module")
def ill(tmp_path_factory, stubs):
    ill = Ill(tmp_path_factory.mktemp("ill"), stubs)
    yield ill
    ill.end()


def moves(operators, act, name, labels):
    before = operators.sum(name, **labels)
    act()
    # A call is counted when its answer has left.
    until(lambda: operators.sum(name, **labels), lambda now: now > before)


@pytest.mark.parametrize(("act", "name", "labels"), MOVES, ids=lambda it: getattr(it, "__name__", None))
def test_what_happens_moves_its_metric(operators, caller, act, name, labels):
    moves(operators, lambda: act(caller), name, labels)


@pytest.mark.parametrize(("act", "name", "labels"), MOVES_OF_THE_ILL, ids=lambda it: getattr(it, "__name__", None))
def test_what_goes_wrong_moves_its_metric(ill, act, name, labels):
    moves(ill.operators, lambda: act(ill), name, labels)


def test_every_metric_of_the_page_is_moved_by_a_test():
    listed = set(re.findall(r"^\| `(orchestrator_\w+)` \| (?:counter|gauge|histogram) \|", PAGE, re.MULTILINE))
    assert len(listed) > 20
    moved = {re.sub("_(count|sum|bucket)$", "", name) for _, name, _ in MOVES + MOVES_OF_THE_ILL}
    assert moved | set(LEVELS) | set(ELSEWHERE) == listed
    assert not (moved | set(LEVELS)) & set(ELSEWHERE), "whoever is moved needs no excuse"


def test_every_word_of_a_label_is_moved_by_a_test():
    """The page's table of them is held against the program by a unit test."""
    moved = {(name, *label) for _, name, labels in MOVES + MOVES_OF_THE_ILL for label in labels.items()}
    moved |= {("orchestrator_instances", "state", state) for state in STATES}
    listed = {
        (name, label, word)
        for name, labels in labels_of_the_page().items()
        for label, words in labels.items()
        # Of paths there is no list: each is called by the test of the series.
        for word in words or ()
        if name not in ELSEWHERE and (name, label) not in WORDS_ELSEWHERE
    }
    assert len(listed) > 25
    assert listed - moved == set(NEVER)


def test_an_instance_is_counted_by_its_state(ill):
    level = lambda state: ill.operators.sum("orchestrator_instances", state=state)
    assert (level("draining"), level("down")) == (1, 1)
    until(lambda: level("healthy"), lambda healthy: healthy >= 32)
    nobody_is_there(ill)
    until(lambda: level("starting"), lambda starting: starting >= 1)
    with ill.working():
        assert level("busy") == 1
    # Until its first probe has come to its end.
    until(lambda: (ill.registers("mute", ill.mute), level("unknown"))[1], lambda unknown: unknown == 1)


def test_levels_say_how_things_are(operators, caller):
    assert operators.sum("orchestrator_instances") == 11
    assert operators.sum("orchestrator_instances", state="down") >= 1
    for name in ("orchestrator_hedge_tokens", "orchestrator_runtime_tasks"):
        assert operators.sum(name) > 0
    assert operators.sum("orchestrator_journal_ready") == 1
    assert operators.sum("orchestrator_draining") == 0
    assert "orchestrator_runtime_queue_depth" in operators.series()
    assert operators.sum("orchestrator_message_bytes_limit") > 0
    assert operators.sum("orchestrator_retry_tokens") > 0
    held = [caller.route_later(["C"], value({"_builtin": {"silent": True}})) for _ in range(3)]
    for name in ("orchestrator_calls_in_flight", "orchestrator_instance_calls_in_flight"):
        until(lambda: operators.sum(name), lambda now: now == 3)
    assert operators.sum("orchestrator_message_bytes") > 0
    assert operators.sum("orchestrator_connections") > 0
    legs = caller.fanout(["D", "E"], value({"_builtin": {"silent": True}}))
    until(lambda: operators.sum("orchestrator_legs_in_flight"), lambda now: now == 2)
    legs.cancel()
    until(lambda: operators.sum("orchestrator_legs_in_flight"), lambda now: now == 0)
    for call in held:
        call.cancel()
    until(lambda: operators.sum("orchestrator_calls_in_flight"), lambda now: now == 0)
    until(lambda: operators.sum("orchestrator_message_bytes"), lambda now: now == 0)


def methods(stubs):
    """Every method of both services."""
    services = stubs.messages.DESCRIPTOR.services_by_name.values()
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def calls_rpc(channel, path, bearer):
    # On the wire a call of one message is a stream of one. What has no end by itself ends in time.
    call = channel.stream_stream(path)(iter([b""]), metadata=bearer, timeout=0.2)
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass


def calls_rest(address, path, verb, bearer):
    url = f"http://{address}{path.replace('{id}', 'some')}"
    with requests.request(verb, url, headers=dict(bearer), json={}, timeout=LONG, stream=True):
        # An answer may have no end.
        pass


def every_path(stubs, address, channel) -> list:
    """Calls of each path of both doors with a key and without, and of some that are not there, with what they are
    counted as.
    """
    rpc = {path: path for path in methods(stubs)}
    rpc |= {f"/grpc.health.v1.Health/{method}": "/grpc.health.v1.Health" for method in ("Check", "Watch")}
    for version in ("v1", "v1alpha"):
        rpc[f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"] = "/grpc.reflection"
    rpc |= {path: "other" for path in ("/openclaw.orchestrator.v1.OrchestratorService/None", "/no/thing")}
    calls = [(word, partial(calls_rpc, channel, path, bearer)) for path, word in rpc.items() for bearer in (BEARER, ())]
    document = requests.get(f"http://{address}/openapi.json", timeout=LONG).json()
    rest = {path: path.removeprefix("/api") for path in [*document["paths"], "/health/check", "/openapi.json"]}
    for path, word in {**rest, "/nothing": "other"}.items():
        for verb, bearer in [("GET", BEARER), ("POST", BEARER), ("DELETE", BEARER), ("POST", ())]:
            calls.append((word, partial(calls_rest, address, path, verb, bearer)))
    return calls


def test_whatever_is_called_and_however_many_instances_there_are_the_series_are_bounded(tmp_path, stubs):
    many = [{"id": f"w{at:04}", "address": "127.0.0.1:1"} for at in range(5_000 - 8)]
    own = [{"id": id, "builtin": {}} for id in "ABCDEFGH"]
    folder = tmp_path / "many"
    folder.mkdir()
    config = {"instances": own + many, "operators": {"listen": "127.0.0.1:0"}}
    orchestrator = Orchestrator(folder, config, instances=5_000)
    try:
        large = Operators(orchestrator)
        client = Client(stubs, orchestrator.address)
        list(client.fanout(["A-H", "w0000-w2000"], value("task")))
        client.channel.close()
        path_of = lambda series: {found[1] for one in series if (found := re.search(r'path="([^"]*)"', one))}
        with grpc.insecure_channel(orchestrator.address) as channel, futures.ThreadPoolExecutor(8) as workers:
            calls = every_path(stubs, orchestrator.address, channel)
            paths = {word for word, _ in calls}
            list(workers.map(lambda call: call[1](), calls))

            def missing():
                """What has not come in time, or is not counted yet, is called again."""
                words = paths - path_of(large.series())
                list(workers.map(lambda call: call[1](), [call for call in calls if call[0] in words]))
                return words

            until(missing, lambda words: not words)
        assert path_of(large.series()) == paths
        series = large.series()
        of_the_process = [one for one in series if not one.startswith("orchestrator_")]
        assert all(one.startswith("process_") for one in of_the_process)
        assert 0 < len(of_the_process) <= PROCESS_SERIES_MAX
        # Each of the paths has its buckets at least.
        assert len(paths) * 18 < len(series) <= SERIES_MAX
        assert not any("w00" in one for one in series)
        assert large.sum("orchestrator_instances") == 5_000
    finally:
        orchestrator.end()


def test_what_is_served_is_what_the_docs_list(operators):
    listed = dict(re.findall(r"^\| `(orchestrator_\w+)` \| (counter|gauge|histogram) \|", PAGE, re.MULTILINE))
    text = operators.get("/metrics")[1]
    served = dict(re.findall(r"^# TYPE (orchestrator_\w+) (\w+)$", text, re.MULTILINE))
    # Of those that need more than every orchestrator has.
    with_tls = {"orchestrator_tls_end_seconds": "gauge"}
    assert served | with_tls == listed
