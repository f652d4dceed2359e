"""Each configuration of docs/mesh.md with the real Envoy in front of and behind the real orchestrator."""

import copy
import queue
import signal
import subprocess
import threading
import time

import grpc
import pytest
import requests
from google.protobuf import json_format, struct_pb2
from grpc_status import rpc_status

from conftest import BEARER, Client
from real_envoy import Envoy, manager, recipe, route
from error_info import error_info
from processes import KEY, Orchestrator, binary
from waiting import LONG, until


def value(json_value):
    return json_format.ParseDict(json_value, struct_pb2.Value())


def plain(message):
    return json_format.MessageToDict(message)


FLEET = {
    "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"],
    "health": {"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1},
}


@pytest.fixture
def envoy(tmp_path):
    """Starts Envoys that end with the test."""
    started = []

    def start(config, *upstreams):
        started.append(Envoy(tmp_path, config, list(upstreams)))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture
def front(envoy, orchestrator):
    """Envoy in front of the test's orchestrator, as the page has it."""
    running = envoy(recipe("front"), orchestrator.address)
    until(lambda: running.stat("cluster.orchestrator.membership_healthy"), lambda healthy: healthy == 1)
    return running


@pytest.fixture
def through(stubs, front):
    """A client that knows only the Envoy in front."""
    client = Client(stubs, front.address)
    yield client
    client.channel.close()


@pytest.fixture
def meshed(envoy, python_instance, own_client, stubs):
    """A real instance, and what has the orchestrator reach it through an Envoy with a configuration, under an id."""
    instance = python_instance("py-1", lease=60)
    address = instance.lines.wait_for(event="registered")["address"]

    def reach(config, id):
        proxy = envoy(config, address)
        request = stubs.messages.RegisterRequest(
            instance=stubs.messages.Instance(id=id, address=proxy.address), incarnation=1
        )
        request.lease.FromSeconds(60)
        own_client.cluster.Register(request, metadata=BEARER, timeout=LONG)
        until(lambda: own_client.state(id), lambda state: state == "HEALTH_STATE_HEALTHY")
        return instance

    return reach


@pytest.fixture
def behind(meshed):
    """A real instance that the orchestrator reaches through an Envoy as the page has it, under the id `meshed`."""
    return meshed(recipe("behind"), "meshed")


def test_calls_pass_both_proxies_as_they_are(through, behind):
    payload = {"data": ["task", 1.5, None]}
    answer = through.route(["meshed"], value(payload))
    assert (answer.instance, plain(answer.payload)) == ("meshed", payload)
    events = list(through.fanout(["A-H", "meshed"], value(payload)))
    assert [event.WhichOneof("event") for event in events] == ["started", *["partial"] * 9, "summary"]


def test_a_key_that_is_wrong_is_told_through_the_proxy(through):
    with pytest.raises(grpc.RpcError) as caught:
        through.api.Route(through.messages.RouteRequest(), metadata=(("authorization", "Bearer no"),), timeout=LONG)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert error_info(caught.value).reason == "KEY_INVALID"


def test_the_deadline_of_a_call_holds_over_both_hops(through, behind):
    hold = value({"task": "held", "hold": True})
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        through.route(["meshed"], hold, timeout=3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < LONG / 2, "it ended by its own deadline"
    begun = behind.lines.wait_for(event="begun", task="held")
    assert 0 < begun["time_remaining"] <= 3.1, "the instance knew less time than the caller"
    behind.lines.wait_for(event="cancelled", task="held")


def test_a_caller_who_leaves_is_gone_at_the_instance_too(through, behind):
    call = through.route_later(["meshed"], value({"task": "left", "hold": True}))
    behind.lines.wait_for(event="begun", task="left")
    call.cancel()
    cancelled = behind.lines.wait_for(event="cancelled", task="left")
    assert cancelled["before_its_deadline"]


def attempts(error, messages):
    """The tries that the orchestrator made: the details of the status list them."""
    failed = messages.FailedAttempts()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(failed):
            return list(failed.attempts)
    return []


def test_retries_of_the_proxy_do_not_multiply_ours(front, through):
    """Each instance that is asked answers UNAVAILABLE, and the task may be repeated."""
    failing = value({"_builtin": {"fail": "UNAVAILABLE"}})
    policy = through.messages.CallPolicy(idempotent=True)
    with pytest.raises(grpc.RpcError) as caught:
        through.route(["A-H"], failing, policy=policy)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(attempts(caught.value, through.messages)) == 4, "one try and three more, as it is without a proxy"
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert front.stat("cluster.orchestrator.upstream_rq_retry") == 0


def test_a_proxy_that_repeats_what_is_unavailable_does_multiply_them(envoy, orchestrator, stubs):
    """What the page warns of is so: this is not a test of Envoy, but of the warning."""
    config = recipe("front")
    route(config)["retry_policy"]["retry_on"] = "unavailable"
    running = envoy(config, orchestrator.address)
    client = Client(stubs, running.address)
    failing = value({"_builtin": {"fail": "UNAVAILABLE"}})
    with pytest.raises(grpc.RpcError):
        client.route(["A-H"], failing)
    client.channel.close()
    assert running.stat("cluster.orchestrator.upstream_rq_retry") == 2


def test_a_fan_out_lasts_longer_than_a_route_does_by_default_in_front_and_behind(through, behind):
    """15 s, where a route says nothing else."""
    slow = value({"_builtin": {"delay": "16s"}, "task": "long", "hold": True})
    outcomes = {}
    for event in through.fanout(["A", "meshed"], slow, timeout=LONG):
        if event.WhichOneof("event") == "partial":
            outcomes[event.partial.instance] = event.partial.outcome
            # The one behind the other proxy takes as long, and a little longer.
            behind.tell("release", "long")
    assert outcomes == dict.fromkeys(["A", "meshed"], through.messages.OUTCOME_ANSWERED)


class Conversation:
    """A session over one stream."""

    def __init__(self, client, id, instance="A"):
        self.messages, self.sent = client.messages, queue.Queue()
        spawn = self.messages.SessionSpawnRequest(session_id=id, instances=[instance])
        client.api.SessionSpawn(spawn, metadata=BEARER, timeout=LONG)
        self.say(hello=self.messages.SessionHello(session_id=id))
        self.frames = client.api.SessionSend(iter(self.sent.get, None), metadata=BEARER)
        assert next(self.frames).WhichOneof("frame") == "ready"
        self.seq = 0

    def say(self, **frame):
        self.sent.put(self.messages.SessionSendRequest(**frame))

    def echo(self, text) -> str:
        self.seq += 1
        self.say(data=self.messages.SessionClientData(seq=self.seq, payload=value(text)))
        for frame in self.frames:
            if frame.WhichOneof("frame") == "data":
                return plain(frame.data.payload)

    def loses_its_instance(self):
        """Hears of it, or of the end that comes of it."""
        try:
            for frame in self.frames:
                if frame.WhichOneof("frame") in ("moved", "closed"):
                    return
        except grpc.RpcError as error:
            assert error.code() != grpc.StatusCode.DEADLINE_EXCEEDED, error

    def end(self):
        self.frames.cancel()
        self.sent.put(None)


def impatient(name):
    """A configuration whose streams are cut when they are idle for a second, but for those of the page's route; and one
    where that route says nothing of it."""
    config = recipe(name)
    manager(config)["stream_idle_timeout"] = "1s"
    hurried = copy.deepcopy(config)
    hurried["static_resources"]["listeners"][0]["name"] = f"hurried-{name}"
    del route(hurried)["idle_timeout"]
    return config, hurried


def test_a_session_may_be_quiet_for_longer_than_the_proxies_allow_others(envoy, orchestrator, stubs, meshed):
    """Its stream goes through one proxy, and the one between the orchestrator and its instance through another."""
    config, hurried = impatient("front")
    quiet, other = (Client(stubs, envoy(of, orchestrator.address).address) for of in (config, hurried))
    config, hurried = impatient("behind")
    instance = meshed(config, "meshed")
    meshed(hurried, "hurried")
    session = Conversation(quiet, "quiet", "meshed")
    assert session.echo("first") == "first"
    cut_behind = Conversation(quiet, "cut-behind", "hurried")
    assert cut_behind.echo("first") == "first"
    for at in range(3):
        with pytest.raises(grpc.RpcError):
            cut = Conversation(other, f"cut-{at}")
            # There is nothing to read but the end.
            next(cut.frames)
    cut_behind.loses_its_instance()
    assert session.echo("second") == "second"
    assert len(instance.lines.matching(event="opened", session="quiet")) == 1, "its stream was never made anew"
    session.end()
    cut_behind.end()
    quiet.channel.close()
    other.channel.close()


class Load:
    """Callers who route one task after the other until they are told to stop."""

    def __init__(self, client, callers=4):
        self.client, self.answers, self.failures = client, 0, []
        self.stopping = threading.Event()
        self.callers = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]
        for caller in self.callers:
            caller.start()

    def _call(self):
        while not self.stopping.is_set():
            try:
                self.client.route(["A-H"], value("task"), timeout=10)
                self.answers += 1
            except grpc.RpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")

    def stop(self):
        self.stopping.set()
        for caller in self.callers:
            caller.join(LONG)


@pytest.fixture
def load():
    """Starts a load that ends with the test."""
    started = []

    def start(client):
        started.append(Load(client))
        return started[-1]

    yield start
    for running in started:
        running.stop()


def test_an_orchestrator_that_drains_is_turned_away_from_and_no_call_fails(envoy, stubs, tmp_path, load):
    orchestrators = []
    try:
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            orchestrators.append(Orchestrator(folder, {**FLEET, "shutdown": {"not_ready_for": "5s"}}))
        config = recipe("front")
        running = envoy(config, *(orchestrator.address for orchestrator in orchestrators))
        healthy = "cluster.orchestrator.membership_healthy"
        until(lambda: running.stat(healthy), lambda count: count == 2)
        client = Client(stubs, running.address)
        calls = load(client)
        until(lambda: calls.answers, lambda answers: answers > 50)
        orchestrators[0].child.send_signal(signal.SIGTERM)
        until(lambda: running.stat(healthy), lambda count: count == 1)
        assert orchestrators[0].child.wait(LONG) == 0
        before = calls.answers
        until(lambda: calls.answers, lambda answers: answers > before + 50)
        calls.stop()
        client.channel.close()
        assert calls.failures == []
    finally:
        for orchestrator in orchestrators:
            orchestrator.end()


def test_connections_that_grow_old_cost_no_call(envoy, stubs, tmp_path, load):
    limits = {"connection_age": "1s", "connection_age_grace": "10s"}
    orchestrator = Orchestrator(tmp_path, {**FLEET, "limits": limits})
    try:
        running = envoy(recipe("front"), orchestrator.address)
        client = Client(stubs, running.address)
        calls = load(client)
        made = "cluster.orchestrator.upstream_cx_total"
        until(lambda: running.stat(made), lambda connections: connections > 5)
        calls.stop()
        client.channel.close()
        assert calls.failures == [] and calls.answers > 0
    finally:
        orchestrator.end()


def test_envoys_transcoder_answers_from_our_descriptors(envoy, orchestrator, tmp_path):
    contract = tmp_path / "orchestrator.binpb"
    with contract.open("wb") as file:
        subprocess.run([binary(), "descriptors"], stdout=file, check=True, timeout=LONG)
    config, transcoder = recipe("front"), recipe("transcoder")
    transcoder["typed_config"]["proto_descriptor"] = str(contract)
    manager(config)["http_filters"].insert(0, transcoder)
    running = envoy(config, orchestrator.address)
    url = f"http://{running.address}/openclaw.orchestrator.v1.OrchestratorService/Route"
    body = {"instances": ["A", "B"], "payload": {"data": "task"}}
    bearer = {"authorization": f"Bearer {KEY}"}
    answer = requests.post(url, json=body, headers=bearer, timeout=LONG)
    assert answer.status_code == 200, answer.text
    assert answer.json()["payload"] == {"data": "task"} and answer.json()["instance"] in ("A", "B")
    refused = requests.post(url, json=body, timeout=LONG)
    assert (refused.status_code, refused.json()["code"]) == (401, 16)
    # A stream is an array, of which each element is an event.
    fanout = {"targets": ["A", "B"], "payload": {"data": "task"}}
    answer = requests.post(url.replace("Route", "Fanout"), json=fanout, headers=bearer, timeout=LONG)
    assert answer.status_code == 200, answer.text
    started, *partials, summary = answer.json()
    assert started["started"]["roster"] == ["A", "B"]
    answered = sorted((event["partial"]["instance"], event["partial"]["payload"]["data"]) for event in partials)
    assert answered == [("A", "task"), ("B", "task")]
    assert summary["summary"]["counts"]["answered"] == 2
